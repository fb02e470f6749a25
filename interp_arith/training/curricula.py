"""Curricula: step -> what may be sampled; knows no task."""

from abc import ABC, abstractmethod
from dataclasses import replace
from itertools import accumulate
from typing import Literal, Self

from pydantic import Field, model_validator

from interp_arith.errors import RequestError
from interp_arith.registry import Choice, Registry
from interp_arith.tasks.sampling import Limits


class Curriculum(Choice, ABC):
    """What may be sampled when."""

    kind: str

    @abstractmethod
    def limits(self, step: int, total_steps: int, steps_per_epoch: int | None, widest: Limits) -> Limits:
        """The limits for the update from `step` to `step` + 1, never wider than the task's own."""


class Everything(Curriculum):
    """All lengths at every step."""

    kind: Literal["everything"] = "everything"

    def limits(self, step: int, total_steps: int, steps_per_epoch: int | None, widest: Limits) -> Limits:
        """The task's own."""
        return widest


class Phases(Curriculum):
    """Short operands first: phase i allows up to max_digits[i] digits and lasts fractions[i] of all steps.

    What the phases leave of the run allows every length. The defaults are 1–3, then 1–6, then all.
    """

    kind: Literal["phases"] = "phases"
    max_digits: tuple[int, ...] = (3, 6)
    fractions: tuple[float, ...] = (2 / 27, 7 / 27)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.max_digits) != len(self.fractions):
            raise RequestError(
                f"{len(self.max_digits)} max_digits and {len(self.fractions)} fractions; give one of each a phase"
            )
        if sum(self.fractions) >= 1 or min((*self.fractions, 1.0)) <= 0 or min((*self.max_digits, 1)) < 1:
            raise RequestError(
                "fractions must be positive with a sum below 1 (the rest allows every length), max_digits from 1"
            )
        return self

    def limits(self, step: int, total_steps: int, steps_per_epoch: int | None, widest: Limits) -> Limits:
        """Those of the phase that the step falls in."""
        for longest, end in zip(self.max_digits, accumulate(self.fractions), strict=True):
            if step < end * total_steps:
                return replace(widest, max_digits=min(longest, widest.max_digits))
        return widest


class GrowDigits(Curriculum):
    """One more digit every epoch, from `start` on."""

    kind: Literal["grow-digits"] = "grow-digits"
    start: int = Field(default=1, ge=1)
    epochs_per_digit: int = Field(default=1, ge=1)

    def limits(self, step: int, total_steps: int, steps_per_epoch: int | None, widest: Limits) -> Limits:
        """start + epochs so far, at most the task's."""
        if steps_per_epoch is None:
            raise RequestError("grow-digits counts epochs; give budget.steps_per_epoch")
        grown = self.start + step // (steps_per_epoch * self.epochs_per_digit)
        return replace(widest, max_digits=min(grown, widest.max_digits))


CURRICULA: Registry[Curriculum] = Registry("curriculum", Everything, Phases, GrowDigits)
