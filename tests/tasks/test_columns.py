"""Columns and complexity classes against plain arithmetic on decimal strings."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from interp_arith.errors import RequestError
from interp_arith.shapes import AXES
from interp_arith.tasks.columns import (
    CLASSES,
    FEATURES,
    classes,
    column_features,
    complexity_of,
    longest_cascade,
)
from interp_arith.tasks.digits import digits_of

OF_SUMS = {
    "column_sum",
    "base_add",
    "generate",
    "propagate",
    "kill",
    "carry_in",
    "carry_out",
    "answer_digit",
    "tri_case",
    "cascade",
    "carry_kind",
    "cascade_length",
}
OF_MANY = {"column_sum", "base_add", "carry_in", "carry_out", "answer_digit"}
OF_DIFFERENCES = {
    "answer_digit",
    "sign",
    "base_difference",
    "borrow_in",
    "borrow_out",
    "borrow_case",
    "borrow_cascade",
    "borrow_kind",
    "borrow_cascade_length",
}
PAIRS = list(itertools.product(range(100), repeat=2))


def digit(number: int, column: int) -> int:
    return int(str(number)[::-1][column : column + 1] or "0")


def carry(numbers: list[int], column: int) -> int:
    """Into a column: what the numbers cut off below it sum to beyond it."""
    return sum(n % 10**column for n in numbers) // 10**column


def plain_cascade(cases: list[int], start: int, onward: int, column: int) -> int:
    """Columns of one case just below a column that sit on one of the other."""
    below = cases[:column][::-1]
    run = next((i for i, case in enumerate(below) if case != onward), len(below))
    return run if run < len(below) and below[run] == start else 0


def plain_sum(numbers: list[int], column: int) -> dict[str, int | str]:
    """Every feature of a sum of two in one column that the numbers have."""
    x, y = numbers
    r, into, out = digit(x, column) + digit(y, column), carry(numbers, column), carry(numbers, column + 1)
    cases = [min(max(digit(x, k) + digit(y, k), 8), 10) for k in range(column + 1)]
    resolved = next((case for case in cases[::-1] if case != 9), 8)
    return {
        "column_sum": r,
        "base_add": r % 10,
        "generate": r >= 10,
        "propagate": r == 9,
        "kill": r <= 8,
        "carry_in": into,
        "carry_out": out,
        "answer_digit": digit(x + y, column),
        "tri_case": 8 if r <= 8 else 9 if r == 9 else 10,
        "cascade": resolved,
        "carry_kind": "none" if not out else "direct" if r >= 10 else "virtual",
        "cascade_length": plain_cascade(cases, 10, 9, column),
    }


def plain_difference(numbers: list[int], column: int) -> dict[str, int | str]:
    """Every feature of a difference in one column."""
    x, y = (digit(number, column) for number in numbers)
    larger, smaller = max(numbers), min(numbers)
    differences = [digit(larger, k) - digit(smaller, k) for k in range(column + 1)]
    cases = [(d > 0) - (d < 0) for d in differences]
    into, out = (larger % 10**k < smaller % 10**k for k in (column, column + 1))
    return {
        "answer_digit": digit(larger - smaller, column),
        "sign": (x > y) - (x < y),
        "base_difference": differences[-1] % 10,
        "borrow_in": into,
        "borrow_out": out,
        "borrow_case": cases[-1],
        "borrow_cascade": next((case for case in cases[::-1] if case), 1),
        "borrow_kind": "none" if not out else "direct" if differences[-1] < 0 else "virtual",
        "borrow_cascade_length": plain_cascade(cases, -1, 0, column),
    }


def plain_level(cases: list[int], start: int, onward: int) -> int:
    """0 without a starting column, else 1 + the longest run of going on directly above one."""
    runs = [
        len(list(itertools.takewhile(lambda case: case == onward, cases[k + 1 :])))
        for k, case in enumerate(cases)
        if case == start
    ]
    return 1 + max(runs) if runs else 0


def plain_class(x: int, y: int, subtracts: bool, n_digits: int) -> str:
    pairs = [(digit(max(x, y), k), digit(min(x, y), k)) for k in range(n_digits)]
    if not subtracts:
        return f"S{min(plain_level([min(max(a + b, 8), 10) for a, b in pairs], 10, 9), 5)}"
    level = min(plain_level([(a > b) - (a < b) for a, b in pairs], -1, 0), 4)
    return f"M{level}" if x >= y else f"N{max(level, 1)}"


def questions_of(numbers: list[list[int]], n_digits: int) -> torch.Tensor:
    return digits_of(np.array(numbers, dtype=object), n_digits)


def features_of(text: str, n_digits: int) -> xr.Dataset:
    """Of one question in human order."""
    sign = "+" if "+" in text else "-"
    pair = [int(number) for number in text.split(sign)]
    return column_features(questions_of([pair], n_digits), torch.tensor([sign == "-"])).isel(question=0)


def class_of(text: str, n_digits: int) -> str:
    sign = "+" if "+" in text else "-"
    pair = [int(number) for number in text.split(sign)]
    return str(complexity_of(questions_of([pair], n_digits), torch.tensor([sign == "-"]))[0])


@st.composite
def mixed_questions(draw: st.DrawFn) -> tuple[list[list[int]], list[bool], int]:
    """Pairs with many columns of 9 and of equal digits, whether each is to be subtracted, and the columns."""
    n_digits = draw(st.integers(1, 25))
    column = st.one_of(
        st.tuples(st.integers(0, 9), st.integers(0, 9)),
        st.integers(0, 9).map(lambda x: (x, 9 - x)),
        st.integers(0, 9).map(lambda x: (x, x)),
    )
    columns = st.lists(column, min_size=n_digits, max_size=n_digits)
    pair = columns.map(lambda c: [int("".join(map(str, digits))) for digits in zip(*c, strict=True)])
    pairs = draw(st.lists(pair, min_size=1, max_size=4))
    return pairs, draw(st.lists(st.booleans(), min_size=len(pairs), max_size=len(pairs))), n_digits


@given(mixed_questions())
def test_every_feature_is_that_of_plain_arithmetic(given):
    pairs, subtracts, n_digits = given
    found = column_features(questions_of(pairs, n_digits), torch.tensor(subtracts))
    expected_names = (set() if all(subtracts) else OF_SUMS) | (OF_DIFFERENCES if any(subtracts) else set())
    assert set(found.data_vars) == expected_names
    assert found.sizes == {"question": len(pairs), "column": n_digits + (not all(subtracts))}
    for i, (pair, minus) in enumerate(zip(pairs, subtracts, strict=True)):
        for k in range(n_digits):
            here = found.isel(question=i, column=k)
            expected = plain_difference(pair, k) if minus else plain_sum(pair, k)
            for name in expected_names:
                assert_is(here[name].item(), expected.get(name))
        if not all(subtracts):
            top = found.isel(question=i, column=n_digits)
            cases = [min(max(digit(pair[0], k) + digit(pair[1], k), 8), 10) for k in range(n_digits)]
            of_a_sum = {
                "carry_in": carry(pair, n_digits),
                "answer_digit": carry(pair, n_digits),
                "cascade_length": plain_cascade(cases, 10, 9, n_digits),
            }
            for name in expected_names:
                assert_is(top[name].item(), None if minus else of_a_sum.get(name))


def assert_is(found: float | str, expected: int | str | None) -> None:
    """Nothing is expected where it is None."""
    if expected is None:
        assert found == "" if isinstance(found, str) else np.isnan(found)
    else:
        assert found == expected


@given(mixed_questions())
def test_the_class_of_a_question_is_that_of_its_digits(given):
    pairs, subtracts, n_digits = given
    found = complexity_of(questions_of(pairs, n_digits), torch.tensor(subtracts)).tolist()
    assert found == [
        plain_class(x, y, minus, n_digits) for (x, y), minus in zip(pairs, subtracts, strict=True)
    ]
    assert set(found) <= set(classes(n_digits, "mixed"))


@given(mixed_questions(), st.integers(1, 10))
def test_leading_zeros_change_no_class(given, more):
    pairs, subtracts, n_digits = given
    minus = torch.tensor(subtracts)
    narrow, wide = (complexity_of(questions_of(pairs, n), minus) for n in (n_digits, n_digits + more))
    assert narrow.tolist() == wide.tolist()


@pytest.mark.parametrize("subtracts", [False, True])
def test_all_pairs_of_two_digits_have_the_class_of_plain_arithmetic(subtracts):
    digits, minus = digits_of(np.array(PAIRS), 2), torch.full((10_000,), subtracts)
    assert complexity_of(digits, minus).tolist() == [plain_class(x, y, subtracts, 2) for x, y in PAIRS]


def test_the_counts_of_all_pairs_of_two_digits_are_those_worked_by_hand():
    # S0: 55 pairs of digits sum to 9 at most, in both columns. S2: 45 generate below one of the ten nines.
    both = torch.tensor([False] * 10_000 + [True] * 10_000)
    counts = Counter(complexity_of(digits_of(np.array(PAIRS * 2), 2), both).tolist())
    assert counts == {"S0": 3025, "S1": 6525, "S2": 450, "M0": 3025, "M1": 2025, "N1": 4950}


@pytest.mark.parametrize("n_digits", [1, 2, 3])
def test_the_possible_classes_are_those_that_occur(n_digits):
    pairs = digits_of(np.stack(np.indices((10**n_digits,) * 2), axis=-1).reshape(-1, 2), n_digits)
    sums, differences = (
        set(complexity_of(pairs, torch.full((len(pairs),), sign)).tolist()) for sign in (False, True)
    )
    assert sorted(sums) == list(classes(n_digits, "add"))
    assert sorted(differences) == list(classes(n_digits, "subtract"))
    assert classes(n_digits, "mixed") == classes(n_digits, "add") + classes(n_digits, "subtract")


def test_the_classes_of_long_numbers_are_all_and_those_of_four_digits_are_two_fewer():
    every = ("S0", "S1", "S2", "S3", "S4", "S5", "M0", "M1", "M2", "M3", "M4", "N1", "N2", "N3", "N4")
    assert classes(5, "mixed") == classes(30, "mixed") == CLASSES == every
    assert [name for name in every if name not in classes(4, "mixed")] == ["S5", "M4", "N4"]
    assert classes(1, "subtract") == ("M0", "N1")


@pytest.mark.parametrize(
    ("question", "name"),
    [
        ("45+54", "S0"),
        ("0+0", "S0"),
        ("45+55", "S2"),
        ("45+46", "S1"),
        ("95+5", "S2"),
        ("945+55", "S3"),
        ("99999+1", "S5"),
        ("9999+1", "S4"),
        ("99999999+1", "S5"),
        ("909+191", "S2"),
        ("909+19", "S1"),
        ("45-45", "M0"),
        ("99-10", "M0"),
        ("12-7", "M1"),
        ("100-1", "M2"),
        ("1000-1", "M3"),
        ("10000-1", "M4"),
        ("100000-1", "M4"),
        ("7-12", "N1"),
        ("12-45", "N1"),
        ("12345-12346", "N1"),
        ("1-100", "N2"),
        ("123-1122", "N3"),
    ],
)
def test_classes_of_questions_worked_by_hand(question, name):
    assert class_of(question, 9) == name


def test_a_carry_through_nines_is_direct_once_and_virtual_after():
    found = features_of("99999+1", 5)
    assert found.column_sum.values[:5].tolist() == [10, 9, 9, 9, 9]
    assert found.carry_in.values.tolist() == [0, 1, 1, 1, 1, 1]
    assert found.answer_digit.values.tolist() == [0, 0, 0, 0, 0, 1]
    assert found.carry_kind.values.tolist() == ["direct", *["virtual"] * 4, ""]
    assert found.cascade_length.values.tolist() == [0, 0, 1, 2, 3, 4]
    assert found.tri_case.values[:5].tolist() == [10, 9, 9, 9, 9]
    assert found.cascade.values[:5].tolist() == [10] * 5


def test_nines_on_a_column_without_a_carry_are_resolved_to_none():
    found = features_of("9958+41", 4)  # 9999
    assert found.tri_case.values[:4].tolist() == [9, 9, 9, 9]
    assert found.cascade.values[:4].tolist() == [8] * 4
    assert found.carry_kind.values[:4].tolist() == ["none"] * 4
    assert found.cascade_length.values.tolist() == [0] * 5


def test_a_borrow_through_zeros_is_direct_once_and_virtual_after():
    found = features_of("1-1000", 4)
    assert found.sign.values.tolist() == [1, 0, 0, -1]
    assert found.answer_digit.values.tolist() == [9, 9, 9, 0]
    assert found.base_difference.values.tolist() == [9, 0, 0, 1]
    assert found.borrow_case.values.tolist() == [-1, 0, 0, 1]
    assert found.borrow_cascade.values.tolist() == [-1, -1, -1, 1]
    assert found.borrow_in.values.tolist() == [0, 1, 1, 1]
    assert found.borrow_out.values.tolist() == [1, 1, 1, 0]
    assert found.borrow_kind.values.tolist() == ["direct", "virtual", "virtual", "none"]
    assert found.borrow_cascade_length.values.tolist() == [0, 0, 1, 2]


@given(st.lists(st.lists(st.integers(0, 10**20 - 1), min_size=5, max_size=5), min_size=1, max_size=3))
def test_sums_of_many_have_whole_carries_and_no_cases(rows):
    found = column_features(questions_of(rows, 20), torch.zeros(len(rows), dtype=torch.bool))
    assert set(found.data_vars) == OF_MANY
    for i, row in enumerate(rows):
        here = found.isel(question=i)
        assert here.carry_in.values.tolist() == [carry(row, k) for k in range(21)]
        assert here.answer_digit.values.tolist() == [digit(sum(row), k) for k in range(21)]
        assert here.column_sum.values[:20].tolist() == [sum(digit(n, k) for n in row) for k in range(20)]
        assert here.carry_out.values[:20].tolist() == here.carry_in.values[1:].tolist()


def test_features_survive_a_file_and_say_what_they_are(tmp_path):
    pairs, subtracts = questions_of([[45, 55], [7, 12]], 2), torch.tensor([False, True])
    found = column_features(pairs, subtracts)
    found.to_netcdf(tmp_path / "columns.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "columns.nc", engine="h5netcdf") as loaded:
        xr.testing.assert_identical(loaded.load(), found)
    assert set(found.dims) <= set(AXES)
    assert set(found.data_vars) == OF_SUMS | OF_DIFFERENCES == set(FEATURES)
    for each in found.data_vars.values():
        assert set(each.attrs) == {"meaning", "units", "source"}
        assert all(each.attrs.values())


def test_no_questions_have_no_features():
    none = torch.zeros(0, 2, 5, dtype=torch.int64), torch.zeros(0, dtype=torch.bool)
    assert complexity_of(*none).tolist() == []
    assert column_features(*none).sizes["column"] == 5


def test_the_longest_cascade_is_not_capped_and_is_minus_one_without_a_carry():
    digits = questions_of([[99_999_999, 1], [45, 46], [45, 54]], 9)
    assert longest_cascade(digits).tolist() == [7, 0, -1]


def test_cases_of_more_than_two_numbers_are_refused():
    digits, none = questions_of([[1, 2, 3]], 2), torch.tensor([False])
    with pytest.raises(RequestError, match="a complexity class is of two numbers: given questions of 3"):
        complexity_of(digits, none)
    with pytest.raises(RequestError, match="a difference is of two numbers: given questions of 3"):
        column_features(digits, ~none)
