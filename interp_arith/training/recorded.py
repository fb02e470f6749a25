"""The training step recorded once as a CUDA graph and replayed; knows no loop and no files.

A small model's step is hundreds of kernels of microseconds each; launched one by one, they wait for Python.
"""

from collections.abc import Callable
from dataclasses import fields
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from interp_arith.training.batches import Given
from interp_arith.training.optimizers import Number
from interp_arith.training.step import StepReport

_WARM_UP = 3  # calls before recording: kernels are compiled and chosen, memory is taken
Replay = Callable[[], None]


class Update(Protocol):
    """An update of fixed parameters and state, in place."""

    def __call__(self, given: Given, *, step: Number, multiplier: Number) -> StepReport: ...


Seen = Float[Tensor, "column seed"]
"""A report as one tensor, its columns in the order of its fields."""


def record_cuda_graph(work: Callable[[], Seen]) -> tuple[Seen, Replay]:
    """What the work will have given after each replay, and the replay; nothing is computed yet."""
    graph = torch.cuda.CUDAGraph()
    # Another thread may copy and write meanwhile, so only this one's calls are watched.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        seen = work()
    return seen, graph.replay


class Recorded:
    """An update that is recorded at its fourth call, and replayed from then on.

    Step and multiplier lie on the device, as a recording reads them, and the step counts itself. The first update of
    a run alone is given numbers, since it may be computed otherwise: a resumed run goes on with the same kernels.

    Args:
        update: reads parameters and state where they are; they must stay there.
        device: where it computes.
        notify: told why, where recording fails; then every call computes as it is.
        record: how.
    """

    def __init__(
        self,
        update: Update,
        device: torch.device,
        notify: Callable[[str], None],
        record: Callable[[Callable[[], Seen]], tuple[Seen, Replay]] = record_cuda_graph,
    ) -> None:
        self._update, self._notify, self._record = update, notify, record
        self._step, self._multiplier = (torch.zeros((), dtype=torch.float64, device=device) for _ in range(2))
        self._said: tuple[Number, Number] | None = None
        self._calls = 0
        self._replay: Replay | None = None
        self._given: Given = None

    def __call__(self, given: Given, *, step: Number, multiplier: Number) -> StepReport:
        """The update of what is given, as update number `step`."""
        self._calls += 1
        if step == 1:
            return self._update(given, step=step, multiplier=multiplier)
        if self._calls == _WARM_UP + 1 or (self._replay and not self._fits(given)):
            self._prepare(given)
        self._say(step, multiplier)
        if self._replay is None:
            return StepReport(*self._work(given))
        if isinstance(self._given, Tensor) and isinstance(given, Tensor):
            self._given.copy_(given, non_blocking=True)
        self._replay()
        return StepReport(*self._seen.clone())

    def _work(self, given: Given) -> Seen:
        """One update of what the device knows to be due; the next is due then."""
        report = self._update(given, step=self._step, multiplier=self._multiplier)
        self._step.add_(1)
        return torch.stack([getattr(report, field.name).double() for field in fields(StepReport)])

    def _say(self, step: Number, multiplier: Number) -> None:
        """Tell the device which update is due, unless it knows."""
        due, factor = self._said or (None, None)
        if step != due:
            self._step.fill_(step)
        if multiplier != factor:
            self._multiplier.fill_(multiplier)
        self._said = step + 1, multiplier

    def _fits(self, given: Given) -> bool:
        """Whether the recording is one of this: a tensor's values may change, all else was recorded as it was."""
        held = self._given
        if isinstance(given, Tensor) and isinstance(held, Tensor):
            return given.shape == held.shape
        return not isinstance(given, Tensor) and not isinstance(held, Tensor) and given == held

    def _prepare(self, given: Given) -> None:
        held = self._given = given.clone() if isinstance(given, Tensor) else given
        try:
            self._seen, self._replay = self._record(lambda: self._work(held))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            self._notify(f"the step could not be recorded ({reason}); it is computed kernel by kernel")
            self._replay = None
