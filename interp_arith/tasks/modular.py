"""a op b mod p, all operations of Power et al. 2022.

`ModularArithmetic(p=113)` asks "23+45=" as tokens [23, 45, 113] and wants class 68.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import torch
from jaxtyping import Int
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from interp_arith.errors import RequestError, unknown
from interp_arith.tasks.base import Questions
from interp_arith.tasks.pairs import Integers, PairTask
from interp_arith.tasks.tokenizer import Vocabulary, characters, numbers

Format = Literal["numbers", "numbers-with-operation", "numbers-bare", "characters"]


@dataclass(frozen=True)
class Operation:
    """One operation: its sign in a question, its meaning, and whether it needs an inverse mod p."""

    sign: str
    compute: Callable[[Integers, Integers, int], Integers]
    divides: bool = False
    zero_allowed: bool = True


def _divide(a: Integers, b: Integers, p: int) -> Integers:
    inverse = np.array([pow(int(x), -1, p) if x % p else 0 for x in range(p)])
    return a * inverse[b % p] % p


OPERATIONS: dict[str, Operation] = {
    "add": Operation("+", lambda a, b, p: (a + b) % p),
    "subtract": Operation("-", lambda a, b, p: (a - b) % p),
    "multiply": Operation("*", lambda a, b, p: a * b % p),
    "divide": Operation("/", _divide, divides=True, zero_allowed=False),
    "x^2+y^2": Operation("@", lambda a, b, p: (a * a + b * b) % p),
    "x^2+xy+y^2": Operation("@", lambda a, b, p: (a * a + a * b + b * b) % p),
    "x^2+xy+y^2+x": Operation("@", lambda a, b, p: (a * a + a * b + b * b + a) % p),
    "x^3+xy": Operation("@", lambda a, b, p: (a**3 + a * b) % p),
    "x^3+xy^2+y": Operation("@", lambda a, b, p: (a**3 + a * b * b + b) % p),
    "parity-mixed": Operation(
        "@", lambda a, b, p: np.where(b % 2 == 1, _divide(a, b, p), (a - b) % p), divides=True
    ),
}
"""The operations of Power et al. 2022, appendix A.1.1; "parity-mixed" is x/y for odd y, else x−y."""

OperationName = Literal[
    "add",
    "subtract",
    "multiply",
    "divide",
    "x^2+y^2",
    "x^2+xy+y^2",
    "x^2+xy+y^2+x",
    "x^3+xy",
    "x^3+xy^2+y",
    "parity-mixed",
]


class ModularArithmetic(PairTask):
    """a op b mod p.

    Formats: "numbers" is [a, b, =]; "numbers-with-operation" [a, op, b, =]; "numbers-bare" [a, b], the answer
    read at the last position; "characters" spells the numbers with leading zeros ("023+045=068").
    """

    kind: Literal["modular"] = "modular"
    p: int = Field(default=113, ge=3)
    """The modulus."""
    operation: OperationName = "add"
    """What is computed; a name of OPERATIONS."""
    format: Format = "numbers"
    """How a question becomes tokens."""

    @field_validator("operation", mode="before")
    @classmethod
    def _known_operation(cls, value: str) -> str:
        if str(value) not in OPERATIONS:
            raise unknown("operation", str(value), OPERATIONS)
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if OPERATIONS[self.operation].divides and not _is_prime(self.p):
            raise RequestError(
                f"p = {self.p} is not prime, and {self.operation} needs inverses; try p = 97 or 113"
            )
        if self.mask_first_n >= self._answer_length:
            raise RequestError(
                f"mask_first_n = {self.mask_first_n} leaves no loss: an answer has {self._answer_length} "
                "target tokens"
            )
        return self

    @property
    def n_elements(self) -> int:
        """p."""
        return self.p

    @property
    def sign(self) -> str:
        """+ − * / or @ for a polynomial."""
        return OPERATIONS[self.operation].sign

    def compute(self, a: Integers, b: Integers) -> Integers:
        """a op b mod p."""
        return OPERATIONS[self.operation].compute(a, b, self.p)

    def all_questions(self) -> Int[np.ndarray, "batch operands"]:
        """Every pair; for divide those with b ≠ 0."""
        questions = super().all_questions()
        return questions if OPERATIONS[self.operation].zero_allowed else questions[questions[:, 1] != 0]

    def parse(self, questions: Questions) -> Int[np.ndarray, "batch operands"]:
        """Questions as [n, 2] integers; division by zero is refused."""
        pairs = super().parse(questions)
        if not OPERATIONS[self.operation].zero_allowed and (pairs[:, 1] == 0).any():
            a = pairs[pairs[:, 1] == 0][0, 0]
            raise RequestError(f"question {a}/0=: b must be from 1 to {self.p - 1}; for example '23/45='")
        return pairs

    def sequence_length(self, question: str) -> int:
        """In characters it grows with the widest number; number tokens always take the same."""
        widest = max(map(len, re.findall(r"\d+", question)), default=0)
        return self.n_ctx + 1 + (2 * max(widest - self._width, 0) if self.format == "characters" else 0)

    @property
    def _width(self) -> int:
        return len(str(self.p - 1))

    @property
    def _answer_length(self) -> int:
        return self._width if self.format == "characters" else 1

    @property
    def vocabulary(self) -> Vocabulary:
        """Residues 0 … p−1, then "=" and the sign where the format has them; or digits, sign and "="."""
        return {
            "numbers": numbers(self.p, "="),
            "numbers-with-operation": numbers(self.p, "=", self.sign),
            "numbers-bare": numbers(self.p),
            "characters": characters(self.sign, "="),
        }[self.format]

    @property
    def d_vocab_out(self) -> int:
        """p classes; every character in the character format."""
        return len(self.vocabulary) if self.format == "characters" else self.p

    @property
    def n_ctx(self) -> int:
        """Length of the prompt and all answer tokens but the last."""
        return {
            "numbers": 3,
            "numbers-with-operation": 4,
            "numbers-bare": 2,
            "characters": 3 * self._width + 1,
        }[self.format]

    @property
    def answer_positions(self) -> tuple[int, ...]:
        """The last position of the prompt, and those of the answer tokens but the last."""
        return tuple(range(self.n_ctx - self._answer_length, self.n_ctx))

    @property
    def asking_token(self) -> int | None:
        """The token of "=", in the formats that have it."""
        return None if self.format == "numbers-bare" else self.vocabulary.id("=")

    def tokens(self, questions: Questions) -> Int[Tensor, "batch pos"]:
        """The prompt in the task's format."""
        pairs = torch.from_numpy(self.parse(questions))
        a, b = pairs[:, :1], pairs[:, 1:]
        equals, sign = torch.full_like(a, self.p), torch.full_like(a, self.p + 1)
        if self.format == "numbers":
            return torch.cat([a, b, equals], dim=1)
        if self.format == "numbers-with-operation":
            return torch.cat([a, sign, b, equals], dim=1)
        if self.format == "numbers-bare":
            return pairs
        sign, equals = torch.full_like(a, 10), torch.full_like(a, 11)
        return torch.cat([self._digits(a), sign, self._digits(b), equals], dim=1)

    def answer_tokens(self, questions: Questions) -> Int[Tensor, "batch answer"]:
        """The class, or the answer's digits, highest first."""
        answers = torch.from_numpy(self.answer(questions))[:, None]
        return self._digits(answers) if self.format == "characters" else answers

    def read_answer(self, tokens: Int[Tensor, "batch answer"]) -> list[str]:
        """The number that the tokens spell; the symbols themselves where one is no digit."""
        words = ["".join(self.vocabulary.decode(row.tolist())) for row in tokens]
        return [str(int(word)) if word.isdigit() else word for word in words]

    def _digits(self, values: Int[Tensor, "batch 1"]) -> Int[Tensor, "batch digit"]:
        return values // 10 ** torch.arange(self._width - 1, -1, -1) % 10


def _is_prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, int(n**0.5) + 1))
