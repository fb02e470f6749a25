"""Worked steps before the answer: one a column, from the units on; knows no layout of the question.

A step is the digits of its column, the carry that comes in, the digit written, the carry that goes out, and ";":
"23+45=" has the steps "35080;24060;". A subtraction works on the larger number less the smaller one, with borrows,
and says first which sign the answer has: "23-45=" has "-53020;42020;".
"""

import torch
from einops import rearrange
from jaxtyping import Bool, Int
from torch import Tensor

from interp_arith.tasks.layout import Slots, slots


def step_width(operands: int) -> int:
    """Tokens of one step."""
    return operands + 4


def worked_steps(
    digits: Int[Tensor, "*axes operand column"],
    carries: Int[Tensor, "*axes carried"],
    answer: Int[Tensor, "*axes column"],
    kept: Bool[Tensor, "*axes column"],
    semicolon: int,
    counts: bool,
) -> Slots:
    """The steps of every column that is kept.

    Args:
        digits: of the operands; for a subtraction the larger one comes first.
        carries: into each column (or borrows), with that out of the last.
        answer: the digit that each column gives.
        kept: columns that are worked.
        semicolon: its token id.
        counts: whether the loss counts them.
    """
    end = torch.full_like(answer, semicolon)
    columns = torch.stack([*digits.unbind(-2), carries[..., :-1], answer, carries[..., 1:], end], dim=-1)
    width = columns.shape[-1]
    flat = rearrange(columns, "... column slot -> ... (column slot)")
    return slots(flat, kept.repeat_interleave(width, dim=-1), counts)
