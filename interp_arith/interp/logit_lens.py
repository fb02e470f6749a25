"""What the right digit's logit is made of: by depth (the logit lens), and by head and MLP (direct attribution).

Knows no carry: it looks at what each part writes into the residual stream, and at how the unembedding reads it.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
import xarray as xr
from einops import einsum, rearrange, reduce
from jaxtyping import Float, Int
from torch import Tensor

from interp_arith.interp.base import Measure, Subject
from interp_arith.interp.forward import in_eval_mode
from interp_arith.interp.nodes import adder, batch_size, no_columns, passing, shown_examples
from interp_arith.models.config import ModelConfig
from interp_arith.tasks.base import Examples, Task

if TYPE_CHECKING:
    from interp_arith.models.transformer import ArithmeticTransformer

VARIANTS = ("right", "centred")
"""The right token's logit itself, or less the mean of all logits, which softmax leaves aside."""


def stream_names(config: ModelConfig) -> tuple[str, ...]:
    """The residual stream at every depth."""
    blocks = range(config.n_layers)
    inside = () if config.attention_only else ("hook_resid_mid",)
    return (
        "blocks.0.hook_resid_pre",
        *(f"blocks.{block}.{name}" for block in blocks for name in (*inside, "hook_resid_post")),
    )


def term_names(config: ModelConfig) -> tuple[str, ...]:
    """All that adds up to a logit."""
    heads = [f"head {block}.{head}" for block in range(config.n_layers) for head in range(config.n_heads)]
    mlps = [] if config.attention_only else [f"mlp {block}" for block in range(config.n_layers)]
    return ("embedding", "positions", *heads, *mlps, "attention bias", "logit bias")


@torch.no_grad()
def logits_of(
    model: "ArithmeticTransformer", stream: Float[Tensor, "batch answer d_model"]
) -> Float[Tensor, "batch answer d_vocab_out"]:
    """What the final norm and the unembedding make of a residual stream (nostalgebraist 2020)."""
    with in_eval_mode(model):
        normed = stream if model.config.normalization == "none" else model.ln_final(stream)
        return model.unembed(normed)


@torch.no_grad()
def terms(
    model: "ArithmeticTransformer", task: Task, examples: Examples
) -> Iterator[tuple[Float[Tensor, "batch term answer d_model"], Float[Tensor, "batch answer d_model"]]]:
    """What each part adds to the residual stream at each answer position, and the stream, batch by batch.

    Terms are those of `term_names`, without the logit bias.
    """
    config, at = model.config, list(task.answer_positions)
    blocks, stream = range(config.n_layers), f"blocks.{config.n_layers - 1}.hook_resid_post"
    hooks = ["hook_embed", "blocks.0.hook_resid_pre", *(f"blocks.{b}.attn.hook_z" for b in blocks), stream]
    hooks += [] if config.attention_only else [f"blocks.{b}.hook_mlp_out" for b in blocks]
    batch = _batch(model, task)
    b_O = torch.stack([block.attn.b_O for block in model.blocks]).sum(dim=0)
    for part in passing(model, examples.tokens, hooks, batch):
        seen = {name: x[:, at] for name, x in part.items()}
        heads = [
            einsum(
                seen[f"blocks.{b}.attn.hook_z"],
                model.blocks[b].attn.W_O,
                "batch answer head d_head, head d_head d_model -> head batch answer d_model",
            )
            for b in blocks
        ]
        found = [
            seen["hook_embed"],
            seen["blocks.0.hook_resid_pre"] - seen["hook_embed"],
            *torch.cat(heads),
            *([] if config.attention_only else [seen[f"blocks.{b}.hook_mlp_out"] for b in blocks]),
            b_O.expand_as(seen["hook_embed"]),
        ]
        yield rearrange(found, "term batch answer d_model -> batch term answer d_model"), seen[stream]


def _batch(model: "ArithmeticTransformer", task: Task) -> int:
    """Questions at once."""
    numbers = (len(term_names(model.config)) + 1) * len(task.answer_positions) * model.config.d_model
    return batch_size(model, task.n_ctx, numbers)


@torch.no_grad()
def contributions(
    model: "ArithmeticTransformer",
    parts: Float[Tensor, "batch term answer d_model"],
    stream: Float[Tensor, "batch answer d_model"],
    targets: Int[Tensor, "batch answer"],
) -> Float[Tensor, "batch variant term answer"]:
    """What each part adds to the right token's logit, float64, with the logit bias as the last; they add up to it.

    The final norm is held at the scale that it has for the whole stream, so that it is linear (Elhage et al. 2021).

    Args:
        model: whose unembedding reads the parts.
        parts: what is added to the residual stream.
        stream: their sum.
        targets: the right tokens.
    """
    W_U, b_U = model.unembed.W_U.double(), model.unembed.b_U.double()
    bias = torch.zeros(len(W_U), dtype=torch.float64, device=W_U.device)
    parts, whole = parts.double(), stream.double()
    kind, weights = model.config.normalization, dict(model.named_parameters())
    if kind != "none" and model.config.final_norm:
        if kind == "layer":
            parts, whole = (x - x.mean(dim=-1, keepdim=True) for x in (parts, whole))
            bias = weights["ln_final.b"].double()
        scale = (whole.square().mean(dim=-1) + model.config.norm_epsilon).sqrt()
        parts = parts / scale[:, None, :, None] * weights["ln_final.w"].double()
    right = W_U.T[targets], (bias @ W_U + b_U)[targets]
    mean = W_U.mean(dim=-1), (bias @ W_U + b_U).mean()
    found = []
    for directions, constant in (right, (right[0] - mean[0], right[1] - mean[1])):
        by_part = einsum(
            parts, directions, "batch term answer d_model, batch answer d_model -> batch term answer"
        )
        found.append(torch.cat([by_part, constant[:, None]], dim=1))
    return torch.stack(found, dim=1)


def _mean(
    values: Float[Tensor, "batch *axes answer"], counts: Float[Tensor, "batch answer"]
) -> Float[Tensor, "*axes answer"]:
    """Over the questions that count at each answer position; NaN where none does."""
    weights = counts.view(len(counts), *[1] * (values.ndim - 2), counts.shape[1])
    return reduce(values * weights, "batch ... answer -> ... answer", "sum") / counts.sum(dim=0)


def lenses(subject: Subject) -> Float[Tensor, "batch hook answer d_vocab_out"]:
    """Logits of the residual stream at every depth, at each answer position, for 1,000 questions."""
    names, at = stream_names(subject.model.config), list(adder(subject).answer_positions)
    found = [
        torch.stack([logits_of(subject.model, part[name][:, at]) for name in names], dim=1).cpu()
        for part in passing(
            subject.model, subject.get(shown_examples).tokens, names, _batch(subject.model, adder(subject))
        )
    ]
    return torch.cat(found).double()


def _over_depth(subject: Subject, values: Float[Tensor, "batch hook answer"]) -> xr.DataArray:
    mean = _mean(values, subject.get(shown_examples).mask.double())
    names = list(stream_names(subject.model.config))
    return xr.DataArray(mean.numpy(), coords={"hook": names, "answer": np.arange(mean.shape[-1])})


def logit_lens(subject: Subject) -> xr.DataArray:
    """The right token's logit less the mean of all, if the answer were read off the residual stream at each depth.

    The stream is put through the final norm and the unembedding. The mean over 1,000 test questions of all columns,
    read with their right answer; `answer` counts the tokens of the answer as they are written. NaN for a token that
    no question has, or that the loss leaves out.
    """
    logits = subject.get(lenses)
    right = logits.gather(-1, _targets(subject, logits))[..., 0]
    return _over_depth(subject, right - logits.mean(dim=-1))


def logit_lens_accuracy(subject: Subject) -> xr.DataArray:
    """Share of 1,000 questions whose right token has the largest logit at each depth; see logit_lens."""
    logits = subject.get(lenses)
    return _over_depth(
        subject, (logits.argmax(dim=-1, keepdim=True) == _targets(subject, logits))[..., 0].double()
    )


def _targets(subject: Subject, logits: Tensor) -> Int[Tensor, "batch hook answer 1"]:
    return subject.get(shown_examples).targets[:, None, :, None].expand(*logits.shape[:-1], 1)


def logit_attribution(subject: Subject) -> xr.DataArray:
    """What each part adds directly to the right token's logit, at each answer position.

    Parts: the embedding, positions, every head, every MLP, the attention's biases, and what is added to the logit
    whatever stands in the stream. They add up to the logit, with the final norm held at its scale. Variant "right" is
    the logit itself, "centred" less the mean of all logits. The mean over 1,000 test questions; see logit_lens.
    """
    model, task, examples = subject.model, adder(subject), subject.get(shown_examples)
    found = [
        contributions(model, parts, stream, targets.to(stream.device)).cpu()
        for (parts, stream), targets in zip(
            terms(model, task, examples), examples.targets.split(_batch(model, task)), strict=True
        )
    ]
    mean = _mean(torch.cat(found), examples.mask.double())
    coords = {"variant": list(VARIANTS), "term": list(term_names(model.config))}
    return xr.DataArray(mean.numpy(), coords={**coords, "answer": np.arange(mean.shape[-1])})


_LENS = "nostalgebraist 2020, Interpreting GPT: the logit lens"
LOGIT_LENS_MEASURES = (
    Measure(logit_lens, dims=("hook", "answer"), units="1", source=_LENS, why_not=no_columns),
    Measure(logit_lens_accuracy, dims=("hook", "answer"), units="1", source=_LENS, why_not=no_columns),
    Measure(
        logit_attribution,
        dims=("variant", "term", "answer"),
        units="1",
        source="after Elhage et al. 2021",
        why_not=no_columns,
    ),
)
