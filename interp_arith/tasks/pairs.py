"""Tasks on pairs from a finite set: all questions can be listed, and are split by rows; knows no operation."""

import re
from abc import ABC, abstractmethod
from typing import Self

import numpy as np
import torch
from jaxtyping import Bool, Int
from pydantic import Field, PrivateAttr, model_validator
from torch import Tensor

from interp_arith.errors import RequestError
from interp_arith.tasks.base import Questions, Task, read_questions
from interp_arith.tasks.sampling import SplitName, draw_split
from interp_arith.tasks.tokenizer import Vocabulary, numbers

Integers = Int[np.ndarray, " batch"]


class PairTask(Task, ABC):
    """Two elements of a finite set in, one out: all questions can be listed, and are split by rows."""

    train_fraction: float = Field(default=0.3, gt=0, le=1)
    """Share of all questions that is trained on."""
    val_fraction: float = Field(default=0.0, ge=0, lt=1)
    """Share kept for choosing; the rest is the test set."""

    _train_mask: bytes | None = PrivateAttr(None)

    @property
    @abstractmethod
    def n_elements(self) -> int:
        """Size of the set."""

    @property
    @abstractmethod
    def sign(self) -> str:
        """The operation's sign in a question."""

    @abstractmethod
    def compute(self, a: Integers, b: Integers) -> Integers:
        """The answer to each question."""

    @model_validator(mode="after")
    def _check_fractions(self) -> Self:
        if self.train_fraction + self.val_fraction > 1 + 1e-9:
            raise RequestError(
                f"train_fraction {self.train_fraction} and val_fraction {self.val_fraction} exceed 1 together; "
                "lower one of them"
            )
        return self

    def all_questions(self) -> Int[np.ndarray, "batch operands"]:
        """Every question that has an answer, b running fastest."""
        return np.stack(np.divmod(np.arange(self.n_elements**2), self.n_elements), axis=1)

    def split(self, name: SplitName) -> Int[np.ndarray, "batch operands"]:
        """The questions of a split, in the order of all_questions."""
        questions = self.all_questions()
        mask = self.train_mask
        if mask is None:
            return questions[
                draw_split(len(questions), self.train_fraction, self.val_fraction, self.seed)[name]
            ]
        trained = mask[questions[:, 0], questions[:, 1]]
        return questions[{"train": trained, "val": np.zeros_like(trained), "test": ~trained}[name]]

    @property
    def train_mask(self) -> Bool[np.ndarray, "a b"] | None:
        """The split that was given, if one was: True where a question is trained on."""
        if self._train_mask is None:
            return None
        bits = np.unpackbits(np.frombuffer(self._train_mask, dtype=np.uint8), count=self.n_elements**2)
        return bits.astype(bool).reshape(self.n_elements, self.n_elements)

    def with_split(self, train_mask: Bool[np.ndarray, "a b"]) -> Self:
        """The same task with somebody else's split: True at [a, b] is trained on, the rest is the test set.

        Raises:
            RequestError: the mask has another shape, is no boolean array, or has no training row.
        """
        mask = np.asarray(train_mask)
        wanted = (self.n_elements, self.n_elements)
        if mask.shape != wanted or mask.dtype != bool:
            raise RequestError(
                f"split mask: given shape {list(mask.shape)} of {mask.dtype}; allowed: {list(wanted)} of bool"
            )
        questions = self.all_questions()
        if not mask[questions[:, 0], questions[:, 1]].any():
            raise RequestError("split mask: no training row; set at least one allowed question to True")
        copy = self.model_copy()
        copy._train_mask = np.packbits(mask).tobytes()
        return copy

    def parse(self, questions: Questions) -> Int[np.ndarray, "batch operands"]:
        """Questions as [n, 2] integers; see Task.parse."""
        pairs = read_questions(questions, 2, self._parse_one)
        for a, b in pairs[((pairs < 0) | (pairs >= self.n_elements)).any(axis=1)][:1]:
            raise RequestError(
                f"question {a}{self.sign}{b}=: numbers must be from 0 to {self.n_elements - 1}; "
                f"for example {self._example()!r}"
            )
        return pairs

    def _parse_one(self, question: str) -> tuple[int, int]:
        found = re.fullmatch(rf"\s*(\d+)\s*{re.escape(self.sign)}\s*(\d+)\s*=\s*", question, re.ASCII)
        if not found:
            raise RequestError(
                f"question {question!r} is not of the form a{self.sign}b= with two whole numbers; "
                f"for example {self._example()!r}"
            )
        a, b = (number.lstrip("0") or "0" for number in found.groups())
        if max(len(a), len(b)) > 18:
            raise RequestError(
                f"question {question!r}: numbers must be from 0 to {self.n_elements - 1}; "
                f"for example {self._example()!r}"
            )
        return int(a), int(b)

    def _example(self) -> str:
        return f"{min(23, self.n_elements - 1)}{self.sign}{min(45, self.n_elements - 1)}="

    def text(self, questions: Questions) -> list[str]:
        """Questions as strings ("23+45=")."""
        return [f"{a}{self.sign}{b}=" for a, b in self.parse(questions)]

    def answer(self, questions: Questions) -> Integers:
        """The right answers, as elements 0 … n−1."""
        a, b = self.parse(questions).T
        return self.compute(a, b)

    @property
    def vocabulary(self) -> Vocabulary:
        """The elements, then "="."""
        return numbers(self.n_elements, "=")

    @property
    def d_vocab_out(self) -> int:
        """The elements alone."""
        return self.n_elements

    @property
    def n_ctx(self) -> int:
        """[a, b, =]."""
        return 3

    @property
    def answer_positions(self) -> tuple[int, ...]:
        """The last position."""
        return (self.n_ctx - 1,)

    @property
    def asking_token(self) -> int | None:
        """The token of "="."""
        return self.vocabulary.id("=")

    def tokens(self, questions: Questions) -> Int[Tensor, "batch pos"]:
        """[a, b, =]."""
        pairs = torch.from_numpy(self.parse(questions))
        return torch.cat([pairs, torch.full((len(pairs), 1), self.n_elements)], dim=1)

    def answer_tokens(self, questions: Questions) -> Int[Tensor, "batch answer"]:
        """One token an answer."""
        return torch.from_numpy(self.answer(questions))[:, None]

    def read_answer(self, tokens: Int[Tensor, "batch answer"]) -> list[str]:
        """The elements' numbers."""
        return [str(int(row[0])) for row in tokens]
