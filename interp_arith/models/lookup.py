"""Tables with a row for each pair of position and token, or for each id: look-ups and their gradients.

A table is [pos token …] or [entry …]; tokens and ids are [batch pos]. Knows no transformer. On a CPU the gradient of
a table is added up row by row in one buffer: that of indexing by `torch` takes several times as long, and so does
memory touched for the first time. Under `torch.vmap` and on a GPU a look-up is a matrix product, and so is its
gradient.
"""

from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

_NARROW = 8  # numbers in a row: of fewer, other functions are several times quicker
ALIGNED = 8
"""Numbers: rows of a multiple of it are what a GPU's matrix units take at full speed, 16 bytes of bfloat16."""


def entries(
    table: Float[Tensor, "entry ..."], ids: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos ..."]:
    """Rows of a table by their numbers."""
    return _Rows.apply(table, ids)


def one_hot_entries(
    table: Float[Tensor, "entry ..."], ids: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos ..."]:
    """`entries` as a product with one-hot vectors."""
    one_hot = ids[..., None] == torch.arange(len(table), device=ids.device)
    return torch.einsum("bpe,e...->bp...", one_hot.to(table.dtype), table)


def rows(
    table: Float[Tensor, "pos token ..."], tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos ..."]:
    """The row of each token at its position."""
    return entries(table.flatten(0, 1), _ids(table, tokens))


def one_hot_rows(
    table: Float[Tensor, "pos token ..."], tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos ..."]:
    """`rows` as a product with one-hot vectors."""
    one_hot = tokens[..., None] == torch.arange(table.shape[1], device=tokens.device)
    return torch.einsum("bpt,pt...->bp...", one_hot.to(table.dtype), table)


def one_hot_sums(
    table: Float[Tensor, "pos token col"], tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch col"]:
    """The sum of the rows of each question's tokens, as one product with one-hot vectors: Σ_p table[p, token_p].

    Both inner axes are padded with zeros to what a GPU's matrix units take at full speed.
    """
    n_tokens, n_columns = table.shape[1:]
    padded = functional.pad(table, (0, -n_columns % ALIGNED, 0, -n_tokens % ALIGNED))
    return (one_hot(tokens, n_tokens, table.dtype) @ padded.flatten(0, 1))[:, :n_columns]


def one_hot(
    tokens: Int[Tensor, "*seed batch pos"], n_tokens: int, dtype: torch.dtype
) -> Float[Tensor, "*seed batch entry"]:
    """A question's one-hot vectors one after the other, each padded to a length that a GPU takes at full speed."""
    numbers = torch.arange(n_tokens + -n_tokens % ALIGNED, device=tokens.device)
    return (tokens[..., None] == numbers).to(dtype).flatten(-2)


def pair_rows(
    table: Float[Tensor, "asker pos token ..."],
    askers: Int[Tensor, " batch"],
    tokens: Int[Tensor, "batch pos"],
) -> Float[Tensor, "batch pos ..."]:
    """The row of each pair: who asks, and the token at each position."""
    ids = _ids(table[0], tokens) + table[0, ..., 0].numel() * askers[:, None]
    return entries(table.flatten(0, 2), ids)


def row_sums(
    weights: Float[Tensor, "batch pos head"],
    table: Float[Tensor, "pos token head d_head"],
    tokens: Int[Tensor, "batch pos"],
) -> Float[Tensor, "batch head d_head"]:
    """The weighted sum of the rows: Σ_p weight[b, p, h] · row[b, p, h, d]."""
    return _RowSums.apply(weights, table.flatten(0, 1), _ids(table, tokens))


def _ids(table: Tensor, tokens: Tensor) -> Int[Tensor, "batch pos"]:
    """Rows of the table flattened."""
    n_pos, n_tokens = table.shape[:2]
    return tokens + n_tokens * torch.arange(n_pos)


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, ids: Tensor) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.table_shape = table.shape
        return _read(table, ids)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (ids,), (gradient,) = ctx.saved_tensors, gradients
        return _add_up(gradient, ids, ctx.table_shape), None


class _RowSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, table: Tensor, ids: Tensor) -> Tensor:
        ctx.save_for_backward(weights, table, ids)
        return _sums(weights, table, ids)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (weights, table, ids), (gradient,) = ctx.saved_tensors, gradients
        buffer = _read(table, ids)
        products = buffer.mul_(gradient[:, None]).sum(dim=-1)
        outer = torch.mul(weights[..., None], gradient[:, None], out=buffer)
        return products, _add_up(outer, ids, table.shape), None


def _read(table: Float[Tensor, "entry ..."], ids: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos ..."]:
    if table[0].numel() < _NARROW:
        return table[ids]
    return functional.embedding(ids, table.flatten(1)).unflatten(-1, table.shape[1:])


def _sums(
    weights: Float[Tensor, "batch pos head"],
    table: Float[Tensor, "entry head d_head"],
    ids: Int[Tensor, "batch pos"],
) -> Float[Tensor, "batch head d_head"]:
    n_heads = table.shape[1]
    by_head = ids[:, None] * n_heads + torch.arange(n_heads)[:, None]
    sums = functional.embedding_bag(
        by_head.flatten(0, 1), table.flatten(0, 1), mode="sum", per_sample_weights=weights.mT.flatten(0, 1)
    )
    return rearrange(sums, "(batch head) d_head -> batch head d_head", head=n_heads)


def _add_up(
    values: Float[Tensor, "batch pos ..."], ids: Int[Tensor, "batch pos"], shape: torch.Size
) -> Float[Tensor, "entry ..."]:
    """Σ of the values that belong to each entry of a table of that shape."""
    flat, rows = values.flatten(0, 1).flatten(1), ids.flatten()
    width = flat.shape[1]
    if width < _NARROW:
        rows, flat = (rows[:, None] * width + torch.arange(width)).flatten(), flat.flatten()
        return flat.new_zeros(shape.numel()).index_add_(0, rows, flat).view(shape)
    return flat.new_zeros(shape[0], width).index_add_(0, rows, flat).view(shape)
