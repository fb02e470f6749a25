"""Questions of one complexity class, and with one cascade."""

import numpy as np
import pytest
import torch

from interp_arith.errors import RequestError
from interp_arith.tasks import class_draws
from interp_arith.tasks.class_draws import draw_cascades, draw_class, draw_tri_cases
from interp_arith.tasks.columns import classes, complexity_of
from interp_arith.tasks.digits import numbers_of
from interp_arith.tasks.sampling import in_split, key

START = key(3, "test")


def classes_of(name: str, digits: torch.Tensor) -> set[str]:
    return set(complexity_of(digits, torch.full((len(digits),), name[0] != "S")).tolist())


def nines_above_a_carry(a: int, b: int) -> list[int]:
    """For each generating column of the decimal strings, how many columns of 9 stand directly above it."""
    width = max(len(str(a)), len(str(b)))
    sums = [int(x) + int(y) for x, y in zip(f"{a:0{width}d}"[::-1], f"{b:0{width}d}"[::-1], strict=True)]
    runs = []
    for k in (k for k, r in enumerate(sums) if r >= 10):
        above = sums[k + 1 :]
        runs.append(next((i for i, r in enumerate(above) if r != 9), len(above)))
    return runs


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("n_digits", [5, 10, 24])
@pytest.mark.parametrize("name", classes(5, "mixed"))
def test_every_question_drawn_is_of_the_class(name, n_digits, held_out):
    digits = draw_class(name, 60, n_digits, START, held_out=held_out)
    assert digits.shape == (60, 2, n_digits)
    assert classes_of(name, digits) == {name}
    assert digits.min() >= 0
    assert digits.max() <= 9
    assert len({tuple(row) for row in numbers_of(digits).tolist()}) > 50
    if held_out:
        assert in_split(digits, "test").all()


@pytest.mark.parametrize("n_digits", [1, 2, 3, 4])
def test_short_numbers_have_the_classes_that_are_possible(n_digits):
    for name in classes(n_digits, "mixed"):
        assert classes_of(name, draw_class(name, 50, n_digits, START)) == {name}


@pytest.mark.parametrize("name", ["S0", "S1", "M0", "M1", "N1"])
def test_every_question_of_a_class_without_a_cascade_is_as_likely(name):
    every = np.stack(np.indices((100, 100)), axis=-1).reshape(-1, 2)
    digits = torch.from_numpy(every[..., None] // [1, 10] % 10)
    members = (complexity_of(digits, torch.full((10_000,), name[0] != "S")) == name).sum()
    drawn, counts = np.unique(numbers_of(draw_class(name, 100_000, 2, START)), axis=0, return_counts=True)
    expected = 100_000 / members
    assert len(drawn) == members
    # The sum of squares is chi-squared: its mean is members − 1, its variance twice that.
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert abs(chi_squared - members) < 5 * (2 * members) ** 0.5


def test_a_cascade_is_planted_at_every_place_as_often():
    a, b = draw_class("S4", 3000, 10, START).unbind(1)
    nine, generates = a + b == 9, a + b >= 10
    starts = generates[:, :-3] & nine[:, 1:-2] & nine[:, 2:-1] & nine[:, 3:]
    assert (starts.double().mean(dim=0) - 1 / 7).abs().max() < 0.03


def test_the_larger_number_is_first_for_m_and_second_for_n():
    x, y = numbers_of(draw_class("M3", 100, 6, START)).T
    assert (x > y).all()
    x, y = numbers_of(draw_class("N3", 100, 6, START)).T
    assert (x < y).all()


@pytest.mark.parametrize(
    "draw", [lambda key: draw_class("S3", 40, 8, key), lambda key: draw_cascades(2, 40, 8, key)]
)
def test_a_key_draws_the_same_again_and_another_draws_others(draw):
    assert torch.equal(draw(START), draw(START))
    one, other = ({tuple(row) for row in numbers_of(draw(key(seed, "test"))).tolist()} for seed in (3, 4))
    assert not one & other


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize(("length", "n_digits"), [(1, 2), (1, 10), (4, 10), (8, 10), (9, 10), (20, 30)])
def test_the_longest_cascade_is_as_asked(length, n_digits, held_out):
    digits = draw_cascades(length, 40, n_digits, START, held_out=held_out)
    assert digits.shape == (40, 2, n_digits)
    assert all(max(nines_above_a_carry(a, b)) == length for a, b in numbers_of(digits).tolist())
    if held_out:
        assert in_split(digits, "test").all()


def test_no_questions_are_none():
    assert draw_class("S5", 0, 7, START).shape == (0, 2, 7)
    assert draw_cascades(3, 0, 7, START, held_out=True).shape == (0, 2, 7)


@pytest.mark.parametrize(
    ("name", "n_digits", "message"),
    [
        (
            "S5",
            4,
            "class S5 needs 5 digits; questions of 4 are S0, S1, S2, S3, S4, M0, M1, M2, M3, N1, N2, N3",
        ),
        ("M1", 1, "class M1 needs 2 digits; questions of 1 are S0, S1, M0, N1"),
        ("N2", 2, "class N2 needs 3 digits; questions of 2 are S0, S1, S2, M0, M1, N1"),
        ("S9", 10, "no complexity class is called 'S9'; did you mean S5 or S4 or S3?"),
        (
            "easy",
            3,
            "no complexity class is called 'easy'; there are: "
            "M0, M1, M2, M3, M4, N1, N2, N3, N4, S0, S1, S2, S3, S4, S5",
        ),
    ],
)
def test_a_class_that_cannot_be_is_refused(name, n_digits, message):
    with pytest.raises(RequestError) as caught:
        draw_class(name, 10, n_digits, START)
    assert str(caught.value) == message


@pytest.mark.parametrize("length", [0, 5])
def test_a_cascade_without_room_is_refused(length):
    with pytest.raises(
        RequestError, match=rf"cascade of length {length}: must be from 1 to 4 in numbers of 5 digits"
    ):
        draw_cascades(length, 10, 5, START)


def test_numbers_of_one_digit_have_no_cascade():
    with pytest.raises(RequestError, match="numbers of 1 digit have none; it needs 2 digits or more"):
        draw_cascades(1, 10, 1, START)


def test_every_class_of_one_digit_has_test_questions():
    # Of the 100 questions of one digit, 6 are test questions.
    for name in classes(1, "mixed"):
        drawn = draw_class(name, 50, 1, START, held_out=True)
        assert classes_of(name, drawn) == {name}
        assert 1 <= len(drawn.unique(dim=0)) <= 6


def test_a_search_without_end_is_given_up(monkeypatch):
    # Of 399 columns on top of another, one of 9 stands on a carry in all but 0.955^399 of the questions.
    monkeypatch.setattr(class_draws, "_MOST_ROUNDS", 1)
    with pytest.raises(RequestError) as caught:
        draw_class("S1", 1, 400, START)
    assert str(caught.value) == (
        "no question of class S1 is among 1,000 drawn with n_digits = 400; choose fewer digits"
    )


@pytest.mark.parametrize(("column", "n_digits"), [(0, 2), (1, 2), (3, 5), (19, 20)])
def test_the_three_cases_of_a_column_are_made_there_alone(column, n_digits):
    digits = draw_tri_cases(column, 100, n_digits, START)
    assert digits.shape == (3, 100, 2, n_digits)
    r = digits.sum(dim=-2)
    low, nine, high = r[..., column]
    assert low.max() <= 8
    assert set(nine.tolist()) == {9}
    assert high.min() >= 10
    others = torch.cat([r[..., :column], r[..., column + 1 :]], dim=-1)
    assert others.max() <= 8
    for case in digits:
        assert len({tuple(row) for row in numbers_of(case).tolist()}) == 100
    assert torch.equal(digits, draw_tri_cases(column, 100, n_digits, START))


def test_every_question_of_a_case_can_be_drawn():
    digits = draw_tri_cases(0, 10, 1, START)
    assert sorted(digits[1, :, 0, 0].tolist()) == list(range(10))
    low = draw_tri_cases(1, 450, 2, START)[0]
    assert len(set(map(tuple, low[:, :, 1].tolist()))) == 45


@pytest.mark.parametrize(
    ("column", "n", "n_digits", "message"),
    [
        (2, 10, 2, "column 2: questions of 2 digits have columns 0 to 1"),
        (-1, 10, 2, "column -1: questions of 2 digits have columns 0 to 1"),
        (
            0,
            100,
            1,
            "100 questions of each tri-case: with n_digits = 1 there are 10 of r = 9; choose at most 10, or",
        ),
    ],
)
def test_cases_that_do_not_exist_are_refused(column, n, n_digits, message):
    with pytest.raises(RequestError, match=message):
        draw_tri_cases(column, n, n_digits, START)
