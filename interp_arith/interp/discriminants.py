"""Linear discriminants, thousands at once: many labellings of the same questions, at many positions; knows no model.

A class has a Gaussian of its own mean; all classes of one labelling share a covariance, and are as likely before a
question is seen. So a question x belongs to the class with the largest μ_c·Σ⁻¹x − ½ μ_c·Σ⁻¹μ_c (Fisher 1936). All
that this takes is sums over the questions, which are added up batch by batch.
"""

from dataclasses import dataclass

import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

SHRINKAGE = 1e-3
"""Share of the covariance that is given to its mean variance, in every direction (Ledoit and Wolf 2004)."""
_ROUNDING = 1e-6
"""Standard deviation of float32 noise in activations, relative to their size."""


@dataclass(frozen=True)
class Moments:
    """Sums over questions. A label of −1 is missing; probes of one group miss the same questions.

    Attributes:
        sums: of the activations of each class.
        counts: questions of each class.
        squares: Σ x xᵀ over the questions that a group's probes have labels for.
    """

    sums: Float[Tensor, "pos probe label d_model"]
    counts: Float[Tensor, "probe label"]
    squares: Float[Tensor, "group pos d_model d_model"]

    def __add__(self, other: "Moments") -> "Moments":
        """Those of both sets of questions."""
        return Moments(self.sums + other.sums, self.counts + other.counts, self.squares + other.squares)


def moments(
    x: Float[Tensor, "batch pos d_model"],
    labels: Int[Tensor, "batch probe"],
    n_classes: int,
    first_of_group: Int[Tensor, " group"],
) -> Moments:
    """Sums over a batch of questions, in float64.

    Args:
        x: activations, best near their mean.
        labels: class of each question for each probe, −1 where it is missing.
        n_classes: the most that a probe has.
        first_of_group: one probe of each group.
    """
    x, chosen = x.double(), one_hot(labels, n_classes)
    has_label = (labels[:, first_of_group] >= 0).double()
    by_class = rearrange(chosen, "batch probe label -> (probe label) batch")
    sums = by_class @ rearrange(x, "batch pos d_model -> batch (pos d_model)")
    squares = [
        einsum(x * each[:, None, None], x, "batch pos d, batch pos e -> pos d e") for each in has_label.T
    ]
    return Moments(
        rearrange(
            sums,
            "(probe label) (pos d_model) -> pos probe label d_model",
            probe=labels.shape[1],
            pos=x.shape[1],
        ),
        chosen.sum(dim=0),
        torch.stack(squares),
    )


def one_hot(labels: Int[Tensor, "*axes"], n_classes: int) -> Float[Tensor, "*axes label"]:
    """1 at the class of each label, all 0 where it is −1."""
    return functional.one_hot(labels + 1, n_classes + 1)[..., 1:].double()


@dataclass(frozen=True)
class Discriminants:
    """Scores of classes as a linear function of activations; −∞ for classes that a probe does not have."""

    weights: Float[Tensor, "pos probe label d_model"]
    bias: Float[Tensor, "pos probe label"]

    def scores(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos probe label"]:
        """The score of each class, for each question, position and probe."""
        flat = rearrange(self.weights, "pos probe label d_model -> pos (probe label) d_model")
        found = einsum(x.double(), flat, "batch pos d_model, pos row d_model -> batch pos row")
        return found.unflatten(-1, tuple(self.bias.shape[1:])) + self.bias


def discriminants(
    of: Moments, group: Int[Tensor, " probe"], size: Float[Tensor, " pos"], shrinkage: float = SHRINKAGE
) -> Discriminants:
    """The discriminants that follow from sums over questions.

    Σ = (1 − s)·S + s·(tr S / d)·1, with S the covariance within the classes, pooled over them.

    Args:
        of: the sums.
        group: of each probe.
        size: of the activations, beside which smaller variation than float32 can tell is noise.
        shrinkage: s.
    """
    weights, biases, d_model = [], [], of.sums.shape[-1]
    counts = of.counts.clamp(min=1)[..., None]
    freedom = (of.counts.sum(dim=-1) - (of.counts > 0).sum(dim=-1)).clamp(min=1)[:, None, None]
    identity = torch.eye(d_model, dtype=torch.float64, device=of.sums.device)
    for sums, squares, noise in zip(
        of.sums, of.squares.unbind(1), (_ROUNDING * size).square().tolist(), strict=True
    ):
        means = sums / counts
        within = (squares[group] - einsum(sums, means, "p c d, p c e -> p d e")) / freedom
        variance = within.diagonal(dim1=-2, dim2=-1).mean(dim=-1)[:, None, None]
        total = squares.diagonal(dim1=-2, dim2=-1).mean(dim=-1)[group][:, None, None] / freedom
        floor = noise + 1e-9 * total + torch.finfo(torch.float64).tiny
        shared = (1 - shrinkage) * within + (shrinkage * variance.clamp(min=0) + floor) * identity
        found = torch.linalg.solve(shared, means.mT).mT
        weights.append(found)
        biases.append(-0.5 * einsum(found, means, "p c d, p c d -> p c"))
    bias = torch.stack(biases).masked_fill(of.counts == 0, -torch.inf)
    return Discriminants(torch.stack(weights), bias)


def hits(
    scores: Float[Tensor, "batch *axes probe label"], labels: Int[Tensor, "batch probe"]
) -> Float[Tensor, "*axes probe label"]:
    """Questions of each class whose best score is that of their class."""
    right = (scores.argmax(dim=-1).movedim(0, -2) == labels).double()
    chosen = one_hot(labels, scores.shape[-1])
    return einsum(right, chosen, "... batch probe, batch probe label -> ... probe label")


def balanced(
    hits: Float[Tensor, "*axes probe label"], counts: Float[Tensor, "probe label"]
) -> Float[Tensor, "*axes probe"]:
    """Balanced accuracy: the mean over a probe's classes of the share of their questions that are hit."""
    share = hits / counts.where(counts > 0, torch.inf)
    return share.sum(dim=-1) / (counts > 0).sum(dim=-1)
