"""What every competitor offers, and what all are given: the same weights and the same batches; knows no clock."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_arith.tasks.base import Examples, SampledTask
from interp_arith.tasks.sources import make_source
from interp_arith.training.batches import Batches, Whole, make_batches
from interp_arith.training.config import RunConfig
from interp_arith.training.lanes import fresh_weights

PREDRAWN = 8
"""Batches that are drawn before the clock starts and then used in turn, where a task draws its questions."""
CHECKED_STEPS = 3
"""Steps after which the losses of all must still agree."""
IGNORED = -100
"""The target where the loss does not count, as in `torch.nn.functional.cross_entropy`."""


class Impossible(RuntimeError):
    """A competitor cannot run here; the message is its row of the table."""


@dataclass(frozen=True)
class Setting:
    """What is trained, how many seeds of it at once, and where."""

    config: RunConfig
    seeds: int = 1
    device: str = "cpu"

    @property
    def configs(self) -> list[RunConfig]:
        """The config of each seed."""
        return [self.config.with_seed(self.config.seed + k) for k in range(self.seeds)]

    def weights(self) -> list[dict[str, Tensor]]:
        """The initial weights of each seed."""
        return [fresh_weights(config) for config in self.configs]

    def all_batches(self) -> Batches:
        """The questions of all seeds for every step, on the device."""
        sources = [make_source(c.task, c.batch_size, c.seed, c.data_dir) for c in self.configs]
        return make_batches(sources, torch.device(self.device))

    def draw(self, batches: Batches, step: int) -> Examples:
        """The batch of every seed for one step."""
        limits = self.config.task.limits if isinstance(self.config.task, SampledTask) else None
        return batches.batch(batches.given(step, limits), step)

    def batches(self) -> list[Examples]:
        """Drawn beforehand, each with a leading seed axis; one where every step sees the same."""
        batches = self.all_batches()
        return [self.draw(batches, step) for step in range(1 if isinstance(batches, Whole) else PREDRAWN)]


class Competitor(ABC):
    """A way to train, standing at the initial weights with everything compiled on first use."""

    stride: int = 1
    """Steps that one call makes together; `run` takes multiples of it."""

    @abstractmethod
    def losses(self) -> Float[Tensor, "step seed"]:
        """The losses before each of the first steps, CHECKED_STEPS at least; it makes those steps."""

    @abstractmethod
    def run(self, n: int) -> None:
        """n more steps, done on the device when it returns."""

    @abstractmethod
    def device_bytes(self) -> int | None:
        """Most memory held on the device since the steps began; None on a CPU."""

    @abstractmethod
    def multiply(self, rows: int, inner: int, columns: int, precision: str) -> None:
        """One product of two matrices [rows inner] and [inner columns], done when it returns."""


class TorchCompetitor(Competitor):
    """What the competitors in PyTorch share."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self._factors: dict[tuple[int, int, int, str], tuple[Tensor, Tensor]] = {}
        self._next = 0
        if setting.device == "cuda" and not torch.cuda.is_available():
            raise Impossible("this PyTorch finds no CUDA device")

    @abstractmethod
    def step(self, index: int) -> Float[Tensor, " seed"]:
        """Step number `index` (from 0); the losses before it."""

    def losses(self) -> Float[Tensor, "step seed"]:
        losses = [self.step(index).detach().double().cpu().reshape(-1) for index in range(CHECKED_STEPS)]
        self._next = CHECKED_STEPS
        self._synchronize()
        if self.setting.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        return torch.stack(losses)

    def run(self, n: int) -> None:
        for index in range(self._next, self._next + n):
            self.step(index)
        self._next += n
        self._synchronize()

    def device_bytes(self) -> int | None:
        return torch.cuda.max_memory_allocated() if self.setting.device == "cuda" else None

    def multiply(self, rows: int, inner: int, columns: int, precision: str) -> None:
        key = rows, inner, columns, precision
        if key not in self._factors:
            torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
            dtype = torch.bfloat16 if precision == "bf16" else torch.float32
            left, right = torch.ones(rows, inner), torch.ones(inner, columns)
            self._factors[key] = left.to(self.setting.device, dtype), right.to(self.setting.device, dtype)
        torch.mm(*self._factors[key])
        self._synchronize()

    def _synchronize(self) -> None:
        if self.setting.device == "cuda":
            torch.cuda.synchronize()


def single_seed(setting: Setting, who: str) -> None:
    """Refuse several seeds at once.

    Raises:
        Impossible: there are several.
    """
    if setting.seeds != 1:
        raise Impossible(f"{who} trains one seed at a time")


def ignoring_targets(batch: Examples) -> Int[Tensor, "seed batch answer"]:
    """Targets with IGNORED where the loss does not count."""
    return batch.targets.masked_fill(~batch.mask, IGNORED)
