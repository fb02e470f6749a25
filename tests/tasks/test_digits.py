"""Digit tensors against Python's integers."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp_arith.errors import RequestError
from interp_arith.tasks.digits import add, digits_of, numbers_of, subtract


@st.composite
def questions(draw: st.DrawFn, most_operands: int = 10) -> tuple[list[list[int]], int]:
    """Rows of 2 to 10 numbers, with many nines and zeros among their digits, and how many columns they have."""
    n_columns = draw(st.integers(1, 40))
    operands = draw(st.integers(2, most_operands))
    digit = st.one_of(st.sampled_from(["0", "9", "5"]), st.sampled_from("0123456789"))
    number = st.lists(digit, min_size=n_columns, max_size=n_columns).map(lambda digits: int("".join(digits)))
    row = st.lists(number, min_size=operands, max_size=operands)
    return draw(st.lists(row, min_size=1, max_size=4)), n_columns


def spelt(number: int, n_columns: int) -> list[int]:
    """Its digits, units first."""
    return [int(digit) for digit in f"{number:0{n_columns}d}"[::-1]]


def tensor_of(rows: list[list[int]], n_columns: int) -> torch.Tensor:
    """Their digits, by the decimal strings."""
    return torch.tensor([[spelt(number, n_columns) for number in row] for row in rows])


@given(questions())
def test_digits_are_those_of_the_decimal_string_and_back(given):
    rows, n_columns = given
    numbers = np.array(rows, dtype=object if n_columns > 18 else np.int64)
    digits = digits_of(numbers, n_columns)
    assert torch.equal(digits, tensor_of(rows, n_columns))
    back = numbers_of(digits)
    assert back.tolist() == rows
    assert back.dtype == numbers.dtype


def test_numbers_of_64_bits_may_have_more_columns_than_they_need():
    digits = digits_of(np.array([[2**63 - 1, 7]]), 40)
    assert numbers_of(digits).tolist() == [[2**63 - 1, 7]]
    assert digits[0, 1].tolist() == [7] + [0] * 39


def test_no_numbers_have_no_digits():
    assert digits_of(np.zeros((0, 2), dtype=np.int64), 5).shape == (0, 2, 5)
    assert numbers_of(torch.zeros(0, 2, 5, dtype=torch.int64)).shape == (0, 2)


@pytest.mark.parametrize("number", [1000, -1, 10**18])
@pytest.mark.parametrize("dtype", [np.int64, object])
def test_a_number_that_does_not_fit_is_refused(number, dtype):
    with pytest.raises(RequestError, match=rf"number {number}: must be from 0 to 999 \(3 digits\)"):
        digits_of(np.array([[1, 999], [number, 2]], dtype=dtype), 3)


@given(questions())
def test_sums_and_carries_are_those_of_whole_numbers(given):
    rows, n_columns = given
    found = add(tensor_of(rows, n_columns))
    assert numbers_of(found.digits).tolist() == [sum(row) for row in rows]
    assert found.digits.min() >= 0
    assert found.digits.max() <= 9
    for row, carries in zip(rows, found.carries.tolist(), strict=True):
        assert carries == [sum(n % 10**k for n in row) // 10**k for k in range(n_columns + 1)]


@given(questions(most_operands=2))
def test_differences_and_borrows_are_those_of_whole_numbers(given):
    rows, n_columns = given
    found = subtract(tensor_of(rows, n_columns))
    assert numbers_of(found.digits).tolist() == [abs(x - y) for x, y in rows]
    assert found.negative.tolist() == [x < y for x, y in rows]
    assert numbers_of(found.larger).tolist() == [max(row) for row in rows]
    assert numbers_of(found.smaller).tolist() == [min(row) for row in rows]
    for row, borrows in zip(rows, found.borrows.tolist(), strict=True):
        assert borrows == [int(max(row) % 10**k < min(row) % 10**k) for k in range(n_columns + 1)]


def test_a_carry_runs_through_nines_and_a_borrow_through_zeros():
    pair = digits_of(np.array([[99_999, 1], [100_000, 1]]), 6)
    assert add(pair[:1]).carries.tolist() == [[0, 1, 1, 1, 1, 1, 0]]
    assert subtract(pair[1:]).borrows.tolist() == [[0, 1, 1, 1, 1, 1, 0]]


@pytest.mark.parametrize("n_columns", [17, 18, 34, 35])
def test_ten_numbers_of_nines_are_summed_exactly(n_columns):
    digits = torch.full((10, n_columns), 9)
    assert numbers_of(add(digits).digits) == 10 * (10**n_columns - 1)


def test_every_leading_axis_is_kept():
    digits = torch.arange(4 * 3 * 2 * 5).reshape(4, 3, 2, 5) % 10
    assert add(digits).digits.shape == (4, 3, 6)
    assert torch.equal(add(digits).carries[2, 1], add(digits[2, 1]).carries)
    assert torch.equal(subtract(digits).borrows[2, 1], subtract(digits[2, 1]).borrows)
    assert numbers_of(digits).shape == (4, 3, 2)


def test_arithmetic_asks_nothing_of_the_device():
    # A tensor on "meta" has no values: whatever would wait for one fails, as it would in a CUDA graph.
    digits = torch.empty(3, 50, 2, 30, dtype=torch.int64, device="meta")
    assert add(digits).carries.shape == (3, 50, 31)
    assert subtract(digits).digits.shape == (3, 50, 30)
