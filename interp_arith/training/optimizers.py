"""Optimizers acting in place on parameters stacked over seeds; knows no model, loop or schedule."""
# pyright: reportPrivateImportUsage=false

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal, final

import torch
from einops import rearrange
from jaxtyping import Float
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from interp_arith.errors import RequestError
from interp_arith.registry import Choice, Registry

Stacked = Mapping[str, Float[Tensor, "seed ..."]]
Share = Annotated[float, Field(ge=0, lt=1)]
Number = float | Tensor
"""A step or a multiplier; a tensor where the update is recorded once and replayed (on a GPU)."""


class Optimizer(Choice, ABC):
    """A rule that turns gradients into new parameters, each seed by itself; all use AdamW somewhere.

    The state is a flat dict ("exp_avg/blocks.0.mlp.W_in") whose tensors all keep the leading `seed` axis, so that
    one seed's state is a slice of it. Each seed's rates (the fields in `RATES`) are part of it, in float64, so that
    variants train side by side and a recorded step reads them where they are. Gradients are only read.
    """

    RATES: ClassVar[tuple[str, ...]] = ("learning_rate", "weight_decay")

    learning_rate: PositiveFloat = 1e-3
    betas: tuple[Share, Share] = (0.9, 0.98)
    epsilon: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 1.0

    @final
    def initial_state(self, parameters: Stacked) -> dict[str, Tensor]:
        """The state before the first update: the rates, and zeros."""
        some = next(iter(parameters.values()))
        rates = {
            name: some.new_full((len(some),), rate, dtype=torch.float64)
            for name, rate in self.rates().items()
        }
        return rates | self.moments(parameters)

    @final
    def completed(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One seed's saved state, with the rates that there were not yet when it was saved."""
        rates = {name: torch.tensor(rate, dtype=torch.float64) for name, rate in self.rates().items()}
        return rates | dict(state)

    def rates(self) -> dict[str, float]:
        """The values of the fields in `RATES`."""
        return {name: getattr(self, name) for name in self.RATES}

    @abstractmethod
    def moments(self, parameters: Stacked) -> dict[str, Tensor]:
        """What is averaged over the updates: zeros."""

    @abstractmethod
    def update(
        self, parameters: Stacked, gradients: Stacked, state: Stacked, *, step: Number, multiplier: Number
    ) -> None:
        """Update `step` (from 1), in place; `multiplier` in [0, 1] scales the learning rates."""


class AdamW(Optimizer):
    """Adam with decoupled weight decay, equal to `torch.optim.AdamW` on each seed (see `adamw_update`)."""

    kind: Literal["adamw"] = "adamw"

    def moments(self, parameters: Stacked) -> dict[str, Tensor]:
        return zeros(parameters, "exp_avg", "exp_avg_sq")

    def update(
        self, parameters: Stacked, gradients: Stacked, state: Stacked, *, step: Number, multiplier: Number
    ) -> None:
        rate, decay = state["learning_rate"] * multiplier, state["weight_decay"]
        adamw_update(self, parameters, gradients, state, step, rate, decay)


class Muon(Optimizer):
    """Momentum orthogonalized by Newton–Schulz for matrices of the blocks, AdamW for everything else.

    A matrix is a parameter `blocks.*` whose last name starts with `W_`: all of them, or only those of the attention
    (queries, keys, values and outputs) or of the MLPs (hidden layers too), as `matrices` says. Its last two axes are
    the matrix and those before (seed, head) a batch. Each is updated as `torch.optim.Muon` updates that 2-D
    matrix alone:

        B ← μB + (1−μ)g;   O = NS((1−μ)g + μB) if nesterov else NS(B)
        θ ← (1 − ηλ)θ − η √max(1, rows/columns) O

    Rows and columns are those of the matrix as stored. Embeddings, unembedding, biases, norms and what else is left
    get AdamW at `adamw_learning_rate` and `adamw_weight_decay`, which is λ where it is not given.
    Source: Jordan et al. 2024, "Muon".
    """

    kind: Literal["muon"] = "muon"
    learning_rate: PositiveFloat = 0.02
    momentum: Share = 0.95
    nesterov: bool = True
    newton_schulz_steps: PositiveInt = 5
    weight_decay: NonNegativeFloat = 0.1
    adamw_learning_rate: PositiveFloat = 1e-3
    adamw_weight_decay: NonNegativeFloat | None = None
    matrices: Literal["all", "attention", "mlp"] = "all"

    RATES: ClassVar[tuple[str, ...]] = (
        "learning_rate",
        "weight_decay",
        "adamw_learning_rate",
        "adamw_weight_decay",
    )

    def rates(self) -> dict[str, float]:
        """The values of the fields in `RATES`."""
        own = super().rates()
        return own if self.adamw_weight_decay is not None else own | {"adamw_weight_decay": self.weight_decay}

    def moments(self, parameters: Stacked) -> dict[str, Tensor]:
        matrices, rest = split_matrices(parameters, self.matrices)
        return zeros(matrices, "momentum") | zeros(rest, "exp_avg", "exp_avg_sq")

    @torch.no_grad()
    def update(
        self, parameters: Stacked, gradients: Stacked, state: Stacked, *, step: Number, multiplier: Number
    ) -> None:
        matrices, rest = split_matrices(parameters, self.matrices)
        rate, decay = state["adamw_learning_rate"] * multiplier, state["adamw_weight_decay"]
        adamw_update(self, rest, gradients, state, step, rate, decay)
        if not matrices:
            return
        slopes = [gradients[name] for name in matrices]
        momenta = [state[f"momentum/{name}"] for name in matrices]
        torch._foreach_lerp_(momenta, slopes, 1 - self.momentum)
        directions = torch._foreach_lerp(slopes, momenta, self.momentum) if self.nesterov else momenta
        steepest = orthogonalize_together(directions, self.newton_schulz_steps)
        rate = state["learning_rate"] * multiplier
        weights = list(matrices.values())
        scale_seeds(weights, 1 - rate * state["weight_decay"])
        for weight, direction in zip(weights, steepest, strict=True):
            wide = math.sqrt(max(1, weight.shape[-2] / weight.shape[-1]))
            weight.sub_(direction * seed_factors(rate * wide, weight))


class Grokfast(Optimizer):
    """AdamW on gradients whose slow component is amplified (Grokfast-EMA).

        m ← αm + (1−α)g, and m = g at step 1;   g' = g + λm;   AdamW(g')

    α is `alpha`, λ is `amplification`. Source: Lee et al. 2024, "Grokfast: accelerated grokking by amplifying
    slow gradients"; m starts as the first gradient, not as 0, in their released code.
    """

    kind: Literal["grokfast"] = "grokfast"
    alpha: Share = 0.98
    amplification: NonNegativeFloat = 2.0

    def moments(self, parameters: Stacked) -> dict[str, Tensor]:
        return zeros(parameters, "gradient_average", "exp_avg", "exp_avg_sq")

    @torch.no_grad()
    def update(
        self, parameters: Stacked, gradients: Stacked, state: Stacked, *, step: Number, multiplier: Number
    ) -> None:
        slopes = [gradients[name] for name in parameters]
        averages = [state[f"gradient_average/{name}"] for name in parameters]
        is_first = not isinstance(step, Tensor) and step == 1  # a recorded update is never the first
        torch._foreach_lerp_(averages, slopes, 1.0 if is_first else 1 - self.alpha)
        amplified = torch._foreach_add(slopes, averages, alpha=self.amplification)
        filtered = dict(zip(parameters, amplified, strict=True))
        rate, decay = state["learning_rate"] * multiplier, state["weight_decay"]
        adamw_update(self, parameters, filtered, state, step, rate, decay)


class OrthoGrad(Optimizer):
    """AdamW on gradients from which the direction of the weights is removed (see `orthogonal_gradient`).

    Source: Prieto et al. 2025, "Grokking at the edge of numerical stability" (⊥Grad).
    """

    kind: Literal["orthograd"] = "orthograd"

    def moments(self, parameters: Stacked) -> dict[str, Tensor]:
        return zeros(parameters, "exp_avg", "exp_avg_sq")

    @torch.no_grad()
    def update(
        self, parameters: Stacked, gradients: Stacked, state: Stacked, *, step: Number, multiplier: Number
    ) -> None:
        projected = {name: orthogonal_gradient(p, gradients[name]) for name, p in parameters.items()}
        rate, decay = state["learning_rate"] * multiplier, state["weight_decay"]
        adamw_update(self, parameters, projected, state, step, rate, decay)


OPTIMIZERS: Registry[Optimizer] = Registry("optimizer", AdamW, Muon, Grokfast, OrthoGrad)


def zeros(parameters: Stacked, *quantities: str) -> dict[str, Tensor]:
    """Zeros like each parameter for each quantity, named "quantity/parameter"."""
    return {f"{q}/{name}": torch.zeros_like(p.detach()) for q in quantities for name, p in parameters.items()}


_MATRICES = {
    "all": r"blocks\..*\.W_[^.]*",
    "attention": r"blocks\.\d+\.attn\..*W_[^.]*",
    "mlp": r"blocks\.\d+\.mlp\..*W_[^.]*",
}


def split_matrices(parameters: Stacked, which: str = "all") -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The blocks' weight matrices (`blocks.*.W_*`), or those of their attention or MLPs; and everything else."""
    matrices = {name: p for name, p in parameters.items() if re.fullmatch(_MATRICES[which], name)}
    return matrices, {name: p for name, p in parameters.items() if name not in matrices}


@torch.no_grad()
def adamw_update(
    choice: Optimizer,
    parameters: Stacked,
    gradients: Stacked,
    state: Stacked,
    step: Number,
    rate: Float[Tensor, " seed"],
    decay: Float[Tensor, " seed"],
) -> None:
    """One AdamW update in place at rate η and weight decay λ.

        θ ← (1 − ηλ)θ;   m ← β₁m + (1−β₁)g;   v ← β₂v + (1−β₂)g²
        θ ← θ − η/(1−β₁ᵗ) · m / (√v/√(1−β₂ᵗ) + ε)

    β and ε are the choice's; each seed has its own η and λ. On a CPU one pass over each tensor does
    all of it, seed by seed. Where it is recorded or compiled, and of tensors that do not lie in the order of their
    axes, one `_foreach` call per operation takes all tensors and seeds together. Source: Loshchilov and Hutter 2019,
    Algorithm 2.
    """
    if not parameters:
        return
    (beta1, beta2), weights = choice.betas, list(parameters.values())
    slopes = [gradients[name] for name in parameters]
    first, second = ([state[f"{q}/{name}"] for name in parameters] for q in ("exp_avg", "exp_avg_sq"))
    in_order = all(tensor.is_contiguous() for tensor in (*weights, *first, *second))
    if in_order and weights[0].device.type == "cpu" and not isinstance(step, Tensor):
        steps, slopes = [torch.tensor(float(step))] * len(weights), [slope.contiguous() for slope in slopes]
        for seed, (eta, shrink) in enumerate(zip(rate.tolist(), decay.tolist(), strict=True)):
            torch._fused_adamw_(
                [weight[seed] for weight in weights],
                [slope[seed] for slope in slopes],
                [average[seed] for average in first],
                [average[seed] for average in second],
                [],
                steps,
                lr=eta,
                beta1=beta1,
                beta2=beta2,
                weight_decay=shrink,
                eps=choice.epsilon,
                amsgrad=False,
                maximize=False,
            )
        return
    scale_seeds(weights, 1 - rate * decay)
    torch._foreach_lerp_(first, slopes, 1 - beta1)
    torch._foreach_mul_(second, beta2)
    torch._foreach_addcmul_(second, slopes, slopes, 1 - beta2)
    scale = torch._foreach_sqrt(second)
    torch._foreach_div_(scale, (1 - beta2**step) ** 0.5)
    torch._foreach_add_(scale, choice.epsilon)
    moves = list(torch._foreach_div(first, scale))
    scale_seeds(moves, rate / (1 - beta1**step))
    torch._foreach_sub_(weights, moves)


def seed_factors(
    factors: Float[Tensor, " seed"], like: Float[Tensor, "seed ..."]
) -> Float[Tensor, "seed ..."]:
    """A factor for each seed, shaped and typed to multiply a stacked tensor."""
    return factors.to(like.dtype).view(-1, *[1] * (like.ndim - 1))


def scale_seeds(tensors: list[Tensor], factors: Float[Tensor, " seed"]) -> None:
    """Multiply every stacked tensor in place, each seed by its own factor."""
    shapes = {(tensor.ndim, tensor.dtype): tensor for tensor in tensors}
    shaped = {shape: seed_factors(factors, tensor) for shape, tensor in shapes.items()}
    torch._foreach_mul_(tensors, [shaped[tensor.ndim, tensor.dtype] for tensor in tensors])


def product_dtype(device: torch.device) -> torch.dtype:
    """In which `orthogonalize` multiplies: bfloat16 on a GPU, as its author does; float32 on a CPU: quicker."""
    return torch.float32 if device.type == "cpu" else torch.bfloat16


def orthogonalize(matrices: Float[Tensor, "batch row col"], steps: int) -> Float[Tensor, "batch row col"]:
    """Each matrix USVᵀ with its singular values moved near 1 (about 0.7 to 1.2); best if wide.

    `steps` of X ← aX + (bA + cA²)X, A = XXᵀ, from X = G/‖G‖_F. In `product_dtype`. Source: Jordan et al. 2024.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.to(product_dtype(matrices.device))
    x = x / torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def orthogonalize_together(stacks: Sequence[Tensor], steps: int) -> list[Tensor]:
    """`orthogonalize` each tensor's last two axes; matrices of one size, either way up, share a batch.

    On a CPU only those of one seed do: how products round can depend on the size of the batch.
    """
    if stacks[0].device.type == "cpu" and len(stacks[0]) > 1:
        alone = (
            orthogonalize_together([stack[i : i + 1] for stack in stacks], steps)
            for i in range(len(stacks[0]))
        )
        return [torch.cat(parts) for parts in zip(*alone, strict=True)]
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
    """Each seed's Euclidean norm over all its tensors together.

    On a CPU that of their norms, where nothing is copied but what does not lie in the order of its axes: in another
    order a seed alone would have another last bit than among others.
    """
    parts = list(tensors.values())
    if parts[0].device.type == "cpu":
        seeds = ([part[seed].contiguous() for part in parts] for seed in range(len(parts[0])))
        norms = torch.stack([torch.stack(torch._foreach_norm(own)) for own in seeds])
        return torch.linalg.vector_norm(norms, dim=1)
    flat = [rearrange(tensor, "seed ... -> seed (...)") for tensor in parts]
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
    scale_seeds(values, scale)
    return norms
