"""One forward pass over all questions of a task, shared by every measure; knows no measure.

Rows are questions, in the order of `task.all_questions()`; what is kept is what the last position of the prompt sees.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp_arith.interp.base import Subject
from interp_arith.models import layer
from interp_arith.models.config import ModelConfig
from interp_arith.models.lean import last_query, unembed
from interp_arith.tasks.base import Task
from interp_arith.tasks.pairs import PairTask
from interp_arith.tasks.sampling import SPLITS

if TYPE_CHECKING:
    from interp_arith.models.transformer import ArithmeticTransformer

BATCH = 4096
Hook = tuple[str, Callable[[Tensor, Any], Tensor | None]]


@dataclass(frozen=True)
class Forward:
    """What the last position of the prompt sees and says, for every question.

    Attributes:
        logits: float32, as the model gives them.
        residual: the residual stream leaving the last block.
        pre_activation: what enters the activation function of the last block's neurons, those that W_out reads (with
            a gated MLP, the gate's side); None where the model has no MLP.
        post_activation: what these neurons put out; None likewise.
        scores: attention before the softmax, scaled.
        pattern: attention as it is used.
    """

    logits: Float[Tensor, "batch d_vocab_out"]
    residual: Float[Tensor, "batch d_model"]
    pre_activation: Float[Tensor, "batch neuron"] | None
    post_activation: Float[Tensor, "batch neuron"] | None
    scores: Float[Tensor, "batch block head key"]
    pattern: Float[Tensor, "batch block head key"]


def no_list_of_questions(task: Task, model: ModelConfig) -> str | None:
    """Why there is no pass over all questions: they cannot be listed."""
    return (
        None if isinstance(task, PairTask) else f"the questions of the {task.kind} task cannot all be listed"
    )


def all_questions(subject: Subject) -> PairTask:
    """The task, as one whose questions can be listed."""
    assert isinstance(subject.task, PairTask)  # no_list_of_questions has said so
    return subject.task


def device(subject: Subject) -> torch.device:
    """Where the model is."""
    return subject.model.embed.W_E.device


def is_hooked(model: "ArithmeticTransformer") -> bool:
    """Whether hooks stand on the model, which may change what passes."""
    return any(module._forward_hooks for module in model.modules())


@contextmanager
def in_eval_mode(model: "ArithmeticTransformer") -> Iterator[None]:
    """The model in eval mode, and back in its own afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def row_of(task: PairTask, questions: Int[np.ndarray, "batch operands"]) -> Int[np.ndarray, " batch"]:
    """Where each question stands in `all_questions`; −1 for one that has no answer."""
    listed = task.all_questions()
    place = np.full((task.n_elements, task.n_elements), -1)
    place[listed[:, 0], listed[:, 1]] = np.arange(len(listed))
    return place[questions[:, 0], questions[:, 1]]


def split_rows(subject: Subject) -> dict[str, Bool[np.ndarray, " batch"]]:
    """Which of all questions belong to "all", "train", "test", and "val" where there is one."""
    task = all_questions(subject)
    rows = {"all": np.ones(len(task.all_questions()), dtype=bool)}
    for name in SPLITS:
        rows[name] = np.zeros_like(rows["all"])
        rows[name][row_of(task, task.split(name))] = True
    if not rows["val"].any():
        del rows["val"]
    return rows


def forward(subject: Subject) -> Forward:
    """The pass over all questions, without gradients, in eval mode; hooks that stand on the model act."""
    task, model = all_questions(subject), subject.model
    tokens = task.tokens(task.all_questions()).to(device(subject))
    with torch.no_grad(), in_eval_mode(model):
        if _needs_no_hooks(model):  # it holds little besides what is kept
            return _unhooked(model, tokens)
        parts = [_hooked(model, batch) for batch in tokens.split(BATCH)]

    def joined(name: str) -> Any:
        found = [getattr(part, name) for part in parts]
        return None if found[0] is None else torch.cat(found)

    return Forward(**{field.name: joined(field.name) for field in fields(Forward)})


def _needs_no_hooks(model: "ArithmeticTransformer") -> bool:
    """Whether the lean functions tell all of Forward: where the last position is all that is asked of one layer.

    Hooked attention has every position ask, and projects a token anew in each question: that is half of the pass.
    """
    config = model.config
    one_layer = config.n_layers == 1 and not config.positions.reads_digits
    plain_neurons = config.attention_only or not (config.gated or config.mlp_depth > 2)
    on_cpu = model.embed.W_E.device.type == "cpu"
    return one_layer and plain_neurons and on_cpu and not is_hooked(model)


def _unhooked(model: "ArithmeticTransformer", tokens: Int[Tensor, "batch pos"]) -> Forward:
    config, parameters = model.config, dict(model.trained_parameters())
    block, asked = layer.block_of(parameters, 0), last_query(config, parameters, tokens)
    residual = asked.residual + layer.output(block, asked.read)
    pre = post = None
    if not config.attention_only:
        pre = layer.into_neurons(block, layer.norm(config, block, "ln2", residual))
        post = layer.ACTIVATIONS[config.activation](pre)
        residual = residual + layer.written(block, post)
    return Forward(
        logits=unembed(config, parameters, residual)[:, -1],
        residual=residual[:, -1],
        pre_activation=None if pre is None else pre[:, -1],
        post_activation=None if post is None else post[:, -1],
        scores=asked.scores.mT[:, None],
        pattern=asked.pattern.mT[:, None],
    )


def _hooked(model: "ArithmeticTransformer", tokens: Int[Tensor, "batch pos"]) -> Forward:
    kept: dict[str, Tensor] = {}

    def keep(x: Tensor, hook: Any) -> None:
        kept[hook.name] = x[..., -1, :].detach()

    config = model.config
    residual = f"blocks.{config.n_layers - 1}.hook_resid_post"
    neurons = [] if config.attention_only else [_neurons(config, side) for side in ("pre", "post")]
    scores, patterns = (
        [f"blocks.{block}.attn.hook_{name}" for block in range(config.n_layers)]
        for name in ("attn_scores", "pattern")
    )
    hooks: list[Hook] = [(name, keep) for name in (residual, *neurons, *scores, *patterns)]
    with model.hooks(fwd_hooks=_last_position_alone(model) + hooks):  # pyright: ignore[reportArgumentType]
        logits = model(tokens)[:, -1]
    pre, post = (kept[name] for name in neurons) if neurons else (None, None)
    return Forward(
        logits=logits,
        residual=kept[residual],
        pre_activation=pre,
        post_activation=post,
        scores=torch.stack([kept[name] for name in scores], dim=1),
        pattern=torch.stack([kept[name] for name in patterns], dim=1),
    )


def _neurons(config: ModelConfig, side: str) -> str:
    """The hook at the neurons that W_out reads."""
    layer = f"hidden.{config.mlp_depth - 3}." if config.mlp_depth > 2 else ""
    return f"blocks.{config.n_layers - 1}.mlp.{layer}hook_{side}"


def _last_position_alone(model: "ArithmeticTransformer") -> list[Hook]:
    """Past the last attention only the last position is computed: its MLP is most of a small model's work.

    Not where hooks stand on the model already: they may count positions.
    """
    if model.config.attention_only or is_hooked(model):
        return []
    return [(f"blocks.{model.config.n_layers - 1}.hook_resid_mid", lambda x, hook: x[:, -1:])]
