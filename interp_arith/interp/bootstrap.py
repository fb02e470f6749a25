"""Means over seeds, with bootstrap intervals; knows no measure."""

from typing import TypeVar

import numpy as np
import xarray as xr
from jaxtyping import Float

from interp_arith.errors import RequestError
from interp_arith.tasks import sampling

STATISTICS = ("mean", "low", "high", "count")
_VALUES_AT_ONCE = 1 << 12

Data = TypeVar("Data", xr.DataArray, xr.Dataset)


def mean_over_seeds(data: Data, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> Data:
    """The mean over the `seed` dim, with a percentile bootstrap interval.

    As many seeds as there are, drawn with replacement, give one resampled mean; `low` and `high` are the quantiles
    (1 ± level)/2 of many. The same draws serve every value, so that curves stay curves. A seed in which a value is
    NaN (a mark that was not reached) is left out of that value: `count` says how many were not. With fewer than
    two seeds there is no interval: NaN. With few seeds the interval is too narrow, as every such interval is.

    For a loss that spans decades take the mean of its logarithm, and exponentiate the result.

    Args:
        data: with a `seed` dim. Variables of a Dataset that lack it, or are no numbers, are left out.
        level: how often the interval should cover the mean, in (0, 1).
        resamples: how many means are drawn.
        seed: of the draws.

    Returns:
        the same with a dim `statistic` in place of `seed`: mean, low, high (in the data's units) and count.

    Raises:
        RequestError: there is no `seed` dim, no resample, or a level outside (0, 1).

    Source: Efron & Tibshirani 1993, "An Introduction to the Bootstrap", section 13.3.
    """
    if not 0 < level < 1:
        raise RequestError(f"level = {level}; allowed: between 0 and 1, such as 0.95")
    if resamples < 1:
        raise RequestError(f"resamples = {resamples}; allowed: 1 or more, such as 2000")
    if "seed" not in data.dims:
        raise RequestError(
            f"no `seed` dim to take the mean over; there are: {', '.join(map(str, data.dims)) or 'none'}"
        )
    if isinstance(data, xr.Dataset):
        kept = [name for name, values in data.data_vars.items() if _is_numeric(values)]
        return data[kept].map(_mean_of_one, args=(level, resamples, seed), keep_attrs=True)
    return _mean_of_one(data, level, resamples, seed)


def _is_numeric(values: xr.DataArray) -> bool:
    return "seed" in values.dims and values.dtype.kind in "biuf"


def _mean_of_one(data: xr.DataArray, level: float, resamples: int, seed: int) -> xr.DataArray:
    result = xr.apply_ufunc(
        lambda values: statistics(values, level, resamples, seed),
        data.astype(np.float64),
        input_core_dims=[["seed"]],
        output_core_dims=[["statistic"]],
        keep_attrs=True,
    )
    return result.assign_coords(statistic=list(STATISTICS)).transpose("statistic", ...)


def statistics(
    values: Float[np.ndarray, "*axes seed"], level: float, resamples: int, seed: int
) -> Float[np.ndarray, "*axes statistic"]:
    """Mean, low, high and count over the last axis; see `mean_over_seeds`."""
    n = values.shape[-1]
    drawn = sampling.generator(seed, "example").integers(n, size=(resamples, n))
    times = np.stack([np.bincount(row, minlength=n) for row in drawn]).astype(np.float64)
    flat = values.reshape(-1, n).T
    parts = [
        _statistics_of(flat[:, i : i + _VALUES_AT_ONCE], times, level)
        for i in range(0, flat.shape[1], _VALUES_AT_ONCE)
    ]
    found = np.concatenate([np.empty((0, len(STATISTICS))), *parts])
    return found.reshape(*values.shape[:-1], len(STATISTICS))


def _statistics_of(
    values: Float[np.ndarray, "seed value"], times: Float[np.ndarray, "resample seed"], level: float
) -> Float[np.ndarray, "value statistic"]:
    there = ~np.isnan(values)
    count, filled = there.sum(axis=0), np.where(there, values, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = filled.sum(axis=0) / count
        resampled = (times @ filled) / (times @ there)
    bounds = np.full((2, values.shape[1]), np.nan)
    enough = count > 1
    if enough.any():
        # A resample may draw none of the seeds that a value has: it is left out.
        bounds[:, enough] = np.nanquantile(resampled[:, enough], [(1 - level) / 2, (1 + level) / 2], axis=0)
    return np.stack([mean, *bounds, count.astype(np.float64)], axis=-1)
