"""What TransformerLens is told of a config, and the parts that it has no class for; knows no model around them."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens import HookedTransformerConfig
from transformer_lens.components import MLP, Unembed
from transformer_lens.hook_points import HookPoint

from interp_arith.models.config import ModelConfig


def hooked_config(config: ModelConfig, d_vocab: int, d_vocab_out: int, n_ctx: int) -> HookedTransformerConfig:
    """The TransformerLens config. It carries no seed: TransformerLens would reseed every library globally."""
    arguments: dict[str, Any] = {
        "n_layers": config.n_layers,
        "d_model": config.d_model,
        "n_ctx": n_ctx,
        "n_heads": config.n_heads,
        "d_head": config.head_width,
        "d_mlp": None if config.attention_only else config.d_mlp,
        "d_vocab": d_vocab,
        "d_vocab_out": d_vocab_out,
        "act_fn": config.activation,
        "gated_mlp": config.gated,
        "attn_only": config.attention_only,
        "normalization_type": {"none": None, "layer": "LN", "rms": "RMS"}[config.normalization],
        "eps": config.norm_epsilon,
        "init_weights": False,
        "device": "cpu",
        **config.positions.hooked_arguments(config.head_width),
    }
    return HookedTransformerConfig(**arguments)


class TiedUnembed(Unembed):
    """An unembedding without a matrix of its own: W_U is the transpose of W_E."""

    def __init__(self, cfg: Any, embed: nn.Module) -> None:
        super().__init__(cfg)
        del self.W_U
        object.__setattr__(self, "_embed", embed)  # no submodule: the parameter is listed once

    def __getattr__(self, name: str) -> Any:
        return self._embed.W_E.T if name == "W_U" else super().__getattr__(name)


class HiddenLayer(nn.Module):
    """One more layer of neurons inside an MLP: activation(x W + b)."""

    def __init__(self, d_mlp: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.W_hidden = nn.Parameter(torch.empty(d_mlp, d_mlp))
        self.b_hidden = nn.Parameter(torch.zeros(d_mlp))
        self.activation = activation
        self.hook_pre = HookPoint()  # [batch, pos, d_mlp]
        self.hook_post = HookPoint()  # [batch, pos, d_mlp]

    def forward(self, x: Float[Tensor, "batch pos neuron"]) -> Float[Tensor, "batch pos neuron"]:
        return self.hook_post(self.activation(self.hook_pre(x @ self.W_hidden + self.b_hidden)))


class DeepMLP(MLP):
    """An MLP with more than one layer of neurons; `hook_pre` and `hook_post` are those of the first.

    The later ones are `hidden.0.hook_pre`, `hidden.0.hook_post`, … A gate, if any, is on the first layer.
    """

    def __init__(self, cfg: Any, depth: int) -> None:
        super().__init__(cfg)
        d_model, d_mlp = self.W_in.shape
        self.gated = self.cfg.gated_mlp
        if self.gated:
            self.W_gate = nn.Parameter(torch.empty(d_model, d_mlp))
            self.hook_pre_linear = HookPoint()  # [batch, pos, d_mlp]
        self.hidden = nn.ModuleList(HiddenLayer(d_mlp, self.act_fn) for _ in range(depth - 2))

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        if self.gated:
            gate = self.act_fn(self.hook_pre(x @ self.W_gate))
            neurons = gate * self.hook_pre_linear(x @ self.W_in) + self.b_in
        else:
            neurons = self.act_fn(self.hook_pre(x @ self.W_in + self.b_in))
        neurons = self.hook_post(neurons)
        for layer in self.hidden:
            neurons = layer(neurons)
        return neurons @ self.W_out + self.b_out
