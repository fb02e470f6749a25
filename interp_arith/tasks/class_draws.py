"""Questions of one complexity class, with a cascade of one length, or of a column's three cases.

They are drawn by the numbers of `sampling`. It waits for the device: for evaluation, not for the training step.
"""

from collections.abc import Callable, Mapping
from itertools import count

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp_arith.errors import RequestError, unknown
from interp_arith.tasks.columns import CLASSES, classes, complexity_of, longest_cascade
from interp_arith.tasks.digits import subtract
from interp_arith.tasks.sampling import below, in_split, later, random_integers

_MOST_ROUNDS = 100
_MOST_DRAWN = 100_000  # at once


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
            if n_digits > 1
            else f"cascade of length {length}: numbers of 1 digit have none; it needs 2 digits or more"
        )
    return _first(
        n,
        lambda n, key: _with_cascade(length, n, n_digits, key),
        lambda digits: longest_cascade(digits) == length,
        key,
        held_out,
        f"with a cascade of length {length}",
    )


def draw_tri_cases(
    column: int, n: int, n_digits: int, key: Int[Tensor, ""]
) -> Int[Tensor, "case batch 2 column"]:
    """Sums with r ≤ 8, r = 9 and r ≥ 10 in one column, and r ≤ 8 in all others: no other column makes a carry.

    Uniform, and all different.

    Args:
        column: of the three cases.
        n: how many questions of each.
        n_digits: columns that they have.
        key: of the draws, on the device that draws them.

    Raises:
        RequestError: there is no such column, or a case has fewer questions.
    """
    if not 0 <= column < n_digits:
        raise RequestError(
            f"column {column}: questions of {n_digits} digits have columns 0 to {n_digits - 1}"
        )
    if n > (most := 10 * 45 ** (n_digits - 1)):
        raise RequestError(
            f"{n} questions of each tri-case: with n_digits = {n_digits} there are {most} of r = 9; "
            f"choose at most {most}, or more digits"
        )
    pairs = torch.tensor([(x, y) for x in range(10) for y in range(10)], device=key.device)
    r = pairs.sum(dim=-1)
    low, *others = pairs[r <= 8], pairs[r == 9], pairs[r >= 10]
    cases = [_some(case, low, column, n, n_digits, later(key, i)) for i, case in enumerate((low, *others))]
    return torch.stack(cases)


def _some(
    case: Int[Tensor, "pair 2"],
    low: Int[Tensor, "pair 2"],
    column: int,
    n: int,
    n_digits: int,
    key: Int[Tensor, ""],
) -> Int[Tensor, "batch 2 column"]:
    """The first n different questions of ever more that are drawn: of one case in a column, low in the others."""
    kept, moment = low.new_zeros(0, n_digits, 2), 0
    while len(kept) < n:
        numbers = random_integers(later(key, 4 * moment), 8 * n * n_digits).unflatten(-1, (8 * n, n_digits))
        drawn = low[below(len(low), numbers, 0)]
        drawn[:, column] = case[below(len(case), numbers[:, column], 0)]
        kept, moment = torch.cat([kept, drawn]), moment + 1
        _, group = kept.unique(dim=0, return_inverse=True)
        place = torch.arange(len(kept), device=key.device)
        first = torch.full_like(place, len(kept)).scatter_reduce(0, group, place, "amin")
        kept = kept[place == first[group]]
    return kept[:n].mT


def draw_sides(
    n: int, n_digits: int, key: Int[Tensor, ""], planted: Mapping[int, Int[Tensor, "choice side 2"]]
) -> Int[Tensor, "side batch 2 column"]:
    """Questions that come in several versions, which differ in planted columns alone; all else is uniform.

    Args:
        n: how many of each version.
        n_digits: columns that they have.
        key: of the draws, on the device that draws them.
        planted: column -> the pairs of digits to choose from, uniformly, a pair for each version.
    """
    numbers = random_integers(key, n * n_digits).unflatten(-1, (n, n_digits))
    uniform = torch.stack([below(10, numbers, 0), below(10, numbers, 1)], dim=1)
    n_sides = next(iter(planted.values())).shape[1]
    sides = uniform.expand(n_sides, *uniform.shape).clone()
    for column, choices in planted.items():
        chosen = choices.to(key.device)[below(len(choices), numbers[:, column], 2)]
        sides[..., column] = chosen.transpose(0, 1)
    return sides


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
    numbers = random_integers(key, n * n_digits).unflatten(-1, (n, n_digits))
    return pairs[below(len(pairs), numbers, 0)].mT


def _with_cascade(length: int, n: int, n_digits: int, key: Int[Tensor, ""]) -> Int[Tensor, "batch 2 column"]:
    """Uniform sums, but with so many columns of 9 planted directly above a column at a uniform place."""
    numbers = random_integers(key, n * (n_digits + 1)).unflatten(-1, (n, n_digits + 1))
    columns, question = numbers[:, :-1], numbers[:, -1:]
    x, y = below(10, columns, 0), below(10, columns, 1)
    above = torch.arange(n_digits, device=key.device) - below(n_digits - length, question, 0)
    return torch.stack([x, torch.where((above >= 1) & (above <= length), 9 - x, y)], dim=1)


def _as_difference(digits: Int[Tensor, "batch 2 column"], kind: str) -> Int[Tensor, "batch 2 column"]:
    """Sums as they are for S, else differences with 9 − x for x, so that a carry becomes a borrow.

    The larger number comes first for M, the smaller for N.
    """
    if kind == "S":
        return digits
    found = subtract(torch.stack([9 - digits[:, 0], digits[:, 1]], dim=1))
    return torch.stack([found.larger, found.smaller] if kind == "M" else [found.smaller, found.larger], dim=1)
