"""The four marks, on trajectories worked by hand."""

import numpy as np
import pytest
import xarray as xr

from interp_arith.errors import RequestError
from interp_arith.interp.phases import MARKS, phases

NAN = float("nan")
STEPS = [0, 10, 20, 30, 40, 50, 60, 70]
GROKKING = {
    "train_accuracy": [0.01, 0.5, 0.99, 1.0, 1.0, 1.0, 1.0, 1.0],
    "test_loss": [4.7, 6.0, 9.0, 12.0, 7.0, 5.0, 0.3, 0.005],
    "restricted_loss": [4.7, 5.0, 8.0, 5.0, 3.9, 1.0, 0.1, 0.001],
}


def curve(values, steps=STEPS) -> xr.DataArray:
    return xr.DataArray(np.array(values, dtype=float), dims="step", coords={"step": list(steps)})


def found(**changed) -> list[float]:
    curves = {name: curve(values) for name, values in (GROKKING | changed).items()}
    return phases(**curves).to_numpy().tolist()


def test_the_four_marks_of_a_trajectory_worked_by_hand():
    # 0.99 is enough; 8/2 = 4 is first passed by 3.9; 12/2 = 6 is last reached by 7; then 0.005 is first below 0.01.
    assert found() == [20, 40, 40, 70]


def test_a_model_that_never_memorizes_has_no_mark():
    np.testing.assert_array_equal(found(train_accuracy=[0.9] * 8), [NAN] * 4)


def test_a_restricted_loss_of_exactly_half_is_no_onset_and_a_later_step_is_needed():
    np.testing.assert_array_equal(found(restricted_loss=[1, 1, 8, 4, 4, 4, 4, 4])[1], NAN)
    assert found(restricted_loss=[1, 1, 8, 4, 4, 4, 4, 3.9])[1] == 70


def test_a_test_loss_that_stays_high_has_no_cleanup():
    np.testing.assert_array_equal(found(test_loss=[4.7, 6, 9, 12, 12, 12, 12, 6]), [20, 40, NAN, NAN])


def test_a_test_loss_of_exactly_half_its_maximum_is_before_the_cleanup():
    assert found(test_loss=[4.7, 6, 9, 12, 7, 6, 5, 0.005])[2:] == [50, 70]


def test_the_maximum_is_of_the_steps_since_memorized():
    # Against the 40 at step 0 every later loss would be small.
    assert found(test_loss=[40, 40, 9, 12, 7, 5, 0.3, 0.005])[2] == 40


def test_the_last_of_two_dips_counts():
    assert found(test_loss=[4.7, 6, 12, 0.001, 0.001, 11, 0.5, 0.009])[2:] == [50, 70]


def test_a_model_that_fell_without_grokking_has_a_cleanup_alone():
    np.testing.assert_array_equal(found(test_loss=[4.7, 6, 9, 12, 7, 5, 0.3, 0.01])[2:], [40, NAN])


def test_a_model_that_groks_at_once_is_marked_by_the_same_rules():
    assert found(
        train_accuracy=[0.01, 1, 1, 1, 1, 1, 1, 1],
        test_loss=[4.7, 0.5, 0.004, 0.003, 0.002, 0.001, 0.001, 0.001],
        restricted_loss=[4.7, 0.5, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1],
    ) == [10, 20, 10, 20]


def test_a_model_that_memorizes_at_its_last_step_has_that_mark_alone():
    np.testing.assert_array_equal(found(train_accuracy=[0.5] * 7 + [1.0]), [70, NAN, NAN, NAN])


@pytest.mark.parametrize("name", GROKKING)
def test_a_step_where_a_curve_is_nan_is_left_out(name):
    with_gap = list(GROKKING[name])
    with_gap[4] = (
        NAN  # step 40, the last of at least half the maximum, and the first restricted loss below half
    )
    assert found(**{name: with_gap}) == [20, 50, 30, 70]


def test_a_trajectory_of_nan_has_no_mark():
    np.testing.assert_array_equal(found(test_loss=[NAN] * 8), [NAN] * 4)


def test_every_seed_has_its_own_marks_and_the_result_its_labels():
    slow = {name: [values[0]] * 2 + values[:6] for name, values in GROKKING.items()}
    both = {
        name: xr.concat(
            [curve(values), curve(slow[name])], dim=xr.DataArray([3, 8], dims="seed", name="seed")
        )
        for name, values in GROKKING.items()
    }
    marks = phases(**both)
    assert marks.dims == ("mark", "seed")
    assert marks["mark"].to_numpy().tolist() == list(MARKS)
    assert (marks.name, marks.attrs["units"]) == ("phases", "steps")
    np.testing.assert_array_equal(marks.sel(seed=3), [20, 40, 40, 70])
    np.testing.assert_array_equal(marks.sel(seed=8), [40, 60, 60, NAN])


def test_only_steps_that_all_curves_have_count_in_ascending_order():
    curves = {name: curve(values)[::-1] for name, values in GROKKING.items()}
    curves["test_loss"] = curves["test_loss"].drop_sel(step=40)
    assert phases(**curves).to_numpy().tolist() == [20, 50, 30, 70]


def test_what_is_no_trajectory_is_refused():
    curves = {name: curve(values) for name, values in GROKKING.items()}
    flat = xr.DataArray(np.zeros(3), dims="seed")
    with pytest.raises(RequestError, match=r"test_loss has dims \['seed'\]; allowed: a curve over `step`"):
        phases(**(curves | {"test_loss": flat}))
    with pytest.raises(RequestError, match="no step in common"):
        phases(**(curves | {"test_loss": curve([1.0, 2.0], steps=[1, 2])}))
