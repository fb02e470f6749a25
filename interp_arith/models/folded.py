"""What lies between heads, neurons and logits of one layer without norms, folded into few matrices.

All of it is linear but the neurons. So the products are of matrices, once for all questions, and the residual stream
of a single question is never written:

    neurons = act(read · W_fire + b_fire),   logits = read · W_direct + b_direct + neurons · W_out

where `read` is what the heads read.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from interp_arith.models.config import ModelConfig
from interp_arith.models.layer import ACTIVATIONS, Parameters, block_of
from interp_arith.models.rounding import product, rounded, rounds

_ALIGNED = 16  # numbers: rows that begin at a multiple are read in whole vectors


class Folded(NamedTuple):
    """The matrices, of one model or of many stacked.

    Attributes:
        W_fire: what the heads read -> neurons.
        b_fire: what else enters the neurons.
        W_direct: what the heads read -> logits, past the neurons.
        b_direct: what else enters the logits.
        W_out: neurons -> logits.
    """

    W_fire: Float[Tensor, "*seed width d_mlp"]
    b_fire: Float[Tensor, "*seed d_mlp"]
    W_direct: Float[Tensor, "*seed width d_vocab_out"]
    b_direct: Float[Tensor, "*seed d_vocab_out"]
    W_out: Float[Tensor, "*seed d_mlp d_vocab_out"]


def is_linear_but_for_neurons(config: ModelConfig) -> bool:
    """Whether one layer of attention and one of neurons is all that a model has, with nothing normed."""
    plain_neurons = not (config.attention_only or config.gated) and config.mlp_depth == 2
    one_layer = config.n_layers == 1 and not config.positions.reads_digits
    return one_layer and plain_neurons and config.normalization == "none"


def is_foldable(config: ModelConfig, n_answers: int) -> bool:
    """Whether a model asked at so many positions, by one known token, needs no more than its `fold`."""
    return n_answers == 1 and config.attention_coefficient == 1 and is_linear_but_for_neurons(config)


def fold(
    config: ModelConfig,
    parameters: Parameters,
    W_O: Float[Tensor, "head d_head d_model"],
    asking: Float[Tensor, " d_model"],
) -> Folded:
    """The matrices of one model where `is_linear_but_for_neurons` holds.

    Args:
        config: the model's.
        parameters: all of them.
        W_O: the model's, or that of narrower heads.
        asking: what is embedded where the model is asked.
    """
    block = block_of(parameters, 0)
    W_U = _unembedding(config, parameters)
    W, start = W_O.flatten(0, 1), (asking + block.get("attn.b_O", 0.0))[None]
    return Folded(
        product(W, block["mlp.W_in"]),
        product(start, block["mlp.W_in"])[0] + block.get("mlp.b_in", 0.0),
        product(W, W_U),
        product(start + block.get("mlp.b_out", 0.0), W_U)[0] + parameters.get("unembed.b_U", 0.0),
        product(block["mlp.W_out"], W_U),
    )


def _unembedding(config: ModelConfig, parameters: Parameters) -> Float[Tensor, "d_model d_vocab_out"]:
    return parameters["embed.W_E"].mT if config.tied else parameters["unembed.W_U"]


class Behind(NamedTuple):
    """What `Folded` holds, side by side as `single` reads it, of one model.

    Attributes:
        W: of each head, what it reads -> neurons, logits and columns of zeros.
        b: what else enters those.
        W_out: neurons -> logits.
    """

    W: Float[Tensor, "head d_head col"]
    b: Float[Tensor, " col"]
    W_out: Float[Tensor, "d_mlp d_vocab_out"]


def fold_side_by_side(
    config: ModelConfig, parameters: Parameters, asking: Float[Tensor, " d_model"], n_zeros: int
) -> Behind:
    """`fold` of one model by two products, four for its gradients; with so many columns of zeros or a few more."""
    block = block_of(parameters, 0)
    W_O, W_in, W_out = (block[name] for name in ("attn.W_O", "mlp.W_in", "mlp.W_out"))
    W_U = _unembedding(config, parameters)
    rows = [W_O.flatten(0, 1), (asking + block.get("attn.b_O", 0.0))[None], W_out]
    n_zeros += -(W_in.shape[1] + W_U.shape[1] + n_zeros) % _ALIGNED
    if "mlp.b_out" in block:
        rows.append(block["mlp.b_out"][None])
    low = rounds() or torch.is_autocast_enabled("cpu")
    W, b, W_out = _SideBySide.apply(torch.cat(rows), W_in, W_U, len(rows[0]), n_zeros, low)
    b_in, b_U = (
        block.get("mlp.b_in", b.new_zeros(len(W_out))),
        parameters.get("unembed.b_U", b.new_zeros(W_out.shape[1])),
    )
    return Behind(W.unflatten(0, W_O.shape[:2]), b + torch.cat([b_in, b_U, b.new_zeros(n_zeros)]), W_out)


class _SideBySide(torch.autograd.Function):
    """Of rows [W; start; W_out; b_out], the last of which can be missing: the matrices behind the heads.

    That is [W W_in | W W_U | 0], the same of the start with b_out W_U added, and W_out W_U. In `low` precision
    factors are rounded, those of the gradients too.
    """

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)
    def forward(
        ctx: Any,
        rows: Float[Tensor, "row d_model"],
        W_in: Float[Tensor, "d_model d_mlp"],
        W_U: Float[Tensor, "d_model d_vocab_out"],
        width: int,
        n_zeros: int,
        low: bool,
    ) -> tuple[Float[Tensor, "width col"], Float[Tensor, " col"], Float[Tensor, "d_mlp d_vocab_out"]]:
        ctx.low, d_mlp = low, W_in.shape[1]
        if low:
            rows, W_in, W_U = (rounded(x) for x in (rows, W_in, W_U))
        ctx.save_for_backward(rows, W_in, W_U)
        behind = rows.new_empty(width + 1, d_mlp + W_U.shape[1] + n_zeros)
        fire, direct, zeros = behind.tensor_split((d_mlp, d_mlp + W_U.shape[1]), dim=1)
        torch.mm(rows[: width + 1], W_in, out=fire)
        of_heads, W_out, of_bias = (rows @ W_U).tensor_split((width + 1, width + 1 + d_mlp))
        direct.copy_(of_heads)
        direct[-1] += of_bias.sum(dim=0)
        zeros.zero_()
        return behind[:-1], behind[-1], W_out

    @staticmethod
    @once_differentiable
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        (rows, W_in, W_U), (of_W, of_b, of_W_out) = ctx.saved_tensors, gradients
        of_behind = torch.cat([of_W, of_b[None]])
        of_fire, of_direct, _ = of_behind.tensor_split((len(of_W_out), sum(of_W_out.shape)), dim=1)
        of_products = torch.cat([of_direct, of_W_out, of_direct[-1:]])[: len(rows)]
        if ctx.low:
            of_fire, of_products = rounded(of_fire), rounded(of_products)
        of_rows = of_products @ W_U.T
        fires = slice(len(of_fire))
        of_rows[fires].addmm_(of_fire, W_in.T)
        return of_rows, rows[fires].T @ of_fire, rows.T @ of_products, None, None, None


def logits_of(
    folded: Folded, read: Float[Tensor, "*seed batch width"], activation: str
) -> Float[Tensor, "*seed batch d_vocab_out"]:
    """Logits of what the heads read."""
    fired = ACTIVATIONS[activation](_PlusRow.apply(read @ folded.W_fire, folded.b_fire))
    return _PlusRow.apply(read @ folded.W_direct, folded.b_direct) + fired @ folded.W_out


def sum_of_rows(x: Float[Tensor, "*seed batch col"]) -> Float[Tensor, "*seed col"]:
    """Their sum as a product, rounded as products are.

    A GPU adds up a few columns of many rows slowly, all the more within another kernel.
    """
    return (x.new_ones(1, x.shape[-2]) @ x)[..., 0, :]


class _PlusRow(torch.autograd.Function):
    """The same row added to every row; its gradient is `sum_of_rows`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, row: Tensor) -> Tensor:
        ctx.row_dtype = row.dtype
        return x + row[..., None, :]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        return gradients[0], sum_of_rows(gradients[0]).to(ctx.row_dtype)
