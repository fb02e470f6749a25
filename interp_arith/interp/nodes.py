"""Where to look in an adder, at what questions, and what passes there; knows no measure.

A model reads each question with its right answer behind it, so that a position is the same moment in every question.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor

from interp_arith.errors import unknown
from interp_arith.interp.base import Subject
from interp_arith.interp.forward import Hook, in_eval_mode
from interp_arith.models.config import ModelConfig
from interp_arith.tasks.addition import Addition
from interp_arith.tasks.base import Examples, Task
from interp_arith.tasks.sampling import Limits, SplitName, key

if TYPE_CHECKING:
    from interp_arith.models.transformer import ArithmeticTransformer

SHOWN = 1000
"""Questions that means are taken over."""
_MOST_NUMBERS = 2**23  # at once


def no_columns(task: Task, model: ModelConfig) -> str | None:
    """Why there are no digit columns to look at."""
    return None if isinstance(task, Addition) else f"the {task.kind} task has no digit columns"


def adder(subject: Subject) -> Addition:
    """The task, as one that has columns."""
    assert isinstance(subject.task, Addition)  # no_columns has said so
    return subject.task


def node_names(config: ModelConfig) -> tuple[str, ...]:
    """The residual stream and all that is added to it, in the order in which a model computes them."""
    after = ["attn_out"] if config.attention_only else ["attn_out", "resid_mid", "mlp_out"]
    blocks = range(config.n_layers)
    return (
        "blocks.0.hook_resid_pre",
        *(f"blocks.{block}.hook_{name}" for block in blocks for name in (*after, "resid_post")),
    )


def draw_full(
    task: Addition, split: SplitName, n: int, carry_share: float = 0.0, seed: int = 0
) -> Int[Tensor, "batch operand column"]:
    """Questions of a split whose digits are uniform in every column, but for a share whose carries run far."""
    limits = Limits(task.n_digits, task.n_digits, carry_share)
    return task.sample(split, n, key(seed, "probe"), limits)


def shown_examples(subject: Subject) -> Examples:
    """1,000 questions that the model was not trained on, every digit uniform; the same for every model of a task."""
    return adder(subject).encode(draw_full(adder(subject), "test", SHOWN))


def batch_size(model: "ArithmeticTransformer", n_pos: int, numbers: int) -> int:
    """Questions at once, so that neither attention nor so many numbers a question grow too large for memory."""
    return max(1, _MOST_NUMBERS // max(model.config.n_heads * n_pos**2, numbers))


@torch.no_grad()
def passing(
    model: "ArithmeticTransformer", tokens: Int[Tensor, "batch pos"], hooks: Sequence[str], batch: int
) -> Iterator[dict[str, Tensor]]:
    """What passes at each hook, batch by batch, without gradients, in eval mode.

    Raises:
        RequestError: the model has no such hook.
    """
    for name in hooks:
        if name not in model.hook_dict:
            raise unknown("hook", name, model.hook_dict)
    device = model.embed.W_E.device
    for part in tokens.split(batch):
        kept: dict[str, Tensor] = {}

        def keep(x: Tensor, hook: Any, kept: dict[str, Tensor] = kept) -> None:
            kept[hook.name] = x.detach()

        watched: list[Hook] = [(name, keep) for name in hooks]
        with in_eval_mode(model), model.hooks(fwd_hooks=watched):  # pyright: ignore[reportArgumentType]
            kept["logits"] = model(part.to(device))
        yield kept
