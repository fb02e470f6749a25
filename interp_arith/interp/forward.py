"""One forward pass over all questions of a task, shared by every measure; knows no measure.

Rows are questions, in the order of `task.all_questions()`; what is kept is what the last position of the prompt sees.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp_arith.interp.base import Subject
from interp_arith.models.config import ModelConfig
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
    task = all_questions(subject)
    tokens = task.tokens(task.all_questions()).to(device(subject))
    parts = [_last_position(subject.model, batch) for batch in tokens.split(BATCH)]
    config = subject.model.config
    blocks = range(config.n_layers)

    def joined(name: str) -> Tensor:
        return torch.cat([part[name] for part in parts])

    return Forward(
        logits=joined("logits"),
        residual=joined(_residual(config)),
        pre_activation=None if config.attention_only else joined(_neurons(config, "pre")),
        post_activation=None if config.attention_only else joined(_neurons(config, "post")),
        scores=torch.stack([joined(f"blocks.{block}.attn.hook_attn_scores") for block in blocks], dim=1),
        pattern=torch.stack([joined(f"blocks.{block}.attn.hook_pattern") for block in blocks], dim=1),
    )


def _residual(config: ModelConfig) -> str:
    return f"blocks.{config.n_layers - 1}.hook_resid_post"


def _neurons(config: ModelConfig, side: str) -> str:
    """The hook at the neurons that W_out reads."""
    layer = f"hidden.{config.mlp_depth - 3}." if config.mlp_depth > 2 else ""
    return f"blocks.{config.n_layers - 1}.mlp.{layer}hook_{side}"


@torch.no_grad()
def _last_position(model: "ArithmeticTransformer", tokens: Tensor) -> dict[str, Tensor]:
    """Hook name -> what passed there at the last position, and the logits."""
    kept: dict[str, Tensor] = {}

    def keep(x: Tensor, hook: Any) -> None:
        kept[hook.name] = x[..., -1, :].detach()

    config = model.config
    names = [_residual(config)]
    names += [] if config.attention_only else [_neurons(config, side) for side in ("pre", "post")]
    for block in range(config.n_layers):
        names += [f"blocks.{block}.attn.hook_attn_scores", f"blocks.{block}.attn.hook_pattern"]
    hooks: list[Hook] = [(name, keep) for name in names]
    with in_eval_mode(model), model.hooks(fwd_hooks=_last_position_alone(model) + hooks):  # pyright: ignore[reportArgumentType]
        kept["logits"] = model(tokens)[:, -1]
    return kept


def _last_position_alone(model: "ArithmeticTransformer") -> list[Hook]:
    """Past the last attention only the last position is computed: its MLP is most of a small model's work.

    Not where hooks stand on the model already: they may count positions.
    """
    if model.config.attention_only or is_hooked(model):
        return []
    return [(f"blocks.{model.config.n_layers - 1}.hook_resid_mid", lambda x, hook: x[:, -1:])]
