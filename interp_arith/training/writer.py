"""How metrics, weights and states leave the device and reach the disk; knows no loop.

On a CPU everything is written at once. On a GPU a thread writes, in the order in which work was submitted, while the
device goes on: what it writes are copies, taken on a stream of their own. The files of two lanes are written side by
side, for each waits for the disk several times; eight threads kept the loop from its turn, milliseconds a step.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from queue import Queue
from threading import Thread
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor

from interp_arith.training import ensemble
from interp_arith.training.lanes import Lane

Record = dict[str, float]
Snapshot = Callable[[], dict[str, Tensor]]
"""Tensors as they were when it was taken, on the host; a call waits until they are there."""
Each = Callable[[Callable[[int], None], int], None]
"""Does something for every lane, by its number."""
_MOST_WAITING, _SIDE_BY_SIDE = 2, 2
_SECONDS_BETWEEN_STATES = 10.0


class Writer(ABC):
    """Does work in the order in which it is submitted.

    Attributes:
        at_once: whether work is done when `submit` returns.
        seconds_between_states: a state that is due sooner after the last, or the start, is left out; not so where a
            seed is done or training stops.
    """

    at_once: bool
    seconds_between_states: float

    @abstractmethod
    def snapshot(self, tensors: Mapping[str, Tensor]) -> Snapshot:
        """The tensors as they are now, for work that is submitted before they change or that is done later."""

    @abstractmethod
    def submit(self, work: Callable[[], None]) -> None:
        """Have work done.

        Raises:
            WorkError: it could not be, or what was submitted earlier could not; nothing later is done then.
        """

    @abstractmethod
    def each(self, work: Callable[[int], None], n: int) -> None:
        """Work for lane 0 … n − 1, as part of what was submitted; it raises what the first that failed raised."""

    @abstractmethod
    def drain(self) -> None:
        """Wait until all is done; raises as `submit`."""

    @abstractmethod
    def close(self) -> None:
        """Wait as `drain` does, and do no more; raises nothing."""


class Inline(Writer):
    """Works where it is called."""

    at_once, seconds_between_states = True, 0.0

    def snapshot(self, tensors: Mapping[str, Tensor]) -> Snapshot:
        """The tensors themselves: nothing changes them before the work is done."""
        return lambda: dict(tensors)

    def submit(self, work: Callable[[], None]) -> None:
        """Do it."""
        work()

    def each(self, work: Callable[[int], None], n: int) -> None:
        """One after the other."""
        for index in range(n):
            work(index)

    def drain(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing is open."""


class Threaded(Writer):
    """Works in one thread, in order; who submits waits while two pieces of work do."""

    at_once, seconds_between_states = False, _SECONDS_BETWEEN_STATES

    def __init__(self) -> None:
        self._waiting: Queue[Callable[[], None] | None] = Queue(_MOST_WAITING)
        self._error: Exception | None = None
        self._pool = ThreadPoolExecutor(_SIDE_BY_SIDE)
        self._thread = Thread(target=self._work, daemon=True)
        self._thread.start()

    def snapshot(self, tensors: Mapping[str, Tensor]) -> Snapshot:
        """Copies; from a GPU into pinned memory, beside what it computes."""
        if all(tensor.device.type == "cpu" for tensor in tensors.values()):
            copies = {name: tensor.detach().clone() for name, tensor in tensors.items()}
            return lambda: copies
        return _copy_from_gpu(tensors)

    def submit(self, work: Callable[[], None]) -> None:
        """Queue it."""
        self._complain()
        self._waiting.put(work)

    def each(self, work: Callable[[int], None], n: int) -> None:
        """Several side by side."""
        futures = [self._pool.submit(work, index) for index in range(n)]
        wait(futures)
        for future in futures:
            future.result()

    def drain(self) -> None:
        """Wait for the thread."""
        self._waiting.join()
        self._complain()

    def close(self) -> None:
        """End the thread when it is done."""
        self._waiting.put(None)
        self._thread.join()
        self._pool.shutdown()

    def _work(self) -> None:
        while (work := self._waiting.get()) is not None:
            try:
                if self._error is None:
                    work()
            except Exception as error:  # noqa: BLE001  it is raised where work is submitted
                self._error = error
            finally:
                del work  # and the copies that it holds
                self._waiting.task_done()

    def _complain(self) -> None:
        if self._error is not None:
            raise self._error


def make_writer(device: torch.device) -> Writer:
    """How to write what is computed on a device."""
    return Inline() if device.type == "cpu" else Threaded()


def _copy_from_gpu(tensors: Mapping[str, Tensor]) -> Snapshot:
    """Copies on the device, for the next step writes into the originals; from those the host's, on another stream."""
    copies = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    stream, done = torch.cuda.Stream(), torch.cuda.Event()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        pinned = {}
        for name, copy in copies.items():
            pinned[name] = torch.empty(copy.shape, dtype=copy.dtype, pin_memory=True)
            pinned[name].copy_(copy, non_blocking=True)
            copy.record_stream(stream)
        done.record(stream)

    def wait() -> dict[str, Tensor]:
        done.synchronize()
        return pinned

    return wait


class Log:
    """Metrics of every lane, on the device until somebody looks: to look is to wait for the device."""

    def __init__(self) -> None:
        self._steps: list[tuple[int, tuple[str, ...], frozenset[str]]] = []
        self._values: list[Float[Tensor, "metric seed"]] = []

    def add(
        self,
        step: int,
        columns: Mapping[str, Float[Tensor, " seed"]],
        optional: Mapping[str, Float[Tensor, " seed"]] = MappingProxyType({}),
    ) -> None:
        """What was measured at a step; of what is optional, a lane's NaN is left out."""
        every = dict(optional) | dict(columns)
        self._steps.append((step, tuple(every), frozenset(optional) - frozenset(columns)))
        self._values.append(torch.stack([column.double() for column in every.values()]))

    def take(self) -> list[list[Record]]:
        """Every step's records, one a lane; the log is empty then."""
        if not self._steps:
            return []
        sizes = [len(names) for _, names, _ in self._steps]
        parts = torch.cat(self._values).cpu().split(sizes)
        records = [
            [
                Record(step=step)
                | {n: x for n, x in zip(names, column, strict=True) if n not in optional or x == x}
                for column in values.T.tolist()
            ]
            for (step, names, optional), values in zip(self._steps, parts, strict=True)
        ]
        self._steps, self._values = [], []
        return records


def keep_records(lanes: Sequence[Lane], records: Sequence[Record]) -> None:
    """Metrics of a step, one record a lane; they reach the disk with the next state."""
    for lane, record in zip(lanes, records, strict=True):
        if is_finite(record):
            lane.keeper.records.append(record)


def keep_weights(
    lanes: Sequence[Lane],
    step: int,
    records: Sequence[Record],
    weights: Snapshot,
    checkpoint: bool,
    each: Each,
) -> None:
    """The weights of an evaluation, where they are among the best, and as a point of the trajectory."""

    def keep(index: int) -> None:
        keeper, record = lanes[index].keeper, records[index]
        if keeper.would_be_best(record):
            keeper.add_best(step, ensemble.member(weights(), index), record)
        if checkpoint:
            keeper.write_checkpoint(step, ensemble.member(weights(), index), record)

    each(keep, len(lanes))


def keep_states(
    lanes: Sequence[Lane],
    step: int,
    accounts: Sequence[Mapping[str, float]],
    parameters: Snapshot,
    optimizer: Snapshot,
    each: Each,
) -> None:
    """A full state of every lane; its account of itself is part of it."""

    def keep(index: int) -> None:
        state = {
            **accounts[index],
            "parameters": ensemble.member(parameters(), index),
            "optimizer": ensemble.member(optimizer(), index),
        }
        lanes[index].keeper.write_state(step, state)

    each(keep, len(lanes))


def is_finite(record: Mapping[str, float]) -> bool:
    """Whether losses and weights are; the gradient of a skipped fp16 step need not be."""
    return all(abs(value) < float("inf") for name, value in record.items() if name != "gradient_norm")
