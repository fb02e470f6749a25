"""Seeded draws: splits, shuffles, numbers. Questions are drawn by what is here alone; it knows no task.

Every draw is a pure function of (seed, stream, counter), so that training resumed at a step sees the
batches of an uninterrupted run without any generator state being kept. Numbers are drawn by integer arithmetic on
any device, for any number of seeds at once: a GPU draws what a CPU draws. Splits and shuffles are drawn by numpy.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp_arith.errors import RequestError
from interp_arith.tasks.columns import Operation
from interp_arith.tasks.digits import digits_of, parts_of

SplitName = Literal["train", "val", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "val", "test")

_STREAMS = {
    "split": 0,
    "shuffle": 1,
    "train": 2,
    "val": 3,
    "test": 4,
    "initialization": 5,
    "example": 6,
    "offset": 7,
    "probe": 8,
    "control": 9,
    "case": 10,
    "pairs": 11,
}
_HELD_OUT_SHARE = 0.05
_PROPAGATING_SHARE = 0.6
_TRIPLES = 100
_AT_ONCE = 2**18
_MOST_SHUFFLED = 8_000_000
_CANDIDATES = {"train": 14, "val": 400, "test": 400}  # drawn for every ten of the split
_GAMMA = 0x9E3779B97F4A7C15  # of splitmix64
_LEAST = -(2**63)
_PART_BITS = 21
_PARTS = 2**_PART_BITS


def _signed(number: int) -> int:
    """The integer of 64 bits with a sign that has the same bits."""
    return (number + 2**63) % 2**64 - 2**63


def _share_end(share: float) -> int:
    """The first hash beyond a share of all, where hashes are rounded to float64; in the order of `_LEAST`."""
    near = int(share * 2**64) - 2**12
    return next(number for number in count(near) if float(number) >= share * 2**64) + _LEAST


_TEST_END, _VAL_END = _share_end(_HELD_OUT_SHARE), _share_end(2 * _HELD_OUT_SHARE)


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


def draw_digits(
    n: int,
    n_digits: int,
    limits: Limits,
    key: Int[Tensor, "*seed"],
    operands: int = 2,
    operation: Operation = "add",
) -> Int[Tensor, "*seed batch operand column"]:
    """Digits of numbers of a random length, units first, with zeros beyond it.

    The length is uniform between the limits, and all numbers uniform among those of at most that length.
    In the carry-heavy share of the questions each column propagates with probability 0.6, so that carries run
    through many columns: it sums to 9 modulo 10, or where the question subtracts, both digits are the same.

    Args:
        n: how many questions.
        n_digits: columns that the layout has; no length exceeds it.
        limits: the shortest and longest length, and the carry-heavy share.
        key: of the draws, on the device that draws them.
        operands: numbers in one question; two where any subtracts.
        operation: where it is mixed, one more operand says whether the question subtracts: 1 or 0 in its units.
    """
    per_column = operands // 3 + 1
    numbers = random_integers(key, n * (n_digits * per_column + 1)).unflatten(-1, (n, -1))
    columns, question = numbers[..., :-1].unflatten(-1, (n_digits, per_column)), numbers[..., -1:]
    length = limits.min_digits + below(limits.max_digits + 1 - limits.min_digits, question, 0)
    heavy = below(_PARTS, question, 1) < limits.carry_share * _PARTS
    propagates = below(_PARTS, columns[..., operands // 3], operands % 3) < _PROPAGATING_SHARE * _PARTS
    *others, last = (below(10, columns[..., i // 3], i % 3) for i in range(operands))
    subtracts = below(2, question, 2) if operation == "mixed" else int(operation == "subtract")
    same, nines = others[0], (9 - sum(others)) % 10
    propagating = subtracts * same + (1 - subtracts) * nines
    drawn = torch.stack([*others, torch.where(heavy & propagates, propagating, last)], dim=-2)
    column = torch.arange(n_digits, device=key.device)
    drawn = drawn * (column < length)[..., None, :]
    if operation == "mixed":
        drawn = torch.cat([drawn, (subtracts * (column == 0))[..., None, :]], dim=-2)
    return drawn


def draw_of_split(
    split: SplitName,
    n: int,
    n_digits: int,
    limits: Limits,
    key: Int[Tensor, "*seed"],
    operands: int = 2,
    operation: Operation = "add",
) -> Int[Tensor, "*seed batch operand column"]:
    """Questions as `draw_digits` draws them that belong to one split, by their hash: training draws no test question.

    So many candidates are drawn that n of them belong to it (of one-digit questions with long carries, 78 % do to
    train: 7 standard deviations are to spare). Were it fewer, those would come again.
    """
    n_candidates = (n + 32) * _CANDIDATES[split] // 10
    candidates = draw_digits(n_candidates, n_digits, limits, key, operands, operation)
    found = in_split(candidates[..., :operands, :], split).cumsum(dim=-1)
    wanted = torch.arange(n, device=key.device) % found[..., -1:].clamp(min=1) + 1
    rows = torch.searchsorted(found, wanted)[..., None, None]
    return candidates.gather(-3, rows.expand(*rows.shape[:-2], *candidates.shape[-2:]))


@dataclass(frozen=True)
class Moves:
    """How far the places of digits may be moved.

    Attributes:
        offset: all of them, at most.
        gap: those from some place on, at most so much more.
        free: both together, at most.
        places: of the longest number.
    """

    offset: int = 0
    gap: int = 0
    free: int = 0
    places: int = 1


def draw_offsets(n: int, moves: Moves, key: Int[Tensor, "*seed"]) -> Int[Tensor, "*seed batch place"]:
    """How far each place of n questions is moved: offset, gap and the place above the gap are uniform.

    The gap goes no further than the offset leaves free. Where none is drawn, one value holds for all places.
    """
    numbers = random_integers(key, n)[..., None]
    offset = below(moves.offset + 1, numbers, 0)
    if not moves.gap or moves.places == 1:
        return offset
    gap = below((moves.free - offset).clamp(max=moves.gap) + 1, numbers, 1)
    first = 1 + below(moves.places - 1, numbers, 2)
    return offset + gap * (torch.arange(moves.places, device=key.device) >= first)


def draw_pair_labels(n_classes: int, n_tables: int, key: Int[Tensor, ""]) -> Int[Tensor, "table 10 10"]:
    """Random labels from 0 to n_classes − 1 of all pairs of digits, in several tables.

    In each table every label is as frequent as any other, or has one pair more or less.
    """
    order = random_integers(key, 100 * n_tables).unflatten(-1, (n_tables, 100)).argsort(dim=-1)
    return (order % n_classes).unflatten(-1, (10, 10))


def in_split(digits: Int[Tensor, "*axes operand column"], split: SplitName) -> Bool[Tensor, "*axes"]:
    """Whether each question belongs to the split: 5 % each to val and test by a hash of its numbers.

    The questions of the ten-digit protocol are for test. Columns of leading zeros make no difference, nor does the
    operation: 3 + 4 and 3 − 4 go together.
    """
    found = _hash_of_numbers(digits)
    known = _ten_digit_hashes(digits.device)
    at = torch.searchsorted(known, found).clamp(max=len(known) - 1)
    number = torch.where(known[at] == found, 0, found) ^ _LEAST  # in the order of unsigned integers
    if split == "test":
        return number < _TEST_END
    if split == "val":
        return (number >= _TEST_END) & (number < _VAL_END)
    return number >= _VAL_END


def draw_test_numbers(
    n_digits: int, key: Int[Tensor, ""], operands: int = 2, has_sign: bool = False
) -> Int[Tensor, "batch operand"]:
    """The test questions among 2¹⁸ uniform ones, as numbers: about 13,000, each 60 times as quick as by its digits.

    Args:
        n_digits: at most 15, so that the remainders of 63 random bits are uniform to one part in 9,000.
        key: of the draw.
        operands: numbers of a question.
        has_sign: one more number, 0 or 1, says what is done with them.
    """
    numbers = (random_integers(key, _AT_ONCE * (operands + has_sign)) & (2**63 - 1)) % 10**n_digits
    questions = numbers.unflatten(-1, (_AT_ONCE, operands + has_sign))
    if has_sign:
        questions[:, -1] %= 2
    whole_in_one_column = questions[:, :operands, None]
    return questions[in_split(whole_in_one_column, "test")]


@cache
def ten_digit_pairs() -> Int[np.ndarray, "batch 2"]:
    """The questions of the ten-digit protocol: ten edge cases, then 10,000 pairs of `random.Random(2025)`."""
    largest, rng = 10**10 - 1, random.Random(2025)
    edges = [
        (0, 0),
        (0, 1),
        (largest, 0),
        (largest, 1),
        (largest, largest),
        (5 * 10**9, 5 * 10**9),
        (1111111111, 8888888889),
        (1234567890, 9876543210),
        (largest, largest),
        (1, largest),
    ]
    drawn = [(rng.randint(0, largest), rng.randint(0, largest)) for _ in range(10_000)]
    return np.array(edges + drawn)


@cache
def _ten_digit_hashes(device: torch.device) -> Int[Tensor, " batch"]:
    """Sorted."""
    return _hash_of_numbers(digits_of(ten_digit_pairs(), 10)).sort().values.to(device)


def _hash_of_numbers(digits: Int[Tensor, "*axes operand column"]) -> Int[Tensor, "*axes"]:
    """A hash of numbers as they are, however many leading zeros they have."""
    state = torch.zeros_like(digits[..., 0, 0])
    for lowest, *higher in (operand.unbind(-1) for operand in parts_of(digits).unbind(-2)):
        state = _fold(state, lowest)
        for part in higher:
            state = torch.where(part != 0, _fold(state, part), state)
    return state


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


def key(seeds: int | Int[Tensor, "*seed"], stream: str) -> Int[Tensor, "*seed"]:
    """What draws for one purpose start from, on the device of the seeds."""
    given = torch.tensor(_signed(seeds)) if isinstance(seeds, int) else seeds
    return _hash((given, _STREAMS[stream]))


def later(key: Int[Tensor, "*seed"], counter: int | Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    """The key of another moment: 2³² numbers further on for each. Many moments broadcast against the keys."""
    distance = counter * _signed(_GAMMA << 32)
    return key + (_signed(distance) if isinstance(distance, int) else distance)


def random_integers(key: Int[Tensor, "*seed"], n: int) -> Int[Tensor, "*seed n"]:
    """The n numbers that the generator splitmix64 gives from the key on (Steele et al. 2014)."""
    counter = torch.arange(1, n + 1, device=key.device)
    return _mix(key[..., None] + counter * _signed(_GAMMA))


def below(end: int | Int[Tensor, "*axes"], numbers: Int[Tensor, "*axes"], part: int) -> Int[Tensor, "*axes"]:
    """⌊end · u⌋, with u in [0, 1) the first, second or third 21 bits of random numbers."""
    return ((numbers >> _PART_BITS * part) & (_PARTS - 1)) * end >> _PART_BITS


def _hash(numbers: Sequence[int | Int[Tensor, "*axes"]]) -> Int[Tensor, "*axes"]:
    """The finalizer of splitmix64, folded over the numbers, of which the first is a tensor."""
    state = torch.zeros_like(numbers[0])  # pyright: ignore[reportArgumentType]
    for number in numbers:
        state = _fold(state, number)
    return state


def _fold(state: Int[Tensor, "*axes"], number: int | Int[Tensor, "*axes"]) -> Int[Tensor, "*axes"]:
    return _mix(state + number + _signed(_GAMMA))


def _mix(state: Int[Tensor, "*axes"]) -> Int[Tensor, "*axes"]:
    """The finalizer of splitmix64 (Steele et al. 2014), in place: products wrap around, shifts bring in zeros."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state ^= (state >> shift) & (2 ** (64 - shift) - 1)
        state *= _signed(factor)
    state ^= (state >> 31) & (2**33 - 1)
    return state
