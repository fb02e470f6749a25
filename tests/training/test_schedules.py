"""The schedules against values worked by hand, and their properties."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp_arith.errors import RequestError
from interp_arith.training.schedules import SCHEDULES, Constant, Cosine, Decay, Restarts

fractions = st.floats(0, 1)
warmups = st.one_of(
    st.builds(lambda n: {"warmup_steps": n}, st.integers(0, 50)),
    st.builds(lambda f: {"warmup_fraction": f}, fractions),
)
schedules = st.one_of(
    st.builds(lambda w: Constant(**w), warmups),
    st.builds(lambda w, f: Cosine(final_fraction=f, **w), warmups, fractions),
    st.builds(lambda w, s, f: Decay(start_fraction=s, final_fraction=f, **w), warmups, fractions, fractions),
    st.builds(
        lambda w, p, k, f: Restarts(period=p, period_factor=k, final_fraction=f, **w),
        warmups,
        st.integers(1, 40),
        st.floats(1, 3),
        fractions,
    ),
)


def values(schedule, total: int, steps=None) -> list[float]:
    return [schedule.multiplier(step, total) for step in (range(total) if steps is None else steps)]


@given(schedule=schedules, step=st.integers(0, 400), total=st.integers(1, 200))
def test_every_multiplier_lies_between_zero_and_one(schedule, step, total):
    assert 0 <= schedule.multiplier(step, total) <= 1


@given(schedule=schedules, total=st.integers(1, 200))
def test_the_warm_up_rises_to_one(schedule, total):
    warmup = schedule.warmup_steps or round(schedule.warmup_fraction * total)
    rising = values(schedule, total, range(warmup))
    assert rising == sorted(set(rising))
    assert not rising or rising[-1] == 1


@given(schedule=schedules.filter(lambda s: s.kind in ("cosine", "decay")), total=st.integers(1, 200))
def test_cosine_and_decay_never_rise_after_the_warm_up(schedule, total):
    warmup = schedule.warmup_steps or round(schedule.warmup_fraction * total)
    falling = values(schedule, total, range(warmup, warmup + total + 1))
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(falling))
    assert falling[-1] == pytest.approx(schedule.final_fraction)


def test_a_warm_up_of_four_takes_quarters():
    assert values(Constant(warmup_steps=4), 6) == [0.25, 0.5, 0.75, 1, 1, 1]


def test_a_warm_up_fraction_is_a_share_of_the_total():
    assert values(Constant(warmup_fraction=0.2), 10) == values(Constant(warmup_steps=2), 10)


def test_constant_is_one_from_the_first_update():
    assert values(Constant(), 3) == [1, 1, 1]


def test_cosine_is_half_way_down_at_half_the_total():
    assert values(Cosine(), 4) == pytest.approx([1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2])


def test_cosine_begins_after_the_warm_up_and_ends_at_its_final_fraction():
    cosine = Cosine(warmup_steps=2, final_fraction=0.2)
    assert values(cosine, 10, [0, 1, 2, 6, 10, 11]) == pytest.approx([0.5, 1, 1, 0.6, 0.2, 0.2])


def test_decay_holds_one_and_then_falls_linearly():
    decay = Decay(start_fraction=0.5, final_fraction=0.2)
    assert values(decay, 8, [0, 3, 4, 5, 6, 7, 8]) == pytest.approx([1, 1, 1, 0.8, 0.6, 0.4, 0.2])


def test_a_decay_that_starts_within_the_warm_up_waits_for_its_end():
    assert values(Decay(start_fraction=0, warmup_steps=2), 4) == pytest.approx([0.5, 1, 1, 0.5])


def test_restarts_of_equal_periods_repeat():
    restarts = Restarts(period=4, warmup_steps=2)
    assert values(restarts, 10)[2:6] == pytest.approx(values(Cosine(), 4))
    assert values(restarts, 10)[2:6] == values(restarts, 10)[6:10]


def test_restart_periods_grow_by_their_factor():
    restarts = Restarts(period=2, period_factor=2, final_fraction=0.1)
    ones = [step for step, value in enumerate(values(restarts, 20)) if value == 1]
    assert ones == [0, 2, 6, 14]
    assert values(restarts, 20, [1, 4, 10]) == pytest.approx([0.55, 0.55, 0.55])


def test_two_kinds_of_warm_up_at_once_are_refused():
    with pytest.raises(RequestError, match="warmup_steps and warmup_fraction are both given; give one"):
        Constant(warmup_steps=1, warmup_fraction=0.1)


@pytest.mark.parametrize(("step", "total"), [(-1, 10), (0, 0)])
def test_steps_that_cannot_be_are_refused(step, total):
    with pytest.raises(RequestError, match=f"step {step} of {total}; steps count from 0"):
        Constant().multiplier(step, total)


def test_an_unknown_field_is_refused():
    with pytest.raises(RequestError, match="warmup"):
        Cosine(warmup=3)


@pytest.mark.parametrize("wrong", [{"period": 0}, {"period": 3, "period_factor": 0.5}, {}])
def test_restarts_need_a_period_that_does_not_shrink(wrong):
    with pytest.raises(RequestError, match="period"):
        Restarts(**wrong)


@given(schedule=schedules)
def test_a_schedule_round_trips_through_plain_data(schedule):
    assert SCHEDULES.parse(schedule.model_dump(mode="json")) == schedule


def test_a_misspelt_schedule_is_answered_with_the_nearest():
    with pytest.raises(RequestError, match="no schedule is called 'cosin'; did you mean cosine"):
        SCHEDULES["cosin"]
