"""Curricula: step -> what may be sampled; knows no task."""

from abc import ABC, abstractmethod
from dataclasses import replace
from itertools import accumulate
from typing import Literal, Self, final

from pydantic import Field, model_validator

from interp_arith.errors import RequestError
from interp_arith.registry import Choice, Registry
from interp_arith.tasks.sampling import Limits

_FADING_STEPS = 10


class Curriculum(Choice, ABC):
    """What may be sampled when."""

    kind: str
    carries_end: float | None = Field(default=None, gt=0, le=1)
    """Share of the run by which the carry-heavy share has fallen to 0, in ten equal steps; it stays unless given."""

    @final
    def limits(self, step: int, total_steps: int, steps_per_epoch: int | None, widest: Limits) -> Limits:
        """The limits for the update from `step` to `step` + 1, never wider than the task's own."""
        stage = self.stage(step, total_steps, steps_per_epoch, widest)
        if self.carries_end is None:
            return stage
        # In steps: on a GPU an update is recorded anew for limits that it has not seen.
        fallen = min(_FADING_STEPS, int(_FADING_STEPS * step / (self.carries_end * total_steps) + 1e-9))
        return replace(stage, carry_share=widest.carry_share * (_FADING_STEPS - fallen) / _FADING_STEPS)

    @abstractmethod
    def stage(self, step: int, total_steps: int, steps_per_epoch: int | None, widest: Limits) -> Limits:
        """The limits of lengths at that update; the carry-heavy share is the task's own."""

    def check(self, total_steps: int, steps_per_epoch: int | None, widest: Limits) -> None:
        """Refuse a run that ends before the task's longest numbers are drawn.

        Raises:
            RequestError: it does, or there is no telling how long an epoch is.
        """
        longest = self.limits(total_steps - 1, total_steps, steps_per_epoch, widest).max_digits
        if longest < widest.max_digits:
            raise RequestError(
                f"curriculum {self.kind}: the last of {total_steps} steps draws numbers of at most {longest} digits, "
                f"and the task asks for {widest.max_digits}; give a larger budget, or set task.n_digits to {longest}"
            )


class Everything(Curriculum):
    """All lengths at every step."""

    kind: Literal["everything"] = "everything"

    def stage(self, step: int, total_steps: int, steps_per_epoch: int | None, widest: Limits) -> Limits:
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

    def stage(self, step: int, total_steps: int, steps_per_epoch: int | None, widest: Limits) -> Limits:
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

    def stage(self, step: int, total_steps: int, steps_per_epoch: int | None, widest: Limits) -> Limits:
        """start + epochs so far, at most the task's."""
        if steps_per_epoch is None:
            raise RequestError("grow-digits counts epochs; give budget.steps_per_epoch")
        grown = self.start + step // (steps_per_epoch * self.epochs_per_digit)
        return replace(widest, max_digits=min(grown, widest.max_digits))


CURRICULA: Registry[Curriculum] = Registry("curriculum", Everything, Phases, GrowDigits)
