"""Activations as labelled arrays, and back as TransformerLens' cache; knows no run directory and no file.

A hook is named as TransformerLens names it; its axes follow from its name.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import xarray as xr
from jaxtyping import Int
from torch import Tensor

from interp_arith import models
from interp_arith.errors import RequestError, unknown
from interp_arith.interp.nodes import passing
from interp_arith.tasks.base import Questions, Task

if TYPE_CHECKING:
    from interp_arith.models import ActivationCache, ArithmeticTransformer

VERSION = 1
"""Counted up when the numbers change, so that what is kept is computed anew."""
MODEL = "model"
"""The entry of a Dataset's `encoding` that gives the model of a step."""
Upto = Literal["question", "answer"]
_AT_ONCE = 2**25  # bytes of all hooks together: what passes in one batch
_HEADS = ("hook_q", "hook_k", "hook_v", "hook_z", "hook_rot_q", "hook_rot_k")
_ATTENTION = ("hook_attn_scores", "hook_pattern")
_NEURONS = ("hook_pre", "hook_post", "hook_pre_linear")


class Asked:
    """Questions, and what a model reads of them.

    Args:
        task: whose questions they are.
        questions: strings or rows of integers; at least one.
        upto: where what is read ends: with the question, or with its right answer.

    Raises:
        RequestError: there are none, one is malformed, or `upto` is something else.
    """

    def __init__(self, task: Task, questions: Questions, upto: Upto = "question") -> None:
        if not len(questions):
            raise RequestError("questions: none given; for example run.task.text(run.task.split('test')[:5])")
        if upto not in ("question", "answer"):
            raise unknown("end of what is read", str(upto), ("question", "answer"))
        self.text = task.text(questions)
        self.tokens = task.tokens(questions) if upto == "question" else task.examples(questions).tokens
        self.symbols = np.array(task.vocabulary.symbols)[self.tokens.numpy()]

    def __len__(self) -> int:
        return len(self.text)

    def coordinates(self, dims: Iterable[str]) -> dict[str, Any]:
        """What stands on those axes that occur: questions as text, positions from 0, the token at each."""
        places, there = np.arange(self.tokens.shape[1]), set(dims)
        return {
            "question": np.array(self.text),
            **{name: places for name in ("position", "query", "key") if name in there},
            "token": (("question", "position"), self.symbols),
        }


@dataclass(frozen=True)
class Passage:
    """What passes at a hook for one question.

    Attributes:
        dims: its axes, by name.
        shape: their lengths.
        dtype: NumPy's name for the numbers.
    """

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> int:
        """In memory."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize


def dims_of(hook: str) -> tuple[str, ...]:
    """The axes of what passes at a hook, after the one of questions.

    >>> dims_of("blocks.0.attn.hook_pattern")
    ('head', 'query', 'key')
    """
    last = hook.rsplit(".", 1)[-1]
    if last in _ATTENTION:
        return "head", "query", "key"
    if last in _HEADS:
        return "position", "head", "d_head"
    if last in _NEURONS:
        return "position", "neuron"
    if last == "hook_scale":
        return "position", "norm"
    return "position", "d_vocab_out" if hook == "unembed.hook_out" else "d_model"


def passages(model: "ArithmeticTransformer", tokens: Int[Tensor, "batch pos"]) -> dict[str, Passage]:
    """Every hook where something passes, in the order in which the model computes them.

    Args:
        model: on any device.
        tokens: of which the first question is tried.

    Hook points that a model has and does not use, such as `hook_result`, are left out.
    """
    cache = model.forward_analysis(tokens[:1].to(model.embed.W_E.device), return_cache=True)[2]
    return {
        name: Passage(dims_of(name), tuple(x.shape[1:]), str(x.dtype).removeprefix("torch."))
        for name, x in cache.items()
    }


def chosen_hooks(
    patterns: str | Iterable[str], hooks: Iterable[str], silent: Iterable[str] = ()
) -> list[str]:
    """The hooks that are named, in the order of the model; a name may be a pattern, as of files.

    Args:
        patterns: names such as "blocks.0.mlp.hook_post", or patterns such as "blocks.*.attn.hook_pattern".
        hooks: those that there are.
        silent: hook points that the model has, and where nothing passes.

    Raises:
        RequestError: no pattern is given, or one matches no hook (with the nearest names) or only silent ones.

    >>> chosen_hooks("blocks.*.hook_mlp_out", ["hook_embed", "blocks.0.hook_mlp_out", "blocks.1.hook_mlp_out"])
    ['blocks.0.hook_mlp_out', 'blocks.1.hook_mlp_out']
    """
    wanted, there = [patterns] if isinstance(patterns, str) else list(patterns), list(hooks)
    if not wanted:
        raise RequestError(
            'hooks: none given; name some, such as "blocks.0.mlp.hook_post" or "blocks.*.hook_*"'
        )
    if lost := next((p for p in wanted if not any(fnmatchcase(name, p) for name in there)), None):
        if any(fnmatchcase(name, lost) for name in silent):
            raise RequestError(
                f"nothing passes at hook {lost!r} of this model: TransformerLens leaves it out until it is "
                "asked for, as by model.set_use_attn_result(True); there are: " + ", ".join(there)
            )
        raise unknown("hook", lost, there)
    return [name for name in there if any(fnmatchcase(name, pattern) for pattern in wanted)]


def batch_of(passages: Iterable[Passage]) -> int:
    """Questions whose activations at all hooks fill 32 MB: what a pass holds, whatever is asked of it.

    Args:
        passages: of all hooks of a model, so that every request of the same questions has the same batches.
    """
    return max(1, _AT_ONCE // sum(each.bytes for each in passages))


def take(
    model: "ArithmeticTransformer",
    tokens: Int[Tensor, "batch pos"],
    into: dict[str, Any],
    batch: int,
) -> None:
    """Write what passes at some hooks for every question, a batch in memory at a time.

    Args:
        model: in any mode; its dropout, if any, is off.
        tokens: the questions as the model reads them.
        into: hook -> what a slice of questions can be assigned to.
        batch: questions at once.
    """
    done = 0
    for passed in passing(model, tokens, list(into), batch):
        rows = slice(done, done + len(passed["logits"]))
        for name, array in into.items():
            array[rows] = passed[name].cpu().numpy()
        done = rows.stop


class ToCache:
    """`activations.to_cache(step)`: TransformerLens' own ActivationCache of one step.

    An accessor, which is xarray's way to add a method: what `run.activations` gives stays a plain Dataset, and a
    part of it (`.sel(question=…)`, `[["blocks.0.mlp.hook_post"]]`) still has the method. The model of a step comes
    from the Dataset's `encoding`, which xarray hands on from a Dataset to its parts, and neither prints nor stores.

    Args:
        activations: what `run.activations` gives, or a part of it.
    """

    def __init__(self, activations: xr.Dataset) -> None:
        self._activations = activations

    def __call__(
        self, step: int | None = None, model: "ArithmeticTransformer | None" = None
    ) -> "ActivationCache":
        """What `run_with_cache` gives at that step for these questions, less the hooks that were not asked for.

        Args:
            step: may be left out where there is only one.
            model: of that step; the run's own unless given. The cache uses it for what needs weights.

        Raises:
            RequestError: there is no such step, a step or the questions are missing, or no model is known.
        """
        whole = self._activations
        steps = np.atleast_1d(whole["step"].to_numpy()).tolist() if "step" in whole.coords else []
        if step is None and len(steps) == 1:
            step = steps[0]
        if step not in steps:
            raise RequestError(f"to_cache: step {step}; there are: {', '.join(map(str, steps)) or 'none'}")
        if model is None and MODEL in whole.encoding:
            model = whole.encoding[MODEL](step)
        if model is None:
            raise RequestError(
                "to_cache: these are no longer a run's own activations; give the model: "
                f"to_cache({step}, model=run.model({step}))"
            )
        at_step = whole.sel(step=step) if "step" in whole.dims else whole
        cut = next((name for name, x in at_step.items() if x.dims != ("question", *dims_of(str(name)))), None)
        if cut is not None:
            raise RequestError(
                f"to_cache: {cut} has dims {', '.join(map(str, at_step[cut].dims))}; a cache needs "
                f"question, {', '.join(dims_of(str(cut)))}; select with lists to keep a dim"
            )
        tensors = {str(name): torch.from_numpy(np.array(x)) for name, x in at_step.items()}
        return models.ActivationCache(tensors, model)


xr.register_dataset_accessor("to_cache")(ToCache)
