"""Means over seeds and their intervals: against numbers worked by hand, and against normal theory."""

import numpy as np
import pytest
import xarray as xr

from interp_arith.errors import RequestError
from interp_arith.interp.bootstrap import mean_over_seeds

NAN = float("nan")


def over_seeds(values, **coords) -> xr.DataArray:
    dims = ("seed", *coords)
    seeds = {"seed": np.arange(len(values))}
    return xr.DataArray(np.array(values), dims=dims, coords=seeds | coords, attrs={"units": "nats"})


def test_two_seeds_have_the_interval_of_their_four_draws():
    # (0,0) (0,1) (1,0) (1,1) are equally likely: a quarter of the means is 0, a quarter 1.
    statistics = mean_over_seeds(over_seeds([0.0, 1.0]))
    assert statistics.sel(statistic=["mean", "low", "high", "count"]).to_numpy().tolist() == [0.5, 0, 1, 2]
    inner = mean_over_seeds(over_seeds([0.0, 1.0]), level=0.4)
    assert inner.sel(statistic=["low", "high"]).to_numpy().tolist() == [0.5, 0.5]


def test_the_interval_of_many_seeds_is_that_of_normal_theory():
    values = np.random.default_rng(1).normal(3.0, 2.0, size=400)
    statistics = mean_over_seeds(over_seeds(values), level=0.9, resamples=4000)
    reach = 1.6449 * values.std() / 20
    assert float(statistics.sel(statistic="low")) == pytest.approx(
        values.mean() - reach, abs=0.03 * 2 * reach
    )
    assert float(statistics.sel(statistic="high")) == pytest.approx(
        values.mean() + reach, abs=0.03 * 2 * reach
    )


def test_a_seed_without_a_value_is_left_out_of_that_value_alone():
    values = over_seeds([[1.0, 1.0], [3.0, NAN], [5.0, 2.0]], step=[0, 10])
    statistics = mean_over_seeds(values)
    assert statistics.sel(statistic="mean").to_numpy().tolist() == [3.0, 1.5]
    assert statistics.sel(statistic="count").to_numpy().tolist() == [3, 2]
    assert statistics.sel(statistic=["low", "high"], step=10).to_numpy().tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("values", "mean", "count"), [([2.0], 2.0, 1), ([2.0, NAN], 2.0, 1), ([NAN, NAN], NAN, 0)]
)
def test_fewer_than_two_values_have_no_interval(values, mean, count):
    np.testing.assert_array_equal(mean_over_seeds(over_seeds(values)), [mean, NAN, NAN, count])


def test_equal_values_have_an_interval_of_no_width():
    assert mean_over_seeds(over_seeds([0.5] * 5)).to_numpy().tolist() == [0.5, 0.5, 0.5, 5]


def test_an_interval_grows_with_its_level_and_repeats_with_its_seed():
    values = over_seeds([1.0, 2.0, 4.0, 8.0, 16.0])
    widths = [
        float(s.sel(statistic="high") - s.sel(statistic="low"))
        for s in (mean_over_seeds(values, level=level) for level in (0.5, 0.8, 0.95))
    ]
    assert widths == sorted(widths)
    assert len(set(widths)) == 3
    xr.testing.assert_identical(mean_over_seeds(values, seed=4), mean_over_seeds(values, seed=4))


def test_a_dataset_keeps_its_numbers_units_and_coordinates():
    data = xr.Dataset(
        {
            "test_loss": over_seeds([[1.0, 2.0], [3.0, 4.0]], step=[0, 10]),
            "key_frequencies": over_seeds([[True, False], [True, True]], freq=[1, 2]),
            "algorithm": over_seeds(["clock", "pizza"]),
            "p": xr.DataArray(113.0),
        }
    )
    statistics = mean_over_seeds(data)
    assert set(statistics.data_vars) == {"test_loss", "key_frequencies"}
    assert statistics["test_loss"].dims == ("statistic", "step")
    assert statistics["test_loss"].attrs["units"] == "nats"
    assert statistics["test_loss"].sel(statistic="mean", step=10) == 3.0
    assert statistics["key_frequencies"].sel(statistic="mean").to_numpy().tolist() == [1.0, 0.5]


def test_more_values_than_are_drawn_at_once_are_all_there():
    values = over_seeds(np.arange(2 * 9000, dtype=float).reshape(2, 9000), place=np.arange(9000))
    statistics = mean_over_seeds(values, resamples=50)
    np.testing.assert_array_equal(statistics.sel(statistic="mean"), np.arange(9000) + 4500.0)
    np.testing.assert_array_equal(statistics.sel(statistic="low"), np.arange(9000))


def test_what_cannot_be_averaged_is_refused():
    with pytest.raises(RequestError, match="no `seed` dim to take the mean over; there are: step"):
        mean_over_seeds(xr.DataArray([1.0], dims="step"))
    with pytest.raises(RequestError, match="level = 95; allowed: between 0 and 1"):
        mean_over_seeds(over_seeds([1.0, 2.0]), level=95)
    with pytest.raises(RequestError, match="resamples = 0; allowed: 1 or more"):
        mean_over_seeds(over_seeds([1.0, 2.0]), resamples=0)
