"""Optimizers acting in place on parameters stacked over seeds; knows no model, loop or schedule."""
# pyright: reportPrivateImportUsage=false

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
from einops import rearrange
from jaxtyping import Float
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from interp_arith.errors import RequestError
from interp_arith.registry import Choice, Registry

Stacked = Mapping[str, Float[Tensor, "seed ..."]]
Share = Annotated[float, Field(ge=0, lt=1)]


class Optimizer(Choice, ABC):
    """A rule that turns gradients into new parameters, each seed by itself; all use AdamW somewhere.

    The state is a flat dict ("exp_avg/blocks.0.mlp.W_in") whose tensors all keep the leading `seed` axis, so that
    one seed's state is a slice of it. Gradients are only read.
    """

    learning_rate: PositiveFloat = 1e-3
    betas: tuple[Share, Share] = (0.9, 0.98)
    epsilon: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 1.0

    @abstractmethod
    def initial_state(self, parameters: Stacked) -> dict[str, Tensor]:
        """The state before the first update: zeros."""

    @abstractmethod
    def update(
        self, parameters: Stacked, gradients: Stacked, state: Stacked, *, step: int, multiplier: float
    ) -> None:
        """Update `step` (from 1), in place; `multiplier` in [0, 1] scales the learning rates."""


class AdamW(Optimizer):
    """Adam with decoupled weight decay, equal to `torch.optim.AdamW` on each seed (see `adamw_update`)."""

    kind: Literal["adamw"] = "adamw"

    def initial_state(self, parameters: Stacked) -> dict[str, Tensor]:
        return zeros(parameters, "exp_avg", "exp_avg_sq")

    def update(
        self, parameters: Stacked, gradients: Stacked, state: Stacked, *, step: int, multiplier: float
    ) -> None:
        adamw_update(self, parameters, gradients, state, step, self.learning_rate * multiplier)


class Muon(Optimizer):
    """Momentum orthogonalized by Newton–Schulz for the blocks' matrices, AdamW for everything else.

    A matrix is a parameter `blocks.*` whose last name starts with `W_`; its last two axes are the matrix and
    those before (seed, head) a batch. Each is updated as `torch.optim.Muon` updates that 2-D matrix alone:

        B ← μB + (1−μ)g;   O = NS((1−μ)g + μB) if nesterov else NS(B)
        θ ← (1 − ηλ)θ − η √max(1, rows/columns) O

    Rows and columns are those of the matrix as stored. Embeddings, unembedding, biases and norms get AdamW at
    `adamw_learning_rate`, with the same λ. Source: Jordan et al. 2024, "Muon".
    """

    kind: Literal["muon"] = "muon"
    learning_rate: PositiveFloat = 0.02
    momentum: Share = 0.95
    nesterov: bool = True
    newton_schulz_steps: PositiveInt = 5
    weight_decay: NonNegativeFloat = 0.1
    adamw_learning_rate: PositiveFloat = 1e-3

    def initial_state(self, parameters: Stacked) -> dict[str, Tensor]:
        matrices, rest = split_matrices(parameters)
        return zeros(matrices, "momentum") | zeros(rest, "exp_avg", "exp_avg_sq")

    @torch.no_grad()
    def update(
        self, parameters: Stacked, gradients: Stacked, state: Stacked, *, step: int, multiplier: float
    ) -> None:
        matrices, rest = split_matrices(parameters)
        adamw_update(self, rest, gradients, state, step, self.adamw_learning_rate * multiplier)
        if not matrices:
            return
        slopes = [gradients[name] for name in matrices]
        momenta = [state[f"momentum/{name}"] for name in matrices]
        torch._foreach_lerp_(momenta, slopes, 1 - self.momentum)
        directions = torch._foreach_lerp(slopes, momenta, self.momentum) if self.nesterov else momenta
        steepest = orthogonalize_together(directions, self.newton_schulz_steps)
        rate = self.learning_rate * multiplier
        torch._foreach_mul_(list(matrices.values()), 1 - rate * self.weight_decay)
        for weight, direction in zip(matrices.values(), steepest, strict=True):
            weight.add_(direction, alpha=-rate * math.sqrt(max(1, weight.shape[-2] / weight.shape[-1])))


class Grokfast(Optimizer):
    """AdamW on gradients whose slow component is amplified (Grokfast-EMA).

        m ← αm + (1−α)g, and m = g at step 1;   g' = g + λm;   AdamW(g')

    α is `alpha`, λ is `amplification`. Source: Lee et al. 2024, "Grokfast: accelerated grokking by amplifying
    slow gradients"; m starts as the first gradient, not as 0, in their released code.
    """

    kind: Literal["grokfast"] = "grokfast"
    alpha: Share = 0.98
    amplification: NonNegativeFloat = 2.0

    def initial_state(self, parameters: Stacked) -> dict[str, Tensor]:
        return zeros(parameters, "gradient_average", "exp_avg", "exp_avg_sq")

    @torch.no_grad()
    def update(
        self, parameters: Stacked, gradients: Stacked, state: Stacked, *, step: int, multiplier: float
    ) -> None:
        slopes = [gradients[name] for name in parameters]
        averages = [state[f"gradient_average/{name}"] for name in parameters]
        torch._foreach_lerp_(averages, slopes, 1 - self.alpha if step > 1 else 1.0)
        amplified = torch._foreach_add(slopes, averages, alpha=self.amplification)
        filtered = dict(zip(parameters, amplified, strict=True))
        adamw_update(self, parameters, filtered, state, step, self.learning_rate * multiplier)


class OrthoGrad(Optimizer):
    """AdamW on gradients from which the direction of the weights is removed (see `orthogonal_gradient`).

    Source: Prieto et al. 2025, "Grokking at the edge of numerical stability" (⊥Grad).
    """

    kind: Literal["orthograd"] = "orthograd"

    def initial_state(self, parameters: Stacked) -> dict[str, Tensor]:
        return zeros(parameters, "exp_avg", "exp_avg_sq")

    @torch.no_grad()
    def update(
        self, parameters: Stacked, gradients: Stacked, state: Stacked, *, step: int, multiplier: float
    ) -> None:
        projected = {name: orthogonal_gradient(p, gradients[name]) for name, p in parameters.items()}
        adamw_update(self, parameters, projected, state, step, self.learning_rate * multiplier)


OPTIMIZERS: Registry[Optimizer] = Registry("optimizer", AdamW, Muon, Grokfast, OrthoGrad)


def zeros(parameters: Stacked, *quantities: str) -> dict[str, Tensor]:
    """Zeros like each parameter for each quantity, named "quantity/parameter"."""
    return {f"{q}/{name}": torch.zeros_like(p.detach()) for q in quantities for name, p in parameters.items()}


def split_matrices(parameters: Stacked) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The blocks' weight matrices (`blocks.*.W_*`), and everything else."""
    matrices = {name: p for name, p in parameters.items() if re.fullmatch(r"blocks\..*\.W_[^.]*", name)}
    return matrices, {name: p for name, p in parameters.items() if name not in matrices}


@torch.no_grad()
def adamw_update(
    choice: Optimizer, parameters: Stacked, gradients: Stacked, state: Stacked, step: int, rate: float
) -> None:
    """One AdamW update in place at rate η, in one `_foreach` call per operation for all tensors together.

        θ ← (1 − ηλ)θ;   m ← β₁m + (1−β₁)g;   v ← β₂v + (1−β₂)g²
        θ ← θ − η/(1−β₁ᵗ) · m / (√v/√(1−β₂ᵗ) + ε)

    β, ε and λ (weight decay) are the choice's. Source: Loshchilov and Hutter 2019, Algorithm 2.
    """
    if not parameters:
        return
    (beta1, beta2), weights = choice.betas, list(parameters.values())
    slopes = [gradients[name] for name in parameters]
    first, second = ([state[f"{q}/{name}"] for name in parameters] for q in ("exp_avg", "exp_avg_sq"))
    torch._foreach_mul_(weights, 1 - rate * choice.weight_decay)
    torch._foreach_lerp_(first, slopes, 1 - beta1)
    torch._foreach_mul_(second, beta2)
    torch._foreach_addcmul_(second, slopes, slopes, 1 - beta2)
    scale = torch._foreach_sqrt(second)
    torch._foreach_div_(scale, math.sqrt(1 - beta2**step))
    torch._foreach_add_(scale, choice.epsilon)
    torch._foreach_addcdiv_(weights, first, scale, -rate / (1 - beta1**step))


def orthogonalize(matrices: Float[Tensor, "batch row col"], steps: int) -> Float[Tensor, "batch row col"]:
    """Each matrix USVᵀ with its singular values moved near 1 (about 0.7 to 1.2), in bfloat16; best if wide.

    `steps` of X ← aX + (bA + cA²)X, A = XXᵀ, from X = G/‖G‖_F. Source: Jordan et al. 2024.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.bfloat16()
    x = x / torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def orthogonalize_together(stacks: Sequence[Tensor], steps: int) -> list[Tensor]:
    """`orthogonalize` each tensor's last two axes; matrices of one size, either way up, share a batch."""
    wide = [stack.mT if stack.shape[-2] > stack.shape[-1] else stack for stack in stacks]
    results = list(wide)
    for size in {stack.shape[-2:] for stack in wide}:
        members = [index for index, stack in enumerate(wide) if stack.shape[-2:] == size]
        batches = [rearrange(wide[index], "... row col -> (...) row col") for index in members]
        parts = orthogonalize(torch.cat(batches), steps).split([len(batch) for batch in batches])
        for index, part in zip(members, parts, strict=True):
            results[index] = part.reshape(wide[index].shape)
    return [x.mT if x.shape != stack.shape else x for x, stack in zip(results, stacks, strict=True)]


def orthogonal_gradient(weight: Float[Tensor, "seed ..."], gradient: Float[Tensor, "seed ..."]) -> Tensor:
    """The gradient's part orthogonal to the weights, at the gradient's norm; per seed, over the whole tensor.

        g⊥ = g − (w·g)/(w·w + 1e-30) w;   g⊥ ‖g‖/(‖g⊥‖ + 1e-30)

    Of a gradient parallel to its weights only rounding error is left, and it is scaled up likewise, as in the
    authors' released code. Source: Prieto et al. 2025.
    """
    w, g = (rearrange(tensor, "seed ... -> seed (...)") for tensor in (weight, gradient))
    share = torch.linalg.vecdot(w, g) / (torch.linalg.vecdot(w, w) + 1e-30)
    orthogonal = g - rearrange(share, "seed -> seed 1") * w
    norm, left = (torch.linalg.vector_norm(x, dim=1, keepdim=True) for x in (g, orthogonal))
    return (orthogonal * (norm / (left + 1e-30))).reshape(gradient.shape)


def global_norm(tensors: Stacked) -> Float[Tensor, " seed"]:
    """Each seed's Euclidean norm over all its tensors together."""
    flat = [rearrange(tensor, "seed ... -> seed (...)") for tensor in tensors.values()]
    return torch.linalg.vector_norm(torch.cat(flat, dim=1), dim=1)


@torch.no_grad()
def clip_by_norm(gradients: Stacked, max_norm: float) -> Float[Tensor, " seed"]:
    """Scale each seed's gradients in place by min(1, max_norm/(norm + 1e-6)); the norms before clipping.

    Raises:
        RequestError: `max_norm` is not positive.
    """
    if not max_norm > 0:
        raise RequestError(f"max_norm is {max_norm}; it must be positive, or do not clip")
    norms, values = global_norm(gradients), list(gradients.values())
    scale = (max_norm / (norms + 1e-6)).clamp(max=1)
    torch._foreach_mul_(values, [scale.reshape(-1, *[1] * (value.ndim - 1)) for value in values])
    return norms
