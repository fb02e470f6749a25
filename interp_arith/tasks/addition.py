"""Arithmetic of whole numbers, spelt in characters: addition, subtraction, or both; the layout is a choice.

"23+45=" is asked as "0000000023+0000000045=" and answered "86000000000" unless the fields say otherwise: operands
with leading zeros and their units last, the answer with its units first.
"""

import re
from dataclasses import replace
from typing import Literal, Self

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Int, Shaped
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from interp_arith.errors import RequestError
from interp_arith.tasks import digits as columnwise
from interp_arith.tasks.base import Examples, Places, Questions, SampledTask, Task, read_questions
from interp_arith.tasks.columns import Operation, column_features, complexity_of
from interp_arith.tasks.layout import DigitOrder
from interp_arith.tasks.sampling import Limits, SplitName, draw_of_split, key
from interp_arith.tasks.spelling import Spelling, Supervision
from interp_arith.tasks.tokenizer import Vocabulary

_SIGNS: dict[Operation, str] = {"add": "+", "subtract": "-", "mixed": "+-"}
_FORMS: dict[Operation, str] = {"add": "a+b=", "subtract": "a-b=", "mixed": "a+b= or a-b="}


class Addition(SampledTask):
    """Sums of numbers of at most n digits, or differences, or both.

    A question is a string, or a row of its operands; where + and - are mixed, a row has one more entry: 0 for +, 1
    for -. Integers are int64, and Python's own in an object array where those do not do.
    """

    kind: Literal["addition"] = "addition"
    n_digits: int = Field(default=10, ge=1, le=100)
    """The longest operand."""
    operation: Operation = "add"
    """Sums, differences (with a sign), or both in turn."""
    operands: int = Field(default=2, ge=2, le=10)
    """Numbers in a sum; a difference has two."""
    operand_order: DigitOrder = "units-last"
    """How operands are written."""
    answer_order: DigitOrder = "units-first"
    """How the answer is written; a sign stands where the highest digit is."""
    padded: bool = True
    """Leading zeros, so that every number has the same length; else numbers as they are, with padding before the
    question, so that "=" stands at one place."""
    end_token: bool = False
    """A token that ends the answer; without leading zeros it is needed."""
    scratchpad: bool = False
    """Worked steps before the answer, a column each (see tasks/scratchpad.py), then "=" again."""
    supervision: Supervision = "none"
    """With a scratchpad, what the loss leaves out: nothing, the steps, or the answer."""
    sample_by: Literal["length", "value"] = "length"
    """Training questions uniform over lengths, or over values, so that nearly all are long."""
    carry_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the training questions with long carries: each column propagates with probability 0.6."""
    val_step: int | None = Field(default=None, ge=1)
    """Every evaluation also asks questions of val_step digits, of 2 · val_step and so on: the validation grid."""
    val_max_digits: int | None = Field(default=None, ge=1, le=100)
    """How far the grid goes; to n_digits unless given, or beyond where positions go on."""
    val_grid_questions: int = Field(default=200, ge=1)
    """Of each length of the grid, all different; fewer where the split has fewer."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.operation != "add" and self.operands != 2:
            raise RequestError(
                f"operands = {self.operands} with operation = {self.operation}; a difference has 2: set operands to 2"
            )
        if not self.padded and not self.end_token:
            raise RequestError(
                "padded = False without end_token: answers have many lengths; set end_token to True"
            )
        if self.supervision != "none" and not self.scratchpad:
            raise RequestError(
                f"supervision = {self.supervision} without scratchpad: there are no steps; set scratchpad to True"
            )
        if self.val_max_digits is not None and self.val_step is None:
            raise RequestError(
                f"val_max_digits = {self.val_max_digits} without val_step: there is no grid of lengths; set val_step"
            )
        if self.val_step is not None and not self.val_lengths:
            raise RequestError(
                f"val_step = {self.val_step} is beyond the longest numbers that are asked for; "
                f"allowed: 1 to {self.val_max_digits or self.n_digits}"
            )
        width = self.spelling.target_width
        if self.mask_first_n >= width:
            raise RequestError(
                f"mask_first_n = {self.mask_first_n} leaves no loss: an answer has {width} target tokens"
            )
        return self

    @property
    def spelling(self) -> Spelling:
        """How questions and answers are written."""
        return Spelling(
            n_digits=self.n_digits,
            operation=self.operation,
            operands=self.operands,
            operand_order=self.operand_order,
            answer_order=self.answer_order,
            padded=self.padded,
            end_token=self.end_token,
            scratchpad=self.scratchpad,
            supervision=self.supervision,
        )

    @property
    def vocabulary(self) -> Vocabulary:
        """Ten digits, "+", "=", padding and end; "-" and ";" where they are used."""
        return self.spelling.vocabulary

    @property
    def end_token_id(self) -> int | None:
        """That of "<end>", where answers have it."""
        return self.vocabulary.id("<end>") if self.end_token else None

    @property
    def n_ctx(self) -> int:
        """The question, and all of the target but its last token."""
        return self.spelling.prompt_width + self.spelling.target_width - 1

    @property
    def answer_positions(self) -> tuple[int, ...]:
        """From "=" on."""
        return tuple(range(self.spelling.prompt_width - 1, self.n_ctx))

    def sequence_length(self, question: str) -> int:
        """What the layout of its longest number takes, and never less than the task's own."""
        widest = max((len(number.lstrip("0")) for number in re.findall(r"\d+", question)), default=0)
        needed = replace(self.spelling, n_digits=max(widest, self.n_digits))
        return needed.prompt_width + needed.target_width

    def fitting(self, n_ctx: int) -> str:
        """The largest n_digits that fits."""
        shorter = (n for n in range(self.n_digits - 1, 0, -1) if self._with_digits(n).n_ctx <= n_ctx)
        most = next(shorter, None)
        return "" if most is None else f"; the largest task.n_digits that fits is {most}"

    def _with_digits(self, n_digits: int) -> Self:
        return self.model_copy(update={"n_digits": n_digits})

    # --- questions ---

    @property
    def limits(self) -> Limits:
        """Every length, and the task's share of carries."""
        return Limits(1, self.n_digits, self.carry_share)

    @property
    def val_lengths(self) -> tuple[int, ...]:
        """Operand lengths of the validation grid."""
        if self.val_step is None:
            return ()
        return tuple(range(self.val_step, (self.val_max_digits or self.n_digits) + 1, self.val_step))

    def reaching(self, n_digits: int) -> Self:
        """The same task; with longer operands, where its own are shorter than that."""
        return self if n_digits <= self.n_digits else self._with_digits(n_digits)

    @property
    def _row_width(self) -> int:
        return self.operands + (self.operation == "mixed")

    def parse(self, questions: Questions) -> Shaped[np.ndarray, "batch operands"]:
        """Questions as rows of integers; see Task.parse."""
        rows = read_questions(questions, self._row_width, self._parse_one, self._dtype)
        numbers = rows[:, : self.operands]
        for row in rows[((numbers < 0) | (numbers >= 10**self.n_digits)).any(axis=1)][:1]:
            raise RequestError(self._too_long(self._spell(row)))
        if self.operation == "mixed" and not np.isin(rows[:, -1], (0, 1)).all():
            raise RequestError("questions: the last entry of a row is 0 for + and 1 for -; or give strings")
        return rows

    @property
    def _dtype(self) -> type:
        """Of rows, and of answers: the sum of ten numbers of 17 digits still fits 64 bits."""
        return np.int64 if self.n_digits <= 17 or (self.n_digits == 18 and self.operands < 10) else object

    def _parse_one(self, question: str) -> tuple[int, ...]:
        more = rf"\s*([{re.escape(_SIGNS[self.operation])}])\s*(\d+)" * (self.operands - 1)
        found = re.fullmatch(rf"\s*(\d+){more}\s*=\s*", question, re.ASCII)
        if not found:
            raise RequestError(
                f"question {question!r} is not of the form {self._form} with "
                f"{'two' if self.operands == 2 else self.operands} whole numbers; for example {self._example!r}"
            )
        numbers = [number.lstrip("0") or "0" for number in found.groups()[::2]]
        if max(map(len, numbers)) > self.n_digits:
            raise RequestError(self._too_long(question))
        sign = ("+-".index(found.group(2)),) if self.operation == "mixed" else ()
        return (*map(int, numbers), *sign)

    @property
    def _form(self) -> str:
        if self.operands == 2:
            return _FORMS[self.operation]
        return "+".join("abcdefghij"[: self.operands]) + "="

    @property
    def _example(self) -> str:
        first, second = ("23", "45") if self.n_digits > 1 else ("3", "5")
        sign = "-" if self.operation == "subtract" else "+"
        return sign.join([first, second, *["6"] * (self.operands - 2)]) + "="

    def _too_long(self, question: str) -> str:
        return (
            f"question {question}: numbers must be from 0 to {10**self.n_digits - 1} "
            f"({self.n_digits} digit{'s' * (self.n_digits > 1)}); for example {self._example!r}"
        )

    def _spell(self, row: np.ndarray) -> str:
        sign = "-" if self.operation == "subtract" or (self.operation == "mixed" and row[-1]) else "+"
        return sign.join(str(number) for number in row[: self.operands]) + "="

    def text(self, questions: Questions) -> list[str]:
        """Questions as strings ("23+45=")."""
        return [self._spell(row) for row in self.parse(questions)]

    def answer(self, questions: Questions) -> Shaped[np.ndarray, " batch"]:
        """The sums and differences."""
        rows = self.parse(questions)
        if self.operation == "add":
            return rows.sum(axis=1)
        subtracts = rows[:, 2] if self.operation == "mixed" else np.ones(len(rows), dtype=np.int64)
        return rows[:, 0] + (1 - 2 * subtracts) * rows[:, 1]

    # --- digits ---

    def drawn(self, questions: Shaped[np.ndarray, "batch operands"]) -> Int[Tensor, "batch operand column"]:
        """Rows of integers as digits, units first; a sign of mixed questions is one more number."""
        return columnwise.digits_of(questions, self.n_digits)

    def questions(self, drawn: Int[Tensor, "batch operand column"]) -> Shaped[np.ndarray, "batch operands"]:
        """Digits as rows of integers."""
        return columnwise.numbers_of(drawn).astype(self._dtype)

    def digits(self, questions: Questions) -> Int[Tensor, "batch operand column"]:
        """The operands' digits, units first."""
        return self.drawn(self.parse(questions))[:, : self.operands]

    def subtracts(self, questions: Questions) -> Bool[Tensor, " batch"]:
        """Which questions are differences."""
        return self._subtracts(self.drawn(self.parse(questions)))

    def _subtracts(self, drawn: Int[Tensor, "*axes operand column"]) -> Bool[Tensor, "*axes"]:
        if self.operation == "mixed":
            return drawn[..., 2, 0] == 1
        return torch.full(drawn.shape[:-2], self.operation == "subtract", device=drawn.device)

    def encode(self, drawn: Int[Tensor, "*seed batch operand column"]) -> Examples:
        """What is asked, and what must be answered."""
        written = self.spelling.encode(drawn[..., : self.operands, :], self._subtracts(drawn))
        first = torch.arange(written.mask.shape[-1], device=drawn.device) >= self.mask_first_n
        return replace(written, mask=written.mask & first)

    def places(self, tokens: Int[Tensor, "*axes pos"]) -> Places:
        """Which number each token belongs to, and which column it is."""
        return self.spelling.places(tokens)

    @property
    def position_names(self) -> tuple[str, ...]:
        """What stands at each position that is read: "a4" … "a0", "+", "b4", …, "=", "s0", …

        Digits of the answer are "s" and their column; a sign of one of several is "±". Of padded numbers.
        """
        tokens = self.examples(self.split("test")[:1]).tokens[0]
        where, symbols = self.places(tokens[None]), self.vocabulary.decode(tokens.tolist())
        letters = [*"abcdefghij"[: self.operands], *"sw"]
        signs = {"+": "±", "-": "±"} if self.operation == "mixed" else {}
        return tuple(
            f"{letters[segment]}{place}" if place >= 0 else signs.get(symbol, symbol)
            for symbol, segment, place in zip(
                symbols, where.segment[0].tolist(), where.place[0].tolist(), strict=True
            )
        )

    @property
    def answer_names(self) -> tuple[str, ...]:
        """What each token of the answer is: "s5" … "s0", or from "s0" on; "sign", "end". Of padded numbers."""
        examples = self.examples(self.split("test")[:1])
        symbols = self.vocabulary.decode(examples.targets[0].tolist())
        places = list(range(sum(symbol.isdigit() for symbol in symbols)))
        if self.answer_order == "units-last":
            places.reverse()
        digits = iter(places)
        words = {"<end>": "end", "+": "sign", "-": "sign"}
        return tuple(f"s{next(digits)}" if symbol.isdigit() else words[symbol] for symbol in symbols)

    @property
    def number_lengths(self) -> tuple[int, ...]:
        """n digits of each operand, those of the answer, and where there are worked steps, n columns of them."""
        steps = (self.n_digits,) if self.scratchpad else ()
        return (*[self.n_digits] * self.operands, self.spelling.answer_digits, *steps)

    def read_answer(self, tokens: Int[Tensor, "batch answer"]) -> list[str]:
        """The number in human order; the symbols themselves where they are no number."""
        return [self.spelling.read(row) for row in tokens]

    def columns(self, questions: Questions) -> xr.Dataset:
        """What happens in each column: carries, borrows, cascades; see tasks/columns.py."""
        return column_features(self.digits(questions), self.subtracts(questions))

    def complexity(self, questions: Questions) -> Shaped[np.ndarray, " batch"]:
        """ "S0" … "S5" of sums, "M0" … "M4" and "N1" … "N4" of differences; see tasks/columns.py."""
        return complexity_of(self.digits(questions), self.subtracts(questions))

    # --- draws ---

    def drawn_from(
        self, pairs: Int[Tensor, "batch 2 column"], subtracts: bool
    ) -> Int[Tensor, "batch operand column"]:
        """Pairs as questions are drawn: as wide, and where + and - are mixed, one more number says which."""
        pairs = functional.pad(pairs, (0, self.n_digits - pairs.shape[-1]))
        if self.operation != "mixed":
            return pairs
        sign = torch.zeros_like(pairs[:, :1])
        sign[..., 0] = int(subtracts)
        return torch.cat([pairs, sign], dim=1)

    def sample(
        self, split: SplitName, n: int, key: Int[Tensor, "*seed"], limits: Limits | None = None
    ) -> Int[Tensor, "*seed batch operand column"]:
        """The digits of n questions of a split; lengths and carries as the limits say."""
        limits = limits or self.limits
        if self.sample_by == "value":
            limits = replace(limits, min_digits=limits.max_digits)
        return draw_of_split(split, n, self.n_digits, limits, key, self.operands, self.operation)

    def split(self, name: SplitName) -> Shaped[np.ndarray, "batch operands"]:
        """The fixed val or test questions: uniform over all numbers of at most n digits.

        Raises:
            RequestError: for "train", whose questions are drawn anew at every step.
        """
        if name == "train":
            raise RequestError("split 'train' of a sampled task has no end; use task.sample('train', n, key)")
        size = self.val_questions if name == "val" else self.test_questions
        full = Limits(self.n_digits, self.n_digits, 0.0)
        return self.questions(self.sample(name, size, key(self.seed, name), full))


def complexity(task: Task, questions: Questions) -> Shaped[np.ndarray, " batch"]:
    """The complexity class of each question: how far its longest carry or borrow runs.

    Raises:
        RequestError: the task is no addition or subtraction, or a question is malformed.
    """
    if not isinstance(task, Addition):
        raise RequestError(
            f"complexity: the {task.kind} task has no columns; it is defined for the addition task"
        )
    return task.complexity(questions)
