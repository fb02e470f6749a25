"""Measures over a trajectory: weights in, DataArrays with a `step` dim out; knows no run directory.

Checkpoints are measured side by side, each with its share of the threads: two products that run at once on one thread
each take less than one after the other on two, and what Python does between them fills the gaps.
"""

import copy
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import TYPE_CHECKING

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from interp_arith.interp.base import Measure, Subject
from interp_arith.interp.keys import key_frequencies
from interp_arith.interp.measures import MEASURES
from interp_arith.tasks.base import Task
from interp_arith.training import machine

if TYPE_CHECKING:
    from interp_arith.models.transformer import ArithmeticTransformer

SIDE_BY_SIDE = 4
"""Checkpoints that are measured at once, where there are as many threads: each has all its activations in memory."""

BETWEEN_GIVING_BACK = 20
"""Checkpoints after which memory that is free goes back to the system."""


def fixed_keys(model: "ArithmeticTransformer", task: Task) -> tuple[int, ...] | None:
    """The key frequencies of a trajectory's last model, which hold at every step; None where there are none to have.

    Taken anew at each checkpoint they would change along the way, and the curves that rest on them with them.
    """
    if MEASURES["key_frequencies"].why_not(task, model.config) is not None:
        return None
    is_key = key_frequencies(Subject(model, task))
    return tuple(int(k) for k in is_key["freq"].to_numpy()[is_key.to_numpy()])


Measured = tuple[int, dict[str, xr.DataArray]]
"""A step, and its measures by name."""


def measure_steps(
    weights: Iterable[tuple[int, Mapping[str, Tensor]]],
    model: "ArithmeticTransformer",
    task: Task,
    measures: Sequence[Measure],
    keys: Sequence[int] | None,
    found: list[Measured],
) -> None:
    """Take each measure at each step.

    Args:
        weights: step and state dict; read when there is a thread for them.
        model: whose weights are replaced by those of a step.
        task: with its split.
        measures: that apply.
        keys: the key frequencies to use at every step; see fixed_keys.
        found: where each step is put once it is measured, in any order; so it is there even if an error or an
            interrupt ends the others.
    """
    where, threads = model.embed.W_E.device, torch.get_num_threads()
    n = min(threads, SIDE_BY_SIDE) if where.type == "cpu" else 1
    own_threads = threads // n
    idle: SimpleQueue[ArithmeticTransformer] = SimpleQueue()
    for own in (model, *(copy.deepcopy(model) for _ in range(n - 1))):
        idle.put(own)

    def measure(step: int, tensors: Mapping[str, Tensor]) -> None:
        own = idle.get()
        try:
            own.load_state_dict(tensors)
            subject = Subject(own, task, keys)
            found.append((step, {each.name: each(subject) for each in measures}))
        finally:
            idle.put(own)

    with (
        machine.prepared(where, own_threads),
        ThreadPoolExecutor(n, initializer=torch.set_num_threads, initargs=(own_threads,)) as pool,
    ):
        begun: deque[Future[None]] = deque()
        try:
            for count, (step, tensors) in enumerate(weights, start=1):
                begun.append(pool.submit(measure, step, tensors))
                if count % BETWEEN_GIVING_BACK == 0:
                    machine.give_memory_back()
                if len(begun) > n:  # one more than are measured waits
                    begun.popleft().result()
            while begun:
                begun.popleft().result()
        finally:
            for each in begun:  # after an error or an interrupt nothing more begins
                each.cancel()


def over_steps(found: Sequence[Measured]) -> dict[str, xr.DataArray]:
    """Name -> one array, with `step` as its first dim, ascending; nothing where no step was measured."""
    if not found:
        return {}
    by_step = dict(sorted(found, key=lambda each: each[0]))
    along = xr.Variable("step", np.array(list(by_step), dtype=np.int64), {"units": "steps"})
    return {
        name: xr.concat(
            [arrays[name] for arrays in by_step.values()],
            dim=along,
            join="exact",
            coords="minimal",
            compat="override",
            combine_attrs="drop_conflicts",
        )
        for name in found[0][1]
    }
