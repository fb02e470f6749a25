"""What a protocol is and what it finds; knows no particular one."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Shaped

from interp_arith.registry import Choice
from interp_arith.tasks.base import Task

if TYPE_CHECKING:
    from interp_arith.models.transformer import ArithmeticTransformer

MOST_FAILURES = 1000
Progress = Callable[[int, int], None]
"""Is told how many questions are answered, and how many there are."""
Sets = Mapping[str, Shaped[np.ndarray, "batch operands"]]


def in_silence(done: int, total: int) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True)
class Evaluation:
    """What a protocol found.

    Attributes:
        table: what is printed, a row a set of questions.
        failures: wrongly answered questions, at most 1,000 a set: set, question, right, given.
        notes: what the table leaves out, and why.
    """

    table: pd.DataFrame
    failures: list[dict[str, str]]
    notes: tuple[str, ...] = ()

    def plain(self) -> dict[str, Any]:
        """As plain data, for a JSON file; None for a number that there is not."""
        table = self.table.astype(object).where(self.table.notna(), None)
        return {"notes": list(self.notes), "table": table.to_dict("records"), "failures": self.failures}


class Protocol(Choice, ABC):
    """A way to put numbers on a model."""

    kind: str

    @property
    def label(self) -> str:
        """What its file in the run is called after."""
        return self.kind

    @abstractmethod
    def evaluate(
        self, model: "ArithmeticTransformer", task: Task, sets: Sets, progress: Progress = in_silence
    ) -> Evaluation:
        """Score the model.

        Args:
            model: in eval mode.
            task: what it learnt.
            sets: the questions of its splits, by name; protocols that draw their own leave them.
            progress: told where it is, now and then, if it takes long.

        Raises:
            RequestError: the protocol has no meaning for the task.
        """
