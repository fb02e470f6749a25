"""Position schemes: how a model knows where a token stands. Both forward passes use them."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from einops import rearrange
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from interp_arith.models.digit_positions import Abacus, Coupled, SegmentDigit
from interp_arith.models.position_scheme import Find, HookMaker, Ids, PositionScheme, by_index
from interp_arith.registry import Registry
from interp_arith.tasks.base import Task


class Learned(PositionScheme):
    """A trained vector for every position."""

    kind: Literal["learned"] = "learned"
    period: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """The vectors start on a circle, once round in so many positions; with the distance between two operands as the
    period, digits of one column start at one place. None: they start as normal draws alone."""
    ends_with_context: ClassVar[bool] = True

    def start(self, parameters: Mapping[str, Tensor]) -> None:
        """Add a circle of radius 2 to the first two coordinates of the drawn vectors."""
        if self.period is None:
            return
        table = parameters["pos_embed.W_pos"]
        angle = 2 * torch.pi / self.period * torch.arange(len(table), device=table.device)
        circle = 2 * torch.stack([angle.cos(), angle.sin()], dim=1)[:, : table.shape[1]]
        table[:, :2] += circle.to(table.dtype)

    def hooked_arguments(self, d_head: int) -> dict[str, Any]:
        """The standard table."""
        return {"positional_embedding_type": "standard"}

    def embed(
        self,
        parameters: Mapping[str, Tensor],
        tokens: Int[Tensor, "batch pos"],
        ids: Ids | None = None,
        find: Find = by_index,
    ) -> Tensor | float:
        """The first rows of the table."""
        return parameters["pos_embed.W_pos"][: tokens.shape[-1]]


class Rotary(PositionScheme):
    """Queries and keys rotated by their position, adjacent coordinates in pairs (Su et al. 2021)."""

    kind: Literal["rotary"] = "rotary"
    base: int = Field(default=10_000, ge=2)
    """Wavelengths grow from the period to period·base; tiny models on short sequences do well with 3."""
    period: float = Field(default=2 * math.pi, gt=0, allow_inf_nan=False)
    """Tokens in which the first pair of coordinates turns once; 2π is usual."""

    def objection(self, d_head: int) -> str | None:
        """Coordinates are rotated in pairs."""
        return (
            f"d_head = {d_head} is odd, and rotary positions turn coordinates in pairs"
            if d_head % 2
            else None
        )

    def hooked_arguments(self, d_head: int) -> dict[str, Any]:
        """Adjacent pairs: the other pairing cannot be carried over to TransformerLens 4."""
        return {
            "positional_embedding_type": "rotary",
            "rotary_dim": d_head,
            "rotary_base": self.base,
            "rotary_adjacent_pairs": True,
            "rotary_scaling_factor": self.period / (2 * math.pi),
        }

    def rotate(
        self, x: Float[Tensor, "batch query head d_head"], positions: Int[Tensor, " query"]
    ) -> Float[Tensor, "batch query head d_head"]:
        """Coordinates 2i and 2i+1 turned by 2π/period · position · base^(−2i/d_head)."""
        d_head = x.shape[-1]
        frequency = self.base ** -(torch.arange(0, d_head, 2, device=x.device, dtype=torch.float32) / d_head)
        angle = (positions[:, None] * frequency * (2 * math.pi / self.period))[:, None, :]
        even, odd = rearrange(x, "... (pair two) -> two ... pair", two=2)
        turned = torch.stack(
            [even * angle.cos() - odd * angle.sin(), even * angle.sin() + odd * angle.cos()], dim=-1
        )
        return rearrange(turned, "... pair two -> ... (pair two)").to(x.dtype)


class NoPositions(PositionScheme):
    """Nothing but the causal mask tells positions apart."""

    kind: Literal["none"] = "none"

    def hooked_arguments(self, d_head: int) -> dict[str, Any]:
        """TransformerLens has no such type: the standard one, with the table replaced by zeros."""
        return {"positional_embedding_type": "standard"}

    def module(self, learned: Any, task: Task | None, hook_point: HookMaker) -> nn.Module:
        """Zeros, so that `hook_pos_embed` stays live."""
        return _ZeroPositions(learned.cfg.d_model)


class _ZeroPositions(nn.Module):
    """A position embedding without parameters."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.d_model = d_model

    def forward(
        self,
        tokens: Int[Tensor, "batch pos"],
        past_kv_pos_offset: int = 0,
        attention_mask: Tensor | None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        return torch.zeros(*tokens.shape, self.d_model, device=tokens.device)


POSITIONS: Registry[PositionScheme] = Registry(
    "position scheme", Learned, Rotary, NoPositions, SegmentDigit, Abacus, Coupled
)
