"""A fixed text learnt by heart: the sanity task. A question is the beginning of the text."""

from typing import Literal, Self

import numpy as np
import torch
from jaxtyping import Int
from pydantic import Field, model_validator
from torch import Tensor

from interp_arith.errors import RequestError
from interp_arith.tasks.base import Questions, Task, read_questions
from interp_arith.tasks.sampling import SplitName
from interp_arith.tasks.tokenizer import Vocabulary


class Text(Task):
    """One text at character level; the only training question is its first character.

    As integers a question is [n, 1]: how many characters are given.
    """

    kind: Literal["text"] = "text"
    text_to_learn: str = Field(default="I know every carry by heart.", min_length=3)
    """The text."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.mask_first_n >= len(self.text_to_learn) - 1:
            raise RequestError(
                f"mask_first_n = {self.mask_first_n} leaves no loss: the text has "
                f"{len(self.text_to_learn) - 1} target tokens"
            )
        return self

    @property
    def vocabulary(self) -> Vocabulary:
        """The characters of the text, sorted."""
        return Vocabulary(tuple(sorted(set(self.text_to_learn))))

    @property
    def n_ctx(self) -> int:
        """All characters but the last."""
        return len(self.text_to_learn) - 1

    @property
    def answer_positions(self) -> tuple[int, ...]:
        """Every position."""
        return tuple(range(self.n_ctx))

    def parse(self, questions: Questions) -> Int[np.ndarray, "batch operands"]:
        """How many characters of the text each question gives."""
        lengths = read_questions(questions, 1, self._parse_one)
        if ((lengths < 1) | (lengths > self.n_ctx)).any():
            raise RequestError(f"a question gives 1 to {self.n_ctx} characters of the text")
        if len(np.unique(lengths)) > 1:
            raise RequestError("questions of different lengths do not stack; ask them one by one")
        return lengths

    def _parse_one(self, question: str) -> tuple[int]:
        if not question or not self.text_to_learn.startswith(question):
            raise RequestError(
                f"question {question!r} is not how the text begins; for example {self.text_to_learn[:4]!r}"
            )
        return (len(question),)

    def text(self, questions: Questions) -> list[str]:
        """The beginnings."""
        return [self.text_to_learn[:n] for (n,) in self.parse(questions)]

    def tokens(self, questions: Questions) -> Int[Tensor, "batch pos"]:
        """The beginnings as tokens."""
        return self._encode(self.text(questions))

    def answer(self, questions: Questions) -> list[str]:
        """The rest of the text."""
        return [self.text_to_learn[n:] for (n,) in self.parse(questions)]

    def answer_tokens(self, questions: Questions) -> Int[Tensor, "batch answer"]:
        """The rest of the text as tokens."""
        return self._encode(self.answer(questions))

    def read_answer(self, tokens: Int[Tensor, "batch answer"]) -> list[str]:
        """The characters."""
        return ["".join(self.vocabulary.decode(row.tolist())) for row in tokens]

    def _encode(self, texts: list[str]) -> Int[Tensor, "batch pos"]:
        ids = [self.vocabulary.encode(text) for text in texts]
        return torch.tensor(ids, dtype=torch.int64).reshape(len(texts), len(texts[0]) if texts else 0)

    def split(self, name: SplitName) -> Int[np.ndarray, "batch operands"]:
        """One question to train on; nothing is held out of a text."""
        return np.ones((1 if name == "train" else 0, 1), dtype=np.int64)
