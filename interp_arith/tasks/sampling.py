"""Seeded draws: splits, shuffles, numbers. The only place that draws questions; it knows no task.

Every draw is a pure function of (seed, stream, counter), so that training resumed at a step sees the
batches of an uninterrupted run without any generator state being kept. Numbers are drawn by integer arithmetic on
any device, for any number of seeds at once: a GPU draws what a CPU draws. Splits and shuffles are drawn by numpy.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp_arith.errors import RequestError, unknown
from interp_arith.tasks.columns import CLASSES, Operation, classes, complexity_of, longest_cascade
from interp_arith.tasks.digits import digits_of, parts_of, subtract

SplitName = Literal["train", "val", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "val", "test")

_STREAMS = {"split": 0, "shuffle": 1, "train": 2, "val": 3, "test": 4, "initialization": 5, "example": 6}
_HELD_OUT_SHARE = 0.05
_PROPAGATING_SHARE = 0.6
_MOST_ROUNDS = 100
_MOST_DRAWN = 100_000  # at once
_TRIPLES = 100
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
    numbers = _random_integers(key, n * (n_digits * per_column + 1)).unflatten(-1, (n, -1))
    columns, question = numbers[..., :-1].unflatten(-1, (n_digits, per_column)), numbers[..., -1:]
    length = limits.min_digits + _below(limits.max_digits + 1 - limits.min_digits, question, 0)
    heavy = _below(_PARTS, question, 1) < limits.carry_share * _PARTS
    propagates = _below(_PARTS, columns[..., operands // 3], operands % 3) < _PROPAGATING_SHARE * _PARTS
    *others, last = (_below(10, columns[..., i // 3], i % 3) for i in range(operands))
    subtracts = _below(2, question, 2) if operation == "mixed" else int(operation == "subtract")
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


def draw_class(
    name: str, n: int, n_digits: int, key: Int[Tensor, ""], held_out: bool = False
) -> Int[Tensor, "batch 2 column"]:
    """Questions of one complexity class (see `columns.complexity_of`).

    Those without a cascade are uniform. A cascade is planted at a uniform place, and all else is uniform; whatever
    turns out to be of another class is drawn again. Those of M and N are to be subtracted.

    Args:
        name: of the class.
        n: how many questions.
        n_digits: columns that they have.
        key: of the draws, on the device that draws them.
        held_out: keep test questions alone.

    Raises:
        RequestError: no question of so many digits is of that class, or they are too rare to be found.
    """
    if name not in CLASSES:
        raise unknown("complexity class", name, CLASSES)
    if name not in (possible := classes(n_digits, "mixed")):
        least = next(width for width in count(1) if name in classes(width, "mixed"))
        raise RequestError(
            f"class {name} needs {least} digits; questions of {n_digits} are {', '.join(possible)}"
        )
    kind, level = name[0], int(name[1])

    def draw(n: int, key: Int[Tensor, ""]) -> Int[Tensor, "batch 2 column"]:
        if level == 0:
            return _as_difference(_without_carries(n, n_digits, key), kind)
        return _as_difference(_with_cascade(level - 1, n, n_digits, key), kind)

    def keeps(digits: Int[Tensor, "batch 2 column"]) -> Bool[Tensor, " batch"]:
        subtracts = torch.full(digits.shape[:1], kind != "S", device=digits.device)
        return torch.from_numpy(complexity_of(digits, subtracts) == name).to(digits.device)

    return _first(n, draw, keeps, key, held_out, f"of class {name}")


def draw_cascades(
    length: int, n: int, n_digits: int, key: Int[Tensor, ""], held_out: bool = False
) -> Int[Tensor, "batch 2 column"]:
    """Sums whose longest cascade is exactly so many columns of 9 directly above one that generates a carry.

    It is planted at a uniform place, and all else is uniform; a question with a longer one is drawn again.
    See `draw_class` for the other arguments.

    Raises:
        RequestError: there is no room for the cascade, or such questions are too rare to be found.
    """
    if not 1 <= length < n_digits:
        raise RequestError(
            f"cascade of length {length}: must be from 1 to {n_digits - 1} in numbers of {n_digits} digits"
        )
    return _first(
        n,
        lambda n, key: _with_cascade(length, n, n_digits, key),
        lambda digits: longest_cascade(digits) == length,
        key,
        held_out,
        f"with a cascade of length {length}",
    )


def _first(
    n: int,
    draw: Callable[[int, Int[Tensor, ""]], Int[Tensor, "batch 2 column"]],
    keeps: Callable[[Int[Tensor, "batch 2 column"]], Bool[Tensor, " batch"]],
    key: Int[Tensor, ""],
    held_out: bool,
    which: str,
) -> Int[Tensor, "batch 2 column"]:
    """The first n questions that are kept of ever more that are drawn."""
    size = min(max(4 * n, 1000) * (20 if held_out else 1), _MOST_DRAWN)
    kept, moment = draw(0, key), 0
    while len(kept) < n:
        if moment == _MOST_ROUNDS and not len(kept):
            raise RequestError(
                f"no question {which} is among {moment * size:,} drawn with n_digits = {kept.shape[-1]}; "
                "choose fewer digits"
            )
        drawn = draw(size, later(key, moment))
        drawn = drawn[keeps(drawn)]
        kept = torch.cat([kept, drawn[in_split(drawn, "test")] if held_out else drawn])
        moment += 1
    return kept[:n]


def _without_carries(n: int, n_digits: int, key: Int[Tensor, ""]) -> Int[Tensor, "batch 2 column"]:
    """Uniform among sums in which no column generates a carry."""
    pairs = torch.tensor([(x, y) for x in range(10) for y in range(10 - x)], device=key.device)
    numbers = _random_integers(key, n * n_digits).unflatten(-1, (n, n_digits))
    return pairs[_below(len(pairs), numbers, 0)].mT


def _with_cascade(length: int, n: int, n_digits: int, key: Int[Tensor, ""]) -> Int[Tensor, "batch 2 column"]:
    """Uniform sums, but with so many columns of 9 planted directly above a column at a uniform place."""
    numbers = _random_integers(key, n * (n_digits + 1)).unflatten(-1, (n, n_digits + 1))
    columns, question = numbers[:, :-1], numbers[:, -1:]
    x, y = _below(10, columns, 0), _below(10, columns, 1)
    above = torch.arange(n_digits, device=key.device) - _below(n_digits - length, question, 0)
    return torch.stack([x, torch.where((above >= 1) & (above <= length), 9 - x, y)], dim=1)


def _as_difference(digits: Int[Tensor, "batch 2 column"], kind: str) -> Int[Tensor, "batch 2 column"]:
    """Sums as they are for S, else differences with 9 − x for x, so that a carry becomes a borrow.

    The larger number comes first for M, the smaller for N.
    """
    if kind == "S":
        return digits
    found = subtract(torch.stack([9 - digits[:, 0], digits[:, 1]], dim=1))
    return torch.stack([found.larger, found.smaller] if kind == "M" else [found.smaller, found.larger], dim=1)


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


def later(key: Int[Tensor, "*seed"], counter: int | Int[Tensor, ""]) -> Int[Tensor, "*seed"]:
    """The key of another moment: 2³² numbers further on for each."""
    distance = counter * _signed(_GAMMA << 32)
    return key + (_signed(distance) if isinstance(distance, int) else distance)


def _random_integers(key: Int[Tensor, "*seed"], n: int) -> Int[Tensor, "*seed n"]:
    """The n numbers that the generator splitmix64 gives from the key on (Steele et al. 2014)."""
    counter = torch.arange(1, n + 1, device=key.device)
    return _mix(key[..., None] + counter * _signed(_GAMMA))


def _below(end: int, numbers: Int[Tensor, "*axes"], part: int) -> Int[Tensor, "*axes"]:
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
