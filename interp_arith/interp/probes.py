"""Linear probes of what happens in each digit column, at every node and position of an adder, all at once.

That a feature can be decoded does not say that it is used. So beside each accuracy stand what one token alone tells,
what a probe of random labels reaches, and what the untrained model gives.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from interp_arith import models
from interp_arith.errors import RequestError
from interp_arith.interp.base import Measure, Subject
from interp_arith.interp.column_labels import (
    Labels,
    column_labels,
    control_labels,
    groups,
    single_token_baseline,
)
from interp_arith.interp.discriminants import (
    SHRINKAGE,
    Moments,
    balanced,
    discriminants,
    hits,
    moments,
    one_hot,
)
from interp_arith.interp.nodes import adder, batch_size, draw_full, no_columns, node_names, passing
from interp_arith.models.config import ModelConfig
from interp_arith.tasks.addition import Addition
from interp_arith.tasks.base import Task

if TYPE_CHECKING:
    from interp_arith.models.transformer import ArithmeticTransformer

QUESTIONS = 4096
"""To fit on, and as many others to score on."""
_MOST_SUMS = 2**27  # of float64: hooks whose sums take more are looked at in several passes


def probe(
    model: "ArithmeticTransformer",
    task: Addition,
    features: Sequence[str] | None = None,
    columns: Sequence[int] | None = None,
    hooks: Sequence[str] | None = None,
    *,
    questions: int = QUESTIONS,
    carry_share: float = 0.0,
    seed: int = 0,
) -> xr.Dataset:
    """How well a linear classifier reads each feature of each column at each hook and position.

    Classifiers are linear discriminants with a covariance shared by the classes, fitted on training questions and
    scored on test questions (which a hash keeps apart), with every label as likely: balanced accuracy, 1 / labels is
    chance. Every question has n digits, each of them uniform.

    Args:
        model: to be looked into.
        task: its adder.
        features: names of tasks.columns.FEATURES; all that are classes unless given.
        columns: 0 = units; all unless given.
        hooks: the residual stream and all that is added to it unless given.
        questions: to fit on, and as many to score on.
        carry_share: share of the questions whose carries run far, each column propagating with probability 0.6.
        seed: of the questions and of the control's labels.

    Returns:
        probe_accuracy, selectivity, gain_over_untrained [feature column hook pos], single_digit_baseline
        [feature column pos]; see the measures of these names. NaN where a feature does not exist in a column, has one
        label, or one with fewer than 20 questions.

    Raises:
        RequestError: there is no such feature, column or hook, or what is named has no probe.
    """
    if questions < 1:
        raise RequestError(f"questions = {questions}; allowed: 1 or more, {QUESTIONS} unless given")
    hooks = node_names(model.config) if hooks is None else tuple(dict.fromkeys(hooks))
    fit, held_out = (draw_full(task, split, questions, carry_share, seed) for split in ("train", "test"))
    labels = column_labels(task, fit, held_out, features, columns)
    controls, control_of = control_labels(labels, fit, held_out, seed)
    tokens = task.encode(fit).tokens, task.encode(held_out).tokens
    both = _joined(labels, controls)
    found = linear_accuracy(model, tokens, both, hooks)
    accuracy, control = found[..., : len(labels.names)], found[..., len(labels.names) :][..., control_of]
    fresh = models.build_model(model.config, task).to(model.embed.W_E.device, print_details=False)
    untrained = linear_accuracy(fresh, tokens, labels, hooks)
    baseline = single_token_baseline(*tokens, labels, len(task.vocabulary))
    order = tuple(dict.fromkeys(name for name, _ in [*labels.names, *labels.left_out]))
    arrays = {
        "probe_accuracy": accuracy,
        "single_digit_baseline": baseline,
        "selectivity": accuracy - control,
        "gain_over_untrained": accuracy - untrained,
    }
    return xr.Dataset({name: _labelled(values, labels, order, hooks) for name, values in arrays.items()})


def linear_accuracy(
    model: "ArithmeticTransformer",
    tokens: tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]],
    labels: Labels,
    hooks: Sequence[str],
    shrinkage: float = SHRINKAGE,
) -> Float[Tensor, "hook pos probe"]:
    """Balanced accuracy of linear discriminants on held-out questions, for every probe at every hook and position.

    Args:
        model: whose activations are read.
        tokens: of the questions to fit on, and of those to score on.
        labels: of both.
        hooks: [batch, pos, width] passes at each.
        shrinkage: of the covariance; see discriminants.
    """
    n, (group, first) = labels.most_classes, groups(labels.fit)
    n_pos, width = tokens[0].shape[1], model.config.d_model
    at_once = max(1, _MOST_SUMS // (n_pos * width * (labels.fit.shape[1] * n + len(first) * width)))
    if len(hooks) > at_once:
        parts = [hooks[i : i + at_once] for i in range(0, len(hooks), at_once)]
        return torch.cat([linear_accuracy(model, tokens, labels, part, shrinkage) for part in parts])
    batch = batch_size(model, n_pos, n_pos * labels.fit.shape[1] * n)
    shift = {name: x.double().mean(dim=0) for name, x in _activations(model, tokens[0][:batch], hooks, batch)}
    sums: dict[str, Moments] = {}
    for part, of in zip(passing(model, tokens[0], hooks, batch), labels.fit.split(batch), strict=True):
        for name in hooks:
            added = moments(part[name] - shift[name], of.to(part[name].device), n, first)
            sums[name] = sums[name] + added if name in sums else added
    classifiers = {
        name: discriminants(sums.pop(name), group, shift[name].square().mean(dim=-1).sqrt(), shrinkage)
        for name in hooks
    }
    right: dict[str, Tensor] = {}
    for part, of in zip(passing(model, tokens[1], hooks, batch), labels.held_out.split(batch), strict=True):
        for name in hooks:
            scores = classifiers[name].scores(part[name] - shift[name])
            added = hits(scores, of.to(scores.device))
            right[name] = right[name] + added if name in right else added
    counts = one_hot(labels.held_out, n).sum(dim=0)
    return torch.stack([balanced(right[name].cpu(), counts) for name in hooks])


def _activations(
    model: "ArithmeticTransformer", tokens: Int[Tensor, "batch pos"], hooks: Sequence[str], batch: int
) -> list[tuple[str, Tensor]]:
    """At each hook, of one batch.

    Raises:
        RequestError: what passes at a hook is no vector for each position.
    """
    (part,) = passing(model, tokens, hooks, batch)
    for name in hooks:
        if part[name].ndim != 3:
            raise RequestError(
                f"hook {name}: [{', '.join(map(str, part[name].shape))}] passes there; "
                "a probe reads [batch, pos, width], such as blocks.0.hook_attn_out"
            )
    return [(name, part[name]) for name in hooks]


def _joined(first: Labels, second: Labels) -> Labels:
    return Labels(
        first.names + second.names,
        first.n_classes + second.n_classes,
        torch.cat([first.fit, second.fit], dim=1),
        torch.cat([first.held_out, second.held_out], dim=1),
        first.left_out,
    )


def _labelled(
    values: Float[Tensor, "*hook pos probe"], labels: Labels, features: Sequence[str], hooks: Sequence[str]
) -> xr.DataArray:
    """Probes as feature × column, NaN where there is none."""
    columns = sorted({column for _, column in [*labels.names, *labels.left_out]})
    whole = np.full((len(features), len(columns), *values.shape[:-1]), np.nan)
    for index, (name, column) in enumerate(labels.names):
        whole[features.index(name), columns.index(column)] = values[..., index].numpy()
    coords = {"feature": list(features), "column": columns}
    if values.ndim == 3:
        coords |= {"hook": list(hooks)}
    return xr.DataArray(whole, coords=coords | {"pos": np.arange(values.shape[-2])}, dims=[*coords, "pos"])


def no_probes(task: Task, model: ModelConfig) -> str | None:
    """Why there are no columns to probe, or too few questions to hold some out."""
    if isinstance(task, Addition) and task.n_digits < 2:
        return "numbers of one digit have too few questions to hold some out"
    return no_columns(task, model)


def probed(subject: Subject) -> xr.Dataset:
    """Every feature, column, hook and position."""
    return probe(subject.model, adder(subject))


def probe_accuracy(subject: Subject) -> xr.DataArray:
    """Balanced accuracy on held-out questions of a linear probe of each column feature, at each hook and position.

    From 1 / labels (chance) to 1. The probe is a linear discriminant with shared covariance, fitted on 4,096 training
    questions, scored on as many test questions; digits are uniform. The model reads each question with its right
    answer, so a position sees the answer's digits before it. NaN where a feature does not exist in a column, has one
    label there, or one with fewer than 20 questions. Decodable is not used: compare the three measures beside it.
    """
    return subject.get(probed)["probe_accuracy"]


def single_digit_baseline(subject: Subject) -> xr.DataArray:
    """Balanced accuracy of the best predictor of each column feature from one token that a position can see.

    The token is the best of those up to that position, by the questions to fit on; its predictor is the label under
    which it is the most frequent. One digit of an operand gives "generate" at 0.75.
    """
    return subject.get(probed)["single_digit_baseline"]


def selectivity(subject: Subject) -> xr.DataArray:
    """Accuracy of a probe less that of its control: as many labels, given at random to the column's pairs of digits.

    From −1 to 1; near 0 where the probe could have learnt any function of the two digits by heart.
    """
    return subject.get(probed)["selectivity"]


def gain_over_untrained(subject: Subject) -> xr.DataArray:
    """Accuracy of a probe less that of the same probe of the untrained model, its weights drawn with seed 0."""
    return subject.get(probed)["gain_over_untrained"]


_PROBES = ("feature", "column", "hook", "pos")
PROBE_MEASURES = (
    Measure(
        probe_accuracy,
        dims=_PROBES,
        units="1",
        source="Alain and Bengio 2016; Fisher 1936",
        why_not=no_probes,
        cost="dear",
    ),
    Measure(
        single_digit_baseline,
        dims=("feature", "column", "pos"),
        units="1",
        source="after Hewitt and Liang 2019",
        why_not=no_probes,
        cost="dear",
    ),
    Measure(
        selectivity,
        dims=_PROBES,
        units="1",
        source="Hewitt and Liang 2019",
        why_not=no_probes,
        cost="dear",
    ),
    Measure(
        gain_over_untrained,
        dims=_PROBES,
        units="1",
        source="after Zhang and Bowman 2018",
        why_not=no_probes,
        cost="dear",
    ),
)
