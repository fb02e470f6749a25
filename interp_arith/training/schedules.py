"""Schedules: the number of updates made -> a multiplier of the learning rate; knows no optimizer."""

import math
from abc import ABC, abstractmethod
from typing import Annotated, Literal, final

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from interp_arith.errors import RequestError
from interp_arith.registry import Choice, Registry

Fraction = Annotated[float, Field(ge=0, le=1)]


class Schedule(Choice, ABC):
    """A linear warm-up of W updates, then a shape; always in [0, 1].

    W is `warmup_steps`, or `warmup_fraction` of the total rounded; only one of the two may be given.
    """

    warmup_steps: NonNegativeInt = 0
    warmup_fraction: Fraction = 0.0

    @model_validator(mode="after")
    def _one_warmup(self) -> "Schedule":
        if self.warmup_steps and self.warmup_fraction:
            raise RequestError("warmup_steps and warmup_fraction are both given; give one")
        return self

    @final
    def multiplier(self, step: int, total_steps: int) -> float:
        """The factor of the update that follows `step` updates: (step + 1)/W while step < W, then the shape.

        Args:
            step: number of updates already made, from 0. From `total_steps` on, values stay at the end's.
            total_steps: number of updates of the whole run, warm-up included.

        Raises:
            RequestError: `step` is negative, or `total_steps` not positive.
        """
        if step < 0 or total_steps < 1:
            raise RequestError(
                f"step {step} of {total_steps}; steps count from 0, and the total is at least 1"
            )
        warmup = self.warmup_steps or round(self.warmup_fraction * total_steps)
        if step < warmup:
            return (step + 1) / warmup
        return self.shape(step, warmup, total_steps)

    @abstractmethod
    def shape(self, step: int, warmup: int, total_steps: int) -> float:
        """The factor after the warm-up, which `warmup` updates took: step ≥ warmup."""


class Constant(Schedule):
    """Always 1 after the warm-up."""

    kind: Literal["constant"] = "constant"

    def shape(self, step: int, warmup: int, total_steps: int) -> float:
        return 1.0


class Cosine(Schedule):
    """Half a cosine from 1 at the end of the warm-up to `final_fraction` at `total_steps`.

    f + (1 − f)(1 + cos πx)/2 with x = (step − W)/(total − W). The last update is made at total − 1: it moves
    the weights even when f is 0. Source: Loshchilov and Hutter 2017, equation 5.
    """

    kind: Literal["cosine"] = "cosine"
    final_fraction: Fraction = 0.0

    def shape(self, step: int, warmup: int, total_steps: int) -> float:
        return half_cosine(share_between(step, warmup, total_steps), self.final_fraction)


class Decay(Schedule):
    """1 until `start_fraction` of the total, then linearly to `final_fraction` at `total_steps`.

    A start within the warm-up waits for its end. Source: the "warm-up, stable, decay" schedule of
    Hu et al. 2024, "MiniCPM", section 4, with a linear decay.
    """

    kind: Literal["decay"] = "decay"
    start_fraction: Fraction = 0.8
    final_fraction: Fraction = 0.0

    def shape(self, step: int, warmup: int, total_steps: int) -> float:
        share = share_between(step, max(self.start_fraction * total_steps, warmup), total_steps)
        return 1 - (1 - self.final_fraction) * share


class Restarts(Schedule):
    """Cosines from 1 towards `final_fraction`, one after the other, whatever the total.

    The first lasts `period` updates from the end of the warm-up, and each lasts `period_factor` times the one
    before. Source: Loshchilov and Hutter 2017, "SGDR: stochastic gradient descent with warm restarts".
    """

    kind: Literal["restarts"] = "restarts"
    period: PositiveInt
    period_factor: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.0
    final_fraction: Fraction = 0.0

    def shape(self, step: int, warmup: int, total_steps: int) -> float:
        since, length = float(step - warmup), float(self.period)
        if self.period_factor == 1:
            since %= length
        while since >= length:
            since, length = since - length, length * self.period_factor
        return half_cosine(since / length, self.final_fraction)


SCHEDULES: Registry[Schedule] = Registry("schedule", Constant, Cosine, Decay, Restarts)


def half_cosine(share: float, final: float) -> float:
    """From 1 at share 0 to `final` at share 1."""
    return final + (1 - final) * (1 + math.cos(math.pi * share)) / 2


def share_between(step: int, start: int | float, end: int) -> float:
    """How much of the way from `start` to `end` lies behind at `step`, in [0, 1]; an empty way is a jump."""
    if step < start:
        return 0.0
    return min(1.0, (step - start) / (end - start)) if start < end else 1.0
