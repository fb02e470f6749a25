"""Whether the carry into a digit can be read where that digit is written, and whether it is used from there.

Sources: Fisher 1936 (the direction that reads it); Geiger et al. 2024, "Finding alignments between interpretable
causal variables and distributed neural representations" (interchange along a direction).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from interp_arith.errors import RequestError
from interp_arith.interp.ablation import answer_columns
from interp_arith.interp.base import Measure, Subject
from interp_arith.interp.column_labels import column_labels, single_token_baseline
from interp_arith.interp.discriminants import balanced, discriminants, hits, moments, one_hot
from interp_arith.interp.forward import in_eval_mode
from interp_arith.interp.interventions import Put, Site, intervened
from interp_arith.interp.nodes import batch_size, draw_full, passing
from interp_arith.interp.pairs import (
    Pairs,
    Signed,
    feature_columns,
    matched_pairs,
    no_two_numbers,
    of_two,
    the_operation,
)
from interp_arith.models.config import ModelConfig
from interp_arith.tasks.addition import Addition
from interp_arith.tasks.base import Task

if TYPE_CHECKING:
    from interp_arith.models.transformer import ArithmeticTransformer

WAYS = ("direction", "whole")
PAIRS_A_COLUMN = 100
QUESTIONS = 2048
"""To fit on, and as many others to score on."""
DECODABLE, USED = 0.9, 0.5
"""From these on a carry counts as decodable, and as used."""


@dataclass(frozen=True)
class Reading:
    """A linear reading of the carry from activations at one hook and position.

    Attributes:
        weights: of what reads it, the larger the more likely.
        difference: mean activation with the carry less that without.
        accuracy: balanced, on questions that it was not fitted on.
    """

    weights: Float[Tensor, " width"]
    difference: Float[Tensor, " width"]
    accuracy: float

    def exchanged(
        self, x: Float[Tensor, "batch width"], source: Float[Tensor, "batch width"]
    ) -> Float[Tensor, "batch width"]:
        """x, moved along the difference of the means as far as it reads what the source reads."""
        step = (source - x) @ self.weights / (self.weights @ self.difference)
        return x + step[:, None] * self.difference


def carry_use(
    model: "ArithmeticTransformer",
    task: Task,
    hooks: Sequence[str] | None = None,
    n: int = PAIRS_A_COLUMN,
    questions: int = QUESTIONS,
    seed: int = 0,
    operation: Signed | None = None,
) -> xr.Dataset:
    """How well the carry into each column is read at the position that writes its digit, and how it is used there.

    Every question is read with its right answer. Use is taken by interchange: of two questions that differ in the
    carry into the column and in nothing else that matters (see pairs.matched_pairs), the activation at the hook and
    position of one is put into the other's run, wholly or only along the direction by which the carry is read. It is
    used in so many of the pairs as the digit was right before and becomes what it is with the other's carry.
    Where columns subtract, the carry is a borrow.

    Args:
        model: in any mode.
        task: of two numbers, padded.
        hooks: where [batch, pos, width] passes; the residual stream after each attention and MLP unless given.
        n: pairs a column.
        questions: to fit a reading on, and as many to score it on.
        seed: of all draws.
        operation: "add" or "subtract", where the task has both; what it has, or sums, unless given.

    Returns:
        decodable [column, hook], balanced accuracy on held-out questions; baseline [column], that of the best single
        token read so far; used [column, hook, way], the mean of both directions, "whole" or along the "direction".

    Raises:
        RequestError: the task is of another kind, or the model has no such hook.
    """
    task = of_two(task)
    if (reason := no_carry_places(task, model.config)) is not None:
        raise RequestError(f"use of carries: {reason}")
    operation = the_operation(task, operation)
    hooks = residual_hooks(model.config) if hooks is None else tuple(dict.fromkeys(hooks))
    columns = [*feature_columns(task, "carry_in", operation)]
    answers = answer_columns(task)
    places = [task.answer_positions[answers.index(column)] for column in columns]
    readings, baseline = _readings(model, task, hooks, columns, places, questions, seed, operation)
    used = []
    for column, place, by_hook in zip(columns, places, readings, strict=True):
        pairs = matched_pairs(task, "carry_in", column, n, seed, operation).each(
            lambda x: x.to(model.W_E.device)
        )
        used.append(_used(model, pairs, place, answers.index(column), by_hook))
    coords = {"column": columns, "hook": list(hooks), "way": list(WAYS)}
    return xr.Dataset(
        {
            "decodable": (("column", "hook"), [[each.accuracy for each in row.values()] for row in readings]),
            "baseline": ("column", baseline),
            "used": (("column", "hook", "way"), np.array(used)),
        },
        coords=coords,
    )


def residual_hooks(config: ModelConfig) -> tuple[str, ...]:
    """The residual stream after each attention and after each MLP."""
    names = ("resid_post",) if config.attention_only else ("resid_mid", "resid_post")
    return tuple(f"blocks.{block}.hook_{name}" for block in range(config.n_layers) for name in names)


def _readings(
    model: "ArithmeticTransformer",
    task: Addition,
    hooks: Sequence[str],
    columns: Sequence[int],
    places: Sequence[int],
    questions: int,
    seed: int,
    operation: Signed,
) -> tuple[list[dict[str, Reading]], list[float]]:
    """Of every column by hook, and the single-token baseline of every column."""
    fit, held_out = (draw_full(task, split, questions, seed=seed) for split in ("train", "test"))
    feature = "carry_in" if operation == "add" else "borrow_in"
    labels = column_labels(task, fit, held_out, [feature], columns)
    tokens = task.encode(fit).tokens, task.encode(held_out).tokens
    passed = [_at(model, each, hooks, places) for each in tokens]
    tokens_told = single_token_baseline(*tokens, labels, len(task.vocabulary))
    found, baseline = [], []
    for index, place in enumerate(places):
        known, asked = labels.fit[:, index, None], labels.held_out[:, index, None]
        by_hook = {}
        for name in hooks:
            x, other = (part[name][:, index].cpu() for part in passed)
            by_hook[name] = _reading(x, known, other, asked)
        found.append(by_hook)
        baseline.append(tokens_told[place, index].item())
    return found, baseline


def _at(
    model: "ArithmeticTransformer",
    tokens: Int[Tensor, "batch pos"],
    hooks: Sequence[str],
    places: Sequence[int],
) -> dict[str, Float[Tensor, "batch place width"]]:
    batch = batch_size(model, tokens.shape[1], 0)
    parts = [
        {name: part[name][:, list(places)] for name in hooks} for part in passing(model, tokens, hooks, batch)
    ]
    return {name: torch.cat([part[name] for part in parts]) for name in hooks}


def _reading(
    x: Float[Tensor, "batch width"],
    known: Int[Tensor, "batch probe"],
    other: Float[Tensor, "batch width"],
    asked: Int[Tensor, "batch probe"],
) -> Reading:
    centre = x.double().mean(dim=0)
    one = torch.zeros(1, dtype=torch.int64)
    sums = moments((x - centre)[:, None], known, 2, one)
    size = centre.square().mean().sqrt()[None]
    linear = discriminants(sums, one, size)
    right = hits(linear.scores((other - centre)[:, None]), asked)
    accuracy = balanced(right, one_hot(asked, 2).sum(dim=0)).item()
    means = sums.sums[0, 0] / sums.counts[0, :, None]
    weights = linear.weights[0, 0, 1] - linear.weights[0, 0, 0]
    return Reading(weights, means[1] - means[0], accuracy)


@torch.no_grad()
def _used(
    model: "ArithmeticTransformer", pairs: Pairs, place: int, index: int, readings: dict[str, Reading]
) -> Float[np.ndarray, "hook way"]:
    """How often the digit follows the carry of the other question, the mean of both directions."""
    runs = []
    for side in (pairs, pairs.turned()):
        tokens = torch.cat([side.base, side.answer[:, :-1]], dim=1)[:, : place + 1]
        (passed,) = passing(model, tokens, list(readings), len(tokens))
        right = passed["logits"][:, -1].argmax(dim=-1) == side.answer[:, index]
        runs.append((side, tokens, passed, right))
    found = np.zeros((len(readings), len(WAYS)))
    for (side, tokens, passed, right), (_, _, other, _) in (runs, runs[::-1]):
        for row, (hook, reading) in enumerate(readings.items()):
            base, source = passed[hook][:, -1], other[hook][:, -1]
            along = reading.exchanged(base.double().cpu(), source.double().cpu()).to(base)
            for column, values in enumerate((along, source)):
                with in_eval_mode(model), intervened(model, [Put(Site(hook, place), values)]):
                    said = model(tokens)[:, -1].argmax(dim=-1)
                follows = right & (said == side.replaced[:, index])
                found[row, column] += follows.double().mean().item() / 2
    return found


def no_carry_places(task: Task, model: ModelConfig) -> str | None:
    """Why there is no position that writes a digit into which something is carried."""
    if (reason := no_two_numbers(task)) is not None:
        return reason
    assert isinstance(task, Addition)
    if not task.padded:
        return "the columns of an answer must have one place each; choose padded = True"
    if task.n_digits < 2:
        return "nothing is carried into the units; choose n_digits of 2 or more"
    return None


def first_steps(found: xr.DataArray, least: float) -> xr.DataArray:
    """The first step at which something reaches a value and does not fall below it at any later one; NaN if none.

    Args:
        found: with a dim `step`, in order.
        least: the value.
    """
    reached = (found >= least).to_numpy()
    axis = found.get_axis_num("step")
    holds = np.flip(np.logical_and.accumulate(np.flip(reached, axis), axis=axis), axis)
    steps = found["step"].to_numpy()
    first = np.where(holds.any(axis=axis), steps[holds.argmax(axis=axis)], np.nan)
    rest = found.isel(step=0, drop=True)
    return rest.copy(data=first).assign_attrs(units="steps")


def used_carries(subject: Subject) -> xr.Dataset:
    """Both, of one model."""
    return carry_use(subject.model, subject.task)


def carry_decodable(subject: Subject) -> xr.DataArray:
    """Balanced accuracy with which the carry into a column is read, linearly, where the column's digit is written.

    From 0.5 (chance) to 1: a linear discriminant of the residual stream at that position, fitted on 2,048 training
    questions and scored on as many test questions, each read with its right answer. The coordinate `baseline` is the
    accuracy of the best single token up to there. (Of differences it is the borrow.) Decodable is not used: see
    carry_used.
    """
    found = subject.get(used_carries)
    return found["decodable"].assign_coords(baseline=found["baseline"])


def carry_used(subject: Subject) -> xr.DataArray:
    """How often a digit follows the carry of another question, put in where the digit is written; from 0 to 1.

    Of 100 pairs of questions a column that differ in the carry into it: the residual stream at that position, of one
    question, is put into the other's run, whole or only along the direction by which carry_decodable reads the carry
    (the difference of the class means, as far as the reading becomes that of the other question). Counted are pairs
    whose digit was right before and then becomes what it is with the other carry; the mean of both directions.
    """
    return subject.get(used_carries)["used"]


CARRY_USE_MEASURES = (
    Measure(
        carry_decodable,
        dims=("column", "hook"),
        units="1",
        source="Alain and Bengio 2016; Fisher 1936",
        why_not=no_carry_places,
        cost="dear",
    ),
    Measure(
        carry_used,
        dims=("column", "hook", "way"),
        units="1",
        source="after Geiger et al. 2024",
        why_not=no_carry_places,
        cost="dear",
    ),
)
