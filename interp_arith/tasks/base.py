"""What a task is: vocabulary, questions, answers, answer positions, splits; knows no particular arithmetic."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int, Shaped
from pydantic import Field
from torch import Tensor

from interp_arith.errors import RequestError
from interp_arith.registry import Choice
from interp_arith.tasks.sampling import Limits, SplitName
from interp_arith.tasks.tokenizer import Vocabulary

Questions = Sequence[str] | np.ndarray | Tensor
"""Strings in human order ("23+45="), or integers [n, operands]."""


@dataclass(frozen=True)
class Examples:
    """Questions as the model sees them, with what it must answer.

    Attributes:
        tokens: the input, the last answer token left off.
        targets: the right token at each answer position.
        mask: where the loss counts.
        offset: how far each place of a question's digits is moved, where a position scheme reads places; the last
            holds for the places above too.
    """

    tokens: Int[Tensor, "batch pos"]
    targets: Int[Tensor, "batch answer"]
    mask: Bool[Tensor, "batch answer"]
    offset: Int[Tensor, "batch place"] | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def each(self, function: Callable[[Tensor], Tensor]) -> "Examples":
        """The same examples, every tensor of them changed by the function."""
        tensors = (self.tokens, self.targets, self.mask, self.offset)
        return Examples(*(x if x is None else function(x) for x in tensors))  # pyright: ignore[reportArgumentType]

    def rows(self, index: int | slice | Int[Tensor, " rows"]) -> "Examples":
        """Some of the questions."""
        return self.each(lambda x: x[index])

    def to(self, device: torch.device) -> "Examples":
        """The same examples on a device."""
        return self.each(lambda x: x.to(device))


@dataclass(frozen=True)
class Places:
    """Where each token stands in the numbers of its question.

    Attributes:
        segment: the number that it belongs to: operand i has i, and the answer the number of operands.
        place: its column, 0 for units; −1 for a token that is no digit.
    """

    segment: Int[Tensor, "*axes pos"]
    place: Int[Tensor, "*axes pos"]


class Task(Choice, ABC):
    """What is learnt. A frozen choice; everything it knows follows from its fields.

    A question is a string in human order ("23+45=") or a row of integers. Every method takes a list of the
    first or an integer array [n, operands].
    """

    kind: str
    seed: int = Field(default=0, ge=0)
    """Which split, or which questions, of the many that the task can draw."""
    mask_first_n: int = Field(default=0, ge=0)
    """No loss on the first n target tokens of each question."""

    @property
    @abstractmethod
    def vocabulary(self) -> Vocabulary:
        """The input tokens."""

    @property
    def end_token_id(self) -> int | None:
        """The token after which an answer is over, where there is one."""
        return None

    @property
    def d_vocab_out(self) -> int:
        """How many output tokens (or classes) there are; the input tokens unless a task says otherwise."""
        return len(self.vocabulary)

    @property
    @abstractmethod
    def n_ctx(self) -> int:
        """Input positions that the longest question and its answer need."""

    @property
    @abstractmethod
    def answer_positions(self) -> tuple[int, ...]:
        """Input positions whose logits predict the answer tokens."""

    @property
    def asking_token(self) -> int | None:
        """The token at the first answer position, if every question has the same there ("=")."""
        return None

    @abstractmethod
    def parse(self, questions: Questions) -> Shaped[np.ndarray, "batch operands"]:
        """Questions as integers.

        Raises:
            RequestError: a question is malformed or out of range; the message names it and shows a right one.
        """

    @abstractmethod
    def text(self, questions: Questions) -> list[str]:
        """Questions as strings in human order, up to and with "="."""

    @abstractmethod
    def tokens(self, questions: Questions) -> Int[Tensor, "batch pos"]:
        """The prompt: everything up to where the first answer token is predicted."""

    @abstractmethod
    def answer(self, questions: Questions) -> Shaped[np.ndarray, " batch"] | list[str]:
        """The right answers: integers for arithmetic, strings for a text."""

    @abstractmethod
    def answer_tokens(self, questions: Questions) -> Int[Tensor, "batch answer"]:
        """The right answers as tokens, in the order in which the model writes them."""

    @abstractmethod
    def read_answer(self, tokens: Int[Tensor, "batch answer"]) -> list[str]:
        """Answer tokens as strings in human order; symbols as they stand where they are no number."""

    @abstractmethod
    def split(self, name: SplitName) -> Shaped[np.ndarray, "batch operands"]:
        """The questions of a split; a sampled task gives its fixed val and test questions."""

    def examples(self, questions: Questions) -> Examples:
        """Inputs, targets and loss mask."""
        prompt, answer = self.tokens(questions), self.answer_tokens(questions)
        mask = torch.ones_like(answer, dtype=torch.bool)
        mask[:, : self.mask_first_n] = False
        return Examples(torch.cat([prompt, answer[:, :-1]], dim=1), answer, mask)

    def places(self, tokens: Int[Tensor, "*axes pos"]) -> Places:
        """Which digit of which number each token is; tokens that come later change nothing before them.

        Raises:
            RequestError: the task has no digits.
        """
        raise self._no_digits()

    @property
    def number_lengths(self) -> tuple[int, ...]:
        """The most digits that each segment of `places` can have.

        Raises:
            RequestError: the task has no digits.
        """
        raise self._no_digits()

    def _no_digits(self) -> RequestError:
        return RequestError(f"the {self.kind} task has no digits; choose positions learned, rotary or none")

    def fitting(self, n_ctx: int) -> str:
        """What a message says of this task's form that fits into so many positions; "" where there is none."""
        return ""

    def sequence_length(self, question: str) -> int:
        """Tokens that a question and its answer take, even if that is more than the task has positions for."""
        return self.n_ctx + 1

    def _card_rows(self) -> dict[str, str]:
        return {**super()._card_rows(), "for example": self.worked_example()}

    def worked_example(self) -> str:
        """A test question with its answer, and the tokens that a model reads; "" where none are held out."""
        held_out = self.split("test")
        if not len(held_out):
            return ""
        question = held_out[len(held_out) // 2 :][:1]
        read = self.vocabulary.decode(self.tokens(question)[0].tolist())
        return f"{self.text(question)[0]} {self.answer(question)[0]}, read as {' '.join(read)}"

    def with_seed(self, seed: int) -> "Task":
        """The same task with another split."""
        return self.model_copy(update={"seed": seed})


class SampledTask(Task, ABC):
    """A task with more questions than can be listed; training draws them, a hash keeps splits apart."""

    val_questions: int = Field(default=1000, ge=0)
    """Size of the fixed validation set."""
    test_questions: int = Field(default=2000, ge=0)
    """Size of the fixed test set."""

    @property
    @abstractmethod
    def limits(self) -> Limits:
        """The widest range that may be sampled."""

    @abstractmethod
    def sample(
        self, split: SplitName, n: int, key: Int[Tensor, "*seed"], limits: Limits | None = None
    ) -> Int[Tensor, "*seed batch operand column"]:
        """n questions of a split for each key (of `sampling.key`), drawn on its device, within the limits."""

    @abstractmethod
    def encode(self, drawn: Int[Tensor, "*seed batch operand column"]) -> Examples:
        """`examples` of questions that were drawn, wherever they are."""

    @abstractmethod
    def drawn(self, questions: Shaped[np.ndarray, "batch operands"]) -> Int[Tensor, "batch operand column"]:
        """Rows of integers as `sample` gives them."""

    @abstractmethod
    def questions(self, drawn: Int[Tensor, "batch operand column"]) -> Shaped[np.ndarray, "batch operands"]:
        """What `sample` gives as rows of integers."""

    def examples(self, questions: Questions) -> Examples:
        return self.encode(self.drawn(self.parse(questions)))

    def tokens(self, questions: Questions) -> Int[Tensor, "batch pos"]:
        return self.examples(questions).tokens[:, : self.answer_positions[0] + 1]

    def answer_tokens(self, questions: Questions) -> Int[Tensor, "batch answer"]:
        return self.examples(questions).targets


def read_questions(
    questions: Questions, operands: int, read_one: Callable[[str], tuple[int, ...]], dtype: type = np.int64
) -> Shaped[np.ndarray, "batch operands"]:
    """Questions as integers: an array checked, strings read one by one; a single string is a list of one.

    Raises:
        RequestError: they are neither, or one is in a wrong format.
    """
    if isinstance(questions, np.ndarray | Tensor):
        return integer_questions(questions, operands, dtype)
    listed = [questions] if isinstance(questions, str) else list(questions)
    if other := next((type(q).__name__ for q in listed if not isinstance(q, str)), None):
        raise RequestError(
            f"questions: given a list with {other}; allowed: strings, or an integer array of shape [n, {operands}]"
        )
    return np.array([read_one(question) for question in listed], dtype=dtype).reshape(-1, operands)


def integer_questions(
    questions: np.ndarray | Tensor, operands: int, dtype: type = np.int64
) -> Shaped[np.ndarray, "batch operands"]:
    """An integer array of questions, its shape and type checked; `dtype` object holds Python's own integers."""
    array = np.asarray(questions)
    whole = np.issubdtype(array.dtype, np.integer)
    if array.dtype == object:
        whole = all(isinstance(number, int) for number in array.flat)
    if array.ndim != 2 or array.shape[1] != operands or not whole:
        raise RequestError(
            f"questions: given an array of shape {list(array.shape)} and type {array.dtype}; "
            f"allowed: integers of shape [n, {operands}], or a list of strings"
        )
    return array.astype(dtype)
