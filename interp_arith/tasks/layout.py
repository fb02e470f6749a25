"""How numbers and signs stand in a sequence: tokens in order, some left out; knows no arithmetic.

A layout is written as slots, one for each token that may stand there; which ones are kept may differ from question
to question. All of it works on any device, for any leading axes, and its shapes depend on no value.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn import functional

DigitOrder = Literal["units-first", "units-last"]


@dataclass(frozen=True)
class Slots:
    """Tokens in the order in which they are written.

    Attributes:
        tokens: their ids.
        kept: which of them stand in the sequence.
        counts: which of them the loss counts, where they are targets.
    """

    tokens: Int[Tensor, "*axes slot"]
    kept: Bool[Tensor, "*axes slot"]
    counts: Bool[Tensor, "*axes slot"]

    def packed(self, width: int, padding: int, at_end: bool) -> "Slots":
        """What is kept, moved together in `width` slots: to their end, or to their beginning; padding elsewhere.

        Padding is kept, and the loss does not count it.
        """
        place = self.kept.cumsum(dim=-1) - 1
        if at_end:
            place = place + width - self.kept.sum(dim=-1, keepdim=True)
        place = torch.where(self.kept, place, width)  # beyond the end: cut off
        axes = self.tokens.shape[:-1]
        tokens = self.tokens.new_full((*axes, width + 1), padding).scatter(-1, place, self.tokens)[..., :-1]
        counts = self.counts.new_zeros((*axes, width + 1)).scatter(-1, place, self.counts)[..., :-1]
        return Slots(tokens, torch.ones_like(counts), counts)


def join(parts: Sequence[Slots]) -> Slots:
    """One after the other."""
    return Slots(
        torch.cat([part.tokens for part in parts], dim=-1),
        torch.cat([part.kept for part in parts], dim=-1),
        torch.cat([part.counts for part in parts], dim=-1),
    )


def slots(tokens: Int[Tensor, "*axes slot"], kept: Bool[Tensor, "*axes slot"] | bool, counts: bool) -> Slots:
    """Slots that are all counted, or none of them."""
    flags = torch.full_like(tokens, kept, dtype=torch.bool) if isinstance(kept, bool) else kept
    return Slots(tokens, flags, torch.full_like(tokens, counts, dtype=torch.bool))


def in_order(digits: Int[Tensor, "*axes column"], order: DigitOrder) -> Int[Tensor, "*axes column"]:
    """Columns (units first) as they are written."""
    return digits if order == "units-first" else digits.flip(-1)


def significant(digits: Int[Tensor, "*axes column"]) -> Bool[Tensor, "*axes column"]:
    """Which columns a number is written with: the units, and all up to its highest digit."""
    above = (digits != 0).flip(-1).cummax(dim=-1).values.flip(-1)
    return functional.pad(above[..., 1:], (1, 0), value=True)


def place_from_start(is_digit: Bool[Tensor, "*axes pos"]) -> Int[Tensor, "*axes pos"]:
    """How many digits of the same number stand before each digit."""
    position = torch.arange(is_digit.shape[-1], device=is_digit.device).expand(is_digit.shape)
    other = torch.where(is_digit, -1, position)
    return position - other.cummax(dim=-1).values - 1


def place_from_end(is_digit: Bool[Tensor, "*axes pos"]) -> Int[Tensor, "*axes pos"]:
    """How many digits of the same number stand after each digit."""
    return place_from_start(is_digit.flip(-1)).flip(-1)
