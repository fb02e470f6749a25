"""How good a model is: one class a protocol; knows no run directory."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Int

from interp_arith.evaluation.decoding import answer_logits, greedy_answers
from interp_arith.models.transformer import ArithmeticTransformer
from interp_arith.registry import Choice, Registry
from interp_arith.tasks import scoring
from interp_arith.tasks.base import Task

MOST_FAILURES = 1000


@dataclass(frozen=True)
class Evaluation:
    """What a protocol found.

    Attributes:
        table: what is printed, a row a set of questions.
        failures: wrongly answered questions, at most 1,000 a set: set, question, right, given.
    """

    table: pd.DataFrame
    failures: list[dict[str, str]]

    def plain(self) -> dict[str, Any]:
        """As plain data, for a JSON file."""
        return {"table": self.table.to_dict("records"), "failures": self.failures}


class Protocol(Choice, ABC):
    """A way to put numbers on a model."""

    kind: str

    @abstractmethod
    def evaluate(
        self, model: ArithmeticTransformer, task: Task, sets: Mapping[str, Int[np.ndarray, "batch operands"]]
    ) -> Evaluation:
        """Score the model.

        Args:
            model: in eval mode.
            task: what it learnt.
            sets: the questions of its splits, by name.
        """


class Test(Protocol):
    """Every split of the run: loss (nats per answer token), token accuracy and exact match."""

    __test__ = False  # no test case, whatever pytest thinks of the name
    kind: Literal["test"] = "test"

    def evaluate(
        self, model: ArithmeticTransformer, task: Task, sets: Mapping[str, Int[np.ndarray, "batch operands"]]
    ) -> Evaluation:
        """One row a split."""
        rows, failures = [], []
        for name, questions in sets.items():
            examples = task.examples(questions)
            logits = answer_logits(model, examples, task.answer_positions)
            hits = scoring.token_hits(logits, examples.targets)
            right = (hits | ~examples.mask).all(dim=-1)
            rows.append(
                {
                    "set": name,
                    "questions": len(questions),
                    "loss": scoring.cross_entropy(logits, examples.targets, examples.mask).item(),
                    "accuracy": scoring.accuracy(hits, examples.mask).item(),
                    "exact_match": right.double().mean().item(),
                    "wrong": int((~right).sum()),
                }
            )
            failures += _failures(model, task, name, questions[(~right).numpy()][:MOST_FAILURES])
        return Evaluation(pd.DataFrame(rows), failures)


def _failures(
    model: ArithmeticTransformer, task: Task, name: str, questions: Int[np.ndarray, "batch operands"]
) -> list[dict[str, str]]:
    """The questions with what the model answers to them."""
    if not len(questions):
        return []
    given = task.read_answer(greedy_answers(model, task, questions))
    return [
        {"set": name, "question": question, "right": str(right), "given": answer}
        for question, right, answer in zip(task.text(questions), task.answer(questions), given, strict=True)
    ]


PROTOCOLS: Registry[Protocol] = Registry("protocol", Test)
