"""The same transformer and AdamW in JAX, float32 throughout: a jitted step, scanned over steps, mapped over seeds."""

import os
from collections.abc import Mapping
from functools import partial
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # else peak memory means nothing

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from torch import Tensor

from competitors.base import CHECKED_STEPS, PREDRAWN, Competitor, Impossible, Setting, ignoring_targets
from competitors.handwritten import refuse_other_models
from interp_arith.models.config import ModelConfig
from interp_arith.training.config import RunConfig

ACTIVATIONS = {"relu": jax.nn.relu, "gelu": partial(jax.nn.gelu, approximate=False)}
Parameters = Mapping[str, jax.Array]
SCANNED = {"cpu": 2, "cuda": PREDRAWN}
"""Steps a call where each sees the same batch: on a CPU such a step takes up to ten seconds."""
_PRECISIONS = {"fp32": jnp.float32, "tf32": jnp.float32, "bf16": jnp.bfloat16}


def answer_logits(model: ModelConfig, parameters: Parameters, tokens: jax.Array, answers: slice) -> jax.Array:
    """Tokens [batch pos] -> logits [batch answer d_vocab_out]; every position passes through every block."""
    x = parameters["embed.W_E"][tokens] + parameters["pos_embed.W_pos"][: tokens.shape[1]]
    for layer in range(model.n_layers):
        x = _block(model, parameters, f"blocks.{layer}.", x)
    x = _norm(model, parameters, "ln_final", x[:, answers])
    W_U = parameters["embed.W_E"].T if model.tied else parameters["unembed.W_U"]
    return x @ W_U + parameters.get("unembed.b_U", 0.0)


def _block(model: ModelConfig, parameters: Parameters, part: str, x: jax.Array) -> jax.Array:
    normed = _norm(model, parameters, f"{part}ln1", x)
    # One product of matrices for all heads, and for queries, keys and values: XLA is slower on the CPU without.
    W = jnp.concatenate([_by_width(parameters[f"{part}attn.W_{which}"]) for which in "QKV"], axis=1)
    qkv = normed @ W
    if f"{part}attn.b_Q" in parameters:
        qkv = qkv + jnp.concatenate([parameters[f"{part}attn.b_{which}"].ravel() for which in "QKV"])
    q, k, v = (y.reshape(*x.shape[:2], model.n_heads, -1) for y in jnp.split(qkv, 3, axis=-1))
    scores = jnp.einsum("bqhe,bkhe->bhqk", q, k) / np.sqrt(q.shape[-1])
    causal = np.tril(np.ones((x.shape[1], x.shape[1]), bool))
    pattern = jax.nn.softmax(jnp.where(causal, scores, -jnp.inf), axis=-1)
    z = jnp.einsum("bhqk,bkhe->bqhe", pattern, v).reshape(*x.shape[:2], -1)
    x = x + z @ parameters[f"{part}attn.W_O"].reshape(-1, model.d_model)
    x = x + parameters.get(f"{part}attn.b_O", 0.0)
    hidden = _norm(model, parameters, f"{part}ln2", x) @ parameters[f"{part}mlp.W_in"]
    neurons = ACTIVATIONS[model.activation](hidden + parameters.get(f"{part}mlp.b_in", 0.0))
    return x + neurons @ parameters[f"{part}mlp.W_out"] + parameters.get(f"{part}mlp.b_out", 0.0)


def _by_width(W: jax.Array) -> jax.Array:
    """[head d_model d_head] -> [d_model, head · d_head]."""
    return W.transpose(1, 0, 2).reshape(W.shape[1], -1)


def _norm(model: ModelConfig, parameters: Parameters, name: str, x: jax.Array) -> jax.Array:
    if f"{name}.w" not in parameters:
        return x
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = jnp.square(centred).mean(axis=-1, keepdims=True)
    return (
        centred * jax.lax.rsqrt(variance + model.norm_epsilon) * parameters[f"{name}.w"]
        + parameters[f"{name}.b"]
    )


def _loss(
    model: ModelConfig, answers: slice, parameters: Parameters, tokens: jax.Array, targets: jax.Array
) -> jax.Array:
    """Mean cross-entropy over the answer tokens that count, in float32."""
    logits = answer_logits(model, parameters, tokens, answers)
    counts = targets >= 0
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(targets, 0))
    return (nats * counts).sum() / counts.sum()


def _optimizer(config: RunConfig) -> optax.GradientTransformation:
    chosen = config.optimizer
    (b1, b2), decay = chosen.betas, chosen.weight_decay
    adamw = optax.adamw(chosen.learning_rate, b1=b1, b2=b2, eps=chosen.epsilon, weight_decay=decay)
    return (
        adamw if config.clip_norm is None else optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw)
    )


class JaxLoop(Competitor):
    """One seed on a CPU: one jitted step a call. Else several steps a call, scanned, mapped over the seeds.

    Args:
        setting: what is trained.
        products: how float32 matrices are multiplied: "highest" is float32, "tensorfloat32" a GPU's default.
    """

    def __init__(self, setting: Setting, products: str = "highest") -> None:
        refuse_other_models(setting.config.model)
        jax.config.update("jax_default_matmul_precision", products)
        jax.config.update("jax_platforms", "cpu" if setting.device == "cpu" else None)
        if setting.device == "cuda" and jax.default_backend() != "gpu":
            raise Impossible(f"this JAX computes on {jax.default_backend()} only (pip install 'jax[cuda12]')")
        self._setting, self._factors = setting, {}
        self._scans = setting.device == "cuda" or setting.seeds > 1
        weights = setting.weights()
        self._parameters = {
            name: jnp.asarray(np.stack([w[name].numpy() for w in weights])) for name in weights[0]
        }
        optimizer = _optimizer(setting.config)
        self._state = jax.vmap(optimizer.init)(self._parameters)
        on_cpu = Setting(setting.config, setting.seeds, "cpu")
        batches = [(b.tokens.int().numpy(), ignoring_targets(b).int().numpy()) for b in on_cpu.batches()]
        self._batches = [jax.device_put(batch) for batch in batches]
        if self._scans:
            self.stride = PREDRAWN if len(batches) > 1 else SCANNED[setting.device]
        self._multiply = jax.jit(jnp.matmul)
        self._advance = self._compiled(optimizer)
        self._next, self._kept = 0, []

    def _compiled(self, optimizer: optax.GradientTransformation) -> Any:
        """(parameters, state, batches) -> (parameters, state, losses); the first two are reused in place."""
        positions = self._setting.config.task.answer_positions
        answers = slice(positions[0], positions[-1] + 1)
        slopes = jax.value_and_grad(partial(_loss, self._setting.config.model, answers))

        def step(parameters: Any, state: Any, tokens: jax.Array, targets: jax.Array) -> Any:
            loss, gradients = slopes(parameters, tokens, targets)
            updates, state = optimizer.update(gradients, state, parameters)
            return optax.apply_updates(parameters, updates), state, loss

        def first(tree: Any) -> Any:
            return jax.tree.map(lambda x: x[0], tree)

        if not self._scans:
            self._parameters, self._state = first(self._parameters), first(self._state)
            self._batches = [first(batch) for batch in self._batches]
            return jax.jit(step, donate_argnums=(0, 1))
        everyone = jax.vmap(step)

        def scanned(parameters: Any, state: Any, tokens: jax.Array, targets: jax.Array) -> Any:
            def body(carry: Any, batch: Any) -> Any:
                *carry, loss = everyone(*carry, *((tokens, targets) if batch is None else batch))
                return tuple(carry), loss

            batches = None if constant else (tokens, targets)
            (parameters, state), losses = jax.lax.scan(body, (parameters, state), batches, length=self.stride)
            return parameters, state, losses

        constant = len(self._batches) == 1
        if not constant:
            self._batches = [tuple(jnp.stack(part) for part in zip(*self._batches, strict=True))]
        return jax.jit(scanned, donate_argnums=(0, 1))

    def _call(self) -> jax.Array:
        batch = self._batches[self._next % len(self._batches)]
        self._parameters, self._state, loss = self._advance(self._parameters, self._state, *batch)
        self._next += 1
        return loss

    def losses(self) -> Tensor:
        calls = -(-CHECKED_STEPS // self.stride)
        rows = [np.atleast_2d(np.asarray(self._call())) for _ in range(calls)]
        return torch.from_numpy(np.concatenate(rows).astype(np.float64))

    def run(self, n: int) -> None:
        for _ in range(n // self.stride):
            self._call()
        jax.block_until_ready((self._parameters, self._state))

    def device_bytes(self) -> int | None:
        stats = jax.devices()[0].memory_stats() if self._setting.device == "cuda" else None
        return None if stats is None else stats["peak_bytes_in_use"]

    def multiply(self, rows: int, inner: int, columns: int, precision: str) -> None:
        key = rows, inner, columns, precision
        if key not in self._factors:
            dtype = _PRECISIONS[precision]
            self._factors[key] = jnp.ones((rows, inner), dtype), jnp.ones((inner, columns), dtype)
        self._multiply(*self._factors[key]).block_until_ready()


def make(setting: Setting, name: str) -> JaxLoop:
    """The competitor: its name says how matrices are multiplied."""
    return JaxLoop(setting, "tensorfloat32" if "tf32" in name else "highest")
