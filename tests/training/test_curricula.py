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


@pytest.mark.parametrize("curriculum", CURRICULA)
def test_the_carry_heavy_share_falls_in_ten_equal_steps_whatever_the_lengths(curriculum):
    plain, fading = CURRICULA.make(curriculum), CURRICULA.make(curriculum, carries_end=0.5)
    limits = [fading.limits(step, 200, 5, WIDEST) for step in range(200)]
    shares = [each.carry_share for each in limits]
    assert shares == pytest.approx([0.3 * max(10 - step // 10, 0) / 10 for step in range(200)])
    assert len(set(shares)) == 11
    assert shares[99] > shares[100] == 0
    lengths = [(each.min_digits, each.max_digits) for each in limits]
    assert lengths == [
        (each.min_digits, each.max_digits)
        for each in (plain.limits(step, 200, 5, WIDEST) for step in range(200))
    ]


@pytest.mark.parametrize("carries_end", [0.1, 0.29, 0.7, 1.0])
@pytest.mark.parametrize("total", [100, 1000])
def test_no_carries_are_drawn_on_purpose_from_the_share_of_the_run_that_is_given(carries_end, total):
    fading, end = Everything(carries_end=carries_end), round(carries_end * total)
    assert fading.limits(0, total, None, WIDEST) == WIDEST
    assert fading.limits(end - 1, total, None, WIDEST).carry_share > 0
    assert fading.limits(end, total, None, WIDEST).carry_share == 0


@pytest.mark.parametrize("carries_end", [0.0, -0.5, 1.5])
def test_carries_end_within_the_run(carries_end):
    with pytest.raises(RequestError, match="everything: carries_end = "):
        Everything(carries_end=carries_end)


def test_a_run_must_reach_the_longest_numbers():
    growing = GrowDigits(start=2, epochs_per_digit=2)  # 8 more digits, of 20 steps each
    growing.check(161, 10, WIDEST)
    with pytest.raises(RequestError) as raised:
        growing.check(160, 10, WIDEST)
    assert str(raised.value) == (
        "curriculum grow-digits: the last of 160 steps draws numbers of at most 9 digits, and the task asks for 10; "
        "give a larger budget, or set task.n_digits to 9"
    )


@pytest.mark.parametrize("total", [2, 10, 1000])
def test_phases_and_everything_reach_them(total):
    for curriculum in (Everything(), Phases(), Everything(carries_end=0.2)):
        curriculum.check(total, None, WIDEST)
        assert curriculum.limits(total - 1, total, None, WIDEST).max_digits == 10
