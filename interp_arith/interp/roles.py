"""What each head looks at while an adder writes an answer: the digits of the column, those below, its own output.

Knows no probe: it looks at patterns, and at what the tokens are.
"""

from dataclasses import astuple, dataclass, replace

import numpy as np
import torch
import xarray as xr
from einops import einsum
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from interp_arith.interp.attention import entropy
from interp_arith.interp.base import Measure, Subject
from interp_arith.interp.nodes import adder, batch_size, no_columns, passing, shown_examples
from interp_arith.models.config import ModelConfig
from interp_arith.tasks.addition import Addition
from interp_arith.tasks.base import Examples, Places, Task
from interp_arith.tasks.layout import place_from_end

ROLES = ("same column", "column below", "previous output", "separators", "other")


def answered_places(task: Addition, examples: Examples) -> Places:
    """Where each token stands in its number, for whole questions with their answer, the last token too.

    Here the whole answer is known, so its columns are too, even where a model that writes it could not tell them.
    """
    whole = torch.cat([examples.tokens, examples.targets[:, -1:]], dim=1)
    if task.padded or task.answer_order == "units-first":
        return task.places(whole)
    asked = task.model_copy(update={"answer_order": "units-first"}).places(whole)
    is_answer_digit = (asked.segment == task.operands) & (asked.place >= 0)
    return replace(asked, place=torch.where(is_answer_digit, place_from_end(whole < 10), asked.place))


def roles(task: Addition, examples: Examples) -> Int[Tensor, "batch answer key"]:
    """What each position is to the digit that each answer position predicts: an index into ROLES.

    Digits of the operands in its column, or in the column below; the output digit that was written last (where the
    model stands); signs and "="; and all else: other digits, worked steps, padding. A token that is no digit has no
    column.
    """
    places, tokens = answered_places(task, examples), examples.tokens
    positions = torch.tensor(task.answer_positions)
    column = places.place[:, positions + 1][..., None]
    segment, place = places.segment[:, None, :-1], places.place[:, None, :-1]
    is_operand = (segment < task.operands) & (place >= 0)
    is_here = torch.arange(tokens.shape[1]) == positions[:, None]
    blank = [task.vocabulary.id(name) for name in ("<pad>", "<end>")]
    is_separator = (tokens >= 10) & ~torch.isin(tokens, torch.tensor(blank))
    found = torch.full((len(tokens), len(positions), tokens.shape[1]), ROLES.index("other"))
    found[is_separator[:, None].expand_as(found)] = ROLES.index("separators")
    found[(segment == task.operands) & (place >= 0) & is_here] = ROLES.index("previous output")
    found[is_operand & (place == column) & (column >= 0)] = ROLES.index("same column")
    found[is_operand & (place == column - 1) & (column >= 0)] = ROLES.index("column below")
    return found


@dataclass(frozen=True)
class Looks:
    """Sums over the questions that count at each answer position.

    Attributes:
        at: attention to each role.
        spread: its entropy, nats.
        counts: how many questions count.
    """

    at: Float[Tensor, "block head answer role"]
    spread: Float[Tensor, "block head answer"]
    counts: Float[Tensor, " answer"]


def looks(
    pattern: Float[Tensor, "block batch head answer key"],
    role: Int[Tensor, "batch answer key"],
    counts: Bool[Tensor, "batch answer"],
) -> Looks:
    """Attention by role, and its entropy, summed over a batch of questions."""
    is_counted = counts.to(pattern)
    is_role = functional.one_hot(role, len(ROLES)).to(pattern) * is_counted[..., None, None]
    at = "block batch head answer key, batch answer key role -> block head answer role"
    spread = "block batch head answer, batch answer -> block head answer"
    return Looks(
        einsum(pattern, is_role, at), einsum(entropy(pattern), is_counted, spread), is_counted.sum(dim=0)
    )


def answer_looks(subject: Subject) -> Looks:
    """What each head attends to at each answer position, summed over 1,000 questions."""
    config, task, examples = subject.model.config, adder(subject), subject.get(shown_examples)
    hooks = [f"blocks.{block}.attn.hook_pattern" for block in range(config.n_layers)]
    at = list(task.answer_positions)
    numbers = (config.n_layers * config.n_heads + len(ROLES)) * len(at) * task.n_ctx
    batch = batch_size(subject.model, task.n_ctx, numbers)
    rows = torch.arange(len(examples)).split(batch)
    found = [
        looks(
            torch.stack([part[name][:, :, at].cpu() for name in hooks]).double(),
            roles(task, examples.rows(some)),
            examples.mask[some],
        )
        for some, part in zip(rows, passing(subject.model, examples.tokens, hooks, batch), strict=True)
    ]
    return Looks(*(torch.stack(each).sum(dim=0) for each in zip(*map(astuple, found), strict=True)))


def no_rows_of_one(task: Task, model: ModelConfig) -> str | None:
    """Why a row of attention is no distribution."""
    if model.attention_coefficient != 1:
        return (
            f"with an attention coefficient of {model.attention_coefficient} attention does not add up to one"
        )
    return no_columns(task, model)


def attention_roles(subject: Subject) -> xr.DataArray:
    """Attention of each head, where it predicts each answer token, to the digits of that token's column and others.

    The mean over 1,000 test questions of all columns, read with their right answer. `answer` counts the tokens of the
    answer as they are written. Roles: the operands' digits in the same column, those in the column below, the output
    digit written last, separators (signs, "="), all else. In [0, 1], adding up to one over `role` (but for models
    with an attention coefficient below 1). NaN for a token that no question has, or that
    the loss leaves out.
    """
    found = subject.get(answer_looks)
    return _over_heads(found.at / found.counts[:, None], role=list(ROLES))


def answer_attention_entropy(subject: Subject) -> xr.DataArray:
    """How widely each head looks where it predicts each answer token: the mean over 1,000 questions of −Σ p ln p.

    From 0 (one position) to the logarithm of the number of positions, in nats. NaN for a token that no question has.
    """
    found = subject.get(answer_looks)
    return _over_heads(found.spread / found.counts)


def _over_heads(values: Float[Tensor, "block head answer *axes"], **more: list[str]) -> xr.DataArray:
    names = ("block", "head", "answer")
    coords = {name: np.arange(size) for name, size in zip(names, values.shape, strict=False)}
    return xr.DataArray(values.numpy(), coords=coords | more)


ROLE_MEASURES = (
    Measure(
        attention_roles,
        dims=("block", "head", "answer", "role"),
        units="1",
        source="after Quirke & Barez 2023",
        why_not=no_columns,
    ),
    Measure(
        answer_attention_entropy,
        dims=("block", "head", "answer"),
        units="nats",
        source="Shannon 1948, section 6",
        why_not=no_rows_of_one,
    ),
)
