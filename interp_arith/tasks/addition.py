"""n-digit addition, spelt in characters: "23+45=" is asked as "0000000023+0000000045=" and answered "86000000000".

The simplest layout: zero-padded operands with their units last, the answer with its units first.
"""

import re
from typing import Literal, Self

import numpy as np
import torch
from jaxtyping import Int
from pydantic import Field, model_validator
from torch import Tensor

from interp_arith.errors import RequestError
from interp_arith.tasks.base import Examples, Places, Questions, SampledTask, read_questions
from interp_arith.tasks.sampling import Limits, SplitName, draw_of_split, key
from interp_arith.tasks.tokenizer import Vocabulary, characters


class Addition(SampledTask):
    """The sum of two numbers of at most n digits."""

    kind: Literal["addition"] = "addition"
    n_digits: int = Field(default=10, ge=1, le=18)
    """The longest operand."""
    carry_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the training questions with long carries (each column sums to 9 with probability 0.6)."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.mask_first_n > self.n_digits:
            raise RequestError(
                f"mask_first_n = {self.mask_first_n} leaves no loss: an answer has {self.n_digits + 1} "
                "target tokens"
            )
        return self

    @property
    def vocabulary(self) -> Vocabulary:
        """Ten digits, "+", "=", and two that other layouts need: padding and end."""
        return characters("+", "=", "<pad>", "<end>")

    @property
    def n_ctx(self) -> int:
        """Two operands, two signs, and all answer digits but the last."""
        return 3 * self.n_digits + 2

    @property
    def answer_positions(self) -> tuple[int, ...]:
        """From "=" on."""
        return tuple(range(2 * self.n_digits + 1, self.n_ctx))

    @property
    def limits(self) -> Limits:
        """Every length, and the task's share of carries."""
        return Limits(1, self.n_digits, self.carry_share)

    def parse(self, questions: Questions) -> Int[np.ndarray, "batch operands"]:
        """Questions as [n, 2] integers; see Task.parse."""
        pairs = read_questions(questions, 2, self._parse_one)
        for a, b in pairs[((pairs < 0) | (pairs >= 10**self.n_digits)).any(axis=1)][:1]:
            raise RequestError(self._too_long(f"{a}+{b}="))
        return pairs

    def sequence_length(self, question: str) -> int:
        """3d + 3 tokens for operands of at most d digits, and never less than the layout's own."""
        widest = max(map(len, re.findall(r"\d+", question)), default=0)
        return 3 * max(widest, self.n_digits) + 3

    def _parse_one(self, question: str) -> tuple[int, int]:
        found = re.fullmatch(r"\s*(\d+)\s*\+\s*(\d+)\s*=\s*", question, re.ASCII)
        if not found:
            raise RequestError(
                f"question {question!r} is not of the form a+b= with two whole numbers; for example '23+45='"
            )
        a, b = (number.lstrip("0") or "0" for number in found.groups())
        if max(len(a), len(b)) > self.n_digits:
            raise RequestError(self._too_long(question))
        return int(a), int(b)

    def _too_long(self, question: str) -> str:
        return (
            f"question {question}: numbers must be from 0 to {10**self.n_digits - 1} "
            f"({self.n_digits} digits); for example '23+45='"
        )

    def text(self, questions: Questions) -> list[str]:
        """Questions as strings ("23+45=")."""
        return [f"{a}+{b}=" for a, b in self.parse(questions)]

    def encode(self, numbers: Int[Tensor, "*seed batch operands"]) -> Examples:
        """Both operands with leading zeros, units last; the n+1 digits of the sum, units first."""
        a, b = numbers.unbind(-1)
        places = 10 ** torch.arange(self.n_digits + 1, device=numbers.device)
        digits = torch.stack([a, b, a + b], dim=-1)[..., None].div(places, rounding_mode="trunc")
        digits[..., :-1] -= 10 * digits[..., 1:]
        a, b = digits[..., :2, :-1].flip(-1).unbind(-2)
        answer = digits[..., 2, :]
        plus, equals = (torch.full_like(a[..., :1], sign) for sign in self.vocabulary.encode("+="))
        mask = (torch.arange(self.n_digits + 1, device=numbers.device) >= self.mask_first_n).expand_as(answer)
        return Examples(torch.cat([a, plus, b, equals, answer[..., :-1]], dim=-1), answer, mask)

    @property
    def number_lengths(self) -> tuple[int, ...]:
        """n digits each, and one more in the sum."""
        return self.n_digits, self.n_digits, self.n_digits + 1

    def places(self, tokens: Int[Tensor, "*axes pos"]) -> Places:
        """See Task.places."""
        is_digit, position = tokens < 10, torch.arange(tokens.shape[-1], device=tokens.device)
        plus, equals = self.vocabulary.encode("+=")
        segment = ((tokens == plus) | (tokens == equals)).cumsum(dim=-1)
        before = position - torch.where(is_digit, -1, position).cummax(dim=-1).values - 1
        place = torch.where(segment == 2, before, self.n_digits - 1 - before)
        return Places(segment, torch.where(is_digit, place, -1))

    def answer(self, questions: Questions) -> Int[np.ndarray, " batch"]:
        """The sums."""
        return self.parse(questions).sum(axis=1)

    def read_answer(self, tokens: Int[Tensor, "batch answer"]) -> list[str]:
        """The number in human order; the symbols themselves where one is no digit."""
        words = ["".join(reversed(self.vocabulary.decode(row.tolist()))) for row in tokens]
        return [str(int(word)) if word.isdigit() else word for word in words]

    def sample(
        self, split: SplitName, n: int, key: Int[Tensor, "*seed"], limits: Limits | None = None
    ) -> Int[Tensor, "*seed batch operands"]:
        """n questions of a split; lengths and carries as the limits say."""
        return draw_of_split(split, n, self.n_digits, limits or self.limits, key)

    def split(self, name: SplitName) -> Int[np.ndarray, "batch operands"]:
        """The fixed val or test questions: uniform pairs of numbers of at most n digits.

        Raises:
            RequestError: for "train", whose questions are drawn anew at every step.
        """
        if name == "train":
            raise RequestError("split 'train' of a sampled task has no end; use task.sample('train', n, key)")
        size = self.val_questions if name == "val" else self.test_questions
        full = Limits(self.n_digits, self.n_digits, 0.0)
        return self.sample(name, size, key(self.seed, name), full).numpy()
