"""Activations over a trajectory: small ones taken anew and held, large ones kept in the run and read where needed.

What is kept stands under the hash of the questions' tokens, a row for each hash of weights; so other questions,
another checkpoint, or one that was trained anew under the same step, never get numbers that are not theirs.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from jaxtyping import Int
from torch import Tensor

from interp_arith.arrays import RowArrays, RowShape, lazy_variable
from interp_arith.errors import RequestError
from interp_arith.interp.activations import (
    VERSION,
    Asked,
    Passage,
    batch_of,
    chosen_hooks,
    passages,
    take,
)
from interp_arith.storage import Checkpoint, RunDirectory

if TYPE_CHECKING:
    from interp_arith.models.transformer import ArithmeticTransformer

IN_MEMORY = 2**28
"""Bytes up to which activations are held in memory rather than kept in the run."""
_MEMORY_SHARE = 0.8  # of the machine's: more than that is no request for memory

ModelOf = Callable[[Checkpoint], "ArithmeticTransformer"]


def take_activations(
    directory: RunDirectory,
    checkpoints: Sequence[Checkpoint],
    model_of: ModelOf,
    asked: Asked,
    hooks: str | Iterable[str],
    in_memory: int,
) -> xr.Dataset:
    """Each hook's activations, dims step, question and the hook's own.

    Args:
        directory: of the run.
        checkpoints: whose weights are whole, by step.
        model_of: a checkpoint's model.
        asked: the questions.
        hooks: names or patterns; see chosen_hooks.
        in_memory: bytes up to which they are held in memory; more are written to the run, and read from there.

    Raises:
        RequestError: there is no such hook, or neither memory nor disk has the room.
        WorkError: the run's folder cannot be written.
    """
    model = model_of(checkpoints[0])
    every = passages(model, asked.tokens)
    wanted = {name: every[name] for name in chosen_hooks(hooks, every, model.hook_dict)}
    batch = min(batch_of(every.values()), len(asked))
    size = sum(each.bytes for each in wanted.values()) * len(asked) * len(checkpoints)
    if size <= in_memory:
        found = _held(checkpoints, model_of, asked.tokens, wanted, batch, size)
    else:
        arrays = RowArrays(directory.activations_folder(digest(asked.tokens, batch)))
        found = _kept(arrays, checkpoints, model_of, asked.tokens, wanted, batch)
    steps = xr.Variable("step", [c.step for c in checkpoints], {"units": "steps"})
    dims = {dim for each in wanted.values() for dim in each.dims}
    return xr.Dataset(found, {"step": steps, **asked.coordinates(dims)})


def digest(tokens: Int[Tensor, "batch pos"], batch: int) -> str:
    """A hash of what decides activations besides the weights: the questions, and how they are computed."""
    array = np.ascontiguousarray(tokens.numpy(), dtype="<i8")
    what = f"{VERSION} {batch} {list(array.shape)} ".encode()
    return hashlib.sha256(what + array.tobytes()).hexdigest()[:32]


def _held(
    checkpoints: Sequence[Checkpoint],
    model_of: ModelOf,
    tokens: Tensor,
    wanted: Mapping[str, Passage],
    batch: int,
    size: int,
) -> dict[str, xr.Variable]:
    if size > _MEMORY_SHARE * (memory := _memory()):
        raise RequestError(
            f"these activations are {in_words(size)} and the machine's memory is {in_words(memory)}; leave in_memory "
            "out: then they are streamed to the run's folder, and read from there a part at a time"
        )
    lead = (len(checkpoints), len(tokens))
    arrays = {name: np.empty((*lead, *each.shape), each.dtype) for name, each in wanted.items()}
    for index, checkpoint in enumerate(checkpoints):
        take(model_of(checkpoint), tokens, {name: array[index] for name, array in arrays.items()}, batch)
    return {name: xr.Variable(_dims(each), arrays[name], _attrs(name)) for name, each in wanted.items()}


def _kept(
    arrays: RowArrays,
    checkpoints: Sequence[Checkpoint],
    model_of: ModelOf,
    tokens: Tensor,
    wanted: Mapping[str, Passage],
    batch: int,
) -> dict[str, xr.Variable]:
    """What is not kept yet is taken and kept, a checkpoint after the other; all of it is read from there."""
    rows = {name: RowShape((len(tokens), *each.shape), batch, each.dtype) for name, each in wanted.items()}
    labels = [checkpoint.sha256 for checkpoint in checkpoints]

    def missing() -> dict[str, list[str]]:
        return {name: arrays.missing(name, row, labels) for name, row in rows.items()}

    if any(missing().values()):
        with arrays.writing():
            lacking = missing()  # another process may have taken some of them meanwhile
            _check_disk(arrays.folder, sum(rows[name].bytes * len(lost) for name, lost in lacking.items()))
            for checkpoint in {c.sha256: c for c in checkpoints}.values():
                new = {name: rows[name] for name, lost in lacking.items() if checkpoint.sha256 in lost}
                if new:
                    opened: dict[str, Any] = {name: arrays.open_row(name, row) for name, row in new.items()}
                    take(model_of(checkpoint), tokens, opened, batch)
                    arrays.add(checkpoint.sha256, new)
    return {
        name: lazy_variable(_dims(wanted[name]), arrays.lazy(name, row, labels), _attrs(name))
        for name, row in rows.items()
    }


def _dims(passage: Passage) -> tuple[str, ...]:
    return "step", "question", *passage.dims


def _attrs(hook: str) -> dict[str, str]:
    return {"hook": hook, "source": "TransformerLens hook point"}


def _check_disk(folder: Path, needed: int) -> None:
    """Raises RequestError where there is no room for so many bytes."""
    if needed > (free := shutil.disk_usage(folder).free):
        raise RequestError(
            f"these activations take {in_words(needed)} and {folder} has room for {in_words(free)}; ask for fewer "
            "hooks, steps or questions, or go through them: for step in run.steps: "
            "run.activations(…, steps=[step])"
        )


def _memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def in_words(size: float) -> str:
    """Bytes for people: "2.1 GB"."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} GB" if size < 1000 else f"{size / 1000:,.1f} TB"
