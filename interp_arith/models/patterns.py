"""How scores and patterns differ from plain softmax attention; both forward passes use them."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def mixed_pattern(
    softmax: Float[Tensor, "*axes"], coefficient: float, attended: Bool[Tensor, "..."] | None = None
) -> Float[Tensor, "*axes"]:
    """α·softmax + (1 − α) where a position is attended to, 0 elsewhere.

    With α = 1 it is the softmax; with less, a row sums to α + (1 − α) × the positions that it attends to.

    Args:
        softmax: the pattern before.
        coefficient: α.
        attended: what the causal mask and padding leave, in a shape that broadcasts; everything if None.

    Source: Zhong et al. 2023, "The clock and the pizza", where α is the attention coefficient.
    """
    if coefficient == 1:
        return softmax
    constant = 1 - coefficient
    return coefficient * softmax + (constant if attended is None else constant * attended.to(softmax.dtype))


def score_scale(scale: float, grows_from: int | None, seen: Int[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """What multiplies the scores of a query that sees n keys: scale · max(1, ln n / ln n₀).

    Unless scores grow with ln n, softmax attention spreads out over longer and longer inputs.

    Args:
        scale: up to n₀ keys.
        grows_from: n₀; None is no growth.
        seen: n.

    Source: Chiang and Cholak 2022, "Overcoming a theoretical limitation of self-attention".
    """
    if grows_from is None:
        return torch.full_like(seen, scale, dtype=torch.float32)
    return scale * (seen.log() / math.log(grows_from)).clamp(min=1)
