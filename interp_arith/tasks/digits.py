"""Numbers as tensors of digits, units first, added and subtracted column by column; knows no question and no layout.

Every function takes any leading axes, and those on tensors any device, on which they wait for nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp_arith.errors import RequestError

PART_DIGITS = 18
"""So many digits always fit an integer of 64 bits."""
_SUMMED_DIGITS = 17  # so do the sums of ten numbers of so many


@dataclass(frozen=True)
class Sum:
    """The sum of several numbers.

    Attributes:
        digits: of the sum.
        carries: the carry into each column; none enters the units, and the last is the top digit.
    """

    digits: Int[Tensor, "*axes column+1"]
    carries: Int[Tensor, "*axes column+1"]


@dataclass(frozen=True)
class Difference:
    """The difference of two numbers, taken as the larger less the smaller.

    Attributes:
        negative: whether the second number is the larger.
        larger: digits of the larger number; of the first where both are the same.
        smaller: digits of the other.
        digits: of the larger less the smaller.
        borrows: the borrow into each column, 0 or 1; neither the units nor the column past the top has one.
    """

    negative: Bool[Tensor, "*axes"]
    larger: Int[Tensor, "*axes column"]
    smaller: Int[Tensor, "*axes column"]
    digits: Int[Tensor, "*axes column"]
    borrows: Int[Tensor, "*axes column+1"]


def digits_of(numbers: np.ndarray, n_columns: int) -> Int[Tensor, "*axes column"]:
    """The digits of whole numbers, [*axes]: of int64, or of Python's in an array of objects.

    Raises:
        RequestError: a number is negative or has more digits.
    """
    rest, parts = numbers, []
    for start in range(0, n_columns, PART_DIGITS):
        width = min(PART_DIGITS, n_columns - start)
        rest, part = rest // 10**width, (rest % 10**width).astype(np.int64)
        digits = part[..., None] // 10 ** np.arange(width + 1)
        parts.append(digits[..., :-1] - 10 * digits[..., 1:])
    for number in numbers[rest != 0][:1]:
        raise RequestError(f"number {number}: must be from 0 to {10**n_columns - 1} ({n_columns} digits)")
    return torch.from_numpy(np.concatenate(parts, axis=-1))


def numbers_of(digits: Int[Tensor, "*axes column"]) -> np.ndarray:
    """The numbers, [*axes]: int64 up to 18 columns, beyond them Python's in an array of objects."""
    parts = parts_of(digits).cpu().numpy()
    if parts.shape[-1] == 1:
        return parts[..., 0]
    return (parts.astype(object) * [10 ** (PART_DIGITS * i) for i in range(parts.shape[-1])]).sum(axis=-1)


def parts_of(digits: Int[Tensor, "*axes column"]) -> Int[Tensor, "*axes part"]:
    """The numbers in base 10¹⁸, the lowest part first."""
    places = 10 ** torch.arange(PART_DIGITS, device=digits.device)
    parts = digits.split(PART_DIGITS, dim=-1)
    return torch.stack([(part * places[: part.shape[-1]]).sum(dim=-1) for part in parts], dim=-1)


def add(digits: Int[Tensor, "*axes operand column"]) -> Sum:
    """The sum of 2 to 10 numbers.

    The carry into column k is ⌊Σ_{j<k} r_j 10ʲ / 10ᵏ⌋, with r_j the sum of the digits of column j.
    """
    sums = digits.sum(dim=-2)
    carries = [torch.zeros_like(sums[..., :1])]
    for total, place in _running_totals(sums):
        carries.append((total + carries[-1][..., -1:]).div(10 * place, rounding_mode="trunc"))
    into = torch.cat(carries, dim=-1)
    return Sum(torch.cat([sums + into[..., :-1] - 10 * into[..., 1:], into[..., -1:]], dim=-1), into)


def subtract(digits: Int[Tensor, "*axes 2 column"]) -> Difference:
    """The first number less the second.

    A borrow enters column k where Σ_{j<k} d_j 10ʲ < 0, with d_j the difference of the digits of column j.
    """
    x, y = digits.unbind(-2)
    negative = _borrows(x - y)[..., -1:] > 0
    larger, smaller = torch.where(negative, y, x), torch.where(negative, x, y)
    borrows = _borrows(larger - smaller)
    answer = larger - smaller - borrows[..., :-1] + 10 * borrows[..., 1:]
    return Difference(negative[..., 0], larger, smaller, answer, borrows)


def _borrows(differences: Int[Tensor, "*axes column"]) -> Int[Tensor, "*axes column+1"]:
    """The borrow into each column; the last is 1 where the whole is negative."""
    borrows = [torch.zeros_like(differences[..., :1])]
    for total, _ in _running_totals(differences):
        borrows.append((total < borrows[-1][..., -1:]).long())
    return torch.cat(borrows, dim=-1)


def _running_totals(
    columns: Int[Tensor, "*axes column"],
) -> Iterator[tuple[Int[Tensor, "*axes part"], Int[Tensor, " part"]]]:
    """Σ_{j≤k} column_j 10ʲ and 10ᵏ, in parts of 17 columns that each start anew."""
    places = 10 ** torch.arange(_SUMMED_DIGITS, device=columns.device)
    for part in columns.split(_SUMMED_DIGITS, dim=-1):
        place = places[: part.shape[-1]]
        yield (part * place).cumsum(dim=-1), place
