"""One layer without hooks: its norms, attention and neurons, as pure functions of its parameters.

Parameters have the names and shapes of the hooked model, less the layer's prefix, so that they can be differentiated
and mapped over seeds. Knows no embedding and no logits.
"""

import math
from collections.abc import Mapping

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from interp_arith.models import rounding
from interp_arith.models.config import ModelConfig
from interp_arith.models.patterns import mixed_pattern, score_scale

ACTIVATIONS = {"relu": functional.relu, "gelu": functional.gelu, "silu": functional.silu}
Parameters = Mapping[str, Tensor]


def block_of(parameters: Parameters, layer: int) -> Parameters:
    """The parameters of one layer, under the names that they have in every layer."""
    prefix = f"blocks.{layer}."
    return {name.removeprefix(prefix): p for name, p in parameters.items() if name.startswith(prefix)}


def at(x: Tensor, queries: range, axis: int = 1) -> Tensor:
    """Where a layer asks."""
    return x.narrow(axis, queries.start, len(queries))


def norm(
    config: ModelConfig, parameters: Parameters, name: str, x: Float[Tensor, "*axes d_model"]
) -> Float[Tensor, "*axes d_model"]:
    """The norm of that name, where the config has norms."""
    if config.normalization == "none":
        return x
    width = x.shape[-1:]
    if config.normalization == "layer":
        return functional.layer_norm(
            x, width, parameters[f"{name}.w"], parameters[f"{name}.b"], config.norm_epsilon
        )
    return functional.rms_norm(x, width, parameters[f"{name}.w"], config.norm_epsilon)


def project(
    config: ModelConfig,
    block: Parameters,
    residual: Float[Tensor, "batch pos d_model"],
    queries: range,
    first: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries where the layer asks, keys and values everywhere: [batch pos head d_head].

    Args:
        config: the model's.
        block: the layer's parameters.
        residual: what enters the layer.
        queries: rows of the residual that ask.
        first: the position of its first row.
    """
    x = norm(config, block, "ln1", residual)
    positions = first + torch.arange(x.shape[1], device=x.device)
    q = queries_of(config, block, at(x, queries), at(positions, queries, axis=0))
    return q, *keys_and_values(config, block, x, positions)


def queries_of(
    config: ModelConfig,
    block: Parameters,
    x: Float[Tensor, "batch pos d_model"],
    positions: Int[Tensor, " pos"],
) -> Float[Tensor, "batch pos head d_head"]:
    """Queries of the residual stream, normed, at these positions."""
    q = config.positions.rotate(_heads(x, block, "Q"), positions)
    if not config.scales_attention:
        return q
    scale = score_scale(config.attention_scale, config.attention_scale_from, positions + 1)
    return q * scale[:, None, None].to(q.dtype)


def keys_and_values(
    config: ModelConfig,
    block: Parameters,
    x: Float[Tensor, "batch pos d_model"],
    positions: Int[Tensor, " pos"],
) -> tuple[Float[Tensor, "batch pos head d_head"], Float[Tensor, "batch pos head d_head"]]:
    """Keys and values of the residual stream, normed, at these positions."""
    return config.positions.rotate(_heads(x, block, "K"), positions), _heads(x, block, "V")


def _heads(
    x: Float[Tensor, "batch pos d_model"], block: Parameters, which: str
) -> Float[Tensor, "batch pos head d_head"]:
    W, b = block[f"attn.W_{which}"], block.get(f"attn.b_{which}")
    flat = rearrange(W, "head d_model d_head -> (head d_head) d_model")
    return linear(x, flat, None if b is None else b.flatten()).unflatten(-1, (len(W), -1))


def attend(
    config: ModelConfig,
    q: Float[Tensor, "batch query head d_head"],
    k: Float[Tensor, "batch pos head d_head"],
    v: Float[Tensor, "batch pos head d_head"],
    queries: range,
) -> Float[Tensor, "batch query head d_head"]:
    """What the heads read at those positions, each from the positions up to its own."""
    scale = 1 / math.sqrt(q.shape[-1])
    if len(queries) == 1:  # elementwise: products with matrices of one row are slow
        k, v = k[:, : queries.stop], v[:, : queries.stop]
        softmax = ((q * k).sum(dim=-1) * scale).softmax(dim=1)
        pattern = mixed_pattern(softmax, config.attention_coefficient)
        return (pattern[..., None] * v).sum(dim=1, keepdim=True)
    positions = torch.arange(k.shape[1], device=k.device)
    later = positions > at(positions, queries, axis=0)[:, None]
    scores = torch.einsum("bqhd,bkhd->bhqk", q * scale, k).masked_fill(later, -torch.inf)
    pattern = mixed_pattern(scores.softmax(dim=-1), config.attention_coefficient, ~later)
    return torch.einsum("bhqk,bkhd->bqhd", pattern, v)


def output(
    block: Parameters, z: Float[Tensor, "batch query head d_head"]
) -> Float[Tensor, "batch query d_model"]:
    """What the heads write."""
    W_O = rearrange(block["attn.W_O"], "head d_head d_model -> d_model (head d_head)")
    return linear(z.flatten(2), W_O, block.get("attn.b_O"))


def mlp(
    config: ModelConfig, block: Parameters, x: Float[Tensor, "batch pos d_model"]
) -> Float[Tensor, "batch pos d_model"]:
    """What the neurons write; x is the residual stream, normed."""
    return written(block, neurons(config, block, x))


def written(block: Parameters, fired: Float[Tensor, "batch pos d_mlp"]) -> Float[Tensor, "batch pos d_model"]:
    """What neurons that put this out write."""
    return linear(fired, block["mlp.W_out"].mT, block.get("mlp.b_out"))


def neurons(
    config: ModelConfig, block: Parameters, x: Float[Tensor, "batch pos d_model"]
) -> Float[Tensor, "batch pos d_mlp"]:
    """What the neurons that W_out reads put out; x is the residual stream, normed."""
    activation = ACTIVATIONS[config.activation]
    if config.gated:
        # TransformerLens adds the bias after the gate.
        gate, through = linear(x, block["mlp.W_gate"].mT), linear(x, block["mlp.W_in"].mT)
        fired = activation(gate) * through + block.get("mlp.b_in", 0.0)
    else:
        fired = activation(into_neurons(block, x))
    for i in range(config.mlp_depth - 2):
        W, b = block[f"mlp.hidden.{i}.W_hidden"], block.get(f"mlp.hidden.{i}.b_hidden")
        fired = activation(linear(fired, W.mT, b))
    return fired


def into_neurons(
    block: Parameters, x: Float[Tensor, "batch pos d_model"]
) -> Float[Tensor, "batch pos d_mlp"]:
    """What enters the first neurons, where they have no gate; x is the residual stream, normed."""
    return linear(x, block["mlp.W_in"].mT, block.get("mlp.b_in"))


def linear(
    x: Float[Tensor, "batch pos in"],
    weight: Float[Tensor, "out in"],
    bias: Float[Tensor, " out"] | None = None,
) -> Float[Tensor, "batch pos out"]:
    """One product of two matrices: with leading axes `torch` would choose by whether a gradient is wanted."""
    return rounding.linear(x.flatten(0, 1), weight, bias).unflatten(0, x.shape[:2])
