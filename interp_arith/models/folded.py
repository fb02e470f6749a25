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

from interp_arith.models.config import ModelConfig
from interp_arith.models.layer import ACTIVATIONS, Parameters, block_of
from interp_arith.models.rounding import product


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
    W_U = parameters["embed.W_E"].mT if config.tied else parameters["unembed.W_U"]
    W, start = W_O.flatten(0, 1), (asking + block.get("attn.b_O", 0.0))[None]
    return Folded(
        product(W, block["mlp.W_in"]),
        product(start, block["mlp.W_in"])[0] + block.get("mlp.b_in", 0.0),
        product(W, W_U),
        product(start + block.get("mlp.b_out", 0.0), W_U)[0] + parameters.get("unembed.b_U", 0.0),
        product(block["mlp.W_out"], W_U),
    )


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
