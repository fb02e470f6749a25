"""The local learning coefficient: how much a model's training loss rises when its weights wander; by Langevin chains.

The sampler is a function of a loss and a parameter dict; it knows no model. Chains are stacked on a leading axis.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from interp_arith.interp.base import Measure, Subject
from interp_arith.interp.forward import device
from interp_arith.models.config import ModelConfig
from interp_arith.registry import Choice
from interp_arith.tasks import scoring
from interp_arith.tasks.base import Examples, SampledTask, Task
from interp_arith.tasks.sampling import shuffled_rows
from interp_arith.training import ensemble

Stacked = Mapping[str, Float[Tensor, "chain ..."]]
Losses = Callable[[Stacked, int], Float[Tensor, " chain"]]
"""The loss of every chain at its own weights, at a step: it may be taken over a batch that the step chooses."""


class Langevin(Choice):
    """How the chains of stochastic gradient Langevin dynamics run."""

    epsilon: float = Field(default=5e-5, gt=0)
    """Step size: the variance of the noise of one step."""
    gamma: float = Field(default=1000.0, ge=0)
    """Strength of the pull back to where the chains start."""
    chains: int = Field(default=4, ge=1)
    """Chains, each with noise and batches of its own."""
    burn_in: int = Field(default=200, ge=0)
    """Steps that are made before a loss counts."""
    draws: int = Field(default=200, ge=4)
    """Steps whose losses count."""
    batch_size: int | None = Field(default=512, ge=1)
    """Training rows of each step and chain; all of them where there are no more, or if None."""
    seed: int = Field(default=0, ge=0)
    """Of the noise and the batches."""


def langevin_losses(
    losses: Losses, start: Mapping[str, Tensor], n: int, settings: Langevin
) -> Float[Tensor, "chain draw"]:
    """The losses that chains meet after their burn-in, each wandering from the same weights.

    w ← w − (ε/2) (nβ ∇L(w) + γ (w − w₀)) + √ε η with β = 1/ln n and η standard normal, at every step; the loss is
    that before the step. So at small ε the weights are drawn from exp(−nβ L(w) − γ/2 |w − w₀|²).

    Args:
        losses: of stacked weights, at a step counted from 0; the mean over rows of their loss, in nats.
        start: w₀, unstacked.
        n: training rows.
        settings: ε, γ, chains, steps and seed.

    Source: Lau et al. 2023, "The local learning coefficient", section 4; Welling & Teh 2011.
    """
    pulls, scale = settings.gamma, n / math.log(n)
    center = {name: tensor.detach() for name, tensor in start.items()}
    weights = {name: tensor.expand(settings.chains, *tensor.shape).clone() for name, tensor in center.items()}
    generators = {
        place: torch.Generator(place).manual_seed(settings.seed)
        for place in {w.device for w in weights.values()}
    }
    found = []
    for step in range(settings.burn_in + settings.draws):
        for w in weights.values():
            w.requires_grad_(True)
        loss = losses(weights, step)
        gradients = torch.autograd.grad(loss.sum(), list(weights.values()))
        with torch.no_grad():
            for (name, w), gradient in zip(weights.items(), gradients, strict=True):
                w.requires_grad_(False)
                noise = torch.randn(w.shape, generator=generators[w.device], dtype=w.dtype, device=w.device)
                drift = scale * gradient + pulls * (w - center[name])
                w.add_(drift, alpha=-settings.epsilon / 2).add_(noise, alpha=math.sqrt(settings.epsilon))
        if step >= settings.burn_in:
            found.append(loss.detach().double())
    return torch.stack(found, dim=1)


def coefficients(losses: Float[Tensor, "chain draw"], initial: float, n: int) -> Float[Tensor, " chain"]:
    """λ = nβ (E[L] − L₀) of every chain, β = 1/ln n (Lau et al. 2023, definition 2)."""
    return n / math.log(n) * (losses.mean(dim=1) - initial)


def split_r_hat(losses: Float[Tensor, "chain draw"]) -> float:
    """How far halves of chains differ, relative to what they vary: 1 if they are draws of one distribution.

    Each chain is cut into halves; with W the mean of their variances, B/N the variance of their means over N draws,
    R̂ = √((N−1)/N + (B/N)/W). Above some 1.1 the chains have not settled. NaN where no chain varies.

    Source: Gelman et al. 2013, "Bayesian Data Analysis", section 11.4.
    """
    half = losses.shape[1] // 2
    halves = torch.cat([losses[:, :half], losses[:, -half:]])
    within, between = halves.var(dim=1).mean(), halves.mean(dim=1).var()
    return ((half - 1) / half + between / within).sqrt().item() if within > 0 else math.nan


def drift(losses: Float[Tensor, "chain draw"], initial: float) -> float:
    """How much the estimate grew from the first half of the draws to the second, relative to the whole estimate.

    Near 0 for chains that have settled; NaN where the estimate is 0.
    """
    half = losses.shape[1] // 2
    grown = losses[:, -half:].mean() - losses[:, :half].mean()
    risen = losses.mean() - initial
    return (grown / risen.abs()).item() if risen != 0 else math.nan


def no_listed_rows(task: Task, model: ModelConfig) -> str | None:
    """Why there is no number n of training rows."""
    if isinstance(task, SampledTask):
        return f"the training questions of the {task.kind} task are drawn anew at every step: they have no number"
    return None if len(task.split("train")) > 2 else "it needs three training questions or more"


def sampled(subject: Subject, settings: Langevin) -> tuple[Float[Tensor, "chain draw"], float, int]:
    """Losses that chains from the model's trained parameters meet, L₀ over all training rows, and n.

    L is a row's cross-entropy, summed over its answer tokens, in nats: for answers of one token the training loss.
    """
    model, task = subject.model, subject.task
    rows = task.examples(task.split("train")).to(device(subject))
    n, start = len(rows), {name: p.detach() for name, p in model.trained_parameters().items()}
    batch = n if settings.batch_size is None else min(settings.batch_size, n)

    def losses_of(stacked: Stacked, batch_rows: list[Examples]) -> Float[Tensor, " chain"]:
        tokens = torch.stack([each.tokens for each in batch_rows])
        logits = ensemble.logits(model.config, stacked, tokens, task.answer_positions)
        total = scoring.total_cross_entropy(
            logits,
            torch.stack([each.targets for each in batch_rows]),
            torch.stack([each.mask for each in batch_rows]),
        )
        return total / len(batch_rows[0])

    def losses(stacked: Stacked, step: int) -> Float[Tensor, " chain"]:
        if batch == n:
            return losses_of(stacked, [rows] * settings.chains)
        # Each chain takes a batch of its own: were they shared, chains would agree without having settled.
        drawn = (
            shuffled_rows(n, batch, settings.seed, step * settings.chains + chain)
            for chain in range(settings.chains)
        )
        return losses_of(
            stacked, [rows.rows(torch.from_numpy(each).to(rows.tokens.device)) for each in drawn]
        )

    with torch.no_grad():
        initial = losses_of({name: p[None] for name, p in start.items()}, [rows]).item()
    return langevin_losses(losses, start, n, settings), initial, n


def default_chains(subject: Subject) -> tuple[Float[Tensor, "chain draw"], float, int]:
    """The chains of the default settings."""
    return sampled(subject, Langevin())


def learning_coefficient(subject: Subject) -> xr.DataArray:
    """How many weights' worth of precision the model's place in weight space takes up: λ, the mean over the chains.

    λ = nβ (E[L] − L₀), β = 1/ln n: L is the loss on the n training rows (nats per row), L₀ that of the model, over
    all rows, and E[L] the mean along chains of Langevin dynamics that start at the model and are held near it. A
    quadratic basin in d dimensions has d/2, a flatter one less. It rests on the step size, the pull and the length of
    the chains: compare models by it, measured alike, and read `learning_coefficient_health` beside it. Negative where
    chains fall into a better place: the model is at no minimum, and the number is no learning coefficient.
    """
    losses, initial, n = subject.get(default_chains)
    return xr.DataArray(coefficients(losses, initial, n).mean().item())


def learning_coefficient_chains(subject: Subject) -> xr.DataArray:
    """The learning coefficient of every chain by itself; see learning_coefficient."""
    found = coefficients(*subject.get(default_chains)).cpu().numpy()
    return xr.DataArray(found, coords={"chain": np.arange(len(found))})


def learning_coefficient_health(subject: Subject) -> xr.DataArray:
    """Whether the chains of learning_coefficient can be trusted.

    - "split_r_hat": near 1 where halves of chains agree; above 1.1 they have not settled.
    - "drift": growth of the estimate from the first half of the draws to the second, over the estimate; near 0.
    - "negative": 1 if λ < 0: the model is at no minimum of its training loss, or the step is too large.
    - "diverged": 1 if a chain's loss is not finite.
    """
    losses, initial, n = subject.get(default_chains)
    found = {
        "split_r_hat": split_r_hat(losses),
        "drift": drift(losses, initial),
        "negative": float(coefficients(losses, initial, n).mean() < 0),
        "diverged": float(not losses.isfinite().all()),
    }
    return xr.DataArray(list(found.values()), coords={"health": list(found)})


def learning_coefficient_trace(subject: Subject) -> xr.DataArray:
    """nβ (L − L₀) at every draw of every chain: what learning_coefficient is the mean of; on batches where it was."""
    losses, initial, n = subject.get(default_chains)
    trace = (n / math.log(n) * (losses - initial)).cpu().numpy()
    return xr.DataArray(trace, coords={"chain": np.arange(trace.shape[0]), "draw": np.arange(trace.shape[1])})


_PAPER = "Lau et al. 2023"
LEARNING_COEFFICIENT_MEASURES = tuple(
    Measure(
        take,
        dims=dims,
        units="1",
        source=_PAPER,
        why_not=no_listed_rows,
        rests_on=frozenset({"split"}),
        cost="dear",
    )
    for take, dims in (
        (learning_coefficient, ()),
        (learning_coefficient_chains, ("chain",)),
        (learning_coefficient_health, ("health",)),
        (learning_coefficient_trace, ("chain", "draw")),
    )
)
