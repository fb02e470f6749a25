"""The same blocks without hooks, answers only: the forward pass that training uses.

A pure function of a parameter dict, with the names and shapes of the hooked model, so that it can be differentiated
and mapped over seeds. In the last layer only the answer positions ask and pass through the MLP; every position is
still attended to. Held equal to the hooked model by tests.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from interp_arith.models.config import ModelConfig

ACTIVATIONS = {"relu": functional.relu, "gelu": functional.gelu, "silu": functional.silu}
Parameters = Mapping[str, Tensor]


def answer_logits(
    config: ModelConfig,
    parameters: Parameters,
    tokens: Int[Tensor, "batch pos"],
    answer_positions: Sequence[int],
) -> Float[Tensor, "batch answer d_vocab_out"]:
    """Logits at the answer positions.

    Args:
        config: the model's.
        parameters: trained parameters by name; biases that are not among them are zero.
        tokens: the input.
        answer_positions: where to read, ascending.
    """
    W_E = parameters["embed.W_E"]
    everywhere = torch.arange(tokens.shape[-1], device=tokens.device)
    answers = everywhere[answer_positions[0] : answer_positions[-1] + 1]
    # A product with one-hot rows: its gradient is a matrix product too, where that of indexing is a slow scatter.
    one_hot = (tokens[..., None] == torch.arange(W_E.shape[0], device=tokens.device)).to(W_E.dtype)
    residual = one_hot @ W_E + config.positions.embed(parameters, tokens)
    for layer in range(config.n_layers):
        queries = answers if layer == config.n_layers - 1 else everywhere
        block = {
            name.removeprefix(f"blocks.{layer}."): p
            for name, p in parameters.items()
            if name.startswith(f"blocks.{layer}.")
        }
        attended = _attention(config, block, _norm(config, block, "ln1", residual), queries)
        residual = residual[..., queries[0] :, :][..., : len(queries), :] + attended
        if not config.attention_only:
            residual = residual + _mlp(config, block, _norm(config, block, "ln2", residual))
    if config.final_norm:
        residual = _norm(config, parameters, "ln_final", residual)
    logits = residual @ (W_E.T if config.tied else parameters["unembed.W_U"])
    return _plus(logits, parameters, "unembed.b_U")


def _plus(x: Tensor, parameters: Parameters, bias: str) -> Tensor:
    return x + parameters[bias] if bias in parameters else x


def _norm(
    config: ModelConfig, parameters: Parameters, name: str, x: Float[Tensor, "batch pos d_model"]
) -> Float[Tensor, "batch pos d_model"]:
    if config.normalization == "none":
        return x
    width = x.shape[-1:]
    if config.normalization == "layer":
        return functional.layer_norm(
            x, width, parameters[f"{name}.w"], parameters[f"{name}.b"], config.norm_epsilon
        )
    return functional.rms_norm(x, width, parameters[f"{name}.w"], config.norm_epsilon)


def _attention(
    config: ModelConfig,
    block: Parameters,
    x: Float[Tensor, "batch pos d_model"],
    queries: Int[Tensor, " query"],
) -> Float[Tensor, "batch query d_model"]:
    positions = torch.arange(x.shape[-2], device=x.device)
    asking = x[..., queries[0] :, :][..., : len(queries), :]
    q = config.positions.rotate(_heads(asking, block, "Q"), queries)
    k = config.positions.rotate(_heads(x, block, "K"), positions)
    v = _heads(x, block, "V")
    scores = torch.einsum("...qhd,...khd->...hqk", q, k) / math.sqrt(config.head_width)
    scores = scores.masked_fill(positions > queries[:, None], -torch.inf)
    z = torch.einsum("...hqk,...khd->...qhd", scores.softmax(dim=-1), v)
    W_O = rearrange(block["attn.W_O"], "head d_head d_model -> (head d_head) d_model")
    return _plus(rearrange(z, "... head d_head -> ... (head d_head)") @ W_O, block, "attn.b_O")


def _heads(
    x: Float[Tensor, "batch pos d_model"], block: Parameters, which: str
) -> Float[Tensor, "batch pos head d_head"]:
    W = block[f"attn.W_{which}"]
    flat = x @ rearrange(W, "head d_model d_head -> d_model (head d_head)")
    return _plus(
        rearrange(flat, "... (head d_head) -> ... head d_head", head=W.shape[0]), block, f"attn.b_{which}"
    )


def _mlp(
    config: ModelConfig, block: Parameters, x: Float[Tensor, "batch pos d_model"]
) -> Float[Tensor, "batch pos d_model"]:
    activation = ACTIVATIONS[config.activation]
    if config.gated:
        # TransformerLens adds the bias after the gate.
        neurons = _plus(activation(x @ block["mlp.W_gate"]) * (x @ block["mlp.W_in"]), block, "mlp.b_in")
    else:
        neurons = activation(_plus(x @ block["mlp.W_in"], block, "mlp.b_in"))
    for i in range(config.mlp_depth - 2):
        neurons = activation(
            _plus(neurons @ block[f"mlp.hidden.{i}.W_hidden"], block, f"mlp.hidden.{i}.b_hidden")
        )
    return _plus(neurons @ block["mlp.W_out"], block, "mlp.b_out")
