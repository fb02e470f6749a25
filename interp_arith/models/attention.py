"""Attention with scaled scores, or a pattern that is part softmax and part constant; knows no model around it."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformer_lens.components import Attention
from transformer_lens.hook_points import HookPoint

from interp_arith.models.patterns import mixed_pattern, score_scale


class ScaledAttention(Attention):
    """TransformerLens' attention with scores multiplied by `score_scale`; hooks see them so.

    A query sees the keys that the causal mask and the attention mask leave.

    Args:
        cfg: of the model.
        layer: the block's number.
        scale: up to n₀ keys.
        grows_from: n₀; None is no growth.
    """

    def __init__(self, cfg: Any, layer: int, scale: float = 1.0, grows_from: int | None = None) -> None:
        super().__init__(cfg, layer_id=layer)
        self._scale, self._grows_from = scale, grows_from

    def apply_causal_mask(
        self, attn_scores: Tensor, past_kv_pos_offset: int = 0, attention_mask: Tensor | None = None
    ) -> Tensor:
        masked = super().apply_causal_mask(attn_scores, past_kv_pos_offset, attention_mask)
        if self._scale == 1 and self._grows_from is None:
            return masked
        seen = _attended(masked).sum(dim=-1, keepdim=True)
        return masked * score_scale(self._scale, self._grows_from, seen).to(masked.dtype)


def _attended(masked: Float[Tensor, "batch head query key"]) -> Bool[Tensor, "batch head query key"]:
    """Which keys a query sees."""
    return masked.detach() != -torch.inf


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


class MixedAttention(ScaledAttention):
    """Attention with a pattern of α·softmax + (1 − α).

    The constant goes to every position that the causal mask and the attention mask leave, whatever a hook on the
    scores makes of them.

    Args:
        cfg: of the model.
        layer: the block's number.
        coefficient: α.
        scale: of the scores; see ScaledAttention.
        grows_from: likewise.
    """

    def __init__(
        self, cfg: Any, layer: int, coefficient: float, scale: float = 1.0, grows_from: int | None = None
    ) -> None:
        super().__init__(cfg, layer, scale, grows_from)
        self.hook_pattern = MixedPattern(coefficient)

    def apply_causal_mask(
        self, attn_scores: Tensor, past_kv_pos_offset: int = 0, attention_mask: Tensor | None = None
    ) -> Tensor:
        masked = super().apply_causal_mask(attn_scores, past_kv_pos_offset, attention_mask)
        self.hook_pattern.attended = _attended(masked)
        return masked
