"""Attention whose pattern is part softmax and part constant (Zhong et al. 2023); knows no model around it."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformer_lens.components import Attention
from transformer_lens.hook_points import HookPoint


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


class MixedPattern(HookPoint):
    """A `hook_pattern` that softmax enters and that the pattern in use leaves; hooks see the latter.

    Which positions are attended to is left here by the attention, each time before the softmax comes: in a softmax
    alone, a position that is masked looks like one whose score is very low.
    """

    def __init__(self, coefficient: float) -> None:
        super().__init__()
        self.coefficient = coefficient
        self.attended: Tensor | None = None

    def forward(self, x: Float[Tensor, "batch head query key"]) -> Float[Tensor, "batch head query key"]:
        attended, self.attended = self.attended, None
        return mixed_pattern(x, self.coefficient, attended)


class MixedAttention(Attention):
    """TransformerLens' attention with a pattern of α·softmax + (1 − α).

    The constant goes to every position that the causal mask and the attention mask leave, whatever a hook on the
    scores makes of them.

    Args:
        cfg: of the model.
        layer: the block's number.
        coefficient: α.
    """

    def __init__(self, cfg: Any, layer: int, coefficient: float) -> None:
        super().__init__(cfg, layer_id=layer)
        self.hook_pattern = MixedPattern(coefficient)

    def apply_causal_mask(
        self, attn_scores: Tensor, past_kv_pos_offset: int = 0, attention_mask: Tensor | None = None
    ) -> Tensor:
        masked = super().apply_causal_mask(attn_scores, past_kv_pos_offset, attention_mask)
        self.hook_pattern.attended = masked.detach() != -torch.inf
        return masked
