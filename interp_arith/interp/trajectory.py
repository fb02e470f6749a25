"""Measures over a trajectory: (step, model) pairs in, DataArrays with a `step` dim out; knows no run directory."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from interp_arith.interp.base import Measure, Subject
from interp_arith.interp.keys import key_frequencies
from interp_arith.interp.measures import MEASURES
from interp_arith.tasks.base import Task
from interp_arith.training import machine

if TYPE_CHECKING:
    from interp_arith.models.transformer import ArithmeticTransformer


def fixed_keys(model: "ArithmeticTransformer", task: Task) -> tuple[int, ...] | None:
    """The key frequencies of a trajectory's last model, which hold at every step; None where there are none to have.

    Taken anew at each checkpoint they would change along the way, and the curves that rest on them with them.
    """
    if MEASURES["key_frequencies"].why_not(task, model.config) is not None:
        return None
    is_key = key_frequencies(Subject(model, task))
    return tuple(int(k) for k in is_key["freq"].to_numpy()[is_key.to_numpy()])


def measure_steps(
    models: Iterable[tuple[int, "ArithmeticTransformer"]],
    task: Task,
    measures: Sequence[Measure],
    keys: Sequence[int] | None,
) -> dict[str, xr.DataArray]:
    """Each measure at each step, one model in memory at a time.

    Args:
        models: step and model; the model may be one object whose weights change.
        task: with its split.
        measures: that apply.
        keys: the key frequencies to use at every step; see fixed_keys.

    Returns:
        name -> DataArray with `step` as its first dim; nothing where there is no model.
    """
    machine.keep_memory()  # every checkpoint takes the same large blocks anew
    found: dict[str, list[xr.DataArray]] = {each.name: [] for each in measures}
    steps: list[int] = []
    for step, model in models:
        steps.append(step)
        subject = Subject(model, task, keys)
        for each in measures:
            found[each.name].append(each(subject))
    if not steps:
        return {}
    along = xr.Variable("step", np.array(steps, dtype=np.int64), {"units": "steps"})
    return {
        name: xr.concat(
            parts,
            dim=along,
            join="exact",
            coords="minimal",
            compat="override",
            combine_attrs="drop_conflicts",
        )
        for name, parts in found.items()
    }
