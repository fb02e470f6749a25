"""What a model says of every possible answer to every question, whether it says it in one token or spells it."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor

from interp_arith.interp.base import Subject
from interp_arith.interp.forward import BATCH, all_questions, device, forward, in_eval_mode, is_hooked
from interp_arith.models.layer import neurons, norm, written
from interp_arith.models.lean import answer_logits, before_last_mlp, unembed
from interp_arith.tasks import scoring
from interp_arith.tasks.base import Task
from interp_arith.tasks.pairs import PairTask

if TYPE_CHECKING:
    from interp_arith.models.transformer import ArithmeticTransformer


def masked_answers(task: Task) -> str | None:
    """Why answers cannot be scored as a whole: the loss leaves out some of their tokens."""
    if task.mask_first_n:
        return f"mask_first_n = {task.mask_first_n} leaves part of each answer untrained; it must be 0"
    return None


def answer_scores(subject: Subject) -> Float[Tensor, "batch d_vocab_out"]:
    """A score for each element as the answer to each question.

    The logits, where an answer is one token. Where it is spelled, Σ_i log P(c_i | question, c_1 … c_{i−1}) in float64
    nats: the strings share their beginnings, and each distinct one is read once.
    """
    task = all_questions(subject)
    spelled = _spelled(task).to(device(subject))
    if len(task.answer_positions) == 1:
        logits = subject.get(forward).logits
        return (
            logits if task.d_vocab_out == task.n_elements else scoring.log_softmax(logits)[:, spelled[:, 0]]
        )
    prompts = task.tokens(task.all_questions()).to(device(subject))
    read = [
        _token_scores(subject.model, prompts, spelled[:, :i], spelled[:, i]) for i in range(spelled.shape[1])
    ]
    return torch.stack(read).sum(dim=0)


def _spelled(task: PairTask) -> Int[Tensor, "element answer"]:
    """The answer tokens of each element."""
    questions = task.all_questions()
    elements, example = np.unique(task.answer(questions), return_index=True)
    assert (
        len(elements) == task.n_elements
    )  # so it is in a group: every element is the answer to some question
    return task.answer_tokens(questions[example])


def _token_scores(
    model: "ArithmeticTransformer",
    prompts: Int[Tensor, "batch pos"],
    before: Int[Tensor, "element answer"],
    token: Int[Tensor, " element"],
) -> Float[Tensor, "batch element"]:
    """log P of each element's token behind the prompt and the tokens that come before it."""
    if before.shape[1]:
        distinct, owner = before.unique(dim=0, return_inverse=True)
    else:
        distinct, owner = before[:1], torch.zeros_like(token)
    n, parts = len(distinct), []
    for batch in prompts.split(max(1, BATCH // n)):
        asked = [repeat(batch, "b pos -> (b n) pos", n=n), repeat(distinct, "n w -> (b n) w", b=len(batch))]
        log_p = scoring.log_softmax(last_logits(model, torch.cat(asked, dim=1)))
        parts.append(rearrange(log_p, "(b n) vocab -> b n vocab", n=n)[:, owner, token])
    return torch.cat(parts)


@torch.no_grad()
def last_logits(
    model: "ArithmeticTransformer", tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch d_vocab_out"]:
    """Logits at the last position: without hooks, unless some stand on the model."""
    with in_eval_mode(model):
        if is_hooked(model):
            return model(tokens)[:, -1]
        return answer_logits(model.config, **_without_hooks(model, tokens))[:, 0]


@torch.no_grad()
def last_neurons(
    model: "ArithmeticTransformer", tokens: Int[Tensor, "batch pos"]
) -> tuple[Float[Tensor, "batch neuron"], Float[Tensor, "batch d_vocab_out"]]:
    """What the last block's neurons put out at the last position, those that W_out reads; and the logits.

    Hooks that stand on the model do not act. The model has an MLP.
    """
    with in_eval_mode(model):
        config, asked = model.config, _without_hooks(model, tokens)
        residual, block = before_last_mlp(config, **asked)
        fired = neurons(config, block, norm(config, block, "ln2", residual))
        return fired[:, 0], unembed(config, asked["parameters"], residual + written(block, fired))[:, 0]


def _without_hooks(model: "ArithmeticTransformer", tokens: Int[Tensor, "batch pos"]) -> dict[str, Any]:
    """What the pass without hooks is given, to read the last position."""
    return {
        "parameters": {name: parameter.detach() for name, parameter in model.trained_parameters().items()},
        "tokens": tokens,
        "answer_positions": (tokens.shape[1] - 1,),
        "mapped": tokens.device.type != "cpu",
        "ids": model.position_ids(tokens),
    }
