"""What happens in each digit column of a question: carries, borrows, cascades; and how hard they make it.

Column 0 is the units. A difference is taken as the larger number less the smaller, whatever the sign of the answer.
Sources: Quirke & Barez 2023, "Understanding addition in transformers", and Quirke et al. 2024, "Understanding
addition and subtraction in transformers".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn import functional

from interp_arith.errors import RequestError
from interp_arith.tasks.digits import add, subtract

Operation = Literal["add", "subtract", "mixed"]

_ADDITION, _SUBTRACTION = "Quirke & Barez 2023", "Quirke et al. 2024"
_SUMS = tuple(f"S{level}" for level in range(6))
_DIFFERENCES = tuple(f"M{level}" for level in range(5))
_NEGATIVE = ("N1", *(f"N{level}" for level in range(1, 5)))
CLASSES = _SUMS + _DIFFERENCES + _NEGATIVE[1:]
"""Every complexity class, in order."""


@dataclass(frozen=True)
class Feature:
    """What one number, or word, of a question and column says.

    Attributes:
        meaning: in one sentence.
        units: "digit", "columns", or "1" for what is counted in neither, such as yes (1) and no (0).
        source: authors and year.
    """

    meaning: str
    units: str
    source: str


FEATURES: Mapping[str, Feature] = {
    "column_sum": Feature("r, the sum of the operands' digits", "1", _ADDITION),
    "base_add": Feature("r mod 10", "digit", _ADDITION),
    "generate": Feature("whether r ≥ 10", "1", _ADDITION),
    "propagate": Feature("whether r = 9", "1", _ADDITION),
    "kill": Feature("whether r ≤ 8", "1", _ADDITION),
    "carry_in": Feature("carry from the column below; 0 into the units", "1", _ADDITION),
    "carry_out": Feature("carry into the column above", "1", _ADDITION),
    "answer_digit": Feature("digit of the answer, its sign left aside", "digit", _ADDITION),
    "tri_case": Feature("8 where r ≤ 8, 9 where r = 9, 10 where r ≥ 10", "1", _SUBTRACTION),
    "cascade": Feature(
        "tri-case, or where it is 9 that of the column below; 8 below the units", "1", _SUBTRACTION
    ),
    "carry_kind": Feature("carry-out: none, direct (r ≥ 10), virtual (r = 9 and a carry in)", "1", _ADDITION),
    "cascade_length": Feature(
        "columns of r = 9 just below that sit on one of r ≥ 10; 0 if none do", "columns", _ADDITION
    ),
    "sign": Feature("sign of x − y, of the digits as they are asked: −1, 0, 1", "1", _SUBTRACTION),
    "base_difference": Feature(
        "d mod 10, d = digit of the larger number − that of the smaller", "digit", _SUBTRACTION
    ),
    "borrow_in": Feature("whether the column below borrows; no into the units", "1", _SUBTRACTION),
    "borrow_out": Feature("whether it borrows from the column above", "1", _SUBTRACTION),
    "borrow_case": Feature("sign of d: −1 where it borrows in any case, 0, 1", "1", _SUBTRACTION),
    "borrow_cascade": Feature(
        "borrow case, or where it is 0 that of the column below; 1 below the units", "1", _SUBTRACTION
    ),
    "borrow_kind": Feature(
        "borrow-out: none, direct (d < 0), virtual (d = 0 and a borrow in)", "1", _SUBTRACTION
    ),
    "borrow_cascade_length": Feature(
        "columns of d = 0 just below that sit on one of d < 0; 0 if none do", "columns", _SUBTRACTION
    ),
}
"""Every feature; cases and cascades of a sum are those of two numbers."""


def column_features(
    digits: Int[Tensor, "batch operand column"], subtracts: Bool[Tensor, " batch"]
) -> xr.Dataset:
    """Every feature, [question, column], with its meaning, units and source.

    Column n, which the operands do not have, is there where numbers are added: there the carry-in is the top digit.
    What does not apply to a question or a column is missing (NaN, or "" for a kind), and what applies to none of the
    questions is left out: of differences all that is said of sums, and of sums of more than two numbers the cases
    and cascades, since their carries go beyond 1.

    Args:
        digits: of the numbers, units first.
        subtracts: whether the question is x − y.

    Raises:
        RequestError: a difference of more than two numbers.
    """
    rows, parts = subtracts.cpu().numpy(), []
    if not rows.all():
        parts.append((~rows, _of_sums(digits[~subtracts])))
    if rows.any():
        _only_two(digits, "a difference")
        parts.append((rows, _of_differences(digits[subtracts])))
    n_columns = digits.shape[-1] + (not rows.all())
    names = [name for name in FEATURES if any(name in found for _, found in parts)]
    arrays = {
        name: _together(name, [(of, f[name]) for of, f in parts if name in f], n_columns) for name in names
    }
    return xr.Dataset(
        {name: (("question", "column"), array, vars(FEATURES[name])) for name, array in arrays.items()},
        coords={"column": np.arange(n_columns)},
    )


def complexity_of(
    digits: Int[Tensor, "batch operand column"], subtracts: Bool[Tensor, " batch"]
) -> np.ndarray:
    """The complexity class of each question, a string.

    A sum without a generating column is S0, any other S(1 + its longest cascade), at most S5. A difference without a
    borrow is M0, any other M(1 + the longest run of equal columns directly above one that borrows by itself), at most
    M4. Where the answer is negative it is N in place of M, and N1 without a borrow as well: every such answer
    has a sign to find.

    Raises:
        RequestError: more than two numbers.
    """
    _only_two(digits, "a complexity class")
    rows = subtracts.cpu().numpy()
    names = np.empty(len(digits), dtype="<U2")
    names[~rows] = np.array(_SUMS)[_level(longest_cascade(digits[~subtracts]), 5)]
    found = subtract(digits[subtracts])
    level = _level(_longest(found.larger < found.smaller, found.borrows), 4)
    names[rows] = np.where(
        found.negative.cpu().numpy(), np.array(_NEGATIVE)[level], np.array(_DIFFERENCES)[level]
    )
    return names


def classes(n_digits: int, operation: Operation) -> tuple[str, ...]:
    """The complexity classes that questions of two numbers of so many digits can have, in order."""
    of_sums = _SUMS[: n_digits + 1]
    of_differences = (*_DIFFERENCES[:n_digits], *_NEGATIVE[1 : max(n_digits, 2)])
    return {"add": of_sums, "subtract": of_differences, "mixed": of_sums + of_differences}[operation]


def longest_cascade(digits: Int[Tensor, "*axes 2 column"]) -> Int[Tensor, "*axes"]:
    """The most columns of r = 9 directly above one of r ≥ 10; −1 where no column has r ≥ 10."""
    return _longest(digits.sum(dim=-2) >= 10, add(digits).carries)


def _level(longest: Int[Tensor, "*axes"], most: int) -> Int[np.ndarray, "*axes"]:
    return (longest + 1).clamp(max=most).cpu().numpy()


def _longest(
    starts: Bool[Tensor, "*axes column"], into: Int[Tensor, "*axes column+1"]
) -> Int[Tensor, "*axes"]:
    return torch.where(starts.any(dim=-1), _cascade_lengths(starts, into).amax(dim=-1), -1)


def _cascade_lengths(
    starts: Bool[Tensor, "*axes column"], into: Int[Tensor, "*axes column+1"]
) -> Int[Tensor, "*axes column+1"]:
    """How many columns beyond the one where it starts a carry, or borrow, has come through."""
    column = torch.arange(starts.shape[-1], device=starts.device)
    start = torch.where(starts, column, -1).cummax(dim=-1).values
    return functional.pad(into[..., 1:] * (column - start), (1, 0))


def _of_sums(digits: Int[Tensor, "batch operand column"]) -> dict[str, Tensor]:
    r, found = digits.sum(dim=-2), add(digits)
    carry_out = found.carries[..., 1:]
    features = {
        "column_sum": r,
        "base_add": r % 10,
        "carry_in": found.carries,
        "carry_out": carry_out,
        "answer_digit": found.digits,
    }
    if digits.shape[-2] > 2:
        return features
    return features | {
        "generate": r >= 10,
        "propagate": r == 9,
        "kill": r <= 8,
        "tri_case": r.clamp(8, 10),
        "cascade": 8 + 2 * carry_out,
        "carry_kind": carry_out + carry_out * (r == 9),
        "cascade_length": _cascade_lengths(r >= 10, found.carries),
    }


def _of_differences(digits: Int[Tensor, "batch 2 column"]) -> dict[str, Tensor]:
    found = subtract(digits)
    d, borrow_out = found.larger - found.smaller, found.borrows[..., 1:]
    return {
        "answer_digit": found.digits,
        "sign": (digits[:, 0] - digits[:, 1]).sign(),
        "base_difference": d % 10,
        "borrow_in": found.borrows[..., :-1],
        "borrow_out": borrow_out,
        "borrow_case": d.sign(),
        "borrow_cascade": 1 - 2 * borrow_out,
        "borrow_kind": borrow_out + borrow_out * (d == 0),
        "borrow_cascade_length": _cascade_lengths(d < 0, found.borrows)[..., :-1],
    }


def _together(
    name: str, parts: list[tuple[Bool[np.ndarray, " batch"], Tensor]], n_columns: int
) -> np.ndarray:
    """One array of all questions; a kind, counted from 0, as a word."""
    words = name.endswith("kind")
    whole = np.full(
        (len(parts[0][0]), n_columns), "" if words else np.nan, dtype="<U7" if words else np.float32
    )
    for rows, found in parts:
        values = found.cpu().numpy()
        whole[rows, : values.shape[1]] = np.array(["none", "direct", "virtual"])[values] if words else values
    return whole


def _only_two(digits: Int[Tensor, "batch operand column"], what: str) -> None:
    if digits.shape[-2] != 2:
        raise RequestError(
            f"{what} is of two numbers: given questions of {digits.shape[-2]}; choose operands = 2"
        )
