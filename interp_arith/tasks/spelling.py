"""Sums and differences as tokens and back: one layout; knows no questions as strings, and draws nothing."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor
from torch.nn import functional

from interp_arith.errors import RequestError
from interp_arith.tasks import digits as columnwise
from interp_arith.tasks.base import Examples, Places
from interp_arith.tasks.columns import Operation
from interp_arith.tasks.layout import (
    DigitOrder,
    Slots,
    in_order,
    join,
    place_from_end,
    place_from_start,
    significant,
    slots,
)
from interp_arith.tasks.scratchpad import step_width, worked_steps
from interp_arith.tasks.tokenizer import Vocabulary, characters

Supervision = Literal["none", "mask_steps", "mask_answer"]


@dataclass(frozen=True)
class Spelling:
    """How questions and answers are written. The fields are those of Addition."""

    n_digits: int
    operation: Operation
    operands: int
    operand_order: DigitOrder
    answer_order: DigitOrder
    padded: bool
    end_token: bool
    scratchpad: bool
    supervision: Supervision

    # --- how long ---

    @property
    def vocabulary(self) -> Vocabulary:
        """Ten digits, "+", "=", padding and end; "-" and ";" where they are used."""
        minus = ("-",) if self.has_sign else ()
        return characters("+", "=", "<pad>", "<end>", *minus, *((";",) if self.scratchpad else ()))

    @property
    def has_sign(self) -> bool:
        """Whether an answer may be negative."""
        return self.operation != "add"

    @property
    def answer_digits(self) -> int:
        """Columns of the answer: one more than an operand has, where a carry may leave the last."""
        return self.n_digits + (self.operation != "subtract")

    @property
    def prompt_width(self) -> int:
        """Operands, each with a sign or "=" behind it."""
        return self.operands * (self.n_digits + 1)

    @property
    def steps_width(self) -> int:
        """The answer's sign, the steps, and "=" after them."""
        return self.has_sign + self.n_digits * step_width(self.operands) + 1 if self.scratchpad else 0

    @property
    def target_width(self) -> int:
        """All that is answered."""
        return self.steps_width + self.has_sign + self.answer_digits + self.end_token

    # --- tokens of digits ---

    def encode(
        self, numbers: Int[Tensor, "*axes operand column"], subtracts: Bool[Tensor, "*axes"]
    ) -> Examples:
        """What is asked, and what must be answered.

        Args:
            numbers: digits of the operands, units first.
            subtracts: which questions are differences.
        """
        prompt, target = self._prompt(numbers, subtracts), self._target(numbers, subtracts)
        if not self.padded:
            pad = self.vocabulary.id("<pad>")
            prompt = prompt.packed(self.prompt_width, pad, at_end=True)
            target = target.packed(self.target_width, pad, at_end=False)
        tokens = torch.cat([prompt.tokens, target.tokens[..., :-1]], dim=-1)
        return Examples(tokens, target.tokens, target.counts)

    def _prompt(self, numbers: Tensor, subtracts: Tensor) -> Slots:
        sign, equals = self._choice(subtracts, "-", "+"), self._constant(subtracts, "=")
        signs = [sign] * (self.operands - 1) + [equals]
        parts = [
            part
            for number, after in zip(numbers.unbind(-2), signs, strict=True)
            for part in (self._number(number, self.operand_order, False), _one(after, False))
        ]
        return join(parts)

    def _target(self, numbers: Tensor, subtracts: Tensor) -> Slots:
        """Steps where there are any, the answer with its sign, and the end."""
        negative, ordered, carries, answer = self._worked_out(numbers, subtracts)
        sign = self._choice(negative, "-", "+")
        counts = self.supervision != "mask_answer"
        parts = [self._number(answer, self.answer_order, counts)]
        if self.has_sign:
            shown = _one(sign, counts)
            if not self.padded:
                shown = replace(shown, kept=negative[..., None])
            parts.insert(1 if self.answer_order == "units-first" else 0, shown)
        if self.end_token:
            parts.append(_one(self._constant(sign, "<end>"), counts))
        if self.scratchpad:
            parts = [self._steps(sign, ordered, carries, answer[..., : self.n_digits]), *parts]
        return join(parts)

    def _steps(self, sign: Tensor, numbers: Tensor, carries: Tensor, answer: Tensor) -> Slots:
        """The sign of a difference, a step for each column, and "="."""
        counts = self.supervision != "mask_steps"
        worked = significant(numbers).any(dim=-2) | torch.tensor(self.padded, device=numbers.device)
        steps = worked_steps(numbers, carries, answer, worked, self.vocabulary.id(";"), counts)
        before = [_one(sign, counts)] if self.has_sign else []
        return join([*before, steps, _one(self._constant(sign, "="), counts)])

    def _worked_out(self, numbers: Tensor, subtracts: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """How an answer comes about.

        Returns:
            whether it is negative; the operands as they are worked on, the larger one first in a difference; the
            carry or borrow into each column and out of the last; and the answer's digits.
        """
        if self.operation == "add":
            total = columnwise.add(numbers)
            return subtracts, numbers, total.carries, total.digits
        rest = columnwise.subtract(numbers)
        ordered = torch.stack([rest.larger, rest.smaller], dim=-2)
        if self.operation == "subtract":
            return rest.negative, ordered, rest.borrows, rest.digits
        total, which = columnwise.add(numbers), subtracts[..., None]
        return (
            rest.negative & subtracts,
            torch.where(which[..., None], ordered, numbers),
            torch.where(which, rest.borrows, total.carries),
            torch.where(which, functional.pad(rest.digits, (0, 1)), total.digits),
        )

    def _number(self, digits: Tensor, order: DigitOrder, counts: bool) -> Slots:
        kept = True if self.padded else in_order(significant(digits), order)
        return slots(in_order(digits, order), kept, counts)

    def _constant(self, like: Shaped[Tensor, "*axes"], symbol: str) -> Int[Tensor, "*axes"]:
        return torch.full_like(like, self.vocabulary.id(symbol), dtype=torch.int64)

    def _choice(self, which: Bool[Tensor, "*axes"], yes: str, no: str) -> Int[Tensor, "*axes"]:
        """One of two symbols; where the vocabulary lacks the first, it is never meant."""
        if yes not in self.vocabulary.symbols:
            return self._constant(which, no)
        return torch.where(which, self.vocabulary.id(yes), self.vocabulary.id(no))

    # --- what tokens are ---

    def places(self, tokens: Int[Tensor, "*axes pos"]) -> Places:
        """Which number each token belongs to, and which column it is, whatever the layout's length.

        Operand i is segment i, the answer comes after them, worked steps after it; a sign belongs to the number
        before it.

        Raises:
            RequestError: the answer's columns cannot be told before it ends.
        """
        if not self.padded and self.answer_order == "units-last":
            raise RequestError(
                "positions by column need answers whose columns are known from the start: "
                "set answer_order to units-first, or padded to True"
            )
        equals = tokens == self.vocabulary.id("=")
        is_digit = tokens < 10
        before = equals.cumsum(dim=-1) - equals.long()
        signs = (~is_digit & (tokens != self.vocabulary.id("<pad>"))).long()
        number = (signs.cumsum(dim=-1) - signs).clamp(max=self.operands - 1)
        in_answer, in_steps = before > int(self.scratchpad), (before == 1) & self.scratchpad
        from_start = place_from_start(is_digit)
        asked = from_start if self.operand_order == "units-first" else place_from_end(is_digit)
        answered = from_start
        if self.answer_order == "units-last":
            answered = self.answer_digits - 1 - from_start
        column = torch.where(
            in_answer, answered, torch.where(in_steps, self._step_column(tokens, equals), asked)
        )
        segment = torch.where(in_answer, self.operands, torch.where(in_steps, self.operands + 1, number))
        return Places(segment, torch.where(is_digit, column, -1))

    def _step_column(self, tokens: Tensor, equals: Tensor) -> Tensor:
        """The column that a step is about: steps follow the first "=", and have one length."""
        position = torch.arange(tokens.shape[-1], device=tokens.device)
        first = torch.where(equals, position, tokens.shape[-1]).amin(dim=-1, keepdim=True)
        return (position - first - 1 - int(self.has_sign)).clamp(min=0) // step_width(self.operands)

    def read(self, tokens: Int[Tensor, " answer"]) -> str:
        """The answer in human order; the symbols themselves where they are no number.

        What follows the end is left out, and so are worked steps.
        """
        word = self.vocabulary.decode(tokens.tolist())
        if self.scratchpad:
            word = word[word.index("=") + 1 :] if "=" in word else word
        if "<end>" in word and self.end_token:
            word = word[: word.index("<end>")]
        if self.answer_order == "units-first":
            word = word[::-1]
        number = "".join(word)
        unsigned = number[1:] if self.has_sign and number[:1] in ("+", "-") else number
        is_minus_zero = number.startswith("-") and not unsigned.strip("0")
        return str(int(number)) if unsigned.isdigit() and not is_minus_zero else number


def _one(token: Int[Tensor, "*axes"], counts: bool) -> Slots:
    return slots(token[..., None], True, counts)
