"""Batched greedy decoding: one token at a time, nothing arithmetic outside the network."""

from functools import partial
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_arith.errors import RequestError
from interp_arith.models.cached import greedy_tokens
from interp_arith.tasks.base import Examples, Questions, Task

if TYPE_CHECKING:
    from interp_arith.models.transformer import ArithmeticTransformer

BATCH = 2048


def greedy_answers(
    model: "ArithmeticTransformer", task: Task, questions: Questions, batch_size: int = BATCH
) -> Int[Tensor, "batch answer"]:
    """The answer tokens that the model writes, each the likeliest after those before it.

    Hooks on the model are not called; `model.generate` calls them.
    """
    new = task.answer_tokens(questions).shape[1]
    return greedy_continuation(model, task, task.tokens(questions), new, batch_size)


def greedy_continuation(
    model: "ArithmeticTransformer",
    task: Task,
    prompts: Int[Tensor, "batch pos"],
    new: int,
    batch_size: int = BATCH,
) -> Int[Tensor, "batch new"]:
    """The tokens that the model writes after prompts of the task; without hooks, as `greedy_answers`.

    Raises:
        RequestError: they do not fit into the model's context, beyond which it has no positions.
    """
    ends = model.config.positions.ends_with_context
    if ends and prompts.shape[1] + new - 1 > model.cfg.n_ctx:
        raise RequestError(
            f"{prompts.shape[1]} tokens and {new} new ones need {prompts.shape[1] + new - 1} positions, and the "
            f"model has {model.cfg.n_ctx}; ask shorter questions"
        )
    ids = partial(model.config.positions.ids, task)
    device, parameters = model.embed.W_E.device, model.trained_parameters()
    parts = [
        greedy_tokens(model.config, parameters, part.to(device), new, ids).cpu()
        for part in prompts.split(batch_size)
    ]
    return torch.cat(parts)


@torch.no_grad()
def answer_logits(
    model: "ArithmeticTransformer",
    examples: Examples,
    answer_positions: tuple[int, ...],
    batch_size: int = BATCH,
) -> Float[Tensor, "batch answer d_vocab_out"]:
    """Logits at the answer positions, the right answer before each (teacher forcing)."""
    device = model.embed.W_E.device
    parts = [
        model(part.to(device))[:, list(answer_positions)].cpu() for part in examples.tokens.split(batch_size)
    ]
    return torch.cat(parts)
