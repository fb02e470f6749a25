"""What may be sampled when."""

import pytest

from interp_arith.errors import RequestError
from interp_arith.tasks.sampling import Limits
from interp_arith.training.curricula import CURRICULA, Everything, GrowDigits, Phases

WIDEST = Limits(min_digits=1, max_digits=10, carry_share=0.3)


def longest(curriculum, step: int, total: int = 100, per_epoch: int | None = 10) -> int:
    limits = curriculum.limits(step, total, per_epoch, WIDEST)
    assert (limits.min_digits, limits.carry_share) == (1, 0.3)
    return limits.max_digits


def test_everything_allows_everything_at_every_step():
    assert all(Everything().limits(step, 100, None, WIDEST) is WIDEST for step in (0, 50, 99))


def test_phases_change_at_their_shares_of_the_run():
    phases = Phases(max_digits=(2, 5), fractions=(0.25, 0.5))
    assert [longest(phases, step) for step in (0, 24, 25, 74, 75, 99)] == [2, 2, 5, 5, 10, 10]


def test_the_default_phases_are_one_to_three_then_one_to_six_then_all():
    steps = [longest(Phases(), step, total=27) for step in range(27)]
    assert steps == [3] * 2 + [6] * 7 + [10] * 18


def test_growth_adds_a_digit_every_epoch_up_to_the_task_s_own():
    assert [longest(GrowDigits(start=3), step) for step in (0, 9, 10, 20, 69, 70, 500)] == [
        3,
        3,
        4,
        5,
        9,
        10,
        10,
    ]
    slow = GrowDigits(start=1, epochs_per_digit=3)
    assert [longest(slow, step) for step in (0, 29, 30, 60)] == [1, 1, 2, 3]


def test_no_curriculum_is_wider_than_the_task():
    narrow = Limits(min_digits=1, max_digits=2, carry_share=0.0)
    for curriculum in (Everything(), Phases(), GrowDigits(start=7)):
        assert all(curriculum.limits(step, 30, 3, narrow).max_digits <= 2 for step in range(30))


def test_growth_without_epochs_says_what_to_give():
    with pytest.raises(RequestError, match=r"grow-digits counts epochs; give budget\.steps_per_epoch"):
        GrowDigits().limits(0, 100, None, WIDEST)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_digits": (3,)}, "1 max_digits and 2 fractions; give one of each a phase"),
        ({"fractions": (0.5, 0.5)}, "with a sum below 1"),
        ({"fractions": (0.5, 0.0)}, "must be positive"),
        ({"max_digits": (0, 3)}, "max_digits from 1"),
    ],
)
def test_phases_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(RequestError, match=message):
        Phases(**fields)


def test_an_unknown_curriculum_is_answered_with_the_nearest():
    with pytest.raises(RequestError, match=r"no curriculum is called 'phase'; did you mean phases"):
        CURRICULA.make("phase")
