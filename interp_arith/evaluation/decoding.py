"""Batched greedy decoding: one token at a time, nothing arithmetic outside the network."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_arith.models.transformer import ArithmeticTransformer
from interp_arith.tasks.base import Examples, Questions, Task

BATCH = 4096


def greedy_answers(
    model: ArithmeticTransformer, task: Task, questions: Questions, batch_size: int = BATCH
) -> Int[Tensor, "batch answer"]:
    """The answer tokens that the model writes, each the likeliest after those before it."""
    prompts, length = task.tokens(questions), task.answer_tokens(questions).shape[1]
    device = model.embed.W_E.device
    parts = [model.generate(part.to(device), length)[:, -length:].cpu() for part in prompts.split(batch_size)]
    return torch.cat(parts)


@torch.no_grad()
def answer_logits(
    model: ArithmeticTransformer,
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
