"""Matched questions: a base without a carry or borrow and a source with it, alike but for one feature of one column.

Sources: Geiger et al. 2021, "Causal abstractions of neural networks", for interchange; Quirke & Barez 2023 for the
features.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from interp_arith.errors import RequestError, unknown
from interp_arith.tasks.addition import Addition
from interp_arith.tasks.base import Task
from interp_arith.tasks.class_draws import draw_sides
from interp_arith.tasks.sampling import key

PAIR_FEATURES = ("base_add", "generate", "propagate", "carry_in")
Signed = Literal["add", "subtract"]
_DIGITS = list(product(range(10), repeat=2))
_WORDS = {"add": "sums", "subtract": "differences"}


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


def no_two_numbers(task: Task) -> str | None:
    """Why there are no such questions: they are not of two numbers, answered at once."""
    if not isinstance(task, Addition):
        return f"the {task.kind} task has no columns; it is of the addition task"
    if task.operands != 2:
        return "its carries are those of two numbers; choose operands = 2"
    if task.scratchpad:
        return "worked steps write the carries down; choose scratchpad = False"
    return None


def no_sums_of_two(task: Task) -> str | None:
    """Why there are no sums of two numbers, answered at once."""
    if isinstance(task, Addition) and task.operation == "subtract":
        return "its carries are those of sums of two numbers; choose operation add and operands = 2"
    return no_two_numbers(task)


def of_two(task: Task) -> Addition:
    """The task, if its questions are of two numbers.

    Raises:
        RequestError: they are not.
    """
    if (reason := no_two_numbers(task)) is not None:
        raise RequestError(f"carries of {task.kind}: {reason}")
    assert isinstance(task, Addition)
    return task


def adding(task: Task) -> Addition:
    """The task, if its questions are sums of two numbers, or some of them.

    Raises:
        RequestError: they are not.
    """
    if (reason := no_sums_of_two(task)) is not None:
        raise RequestError(f"carries of {task.kind}: {reason}")
    assert isinstance(task, Addition)
    return task


def matched_pairs(
    task: Task, feature: str, column: int, n: int, seed: int = 0, operation: Signed | None = None
) -> Pairs:
    """Questions without a carry, each beside one with it, that differ in one feature of one column.

    r is the sum of the column's digits, and d their difference where the operation subtracts: there a carry is a
    borrow, and no answer is negative.

    - "base_add": r ≤ 8, or d ≥ 1, in both, and not the same. Replacing it gives the digit of the source.
    - "generate": r of the column is 10 more in the source, or d 10 less, so that its base_add is the same.
    - "propagate": with a carry into the column, r is 8 in the base and 9 in the source, or d 1 and 0. The digit in
      the column is the source's own; replacing the feature leaves the base's.
    - "carry_in": the column below has r = 9, or d = 0, and the next below it generates, or not; below column 1 it is
      the units. Replacing the feature changes no digit below the column.

    All other columns are the same, and uniform; but the column that the carry enters neither passes it on nor holds
    it back, so that one digit of the answer changes, or the top digit.

    Args:
        task: of two numbers, in any layout.
        feature: one of PAIR_FEATURES.
        column: 0 is the units.
        n: how many pairs.
        seed: of the draw.
        operation: "add" or "subtract", where the task has both; what it has, or sums, unless given.

    Raises:
        RequestError: the task has no such feature or operation, or the column cannot have it.
    """
    task = of_two(task)
    operation = the_operation(task, operation)
    if feature not in PAIR_FEATURES:
        raise unknown("feature of matched pairs", feature, PAIR_FEATURES)
    columns = feature_columns(task, feature, operation)
    if column not in columns:
        allowed = f"columns {columns[0]} to {columns[-1]}" if columns else "none"
        raise RequestError(
            f"{feature} in column {column}: {_WORDS[operation]} of {task.n_digits} digits have it in {allowed}; "
            "choose one of them"
        )
    subtracts = operation == "subtract"
    sign = -1 if subtracts else 1
    planted = (_planted_borrows if subtracts else _planted)(feature, column, task.n_digits)
    if not task.padded:  # so that base and source have the same length
        top = task.n_digits - 1
        choices = planted.get(top, _choices(lambda r: True))
        planted[top] = choices[(choices > 0).all(dim=(-2, -1))]
    sides = [task.questions(side) for side in draw_sides(n, task.n_digits, key(seed, "pairs"), planted)]
    base, source = (side[:, 0] + sign * side[:, 1] for side in sides)
    if feature == "base_add":
        carry = source - base
    else:
        carry = np.full_like(base, sign * 10 ** (column + (feature != "carry_in")))
    return Pairs(
        feature,
        column,
        *(task.tokens(as_rows(task, side, subtracts)) for side in sides),
        *(
            answer_tokens(task, numbers, subtracts)
            for numbers in (base, source, base + carry, source - carry)
        ),
    )


def the_operation(task: Addition, operation: Signed | None = None) -> Signed:
    """The operation that is meant: the one given, or the task's own, or sums.

    Raises:
        RequestError: the task does not have it.
    """
    if operation is None:
        return "subtract" if task.operation == "subtract" else "add"
    if task.operation not in (operation, "mixed"):
        raise RequestError(f"operation {operation}: this task has {task.operation} alone")
    return operation


def feature_columns(task: Addition, feature: str, operation: Signed | None = None) -> range:
    """The columns in which a feature can be replaced; nothing is borrowed from above the top column."""
    top = task.n_digits - (the_operation(task, operation) == "subtract")
    return {
        "base_add": range(task.n_digits),
        "generate": range(top),
        "propagate": range(1, top),
        "carry_in": range(1, top + 1),
    }[feature]


def answer_tokens(
    task: Addition, numbers: np.ndarray, subtracts: bool = False
) -> Int[Tensor, "batch answer"]:
    """An answer, whatever it is the answer of, as the task writes it."""
    first = np.minimum(numbers, 10**task.n_digits - 1)
    return task.answer_tokens(as_rows(task, np.stack([first, numbers - first], axis=1), subtracts))


def as_rows(task: Addition, numbers: np.ndarray, subtracts: bool = False) -> np.ndarray:
    """Pairs of numbers as rows of questions; where signs are mixed, with theirs."""
    sign = np.full((len(numbers), int(task.operation == "mixed")), int(subtracts), dtype=numbers.dtype)
    return np.concatenate([numbers, sign], axis=1)


_Sides = Int[Tensor, "choice 2 2"]


def _choices(wanted: Callable[[int], bool], sign: int = 1) -> _Sides:
    """Pairs of digits whose sum, or difference, is wanted, the same on both sides."""
    return torch.tensor([(d, d) for d in _DIGITS if wanted(d[0] + sign * d[1])])


def _apart(wanted: Callable[[int, int], bool], sign: int = 1) -> _Sides:
    """Pairs of digits, for the base and for the source, whose sums, or differences, are wanted."""
    return torch.tensor(
        [(d, e) for d in _DIGITS for e in _DIGITS if wanted(d[0] + sign * d[1], e[0] + sign * e[1])]
    )


def _planted(feature: str, column: int, n_digits: int) -> dict[int, _Sides]:
    """Column -> what its digits may be, in base and source, of sums."""
    gains = _apart(lambda base, source: source == base + 10)
    if feature == "base_add":
        return {column: _apart(lambda base, source: base != source and max(base, source) <= 8)}
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


def _planted_borrows(feature: str, column: int, n_digits: int) -> dict[int, _Sides]:
    """The same of differences; the first number is larger, in its top digit already."""
    top = {n_digits - 1: _choices(lambda d: d >= 1, -1)}
    loses = _apart(lambda base, source: source == base - 10 and base >= 1, -1)
    if feature == "base_add":
        return top | {column: _apart(lambda base, source: base != source and min(base, source) >= 1, -1)}
    if feature == "generate":
        planted, into = {column: loses}, column + 1
    elif feature == "propagate":
        reaches = _apart(lambda base, source: (base, source) == (1, 0), -1)
        planted, into = {column - 1: _choices(lambda d: d <= -1, -1), column: reaches}, column + 1
    elif column == 1:
        planted, into = {0: loses}, 1
    else:
        planted, into = {column - 2: loses, column - 1: _choices(lambda d: d == 0, -1)}, column
    return {into: _choices(lambda d: d != 0, -1)} | planted | top
