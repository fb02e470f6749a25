"""What all seeds train on at a step, stacked and on the device; knows no model and no loop.

The host says little (a curriculum's limits, or row numbers); the rest happens on the device and can be recorded.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional

from interp_arith.tasks.base import Examples
from interp_arith.tasks.sampling import Limits, Moves, draw_offsets, key, later
from interp_arith.tasks.sources import Draws, Rows, Source
from interp_arith.training import ensemble
from interp_arith.training.config import RunConfig
from interp_arith.training.optimizers import Number

Given = Tensor | Limits | None
"""What the host says of a step: a tensor has the same shape at every step; anything else stays for many."""

_DRAWN_AT_ONCE = 8  # batches, on a CPU: what so few questions take to draw hardly depends on their number


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
        return self._train.each(lambda x: x[seeds, given])

    def rows(self, kept: Int[Tensor, " rows"]) -> "Shuffled":
        """The batches of some of the seeds."""
        return Shuffled([self._sources[i] for i in kept.tolist()], self._train.rows(kept))


class Drawn(Batches):
    """Questions drawn on the device, for all seeds at once; on a CPU for several steps, which costs little more."""

    def __init__(self, source: Draws, keys: Int[Tensor, " seed"]) -> None:
        self._source, self._keys = source, keys
        self._at_once = max(1, _DRAWN_AT_ONCE // max(1, len(keys)))
        self._drawn: tuple[int, Limits | None, Examples] | None = None

    def given(self, step: int, limits: Limits | None) -> Limits | None:
        """The limits."""
        return limits

    def batch(self, given: Given, step: Number) -> Examples:
        """Questions drawn for this step alone."""
        assert not isinstance(given, Tensor)
        if isinstance(step, Tensor):
            return self._source.draw(self._keys, step.long(), given)
        index = int(step) % self._at_once
        first = int(step) - index
        if self._drawn is None or self._drawn[:2] != (first, given):
            steps = torch.arange(first, first + self._at_once, device=self._keys.device)
            self._drawn = first, given, self._source.draw(self._keys, steps[:, None], given)
        return self._drawn[2].rows(index)

    def rows(self, kept: Int[Tensor, " rows"]) -> "Drawn":
        """The batches of some of the seeds."""
        return Drawn(self._source, self._keys[kept])


class Offset(Batches):
    """Other batches, the places of every question moved by an offset drawn on the device, with or without a gap."""

    def __init__(self, batches: Batches, keys: Int[Tensor, " seed"], moves: Moves) -> None:
        self._batches, self._keys, self._moves = batches, keys, moves

    def given(self, step: int, limits: Limits | None) -> Given:
        """What the host says of the batch."""
        return self._batches.given(step, limits)

    def batch(self, given: Given, step: Number) -> Examples:
        """The batch, with offsets drawn for this step alone."""
        batch = self._batches.batch(given, step)
        moment = later(self._keys, step.long() if isinstance(step, Tensor) else int(step))
        return replace(batch, offset=draw_offsets(batch.tokens.shape[1], self._moves, moment))

    def rows(self, kept: Int[Tensor, " rows"]) -> "Offset":
        """The batches of some of the seeds."""
        return Offset(self._batches.rows(kept), self._keys[kept], self._moves)


def make_batches(sources: Sequence[Source], device: torch.device) -> Batches:
    """The batches of sources that differ in seed and train share alone, one for each seed."""
    drawing = [source for source in sources if isinstance(source, Draws)]
    if drawing:
        return Drawn(drawing[0], torch.stack([source.key for source in drawing]).to(device))
    listing = [source for source in sources if isinstance(source, Rows)]
    train = ensemble.stack_examples([source.train for source in listing], device)
    if all(source.constant for source in listing):
        return Whole(train)
    return Shuffled(listing, train.each(lambda x: functional.pad(x, (0, 0, 0, 1))))


def with_offsets(batches: Batches, configs: Sequence[RunConfig], device: torch.device) -> Batches:
    """The same batches, with an offset for each question where these configs' position scheme draws any."""
    moves = configs[0].model.positions.moves(configs[0].task)
    if not moves.offset and not moves.gap:
        return batches
    return Offset(batches, torch.stack([key(config.seed, "offset") for config in configs]).to(device), moves)
