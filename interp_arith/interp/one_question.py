"""What a model does with one question: attention, the tokens it weighs, the lens, and what each part adds."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from interp_arith.errors import RequestError
from interp_arith.interp.answers import last_logits, last_neurons
from interp_arith.interp.logit_lens import contributions, logits_of, stream_names, term_names, terms
from interp_arith.interp.nodes import passing
from interp_arith.tasks.addition import Addition
from interp_arith.tasks.base import Examples, Task
from interp_arith.tasks.pairs import PairTask

if TYPE_CHECKING:
    from interp_arith.models.transformer import ArithmeticTransformer


@dataclass(frozen=True)
class OneQuestion:
    """A question as a task reads it, with its right answer.

    Attributes:
        task: whose question it is.
        text: the question in human order.
        examples: tokens with the right answer but for its last token, targets, mask.
    """

    task: Task
    text: str
    examples: Examples

    @classmethod
    def of(cls, task: Task, question: str) -> "OneQuestion":
        """The question, read.

        Raises:
            RequestError: it is none of the task's.
        """
        return cls(task, task.text([question])[0], task.examples([question]))

    @property
    def symbols(self) -> list[str]:
        """What is read, token by token."""
        return self.task.vocabulary.decode(self.examples.tokens[0].tolist())

    @property
    def positions(self) -> list[str]:
        """The symbols, each with its position, so that no two are the same: "0: 2"."""
        return [f"{index}: {symbol}" for index, symbol in enumerate(self.symbols)]

    @property
    def answer(self) -> list[str]:
        """The tokens of the right answer, each with its place in it."""
        symbols = self.task.vocabulary.symbols
        return [f"{index + 1}: {symbols[int(token)]}" for index, token in enumerate(self.examples.targets[0])]


def attention_to_tokens(model: "ArithmeticTransformer", asked: OneQuestion) -> xr.DataArray:
    """The pattern of every head, [head, query, key], heads as "0.1" (block 0, head 1), positions as "0: 2"."""
    names = [f"blocks.{block}.attn.hook_pattern" for block in range(model.config.n_layers)]
    (passed,) = passing(model, asked.examples.tokens, names, 1)
    pattern = torch.cat([passed[name][0] for name in names]).cpu()
    heads = [
        f"{block}.{head}" for block in range(model.config.n_layers) for head in range(model.config.n_heads)
    ]
    coords = {"head": heads, "query": asked.positions, "key": asked.positions}
    return xr.DataArray(pattern.numpy(), coords=coords, dims=("head", "query", "key"), name="attention")


def lens_of_question(model: "ArithmeticTransformer", asked: OneQuestion) -> xr.DataArray:
    """Probability of each right token if it were read off the residual stream at each depth; [hook, answer]."""
    names, at = list(stream_names(model.config)), _predicting(asked)
    (passed,) = passing(model, asked.examples.tokens, names, 1)
    with torch.no_grad():
        chances = torch.stack(
            [logits_of(model, passed[name][:, at])[0].double().softmax(-1) for name in names]
        )
    right = asked.examples.targets[0].to(chances.device)
    found = chances.gather(-1, right.expand(len(names), -1)[..., None])[..., 0]
    coords = {"hook": names, "answer": asked.answer}
    return xr.DataArray(found.cpu().numpy(), coords=coords, dims=("hook", "answer"), name="probability")


def attribution_of_question(model: "ArithmeticTransformer", asked: OneQuestion) -> xr.DataArray:
    """What each part adds directly to each right token's logit, less the mean of all logits; [term, answer].

    See logit_lens.logit_attribution.
    """
    ((parts, stream),) = terms(model, asked.task, asked.examples)
    found = contributions(model, parts, stream, asked.examples.targets.to(stream.device))[0, 1]
    coords = {"term": list(term_names(model.config)), "answer": asked.answer}
    return xr.DataArray(found.cpu().numpy(), coords=coords, dims=("term", "answer"), name="adds to the logit")


def _predicting(asked: OneQuestion) -> list[int]:
    """The positions that predict the tokens of the answer."""
    return list(asked.task.answer_positions)[-asked.examples.targets.shape[1] :]


def next_tokens(
    model: "ArithmeticTransformer",
    asked: OneQuestion,
    temperature: float = 0.0,
    top_k: int | None = None,
    generator: torch.Generator | None = None,
    shown: int = 10,
) -> pd.DataFrame:
    """The tokens that a model weighs, step by step, as `generate_next_token` chooses one after the other.

    Args:
        model: hooks that stand on it act.
        asked: the question.
        temperature: 0 is greedy.
        top_k: draw among the k likeliest tokens only.
        generator: of the draws; torch's own unless given.
        shown: candidates of each step, the likeliest first; what is chosen and what is right are always among them.

    Returns:
        A row a candidate: step (from 1), token, logit, probability (at temperature 1), chosen, right.

    Raises:
        RequestError: the temperature or top_k is out of range.
    """
    task = asked.task
    symbols, right = task.vocabulary.symbols, asked.examples.targets[0].tolist()
    tokens: Int[Tensor, "batch pos"] = task.tokens([asked.text]).to(model.embed.W_E.device)
    rows = []
    for step, wanted in enumerate(right):
        new, logits = model.generate_next_token(tokens, temperature, top_k, generator=generator)
        chosen, chances = int(new), logits[0].double().softmax(dim=-1)
        top = logits[0].topk(min(shown, logits.shape[-1])).indices.tolist()
        for index in dict.fromkeys([*top, chosen, wanted]):
            rows.append(
                {
                    "step": step + 1,
                    "token": symbols[index],
                    "logit": logits[0, index].item(),
                    "probability": chances[index].item(),
                    "chosen": index == chosen,
                    "right": index == wanted,
                }
            )
        tokens = torch.cat([tokens, new.to(tokens)], dim=1)
        if chosen == task.end_token_id:
            break
    return pd.DataFrame(rows)


def carries_of_question(asked: OneQuestion) -> pd.DataFrame | None:
    """What truly happens in each column, highest first: digits, carry (or borrow) in, tri-case; None without columns.

    Returns:
        A row a feature, a column a digit column: "column 2", …
    """
    if not isinstance(asked.task, Addition):
        return None
    found = asked.task.columns([asked.text]).isel(question=0)
    digits = asked.task.digits([asked.text])[0]
    rows: dict[str, list[str]] = {}
    columns = found["column"].to_numpy()[::-1].tolist()
    for operand, of in enumerate(digits.tolist()):
        rows[f"number {operand + 1}"] = [str(of[c]) if c < len(of) else "" for c in columns]
    for name in ("carry_in", "borrow_in", "tri_case", "carry_kind", "cascade_length"):
        if name in found:
            values = found[name].sel(column=columns).to_numpy()
            rows[name.replace("_", " ")] = ["" if _is_missing(x) else _plain(x) for x in values]
    return pd.DataFrame.from_dict(rows, orient="index", columns=[f"column {c}" for c in columns])


def _is_missing(value) -> bool:
    return isinstance(value, float | np.floating) and bool(np.isnan(value))


def _plain(value) -> str:
    return f"{value:g}" if isinstance(value, int | float | np.number) else str(value)


def units_over_pairs(
    model: "ArithmeticTransformer", task: Task, logit: int, neuron: int | None = None
) -> xr.Dataset:
    """One logit, and one neuron of the last block, at the end of the prompt of every question a, b; of one pass.

    Args:
        model: no hook stands on it.
        task: with two operands, whose questions can be listed.
        logit: of which answer token.
        neuron: which of those that W_out reads, as it puts out; none where None.

    Returns:
        `logit` and, where a neuron is asked, `activation`, over a and b; NaN where a question has no answer.

    Raises:
        RequestError: the questions cannot be listed, or there is no such token or neuron.
    """
    if not isinstance(task, PairTask):
        raise RequestError(f"the questions of the {task.kind} task cannot all be listed")
    tokens = task.tokens(task.all_questions()).to(model.embed.W_E.device)
    if neuron is None:
        found = {"logit": _unit("token", logit, last_logits(model, tokens))}
    elif model.config.attention_only:
        raise RequestError("the model has no neurons; leave them out")
    else:
        fired, logits = last_neurons(model, tokens)
        found = {"logit": _unit("token", logit, logits), "activation": _unit("neuron", neuron, fired)}
    questions = pd.MultiIndex.from_arrays(task.all_questions().T, names=("a", "b"))
    return xr.Dataset.from_dataframe(pd.DataFrame(found, index=questions))


def _unit(kind: str, index: int, values: Float[Tensor, "batch unit"]) -> Float[np.ndarray, " batch"]:
    if not 0 <= index < values.shape[-1]:
        raise RequestError(f"{kind} {index}; allowed: 0 to {values.shape[-1] - 1}")
    return values[:, index].cpu().numpy()
