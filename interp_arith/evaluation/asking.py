"""Adders are asked and their answers counted; knows no protocol.

A question is right when every token of its answer is; after worked steps, when the answer that follows them is.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import pandas as pd
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp_arith import models
from interp_arith.errors import RequestError
from interp_arith.evaluation.base import MOST_FAILURES, Evaluation, Sets
from interp_arith.evaluation.decoding import greedy_continuation
from interp_arith.models.config import ModelConfig
from interp_arith.tasks.addition import Addition
from interp_arith.tasks.base import Task
from interp_arith.tasks.sampling import in_split

if TYPE_CHECKING:
    from interp_arith.models.transformer import ArithmeticTransformer


@dataclass(frozen=True)
class Asked:
    """Questions with what a model wrote.

    Attributes:
        task: whose questions.
        drawn: their digits, as `task.sample` gives them.
        written: the answer tokens.
        right: which are right.
    """

    task: Addition
    drawn: Int[Tensor, "batch operand column"]
    written: Int[Tensor, "batch answer"]
    right: Bool[Tensor, " batch"]

    def __len__(self) -> int:
        return len(self.right)

    def rows(self, index: Bool[Tensor, " batch"] | Int[Tensor, " rows"]) -> "Asked":
        """Some of the questions."""
        return Asked(self.task, self.drawn[index], self.written[index], self.right[index])

    def failures(self, name: str, most: int) -> list[dict[str, str]]:
        """The first wrong answers: set, question, right, given."""
        wrong = self.rows((~self.right).nonzero()[:most, 0])
        if not len(wrong):
            return []
        questions = self.task.questions(wrong.drawn)
        columns = (
            self.task.text(questions),
            self.task.answer(questions),
            self.task.read_answer(wrong.written),
        )
        return [
            {"set": name, "question": question, "right": str(right), "given": given}
            for question, right, given in zip(*columns, strict=True)
        ]


class Tally:
    """Right and wrong answers by set, and the first failures of each.

    Args:
        sets: names that are shown even if nothing is asked; others follow as they come.
    """

    def __init__(self, sets: Iterable[str] = ()) -> None:
        self._counts: dict[str, tuple[int, int]] = dict.fromkeys(sets, (0, 0))
        self._failures: dict[str, list[dict[str, str]]] = {name: [] for name in self._counts}

    def add(self, name: str, asked: Asked) -> None:
        """More questions of a set."""
        questions, wrong = self._counts.get(name, (0, 0))
        self._counts[name] = questions + len(asked), wrong + int((~asked.right).sum())
        kept = self._failures.setdefault(name, [])
        kept += asked.failures(name, MOST_FAILURES - len(kept))

    def total(self, name: str) -> None:
        """A set of all that was asked so far."""
        questions, wrong = zip(*self._counts.values(), strict=True)
        self._counts[name] = sum(questions), sum(wrong)

    def evaluation(self, notes: Sequence[str] = ()) -> Evaluation:
        """The table, a row a set, and the failures."""
        rows = [
            {
                "set": name,
                "questions": questions,
                "right": questions - wrong,
                "wrong": wrong,
                "exact_match": (questions - wrong) / questions if questions else float("nan"),
            }
            for name, (questions, wrong) in self._counts.items()
        ]
        failures = [failure for kept in self._failures.values() for failure in kept]
        return Evaluation(pd.DataFrame(rows), failures, tuple(notes))


def adder(task: Task, protocol: str) -> Addition:
    """The task, if it is one of whole numbers.

    Raises:
        RequestError: it is not.
    """
    if not isinstance(task, Addition):
        raise RequestError(
            f"protocol {protocol} asks for sums of whole numbers, and the run's task is {task.kind}; take test"
        )
    return task


def trained_test_questions(task: Addition, sets: Sets) -> tuple[str, ...]:
    """A note where training questions came from files and belong to the split that protocols draw from."""
    if "train" not in sets:
        return ()
    trained = task.drawn(sets["train"])[:, : task.operands]
    found = int(in_split(trained, "test").sum())
    if not found:
        return ()
    return (
        f"{found:,} of the {len(trained):,} questions in the run's data files for training belong to the split that "
        "is asked here; the model may have seen what it is asked",
    )


def with_digits(model: "ArithmeticTransformer", task: Addition, n_digits: int) -> Addition:
    """The same task with longer operands.

    Raises:
        RequestError: the model has no positions for them.
    """
    longest, asked = longest_operands(model, task, n_digits), task.reaching(n_digits)
    if longest < n_digits:
        longer = f"positions.max_place = {max(asked.number_lengths)}"
        if model.config.positions.ends_with_context:
            longer = f"n_ctx = {asked.n_ctx}"
        raise RequestError(
            f"operands of {n_digits} digits: the model has positions for {longest}; "
            f"train with task.n_digits = {n_digits}, or with model.{longer}"
        )
    return asked


def with_digits_of(model: "ArithmeticTransformer", task: Task, question: str) -> Task:
    """The task with operands as long as those of a question in words, where numbers are written without padding.

    Raises:
        RequestError: the model has no positions for them.
    """
    if not isinstance(task, Addition) or task.padded:
        return task
    longest = max(map(len, re.findall(r"\d+", question)), default=0)
    return task if longest <= task.n_digits else with_digits(model, task, longest)


def longest_operands(model: "ArithmeticTransformer", task: Addition, most: int) -> int:
    """How many digits operands may have for their question and answer to fit, `most` at the most."""
    fits = partial(model.config.has_positions_for, n_ctx=model.cfg.n_ctx)
    longer = (n for n in range(task.n_digits + 1, most + 1) if fits(task.reaching(n)))
    return max(longer, default=min(task.n_digits, most))


def sharpened(model: "ArithmeticTransformer", task: Task, factor: float) -> "ArithmeticTransformer":
    """A copy whose attention scores are multiplied; it has none of the hooks.

    Args:
        model: stays as it is.
        task: that it learnt.
        factor: above 1 attention is sharper, below it spreads.
    """
    config = model.config.model_copy(update={"attention_scale": factor * model.config.attention_scale})
    return _copy(model, config, model.cfg.n_ctx, task)


def lengthened(model: "ArithmeticTransformer", task: Addition) -> "ArithmeticTransformer":
    """A copy that reads questions and answers as long as the task's; it has none of the hooks.

    Args:
        model: stays as it is; its positions reach so far (see with_digits).
        task: with longer numbers than those that it learnt.
    """
    return _copy(model, model.config, task.n_ctx, task)


def _copy(
    model: "ArithmeticTransformer", config: ModelConfig, n_ctx: int, task: Task
) -> "ArithmeticTransformer":
    """The same weights in a model of another config or context."""
    copy = models.ArithmeticTransformer(config, model.cfg.d_vocab, model.cfg.d_vocab_out, n_ctx, task)
    copy.load_state_dict(model.state_dict())
    return copy.to(next(model.parameters()).device, print_details=False).train(model.training)


def ask(model: "ArithmeticTransformer", task: Addition, drawn: Int[Tensor, "batch operand column"]) -> Asked:
    """What the model answers, greedily, and whether it is right; what training masks counts too."""
    whole = task.model_copy(update={"mask_first_n": 0, "supervision": "none"})
    examples = whole.encode(drawn)
    prompts, targets = examples.tokens[:, : task.answer_positions[0] + 1], examples.targets.cpu()
    written = greedy_continuation(model, whole, prompts, targets.shape[1])
    right = ((written == targets) | ~examples.mask.cpu()).all(dim=-1)
    if task.scratchpad:
        unsure = ~right
        given, wanted = (whole.read_answer(tokens[unsure]) for tokens in (written, targets))
        right[unsure] = torch.tensor([a == b for a, b in zip(given, wanted, strict=True)], dtype=torch.bool)
    return Asked(task, drawn.cpu(), written, right)
