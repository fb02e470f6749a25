"""A model whose nodes are held at their means, wholly or in part, and whether it still answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp_arith.interp.ablation import Asked
from interp_arith.interp.forward import Hook, in_eval_mode
from interp_arith.interp.interventions import Activations, Node, all_nodes

if TYPE_CHECKING:
    from interp_arith.models.transformer import ArithmeticTransformer

AT_ONCE = 1000
"""Questions in one forward pass."""


@dataclass(frozen=True)
class MeanHeld:
    """A model whose nodes are held at their means over uniform questions, wholly or in part.

    Attributes:
        model: in any mode.
        means: of every node, [block pos head d_head] and [block pos d_model].
        nodes: in the order of masks.
        positions: that are read.
    """

    model: "ArithmeticTransformer"
    means: Activations
    nodes: tuple[Node, ...]
    positions: int

    @classmethod
    def of(cls, model: "ArithmeticTransformer", asked: Asked) -> "MeanHeld":
        """The model, with means over the run that was asked with it."""
        mlps = asked.run.mlps
        means = Activations(asked.run.heads.mean(dim=1), None if mlps is None else mlps.mean(dim=1))
        return cls(model, means, tuple(all_nodes(model.config, asked.positions)), asked.positions)

    def mask(self, kept: Sequence[Node]) -> Float[Tensor, " node"]:
        """1 for those nodes, 0 for all others."""
        keeps = set(kept)
        return torch.tensor([float(node in keeps) for node in self.nodes], device=self.means.heads.device)

    def logits(
        self, tokens: Int[Tensor, "batch pos"], mask: Float[Tensor, " node"]
    ) -> Float[Tensor, "batch pos d_vocab_out"]:
        """mean + mask · (activation − mean) at every node; positions beyond the tokens are left out."""
        config, n_pos = self.model.config, tokens.shape[1]
        by_place = rearrange(
            mask, "(block part pos) -> block pos part", block=config.n_layers, pos=self.positions
        )[:, :n_pos]
        hooks: list[Hook] = []
        for block, parts in enumerate(by_place):
            heads, mlp = parts[:, : config.n_heads, None], parts[:, config.n_heads :]
            hooks.append((f"blocks.{block}.attn.hook_z", _pull(self.means.heads[block, :n_pos], heads)))
            if self.means.mlps is not None:
                hooks.append((f"blocks.{block}.hook_mlp_out", _pull(self.means.mlps[block, :n_pos], mlp)))
        with in_eval_mode(self.model), self.model.hooks(fwd_hooks=hooks):  # pyright: ignore[reportArgumentType]
            return self.model(tokens)


def _pull(mean: Tensor, mask: Tensor) -> Callable[[Tensor, Any], Tensor]:
    return lambda x, hook: torch.lerp(mean, x, mask.expand_as(x))


@torch.no_grad()
def exact_match(held: MeanHeld, asked: Asked, kept: Sequence[Node]) -> Float[np.ndarray, " complexity"]:
    """Share of answers that a model writes wholly right, by class, with all other nodes at their means.

    It is that of free decoding: the first token that is wrong stays wrong.
    """
    tokens = torch.cat([asked.prompts, asked.answers[:, :-1]], dim=1)
    mask, first = held.mask(kept), asked.prompts.shape[1] - 1
    said = torch.cat([held.logits(part, mask)[:, first:].argmax(dim=-1) for part in tokens.split(AT_ONCE)])
    right: Bool[Tensor, " batch"] = (said == asked.answers).all(dim=-1)
    return right.view(len(asked.names), -1).double().mean(dim=1).cpu().numpy()
