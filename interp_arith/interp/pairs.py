"""Matched questions: a base without a carry and a source with it, alike but for one feature of one column.

Sources: Geiger et al. 2021, "Causal abstractions of neural networks", for interchange; Quirke & Barez 2023 for the
features.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from interp_arith.errors import RequestError, unknown
from interp_arith.tasks.addition import Addition
from interp_arith.tasks.base import Task
from interp_arith.tasks.class_draws import draw_sides
from interp_arith.tasks.sampling import key

PAIR_FEATURES = ("generate", "propagate", "carry_in")
_DIGITS = list(product(range(10), repeat=2))


@dataclass(frozen=True)
class Pairs:
    """Questions in two versions, with what each answer becomes when it gets the other's feature.

    Attributes:
        feature: in which they differ.
        column: where.
        base: prompts that are run.
        source: prompts whose activations are put in.
        answer: what is right for the base.
        source_answer: what is right for the source.
        replaced: the base's answer with the feature replaced.
        source_replaced: the source's answer with the base's feature.
    """

    feature: str
    column: int
    base: Int[Tensor, "batch pos"]
    source: Int[Tensor, "batch pos"]
    answer: Int[Tensor, "batch answer"]
    source_answer: Int[Tensor, "batch answer"]
    replaced: Int[Tensor, "batch answer"]
    source_replaced: Int[Tensor, "batch answer"]

    def __len__(self) -> int:
        return len(self.base)

    def turned(self) -> "Pairs":
        """Base and source with their parts exchanged."""
        return replace(
            self,
            base=self.source,
            source=self.base,
            answer=self.source_answer,
            source_answer=self.answer,
            replaced=self.source_replaced,
            source_replaced=self.replaced,
        )

    def each(self, function: Callable[[Tensor], Tensor]) -> "Pairs":
        """The same pairs, every tensor of them changed by the function."""
        tensors = {name: function(x) for name, x in vars(self).items() if isinstance(x, Tensor)}
        return replace(self, **tensors)


def no_sums_of_two(task: Task) -> str | None:
    """Why there are no such questions: the task has no sums of two numbers, answered at once."""
    if not isinstance(task, Addition):
        return f"the {task.kind} task has no columns; it is of the addition task"
    if task.operation == "subtract" or task.operands != 2:
        return "its carries are those of sums of two numbers; choose operation add and operands = 2"
    if task.scratchpad:
        return "worked steps write the carries down; choose scratchpad = False"
    return None


def adding(task: Task) -> Addition:
    """The task, if its questions are sums of two numbers.

    Raises:
        RequestError: they are not.
    """
    if (reason := no_sums_of_two(task)) is not None:
        raise RequestError(f"carries of {task.kind}: {reason}")
    assert isinstance(task, Addition)
    return task


def matched_pairs(task: Task, feature: str, column: int, n: int, seed: int = 0) -> Pairs:
    """Questions without a carry, each beside one with it, that differ in one feature of one column.

    - "generate": r of the column is 10 more in the source, so that its base_add is the same.
    - "propagate": with a carry into the column, r is 8 in the base and 9 in the source. The digit in the column is
      the source's own; replacing the feature leaves the base's.
    - "carry_in": the column below has r = 9 and the next below it generates, or not; below column 1 it is the units.
      Replacing the feature changes no digit below the column.

    All other columns are the same, and uniform; but the column that the carry enters has r ≠ 9, so that one digit of
    the answer changes, or the top digit.

    Args:
        task: sums of two numbers, in any layout.
        feature: one of PAIR_FEATURES.
        column: 0 is the units.
        n: how many pairs.
        seed: of the draw.

    Raises:
        RequestError: the task has no such feature, or the column cannot have it.
    """
    task = adding(task)
    if feature not in PAIR_FEATURES:
        raise unknown("feature of matched pairs", feature, PAIR_FEATURES)
    columns = feature_columns(task, feature)
    if column not in columns:
        allowed = f"columns {columns[0]} to {columns[-1]}" if columns else "none"
        raise RequestError(
            f"{feature} in column {column}: sums of {task.n_digits} digits have it in {allowed}; choose one of them"
        )
    planted = _planted(feature, column, task.n_digits)
    if not task.padded:  # so that base and source have the same length
        top = task.n_digits - 1
        choices = planted.get(top, _choices(lambda r: True))
        planted[top] = choices[(choices > 0).all(dim=(-2, -1))]
    base, source = draw_sides(n, task.n_digits, key(seed, "pairs"), planted)
    carry = 10 ** (column + (feature != "carry_in"))
    numbers = [task.questions(side).sum(axis=1) for side in (base, source)]
    first, second = (task.questions(side) for side in (base, source))
    return Pairs(
        feature,
        column,
        _prompts(task, first),
        _prompts(task, second),
        answer_tokens(task, numbers[0]),
        answer_tokens(task, numbers[1]),
        answer_tokens(task, numbers[0] + carry),
        answer_tokens(task, numbers[1] - carry),
    )


def feature_columns(task: Addition, feature: str) -> range:
    """The columns in which a feature can be replaced."""
    return {
        "generate": range(task.n_digits),
        "propagate": range(1, task.n_digits),
        "carry_in": range(1, task.n_digits + 1),
    }[feature]


def answer_tokens(task: Addition, numbers: np.ndarray) -> Int[Tensor, "batch answer"]:
    """A sum, whatever it is the sum of, as the task writes it."""
    first = np.minimum(numbers, 10**task.n_digits - 1)
    return task.answer_tokens(as_rows(task, np.stack([first, numbers - first], axis=1)))


def as_rows(task: Addition, numbers: np.ndarray) -> np.ndarray:
    """Sums as rows of questions; where signs are mixed, with the plus."""
    plus = np.zeros((len(numbers), int(task.operation == "mixed")), dtype=numbers.dtype)
    return np.concatenate([numbers, plus], axis=1)


def _prompts(task: Addition, numbers: np.ndarray) -> Int[Tensor, "batch pos"]:
    return task.tokens(as_rows(task, numbers))


def _choices(wanted: Callable[[int], bool]) -> Int[Tensor, "choice 2 2"]:
    """Pairs of digits whose sum is wanted, the same on both sides."""
    return torch.tensor([(d, d) for d in _DIGITS if wanted(sum(d))])


def _apart(wanted: Callable[[int, int], bool]) -> Int[Tensor, "choice 2 2"]:
    """Pairs of digits, for the base and for the source, whose sums are wanted."""
    return torch.tensor([(d, e) for d in _DIGITS for e in _DIGITS if wanted(sum(d), sum(e))])


def _planted(feature: str, column: int, n_digits: int) -> dict[int, Int[Tensor, "choice 2 2"]]:
    """Column -> what its digits may be, in base and source."""
    gains = _apart(lambda base, source: source == base + 10)
    if feature == "generate":
        planted, into = {column: gains}, column + 1
    elif feature == "propagate":
        reaches = _apart(lambda base, source: (base, source) == (8, 9))
        planted, into = {column - 1: _choices(lambda r: r >= 10), column: reaches}, column + 1
    elif column == 1:
        planted, into = {0: gains}, 1
    else:
        planted, into = {column - 2: gains, column - 1: _choices(lambda r: r == 9)}, column
    return planted if into >= n_digits else {**planted, into: _choices(lambda r: r != 9)}
