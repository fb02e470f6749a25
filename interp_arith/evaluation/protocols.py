"""How good a model is: the table of protocols, and the one that every task has; knows no run directory."""

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from jaxtyping import Shaped

from interp_arith.errors import RequestError
from interp_arith.evaluation.adders import Complexity, LengthGrid, Million, TenDigit
from interp_arith.evaluation.base import (
    MOST_FAILURES,
    Evaluation,
    Progress,
    Protocol,
    Sets,
    in_silence,
)
from interp_arith.evaluation.decoding import answer_logits, greedy_answers
from interp_arith.registry import Registry
from interp_arith.tasks import scoring
from interp_arith.tasks.base import Task

if TYPE_CHECKING:
    from interp_arith.models.transformer import ArithmeticTransformer


class Test(Protocol):
    """Every split of the run: loss (nats per answer token), token accuracy and exact match."""

    __test__ = False  # no test case, whatever pytest thinks of the name
    kind: Literal["test"] = "test"

    def evaluate(
        self, model: "ArithmeticTransformer", task: Task, sets: Sets, progress: Progress = in_silence
    ) -> Evaluation:
        """One row a split.

        Raises:
            RequestError: there is none.
        """
        if not sets:
            raise RequestError(
                "protocol test asks what the run holds out, and task.val_questions and task.test_questions are 0; "
                f"take another: {', '.join(name for name in PROTOCOLS if name != self.kind)}"
            )
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
    model: "ArithmeticTransformer", task: Task, name: str, questions: Shaped[np.ndarray, "batch operands"]
) -> list[dict[str, str]]:
    """The questions with what the model answers to them."""
    if not len(questions):
        return []
    given = task.read_answer(greedy_answers(model, task, questions))
    return [
        {"set": name, "question": question, "right": str(right), "given": answer}
        for question, right, answer in zip(task.text(questions), task.answer(questions), given, strict=True)
    ]


PROTOCOLS: Registry[Protocol] = Registry("protocol", Test, TenDigit, Million, LengthGrid, Complexity)
