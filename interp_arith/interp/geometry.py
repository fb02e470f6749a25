"""How the activations of a node lie apart for the three cases of a column: r ≤ 8, r = 9, r ≥ 10."""

from typing import TYPE_CHECKING

import numpy as np
import torch
import xarray as xr
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from interp_arith.errors import RequestError, unknown
from interp_arith.interp.base import Measure, Subject
from interp_arith.interp.nodes import adder, batch_size, no_columns, node_names, passing
from interp_arith.lazy import Lazy
from interp_arith.models.config import ModelConfig
from interp_arith.tasks.addition import Addition
from interp_arith.tasks.base import Task
from interp_arith.tasks.class_draws import draw_tri_cases
from interp_arith.tasks.sampling import key

if TYPE_CHECKING:
    from interp_arith.models.transformer import ArithmeticTransformer

CASES = (8, 9, 10)
cluster, metrics = Lazy("sklearn.cluster"), Lazy("sklearn.metrics")
QUESTIONS = 100
"""Of each case."""
CLUSTERS = (2, 3)
SCORES = ("silhouette", "agreement")
_COMPONENTS = 2
_STARTS = 4
_ROUNDING = 1e-6


def no_tri_cases(task: Task, model: ModelConfig) -> str | None:
    """Why columns have no three cases, or not enough questions of each."""
    if not isinstance(task, Addition):
        return no_columns(task, model)
    if task.n_digits < 2:
        return f"numbers of one digit have 10 questions of r = 9, and {QUESTIONS} are looked at"
    return _no_sums_of_two(task)


def _no_sums_of_two(task: Addition) -> str | None:
    if task.operation == "add" and task.operands == 2:
        return None
    return (
        f"tri-cases are those of sums of two numbers, and the task has operation = {task.operation} and "
        f"operands = {task.operands}"
    )


def tri_case_questions(
    task: Addition, column: int, n: int = QUESTIONS, seed: int = 0
) -> Int[Tensor, "batch operand column"]:
    """n different questions of each case of a column, in the order of CASES; r ≤ 8 in every other column.

    Raises:
        RequestError: the task has no such column, or no n questions of a case.
    """
    if (reason := _no_sums_of_two(task)) is not None:
        raise RequestError(reason)
    return rearrange(
        draw_tri_cases(column, n, task.n_digits, key(seed, "case")), "case n ... -> (case n) ..."
    )


def principal_components(
    x: Float[Tensor, "batch d_model"], n: int = _COMPONENTS
) -> Float[Tensor, "batch component"]:
    """Coordinates along the n directions of the most variance, the largest first; the largest of each is positive."""
    centred = (x - x.mean(dim=0)).double()
    u, s, _ = torch.linalg.svd(centred, full_matrices=False)
    found = u[:, :n] * s[:n]
    largest = found.gather(0, found.abs().argmax(dim=0, keepdim=True))
    return found * largest.sign()


def tri_case_projection(
    model: "ArithmeticTransformer", task: Addition, column: int, hook: str, pos: int, n: int = QUESTIONS
) -> xr.DataArray:
    """The first two principal components of a node's activations, for n questions of each case of a column.

    Args:
        model: that is looked into.
        task: sums of two numbers.
        column: whose cases they are.
        hook: of the node, where [batch, pos, width] passes.
        pos: position in the token sequence.
        n: how many questions of each case.

    Returns:
        [case question component], in units of the activations.

    Raises:
        RequestError: there is no such column, hook or position, or no n questions of a case.
    """
    if hook not in (allowed := node_names(model.config)):
        raise unknown("node", hook, allowed)
    if not 0 <= pos < task.n_ctx:
        raise RequestError(f"pos = {pos}; questions of this task have positions 0 to {task.n_ctx - 1}")
    found = _activations(model, task, column, (hook,), (pos,), n)[0, 0]
    components = rearrange(principal_components(found), "(case n) component -> case n component", n=n)
    coords = {"case": list(CASES), "question": np.arange(n), "component": np.arange(components.shape[-1])}
    return xr.DataArray(components.numpy(), coords=coords)


def _activations(
    model: "ArithmeticTransformer",
    task: Addition,
    column: int,
    hooks: tuple[str, ...],
    positions: tuple[int, ...],
    n: int = QUESTIONS,
) -> Float[Tensor, "hook pos batch d_model"]:
    tokens = task.encode(tri_case_questions(task, column, n)).tokens
    parts = [
        torch.stack([part[name][:, list(positions)] for name in hooks]).cpu()
        for part in passing(model, tokens, hooks, batch_size(model, task.n_ctx, 0))
    ]
    return rearrange(torch.cat(parts, dim=1), "hook batch pos d_model -> hook pos batch d_model")


def cluster_scores(x: Float[Tensor, "batch d_model"]) -> Float[np.ndarray, "score clusters"]:
    """How well as many activations of each case fall into 2 groups (r ≥ 10 or not) and 3; NaN where they are all one.

    On the first two principal components: the silhouette of the true groups, and the adjusted Rand index between
    them and those that k-means finds.
    """
    points = principal_components(x).numpy()
    scores = np.full((len(SCORES), len(CLUSTERS)), np.nan)
    if points.std() <= _ROUNDING * float(x.double().square().mean().sqrt()):
        return scores
    cases = np.repeat(np.arange(len(CASES)), len(x) // len(CASES))
    for at, (n, groups) in enumerate(zip(CLUSTERS, (cases == 2, cases), strict=True)):
        scores[0, at] = metrics.silhouette_score(points, groups)
        if len(np.unique(points.round(12), axis=0)) >= n:
            found = cluster.KMeans(n, n_init=_STARTS, random_state=0).fit_predict(points)
            scores[1, at] = metrics.adjusted_rand_score(groups, found)
    return scores


def tri_case_geometry(subject: Subject) -> xr.DataArray:
    """How well each node's activations fall into the cases of each column: r ≤ 8, r = 9, r ≥ 10.

    100 questions of each case, with r ≤ 8 in all other columns, so that no other carry is made; on the first two
    principal components. For 3 clusters (the cases) and 2 (r ≥ 10 or not): "silhouette" of the true groups, from −1
    to 1, and "agreement" with those that k-means finds, the adjusted Rand index, 0 by chance, 1 where they are the
    same. Positions are those that predict the answer. NaN where activations do not vary.
    """
    task, hooks = adder(subject), node_names(subject.model.config)
    found = np.stack(
        [
            [
                [cluster_scores(x) for x in by_pos]
                for by_pos in _activations(subject.model, task, column, hooks, task.answer_positions)
            ]
            for column in range(task.n_digits)
        ]
    )
    coords = {
        "column": np.arange(task.n_digits),
        "hook": list(hooks),
        "pos": np.array(task.answer_positions),
        "score": list(SCORES),
        "clusters": list(CLUSTERS),
    }
    return xr.DataArray(found, coords=coords)


GEOMETRY_MEASURES = (
    Measure(
        tri_case_geometry,
        dims=("column", "hook", "pos", "score", "clusters"),
        units="1",
        source="after Quirke et al. 2024",
        why_not=no_tri_cases,
        cost="dear",
    ),
)
