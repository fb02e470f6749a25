"""The same transformer written by hand in PyTorch for speed, compiled; knows no hooks and no TransformerLens."""

from collections.abc import Mapping

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from competitors.base import Impossible, Setting, TorchCompetitor, ignoring_targets, single_seed
from interp_arith.models.config import ModelConfig
from interp_arith.models.positions import Learned

ACTIVATIONS = {"relu": functional.relu, "gelu": functional.gelu}
Weights = Mapping[str, Tensor]


def refuse_other_models(model: ModelConfig) -> None:
    """Only the architectures of the timed presets were written again by hand.

    Raises:
        Impossible: the model has a part that was not.
    """
    odd = {
        "positions": not isinstance(model.positions, Learned),
        "gated": model.gated,
        "mlp_depth": model.mlp_depth != 2,
        "attention_only": model.attention_only,
        "normalization": model.normalization == "rms",
        "activation": model.activation not in ACTIVATIONS,
    }
    if wrong := [name for name, is_odd in odd.items() if is_odd]:
        raise Impossible(f"not written by hand for this model: {', '.join(wrong)}")


def _linear(weight: Float[Tensor, "out in"], bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight = nn.Parameter(weight.contiguous().clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias.clone())
    return layer


class Norm(nn.Module):
    """A layer norm, or nothing."""

    def __init__(self, model: ModelConfig, weights: Weights, name: str) -> None:
        super().__init__()
        self.norm: nn.Module = nn.Identity()
        if f"{name}.w" in weights:
            self.norm = nn.LayerNorm(model.d_model, eps=model.norm_epsilon)
            self.norm.load_state_dict({"weight": weights[f"{name}.w"], "bias": weights[f"{name}.b"]})

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


class Block(nn.Module):
    """Attention with one product for queries, keys and values, and an MLP."""

    def __init__(self, model: ModelConfig, weights: Weights) -> None:
        super().__init__()
        by_head = "head d_model d_head -> (head d_head) d_model"
        qkv = torch.cat([rearrange(weights[f"attn.W_{which}"], by_head) for which in "QKV"])
        biases = [weights[f"attn.b_{which}"].flatten() for which in "QKV" if f"attn.b_{which}" in weights]
        output = rearrange(weights["attn.W_O"], "head d_head d_model -> d_model (head d_head)")
        self.n_heads, self.activation = model.n_heads, ACTIVATIONS[model.activation]
        self.ln1, self.ln2 = Norm(model, weights, "ln1"), Norm(model, weights, "ln2")
        self.qkv = _linear(qkv, torch.cat(biases) if biases else None)
        self.output = _linear(output, weights.get("attn.b_O"))
        self.hidden = _linear(weights["mlp.W_in"].T, weights.get("mlp.b_in"))
        self.out = _linear(weights["mlp.W_out"].T, weights.get("mlp.b_out"))

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        qkv = self.qkv(self.ln1(x)).unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        z = functional.scaled_dot_product_attention(*qkv.unbind(), is_causal=True)
        x = x + self.output(z.transpose(1, 2).flatten(2))
        return x + self.out(self.activation(self.hidden(self.ln2(x))))


class Transformer(nn.Module):
    """All positions through every block; only the answers are unembedded."""

    def __init__(self, model: ModelConfig, weights: Weights, answers: slice) -> None:
        super().__init__()
        self.answers = answers
        self.W_E = nn.Parameter(weights["embed.W_E"].clone())
        self.W_pos = nn.Parameter(weights["pos_embed.W_pos"].clone())
        self.W_U = None if model.tied else nn.Parameter(weights["unembed.W_U"].T.contiguous().clone())
        self.b_U = nn.Parameter(weights["unembed.b_U"].clone()) if "unembed.b_U" in weights else None
        parts = [f"blocks.{layer}." for layer in range(model.n_layers)]
        self.blocks = nn.ModuleList(
            Block(model, {n.removeprefix(part): w for n, w in weights.items() if n.startswith(part)})
            for part in parts
        )
        self.ln_final = Norm(model, weights, "ln_final")

    def forward(
        self, tokens: Int[Tensor, "batch pos"], targets: Int[Tensor, "batch answer"]
    ) -> Float[Tensor, ""]:
        """The mean cross-entropy over the answer tokens that count, in float32."""
        x = functional.embedding(tokens, self.W_E) + self.W_pos[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        x = self.ln_final(x[:, self.answers])
        logits = functional.linear(x, self.W_E if self.W_U is None else self.W_U, self.b_U)
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


class Handwritten(TorchCompetitor):
    """`torch.compile` of model and loss, forward and backward, and torch's fused AdamW."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        single_seed(setting, "the loop written by hand")
        config = setting.config
        refuse_other_models(config.model)
        positions = config.task.answer_positions
        answers = slice(positions[0], positions[-1] + 1)
        self._model = Transformer(config.model, setting.weights()[0], answers).to(setting.device)
        mode = "reduce-overhead" if setting.device == "cuda" else "default"  # the first captures CUDA graphs
        self._loss = torch.compile(self._model, fullgraph=True, dynamic=False, mode=mode)
        self._optimizer = torch.optim.AdamW(
            self._model.parameters(),
            lr=config.optimizer.learning_rate,
            betas=config.optimizer.betas,
            eps=config.optimizer.epsilon,
            weight_decay=config.optimizer.weight_decay,
            fused=True,
        )
        self._batches = [(batch.tokens[0], ignoring_targets(batch)[0]) for batch in setting.batches()]

    def step(self, index: int) -> Tensor:
        loss = self._loss(*self._batches[index % len(self._batches)])
        loss.backward()
        if self.setting.config.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self._model.parameters(), self.setting.config.clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return loss


def make(setting: Setting, name: str) -> Handwritten:
    """The competitor."""
    return Handwritten(setting)
