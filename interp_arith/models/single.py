"""Logits of one model on a CPU, where one layer without norms is all it has and the same token asks.

What `stacked` is on a GPU. No score, value or residual stream of a single question is written: scores belong to
tokens and positions, and what lies behind the heads is folded. Neurons are rectified where they lie.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from interp_arith.models.config import ModelConfig
from interp_arith.models.folded import fold
from interp_arith.models.layer import ACTIVATIONS, block_of
from interp_arith.models.lean import answer_logits, summands, tables
from interp_arith.models.rounding import rounded, rounds

_FAINT = 1e-30
"""Of a score's exponential: below, those of a question could add up to nothing."""
_SLOPES: dict[str, Callable[[Tensor, Tensor], object]] = {
    "relu": lambda g, x: torch.ops.aten.threshold_backward.grad_input(g, x, 0, grad_input=g),
    "gelu": lambda g, x: torch.ops.aten.gelu_backward.grad_input(g, x, grad_input=g),
    "silu": lambda g, x: torch.ops.aten.silu_backward.grad_input(g, x, grad_input=g),
}
"""Multiply a gradient, in place, by the slope of the activation at x; of relu, at its value likewise."""


def single_logits(
    config: ModelConfig, parameters: Mapping[str, Tensor], tokens: Int[Tensor, "batch pos"], asker: int
) -> Float[Tensor, "batch 1 d_vocab_out"]:
    """Logits of the last of these positions, where the token `asker` stands in every question.

    Args:
        config: a model that `is_foldable`.
        parameters: of one model.
        tokens: up to the position that is asked.
        asker: the token there.
    """
    last, block = tokens.shape[1] - 1, block_of(parameters, 0)
    table, q, k, v = tables(config, parameters, block, tokens, range(last, last + 1))
    sums = summands(q[0, asker], k, v)
    weights = sums.detach()[..., -config.n_heads :]
    if torch.minimum(weights[:-1].amin(), weights[-1, asker].amin()) < _FAINT:
        return answer_logits(config, parameters, tokens, (last,), asker=asker)
    read = _Read.apply(sums, tokens, asker, config.n_heads)
    folded = fold(config, parameters, block["attn.W_O"], table[last, asker])
    return _Logits.apply(read, *folded, config.activation)[:, None]


class _Read(torch.autograd.Function):
    """What the heads read: the `summands` of a question's tokens added up, and divided by the sums of the weights."""

    @staticmethod
    def forward(
        ctx: Any,
        table: Float[Tensor, "pos token col"],
        tokens: Int[Tensor, "batch pos"],
        asker: int,
        n_heads: int,
    ) -> Float[Tensor, "batch width"]:
        n_pos, n_tokens, n_columns = table.shape
        ids = tokens + n_tokens * torch.arange(n_pos)
        sums = functional.embedding_bag(ids, table.flatten(0, 1), mode="sum")
        read, total = sums.split([n_columns - n_heads, n_heads], dim=-1)
        inverse = 1 / total
        read = (read.unflatten(-1, (n_heads, -1)) * inverse[..., None]).flatten(-2)
        ctx.save_for_backward(read, inverse, ids)
        ctx.shape, ctx.asker = table.shape, asker
        return read

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        read, inverse, ids = ctx.saved_tensors
        width, n_heads = read.shape[1], inverse.shape[1]
        of_sums = read.new_empty(len(read), width + n_heads)
        of_reads, of_totals = of_sums.split([width, n_heads], dim=-1)
        gradient, read, of_reads = (x.unflatten(-1, (n_heads, -1)) for x in (gradients[0], read, of_reads))
        torch.mul(gradient, inverse[..., None], out=of_reads)
        torch.sum(of_reads * read, dim=-1, out=of_totals)
        of_totals.neg_()
        by_token = read.new_zeros(ctx.shape)
        for pos in range(len(by_token) - 1):
            by_token.flatten(0, 1).index_add_(0, ids[:, pos], of_sums)
        by_token[-1, ctx.asker] = of_sums.sum(dim=0)
        return by_token, None, None, None


class _Logits(torch.autograd.Function):
    """`folded.logits_of`, in as few passes over the neurons as there can be."""

    @staticmethod
    def forward(
        ctx: Any,
        read: Float[Tensor, "batch width"],
        W_fire: Float[Tensor, "width d_mlp"],
        b_fire: Float[Tensor, " d_mlp"],
        W_direct: Float[Tensor, "width d_vocab_out"],
        b_direct: Float[Tensor, " d_vocab_out"],
        W_out: Float[Tensor, "d_mlp d_vocab_out"],
        activation: str,
    ) -> Float[Tensor, "batch d_vocab_out"]:
        ctx.rounds, ctx.activation = rounds(), activation
        read, W_fire, W_direct, W_out = (_factor(ctx, x) for x in (read, W_fire, W_direct, W_out))
        into = torch.addmm(b_fire.to(read.dtype), read, W_fire)
        fired = into.relu_() if activation == "relu" else ACTIVATIONS[activation](into)
        _factor_in_place(ctx, fired)
        logits = torch.addmm(b_direct.to(read.dtype), read, W_direct).addmm_(fired, W_out)
        ctx.save_for_backward(read, W_fire, W_direct, W_out, into, fired)
        return logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        read, W_fire, W_direct, W_out, into, fired = ctx.saved_tensors
        of_logits = _factor(ctx, gradients[0])
        of_into = of_logits @ W_out.T
        _SLOPES[ctx.activation](of_into, into)
        _factor_in_place(ctx, of_into)
        return (
            (of_logits @ W_direct.T).addmm_(of_into, W_fire.T),
            read.T @ of_into,
            (of_into.new_ones(1, len(of_into)) @ of_into)[0],
            (of_logits.T @ read).T,
            of_logits.sum(dim=0),
            (of_logits.T @ fired).T,
            None,
        )


def _factor(ctx: Any, x: Tensor) -> Tensor:
    """x as products take it: rounded, or in the dtype of autocast."""
    if ctx.rounds:
        return rounded(x)
    return x.to(torch.get_autocast_dtype("cpu")) if torch.is_autocast_enabled("cpu") else x


def _factor_in_place(ctx: Any, x: Tensor) -> None:
    """The same of what a product gave."""
    if ctx.rounds:
        x.copy_(x.to(torch.bfloat16))
