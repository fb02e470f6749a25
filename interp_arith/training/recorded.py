"""The training step recorded once as a CUDA graph and replayed; knows no loop and no files.

A small model's step is hundreds of kernels of microseconds each; launched one by one, they wait for Python.
"""

from collections.abc import Callable
from dataclasses import fields
from typing import Protocol

import torch
from torch import Tensor

from interp_arith.training.batches import Given
from interp_arith.training.optimizers import Number
from interp_arith.training.step import StepReport

_WARM_UP = 3  # calls before recording: libraries choose their kernels, memory is taken
Replay = Callable[[], None]


class Update(Protocol):
    """An update of fixed parameters and state, in place."""

    def __call__(self, given: Given, *, step: Number, multiplier: Number) -> StepReport: ...


def record_cuda_graph(work: Callable[[], StepReport]) -> tuple[StepReport, Replay]:
    """What the work will have reported after each replay, and the replay; nothing is computed yet."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        report = work()
    return report, graph.replay


class Recorded:
    """An update that is recorded at its fourth call, and replayed from then on.

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
        record: Callable[[Callable[[], StepReport]], tuple[StepReport, Replay]] = record_cuda_graph,
    ) -> None:
        self._update, self._notify, self._record = update, notify, record
        self._step, self._multiplier = (torch.zeros((), dtype=torch.float64, device=device) for _ in range(2))
        self._calls = 0
        self._replay: Replay | None = None
        self._given: Given = None

    def __call__(self, given: Given, *, step: Number, multiplier: Number) -> StepReport:
        """The update of what is given, as update number `step`."""
        self._calls += 1
        if self._calls == _WARM_UP + 1 or (self._replay and not self._fits(given)):
            self._prepare(given)
        if self._replay is None:
            return self._update(given, step=step, multiplier=multiplier)
        if isinstance(self._given, Tensor) and isinstance(given, Tensor):
            self._given.copy_(given, non_blocking=True)
        self._step.fill_(step)
        self._multiplier.fill_(multiplier)
        self._replay()
        return StepReport(*(getattr(self._report, field.name).clone() for field in fields(StepReport)))

    def _fits(self, given: Given) -> bool:
        """Whether the recording is one of this: a tensor's values may change, all else was recorded as it was."""
        held = self._given
        if isinstance(given, Tensor) and isinstance(held, Tensor):
            return given.shape == held.shape
        return not isinstance(given, Tensor) and not isinstance(held, Tensor) and given == held

    def _prepare(self, given: Given) -> None:
        held = self._given = given.clone() if isinstance(given, Tensor) else given
        try:
            self._report, self._replay = self._record(
                lambda: self._update(held, step=self._step, multiplier=self._multiplier)
            )
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            self._notify(f"the step could not be recorded ({reason}); it is computed kernel by kernel")
            self._replay = None
