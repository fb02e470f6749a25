"""The training step recorded once as a CUDA graph and replayed; knows no loop and no files.

A small model's step is hundreds of kernels of microseconds each; launched one by one, they wait for Python.
"""

from collections.abc import Callable
from dataclasses import fields
from typing import Protocol

import torch
from torch import Tensor

from interp_arith.tasks.base import Examples
from interp_arith.training.optimizers import Number
from interp_arith.training.step import StepReport

_WARM_UP = 3  # calls before recording: libraries choose their kernels, memory is taken
Replay = Callable[[], None]


class Update(Protocol):
    """An update of fixed parameters and state, in place."""

    def __call__(self, batch: Examples, *, step: Number, multiplier: Number) -> StepReport: ...


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
        notify: told why, where recording fails; then every call computes as it is.
        record: how.
    """

    def __init__(
        self,
        update: Update,
        notify: Callable[[str], None],
        record: Callable[[Callable[[], StepReport]], tuple[StepReport, Replay]] = record_cuda_graph,
    ) -> None:
        self._update, self._notify, self._record = update, notify, record
        self._calls = 0
        self._replay: Replay | None = None
        self._batch: Examples | None = None

    def __call__(self, batch: Examples, *, step: Number, multiplier: Number) -> StepReport:
        """The update of this batch, as update number `step`."""
        self._calls += 1
        if self._calls == _WARM_UP + 1 or (self._replay and not self._fits(batch)):
            self._prepare(batch)
        if self._replay is None or self._batch is None:
            return self._update(batch, step=step, multiplier=multiplier)
        for held, given in zip(_tensors(self._batch), _tensors(batch), strict=True):
            held.copy_(given, non_blocking=True)
        self._step.fill_(step)
        self._multiplier.fill_(multiplier)
        self._replay()
        return StepReport(*(getattr(self._report, field.name).clone() for field in fields(StepReport)))

    def _fits(self, batch: Examples) -> bool:
        assert self._batch is not None
        return batch.tokens.shape == self._batch.tokens.shape

    def _prepare(self, batch: Examples) -> None:
        self._batch = Examples(*(tensor.clone() for tensor in _tensors(batch)))
        device = batch.tokens.device
        self._step, self._multiplier = (torch.zeros((), dtype=torch.float64, device=device) for _ in range(2))
        held = self._batch
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


def _tensors(examples: Examples) -> tuple[Tensor, Tensor, Tensor]:
    return examples.tokens, examples.targets, examples.mask
