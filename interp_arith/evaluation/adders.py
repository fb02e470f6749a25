"""Protocols for adders: ten digits, a million, every length, every complexity; answers are decoded greedily."""

from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import Int
from pydantic import Field
from torch import Tensor

from interp_arith.errors import RequestError
from interp_arith.evaluation.asking import (
    Asked,
    Tally,
    adder,
    ask,
    longest_operands,
    sharpened,
    trained_test_questions,
    with_digits,
)
from interp_arith.evaluation.base import Evaluation, Progress, Protocol, Sets, in_silence
from interp_arith.tasks.addition import Addition
from interp_arith.tasks.base import Task
from interp_arith.tasks.class_draws import draw_cascades, draw_class
from interp_arith.tasks.columns import classes, complexity_of
from interp_arith.tasks.lengths import distinct, of_length
from interp_arith.tasks.sampling import Limits, draw_test_numbers, key, later, ten_digit_pairs

if TYPE_CHECKING:
    from interp_arith.models.transformer import ArithmeticTransformer

_AT_ONCE = 8192  # long questions that are drawn together
_APART = 1000  # moments between draws, more than one of them takes
_MOST_QUICK_DIGITS = 15  # of `draw_test_numbers`
_EDGES = 10  # questions of the ten-digit protocol that are chosen, and not random


class TenDigit(Protocol):
    """Ten edge pairs and 10,000 random ones, the same for everybody, and sums whose carries run far.

    Its questions are held out of training here, but its seed is public: report it with the million, and with the
    cascades, 1 to 9 columns that sum to 9 above one that generates a carry, held out too.
    """

    kind: Literal["ten-digit"] = "ten-digit"
    cascades: int = Field(default=1000, ge=0)
    """Questions for each length of a cascade."""
    seed: int = Field(default=2026, ge=0)
    """Of the cascades."""

    def evaluate(
        self, model: "ArithmeticTransformer", task: Task, sets: Sets, progress: Progress = in_silence
    ) -> Evaluation:
        """A row for the edge pairs, the random ones and both; one for each length of a cascade."""
        task = adder(task, self.kind)
        if task.operation == "subtract" or task.operands != 2:
            what = "subtracts" if task.operation == "subtract" else f"adds {task.operands} numbers"
            raise RequestError(
                f"protocol ten-digit asks for sums of two numbers, and the run's task {what}; take million"
            )
        task = with_digits(model, task, 10)
        pairs = task.drawn(task.parse([f"{a}+{b}=" for a, b in ten_digit_pairs().tolist()]))
        lengths, start = range(1, 10 if self.cascades else 1), key(self.seed, "test")
        total, tally = len(pairs) + self.cascades * len(lengths), Tally()
        tally.add("edge_pairs", ask(model, task, pairs[:_EDGES]))
        tally.add("random_pairs", ask(model, task, pairs[_EDGES:]))
        tally.total("ten_digit")
        progress(len(pairs), total)
        for length in lengths:
            drawn = draw_cascades(length, self.cascades, 10, later(start, length), held_out=True)
            tally.add(f"cascade_{length}", ask(model, task, task.drawn_from(drawn, subtracts=False)))
            progress(len(pairs) + self.cascades * length, total)
        return tally.evaluation(trained_test_questions(task, sets))


class Million(Protocol):
    """A million questions of the test split, uniform over all numbers of at most n digits; at most 1 error in all is
    "six nines"."""

    kind: Literal["million"] = "million"
    questions: int = Field(default=1_000_000, ge=1)
    """How many."""
    seed: int = Field(default=2026, ge=0)
    """Of the draw; another than that of the run's own test questions."""

    def evaluate(
        self, model: "ArithmeticTransformer", task: Task, sets: Sets, progress: Progress = in_silence
    ) -> Evaluation:
        """A row for each class of complexity that the task has, and one for all."""
        task = adder(task, self.kind)
        start, has_classes = key(self.seed, "test"), task.operands == 2
        tally = Tally(classes(task.n_digits, task.operation) if has_classes else ())
        done = 0
        for number in count():
            rest = self.questions - done
            drawn = self._draw(task, later(start, number), rest)[:rest]
            asked = ask(model, task, drawn)
            names = _complexity(asked) if has_classes else np.full(len(asked), "all")
            for name in np.unique(names):
                tally.add(str(name), asked.rows(torch.from_numpy(names == name)))
            done += len(asked)
            progress(done, self.questions)
            if done == self.questions:
                break
        if has_classes:
            tally.total("all")
        return tally.evaluation((*self._notes(task), *trained_test_questions(task, sets)))

    def _draw(self, task: Addition, key: Int[Tensor, ""], wanted: int) -> Int[Tensor, "batch operand column"]:
        """Some test questions."""
        if task.n_digits > _MOST_QUICK_DIGITS:
            limits = Limits(task.n_digits, task.n_digits, 0.0)
            return task.sample("test", min(_AT_ONCE, wanted), key, limits)
        rows = draw_test_numbers(task.n_digits, key, task.operands, has_sign=task.operation == "mixed")
        return task.drawn(rows.numpy())

    def _notes(self, task: Addition) -> tuple[str, ...]:
        there_are = 10 ** (task.n_digits * task.operands) // 20
        if there_are > self.questions:
            return ()
        return (f"the test split has about {there_are:,} questions; they come more than once",)


class LengthGrid(Protocol):
    """Exact match at every operand length, from 1 digit to twice the longest of training.

    Out-of-distribution accuracy can peak in the middle of training and then decay: take it at every step (`--step
    all`).
    """

    kind: Literal["length-grid"] = "length-grid"
    questions: int = Field(default=1000, ge=1)
    """Of each length, all different; fewer where the test split has fewer."""
    max_digits: int | None = Field(default=None, ge=1, le=100)
    """The last length; twice the longest of training unless given."""
    sharpen: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Multiplies the model's attention scores, so that attention is sharper among more tokens than in training."""
    seed: int = Field(default=2026, ge=0)
    """Of the draw."""

    @property
    def label(self) -> str:
        """With how much attention is sharpened, and how many questions are asked of each length, unless as usual."""
        sharpened = "" if self.sharpen == 1 else f"-sharpened-{self.sharpen:g}"
        asked = (
            ""
            if self.questions == type(self).model_fields["questions"].default
            else f"-{self.questions}-each"
        )
        return self.kind + sharpened + asked

    def evaluate(
        self, model: "ArithmeticTransformer", task: Task, sets: Sets, progress: Progress = in_silence
    ) -> Evaluation:
        """A row for each length; both numbers are that long."""
        task = adder(task, self.kind)
        model = model if self.sharpen == 1 else sharpened(model, task, self.sharpen)
        wanted = self.max_digits or 2 * task.n_digits
        longest, start = longest_operands(model, task, wanted), key(self.seed, "test")
        tally = Tally()
        for length in range(1, longest + 1):
            asked_task = with_digits(model, task, length)
            drawn = of_length(asked_task, "test", length, self.questions, later(start, _APART * length))
            tally.add(f"length_{length}", ask(model, asked_task, drawn))
            progress(length, longest)
        notes = []
        if longest < wanted:
            notes.append(
                f"the model has positions for operands of at most {longest} digits; "
                + (
                    f"{wanted} were asked for"
                    if self.max_digits
                    else f"twice the longest of training would be {wanted}"
                )
            )
        return tally.evaluation((*notes, *trained_test_questions(task, sets)))


class Complexity(Protocol):
    """Exact match for every class of complexity: how far a carry or borrow runs (Quirke et al. 2024)."""

    kind: Literal["complexity"] = "complexity"
    questions: int = Field(default=1000, ge=1)
    """Of each class, all different and of the test split; fewer where it has fewer."""
    seed: int = Field(default=2026, ge=0)
    """Of the draw."""

    def evaluate(
        self, model: "ArithmeticTransformer", task: Task, sets: Sets, progress: Progress = in_silence
    ) -> Evaluation:
        """A row for each class that the task has."""
        task = adder(task, self.kind)
        if task.operands != 2:
            raise RequestError(
                f"protocol complexity is about two numbers, and the run's task has {task.operands}; take million"
            )
        names, start = classes(task.n_digits, task.operation), key(self.seed, "test")
        tally, notes = Tally(names), []
        for done, name in enumerate(names, start=1):
            draw = partial(self._draw, task, name, later(start, _APART**2 * done))
            try:
                tally.add(name, ask(model, task, distinct(draw, self.questions)))
            except RequestError as error:  # of very short or long questions, some classes are hard to find
                notes.append(f"{name}: {error}")
            progress(done, len(names))
        tally.total("all")
        return tally.evaluation((*notes, *trained_test_questions(task, sets)))

    def _draw(
        self, task: Addition, name: str, start: Int[Tensor, ""], number: int
    ) -> Int[Tensor, "batch operand column"]:
        """Test questions of the class."""
        pairs = draw_class(name, self.questions, task.n_digits, later(start, _APART * number), held_out=True)
        return task.drawn_from(pairs, subtracts=not name.startswith("S"))


def _complexity(asked: Asked) -> np.ndarray:
    """The class of each question."""
    subtracts = asked.task.subtracts(asked.task.questions(asked.drawn))
    return complexity_of(asked.drawn[:, :2], subtracts)
