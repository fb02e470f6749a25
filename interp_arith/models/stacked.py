"""Logits of many models at once on a GPU, where one layer without norms is all they have and the same token asks.

There a step waits for memory. So no score, value or residual stream of a single question is written: scores belong to
tokens and positions, and what lies behind the heads is folded. In bfloat16 no neuron is written either (`fused`).
"""

from collections.abc import Mapping
from functools import reduce
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from interp_arith.models import fused
from interp_arith.models.config import ModelConfig
from interp_arith.models.folded import Folded, fold, logits_of
from interp_arith.models.layer import Parameters, block_of
from interp_arith.models.lean import summands, tables
from interp_arith.models.lookup import ALIGNED, one_hot


def stacked_logits(
    config: ModelConfig,
    parameters: Mapping[str, Float[Tensor, "seed ..."]],
    tokens: Int[Tensor, "seed batch pos"],
    asker: int,
) -> Float[Tensor, "seed batch 1 d_vocab_out"]:
    """Logits of the last of these positions, where the token `asker` stands in every question.

    Args:
        config: models that are `folded.is_foldable`.
        parameters: of all of them.
        tokens: up to the position that is asked.
        asker: the token there.
    """
    last = tokens.shape[2] - 1

    def tables_of(parameters: Parameters, tokens: Tensor) -> tuple[Tensor, Folded]:
        block = block_of(parameters, 0)
        table, q, k, v = tables(config, parameters, block, tokens, range(last, last + 1))
        return summands(q[0, asker], k, v), fold(config, parameters, block["attn.W_O"], table[last, asker])

    sums, folded = torch.vmap(tables_of)(dict(parameters), tokens)
    read = _Read.apply(
        sums[:, :last], sums[:, last, asker], tokens[..., :last], config.n_heads, folded.W_fire.dtype
    )
    of_reads = fused.logits_of if fused.fits(folded, read) else logits_of
    return of_reads(folded, read, config.activation)[:, :, None]


class _Read(torch.autograd.Function):
    """What the heads read: the `summands` of a question's tokens added up, and divided by the sums of the weights.

    Rows of the table are read one by one; the gradient of the table is a product with one-hot vectors.
    """

    @staticmethod
    def forward(
        ctx: Any,
        table: Float[Tensor, "seed pos token col"],
        asking: Float[Tensor, "seed col"],
        tokens: Int[Tensor, "seed batch pos"],
        n_heads: int,
        dtype: torch.dtype,
    ) -> Float[Tensor, "seed batch width"]:
        seeds = torch.arange(len(table), device=table.device)[:, None]
        found = (table[seeds, pos, tokens[..., pos]] for pos in range(table.shape[1]))
        sums = reduce(torch.add, found, asking[:, None])
        read, total = sums.split([sums.shape[-1] - n_heads, n_heads], dim=-1)
        inverse = 1 / total
        read = (read.unflatten(-1, (n_heads, -1)) * inverse[..., None]).flatten(-2).to(dtype)
        ctx.save_for_backward(read, inverse, tokens)
        ctx.n_tokens, ctx.dtype = table.shape[2], table.dtype
        return read

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        read, inverse, tokens = ctx.saved_tensors
        by_head = (x.to(ctx.dtype).unflatten(-1, (inverse.shape[-1], -1)) for x in (gradients[0], read))
        gradient, read_by_head = by_head
        of_reads = gradient * inverse[..., None]
        of_totals = -(of_reads * read_by_head).sum(dim=-1)
        of_sums = torch.cat([of_reads.flatten(-2), of_totals], dim=-1)
        width = of_sums.shape[-1]
        of_sums = functional.pad(of_sums, (0, -width % ALIGNED)).to(read.dtype)
        by_token = one_hot(tokens, ctx.n_tokens, read.dtype).mT @ of_sums
        by_token = (
            by_token[..., :width].to(ctx.dtype).unflatten(1, (tokens.shape[2], -1))[:, :, : ctx.n_tokens]
        )
        # Every question has one token at the first position: all rows of that table together are all questions.
        return by_token, by_token[:, 0].sum(dim=1), None, None, None
