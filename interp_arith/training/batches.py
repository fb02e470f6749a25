"""What all seeds train on at a step, stacked and on the device; knows no model and no loop.

The host says little (a curriculum's limits, or row numbers); the rest happens on the device and can be recorded.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import fields

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional

from interp_arith.tasks.base import Examples
from interp_arith.tasks.sampling import Limits
from interp_arith.tasks.sources import Draws, Rows, Source
from interp_arith.training import ensemble
from interp_arith.training.optimizers import Number

Given = Tensor | Limits | None
"""What the host says of a step: a tensor has the same shape at every step; anything else stays for many."""


class Batches(ABC):
    """The batch of every seed for every step, with a leading seed axis."""

    @abstractmethod
    def given(self, step: int, limits: Limits | None) -> Given:
        """What the host says of the update from `step` to `step` + 1."""

    @abstractmethod
    def batch(self, given: Given, step: Number) -> Examples:
        """The batch of that update: computed where the questions lie, without waiting for the device."""

    @abstractmethod
    def rows(self, kept: Int[Tensor, " rows"]) -> "Batches":
        """The batches of some of the seeds."""


class Whole(Batches):
    """The same questions at every step."""

    def __init__(self, examples: Examples) -> None:
        self._examples = examples

    def given(self, step: int, limits: Limits | None) -> None:
        """Nothing."""

    def batch(self, given: Given, step: Number) -> Examples:
        """All of them."""
        return self._examples

    def rows(self, kept: Int[Tensor, " rows"]) -> "Whole":
        """The questions of some of the seeds."""
        return Whole(self._examples.rows(kept))


class Shuffled(Batches):
    """Mini-batches of sets that lie on the device; row numbers are sent."""

    def __init__(self, sources: Sequence[Rows], train: Examples) -> None:
        self._sources, self._train = sources, train

    def given(self, step: int, limits: Limits | None) -> Int[Tensor, "seed batch"]:
        """Row numbers; where a seed has fewer, the last row, which counts nowhere."""
        rows = [source.rows(step) for source in self._sources]
        longest, none = max(map(len, rows)), self._train.tokens.shape[1] - 1
        padded = torch.stack([functional.pad(r, (0, longest - len(r)), value=none) for r in rows])
        return padded.to(self._train.tokens.device, non_blocking=True)

    def batch(self, given: Given, step: Number) -> Examples:
        """The questions of those rows."""
        assert isinstance(given, Tensor)
        seeds = torch.arange(len(given), device=given.device)[:, None]
        return Examples(*(getattr(self._train, field.name)[seeds, given] for field in fields(Examples)))

    def rows(self, kept: Int[Tensor, " rows"]) -> "Shuffled":
        """The batches of some of the seeds."""
        return Shuffled([self._sources[i] for i in kept.tolist()], self._train.rows(kept))


class Drawn(Batches):
    """Questions drawn on the device, for all seeds at once."""

    def __init__(self, source: Draws, keys: Int[Tensor, " seed"]) -> None:
        self._source, self._keys = source, keys

    def given(self, step: int, limits: Limits | None) -> Limits | None:
        """The limits."""
        return limits

    def batch(self, given: Given, step: Number) -> Examples:
        """Questions drawn for this step alone."""
        assert not isinstance(given, Tensor)
        return self._source.draw(self._keys, step.long() if isinstance(step, Tensor) else int(step), given)

    def rows(self, kept: Int[Tensor, " rows"]) -> "Drawn":
        """The batches of some of the seeds."""
        return Drawn(self._source, self._keys[kept])


def make_batches(sources: Sequence[Source], device: torch.device) -> Batches:
    """The batches of sources that differ in seed and train share alone, one for each seed."""
    drawing = [source for source in sources if isinstance(source, Draws)]
    if drawing:
        return Drawn(drawing[0], torch.stack([source.key for source in drawing]).to(device))
    listing = [source for source in sources if isinstance(source, Rows)]
    train = ensemble.stack_examples([source.train for source in listing], device)
    if all(source.constant for source in listing):
        return Whole(train)
    padded = (functional.pad(getattr(train, field.name), (0, 0, 0, 1)) for field in fields(Examples))
    return Shuffled(listing, Examples(*padded))
