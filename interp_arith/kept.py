"""Measures kept in a run directory: taken once for each checkpoint, extended by new ones, taken anew where stale.

What is kept says what it rests on: the measure's version, the hash of each checkpoint, and, where they matter, the
key frequencies and the split. Where one of them has changed, so has the number.
"""

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from torch import Tensor

from interp_arith.bars import bar
from interp_arith.interp.base import Measure
from interp_arith.interp.measures import MEASURES
from interp_arith.interp.trajectory import Measured, fixed_keys, measure_steps, over_steps
from interp_arith.storage import Checkpoint, RunDirectory
from interp_arith.tasks.base import SampledTask, Task

if TYPE_CHECKING:
    from interp_arith.models.transformer import ArithmeticTransformer

CHECKPOINT = "checkpoint"
"""The coordinate that holds the hash of each step's weights."""
SECONDS_AT_RISK = 60.0
"""Time between two writings: what a killed process loses."""


def split_digest(task: Task) -> str:
    """A hash of the training questions, which is that of the split; where these have no end, of the fixed ones."""
    if isinstance(task, SampledTask):
        fixed = [task.text(task.split(name)) for name in ("val", "test")]
        return hashlib.sha256(repr(fixed).encode()).hexdigest()
    return hashlib.sha256(np.ascontiguousarray(task.split("train")).tobytes()).hexdigest()


def rests_on(measure: Measure, task: Task, keys: Sequence[int] | None) -> dict[str, str | int]:
    """What decides a measure's numbers besides the weights, as attributes of what is kept."""
    said: dict[str, str | int] = {
        "version": measure.version
    }  # an attribute "keys" would make an array look like a dict
    if "keys" in measure.rests_on:
        said["fixed_keys"] = "none" if keys is None else " ".join(map(str, keys))
    if "split" in measure.rests_on:
        said["split_digest"] = split_digest(task)
    return said


def fixed_keys_of(
    directory: RunDirectory, last: Checkpoint, task: Task, model: Callable[[], "ArithmeticTransformer"]
) -> tuple[int, ...] | None:
    """The key frequencies of a trajectory, as they are kept, else from its last model: see fixed_keys."""
    said = directory.read_keys()
    if said == _described(last, said.get("keys")):
        return None if said["keys"] is None else tuple(said["keys"])
    return fixed_keys(model(), task)


def keep_keys(directory: RunDirectory, last: Checkpoint, keys: Sequence[int] | None) -> None:
    """Write the key frequencies down, so that the next reader needs no model; nothing where they are written."""
    said = _described(last, None if keys is None else list(keys))
    if said != directory.read_keys():
        directory.write_keys(said)


def _described(last: Checkpoint, keys: Sequence[int] | None) -> dict[str, Any]:
    """Key frequencies, with what decides them: the last weights, and how they are found."""
    return {"sha256": last.sha256, "version": MEASURES["key_frequencies"].version, "keys": keys}


def measure_checkpoints(
    directory: RunDirectory,
    checkpoints: Sequence[Checkpoint],
    model: "ArithmeticTransformer",
    weights_of: Callable[[Checkpoint], Mapping[str, Tensor] | None],
    task: Task,
    measures: Sequence[Measure],
    keys: Sequence[int] | None,
    last: Checkpoint,
) -> xr.Dataset:
    """Every measure at every checkpoint; what is not kept yet is taken, and kept; what is kept writes nothing.

    Args:
        directory: of the run.
        checkpoints: by step.
        model: whose weights are replaced by those of each checkpoint.
        weights_of: a checkpoint's weights, or None where they are damaged: that step is left out.
        task: with its split.
        measures: that apply.
        keys: the key frequencies to use at every step.
        last: the checkpoint that they are of.
    """
    kept = {m.name: _still_true(directory.read_measure(m.name), m, task, keys, checkpoints) for m in measures}
    missing = {name: _missing(found, checkpoints) for name, found in kept.items()}
    groups = {tuple(c.step for c in lacking): lacking for lacking in missing.values() if lacking}.values()
    total, done = sum(map(len, groups)), 0
    hashes, by_name = {c.step: c.sha256 for c in checkpoints}, {m.name: m for m in measures}
    with bar("measuring checkpoints", is_shown=total > 0) as told:
        for wanted in groups:
            group = [m for m in measures if missing[m.name] == wanted]
            waiting, done = deque(wanted), done + len(wanted)
            while waiting:
                weights = _weights(waiting, weights_of, lambda n, done=done: told(done - n, total))
                found: list[Measured] = []
                try:
                    measure_steps(weights, model, task, group, keys, found)
                finally:  # an error or an interrupt loses nothing that was measured
                    if found and any("keys" in each.rests_on for each in group):
                        keep_keys(directory, last, keys)
                    for name, taken in over_steps(found).items():
                        digests = [hashes[step] for step in taken["step"].to_numpy().tolist()]
                        fresh = taken.assign_coords({CHECKPOINT: ("step", digests)})
                        fresh = fresh.assign_attrs(rests_on(by_name[name], task, keys))
                        kept[name] = whole = _joined(kept[name], fresh)
                        directory.write_measure(name, bytes(whole.to_dataset().to_netcdf(engine="h5netcdf")))
    wanted_steps = {c.step for c in checkpoints}
    arrays = {
        name: found.sel(step=[s for s in found["step"].to_numpy() if s in wanted_steps]).drop_vars(CHECKPOINT)
        for name, found in kept.items()
        if found is not None
    }
    return xr.Dataset(arrays)


def kept_measures(
    directory: RunDirectory,
    checkpoints: Sequence[Checkpoint],
    task: Task,
    measures: Sequence[Measure],
    keys: Sequence[int] | None,
) -> dict[str, xr.DataArray]:
    """What is kept of each measure and still true, with a `step` dim; takes nothing. See measure_checkpoints."""
    kept = {m.name: _still_true(directory.read_measure(m.name), m, task, keys, checkpoints) for m in measures}
    return {name: found.drop_vars(CHECKPOINT) for name, found in kept.items() if found is not None}


def _weights(
    waiting: deque[Checkpoint],
    weights_of: Callable[[Checkpoint], Mapping[str, Tensor] | None],
    told: Callable[[int], None],
) -> Iterator[tuple[int, Mapping[str, Tensor]]]:
    """Step and weights of checkpoints that are whole, as many as there is time for; how many wait is told."""
    end = time.monotonic() + SECONDS_AT_RISK
    while waiting:
        told(len(waiting))
        checkpoint = waiting.popleft()
        weights = weights_of(checkpoint)
        if weights is not None:
            yield checkpoint.step, weights
        if time.monotonic() >= end:
            return


def _still_true(
    found: xr.DataArray | None,
    measure: Measure,
    task: Task,
    keys: Sequence[int] | None,
    checkpoints: Sequence[Checkpoint],
) -> xr.DataArray | None:
    """What is kept, less the steps whose weights are others now; None where nothing of it holds any more."""
    if found is None or CHECKPOINT not in found.coords:
        return None
    said = rests_on(measure, task, keys)
    if any(str(found.attrs.get(name)) != str(value) for name, value in said.items()):
        return None
    now = {c.step: c.sha256 for c in checkpoints}
    pairs = zip(found["step"].to_numpy().tolist(), found[CHECKPOINT].to_numpy().tolist(), strict=True)
    whole = [step for step, digest in pairs if now.get(step, digest) == digest]
    return found.sel(step=whole) if whole else None


def _missing(found: xr.DataArray | None, checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
    there = set() if found is None else set(found["step"].to_numpy().tolist())
    return [c for c in checkpoints if c.step not in there]


def _joined(kept: xr.DataArray | None, fresh: xr.DataArray) -> xr.DataArray:
    """Both, by step; where the other coordinates differ, what was kept is of another shape and goes."""
    if kept is None:
        return fresh
    try:
        both = xr.concat([kept, fresh], dim="step", join="exact", coords="minimal", compat="override")
    except ValueError:
        return fresh
    return both.sortby("step").assign_attrs(fresh.attrs)
