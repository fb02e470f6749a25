"""Seeded draws: splits, shuffles, numbers. The only place that draws questions; it knows no task.

Every draw is a pure function of (seed, stream, counter), so that training resumed at a step sees the
batches of an uninterrupted run without any generator state being kept.
"""

import random
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int, UInt64

from interp_arith.errors import RequestError

SplitName = Literal["train", "val", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "val", "test")

_STREAMS = {"split": 0, "shuffle": 1, "train": 2, "val": 3, "test": 4, "initialization": 5, "example": 6}
_HELD_OUT_SHARE = 0.05
_PROPAGATING_SHARE = 0.6
_TRIPLES = 100
_MOST_SHUFFLED = 8_000_000


@dataclass(frozen=True)
class Limits:
    """What may be sampled at one step: operand lengths in digits, and the share of carry-heavy questions."""

    min_digits: int
    max_digits: int
    carry_share: float


def generator(seed: int, stream: str, counter: int = 0) -> np.random.Generator:
    """An independent generator for one purpose at one moment."""
    return np.random.default_rng((seed, _STREAMS[stream], counter))


def torch_seed(seed: int, stream: str) -> int:
    """A 63-bit seed for a torch generator, independent between streams."""
    return int(generator(seed, stream).integers(2**63 - 1))


def draw_split(
    n: int, train_fraction: float, val_fraction: float, seed: int
) -> dict[SplitName, Int[np.ndarray, " rows"]]:
    """A random partition of n rows: ⌊n·train⌋ and ⌊n·val⌋ rows, and the rest for test; each sorted.

    Raises:
        RequestError: the train share is less than one row.
    """
    n_train = int(n * train_fraction + 1e-9)
    if not n_train:
        raise RequestError(
            f"train_fraction = {train_fraction} of {n} questions is none; give at least {1 / n:.2g}"
        )
    n_val = int(n * val_fraction + 1e-9)
    order = generator(seed, "split").permutation(n)
    parts = order[:n_train], order[n_train : n_train + n_val], order[n_train + n_val :]
    return {name: np.sort(part) for name, part in zip(SPLITS, parts, strict=True)}


def shuffled_rows(n: int, batch_size: int, seed: int, step: int) -> Int[np.ndarray, " batch"]:
    """The rows of batch number `step`: every epoch a new shuffle, its last incomplete batch left out."""
    epoch, batch = divmod(step, n // batch_size)
    order = generator(seed, "shuffle", epoch).permutation(n)
    return order[batch * batch_size : (batch + 1) * batch_size]


def draw_digit_pairs(
    n: int, n_digits: int, limits: Limits, rng: np.random.Generator
) -> Int[np.ndarray, "batch operands"]:
    """Pairs of numbers of a random length.

    The length is uniform between the limits, and both numbers uniform among those of at most that length.
    In the carry-heavy share of the questions each column sums to exactly 9 with probability 0.6, so that
    carries run through many columns.

    Args:
        n: how many pairs.
        n_digits: columns that the layout has; no length exceeds it.
        limits: the shortest and longest length, and the carry-heavy share.
        rng: where the draws come from.
    """
    length = rng.integers(limits.min_digits, limits.max_digits + 1, size=(n, 1))
    x, y = rng.integers(0, 10, size=(2, n, n_digits))
    heavy = rng.random((n, 1)) < limits.carry_share
    propagates = rng.random((n, n_digits)) < _PROPAGATING_SHARE
    y = np.where(heavy & propagates, 9 - x, y)
    digits = np.stack([x, y], axis=1) * (np.arange(n_digits) < length)[:, None]
    return digits @ 10 ** np.arange(n_digits, dtype=np.int64)


def draw_of_split(
    split: SplitName, n: int, n_digits: int, limits: Limits, rng: np.random.Generator
) -> Int[np.ndarray, "batch operands"]:
    """Pairs that belong to one split, by their hash: no test question is ever drawn for training."""
    kept = [np.empty((0, 2), dtype=np.int64)]
    missing = n
    while missing > 0:
        share = 1 - 2 * _HELD_OUT_SHARE if split == "train" else _HELD_OUT_SHARE
        pairs = draw_digit_pairs(int(missing / share * 1.1) + 32, n_digits, limits, rng)
        kept.append(pairs[in_split(pairs, split)][:missing])
        missing -= len(kept[-1])
    return np.concatenate(kept)


def in_split(pairs: Int[np.ndarray, "batch operands"], split: SplitName) -> Bool[np.ndarray, " batch"]:
    """Whether each question belongs to the split: 5 % each to val and test by a hash of its numbers."""
    share = _hash(pairs).astype(np.float64) / 2.0**64
    if split == "test":
        return share < _HELD_OUT_SHARE
    if split == "val":
        return (share >= _HELD_OUT_SHARE) & (share < 2 * _HELD_OUT_SHARE)
    return share >= 2 * _HELD_OUT_SHARE


@cache
def drawn_triples(n: int) -> Int[np.ndarray, "batch 3"]:
    """100 triples (a, b, c) of 0 … n−1, always the same; all of them, shuffled, where there are fewer.

    The first of `random.Random(42).shuffle` on the list of all n³ triples, a slowest and c fastest, as Zhong et al.
    2023 drew theirs; above n = 200, where that list grows too long, those of `random.Random(42).sample`.
    """
    rng = random.Random(42)
    if n**3 > _MOST_SHUFFLED:
        drawn = rng.sample(range(n**3), _TRIPLES)
    else:
        order = list(range(n**3))
        rng.shuffle(order)
        drawn = order[:_TRIPLES]
    return np.stack(np.unravel_index(drawn, (n, n, n)), axis=1)


def _hash(numbers: Int[np.ndarray, "batch operands"]) -> UInt64[np.ndarray, " batch"]:
    """The splitmix64 finalizer (Steele et al. 2014), folded over the operands."""
    state = np.zeros(len(numbers), dtype=np.uint64)
    for column in numbers.T.astype(np.uint64):
        state = state + column + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return state
