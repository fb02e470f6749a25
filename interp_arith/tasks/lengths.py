"""Questions whose numbers all have one length, each of them once; knows no layout."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from interp_arith.tasks.addition import Addition
from interp_arith.tasks.base import Examples
from interp_arith.tasks.sampling import Limits, SplitName, key, later

_MOST_DRAWS = 16
_APART = 1000  # moments between draws, more than one of them takes


def of_length(
    task: Addition, split: SplitName, length: int, n: int, start: Int[Tensor, ""]
) -> Int[Tensor, "batch operand column"]:
    """n different questions of a split, as `task.sample` gives them; fewer where 16 draws hold no more.

    Args:
        task: of numbers that may be as long.
        split: where they belong.
        length: digits of every number; of one digit, a number may be 0.
        n: how many are wanted.
        start: the key of the first draw.
    """

    def draw(number: int) -> Int[Tensor, "batch operand column"]:
        drawn = task.sample(split, 2 * n, later(start, number), Limits(length, length, 0.0))
        is_long = (drawn[:, : task.operands, length - 1] > 0).all(dim=1)
        return drawn if length == 1 else drawn[is_long]

    return distinct(draw, n)


def val_examples(task: Addition, length: int) -> Examples:
    """The task's `val_grid_questions` of a length, of the validation split; longer than its own where need be."""
    longer, start = task.reaching(length), later(key(task.seed, "val"), _APART * length)
    return longer.encode(of_length(longer, "val", length, task.val_grid_questions, start))


def distinct(
    draw: Callable[[int], Int[Tensor, "batch operand column"]], n: int
) -> Int[Tensor, "batch operand column"]:
    """The first n different questions of draws 0, 1, 2, …; fewer where 16 draws hold no more.

    Args:
        draw: the questions of a numbered draw; all of one width.
        n: how many are wanted.
    """
    found = draw(0)[:0]
    for number in range(_MOST_DRAWS):
        found = torch.cat([found, draw(number)])
        first = np.unique(found.flatten(1).numpy(), axis=0, return_index=True)[1]
        found = found[torch.from_numpy(np.sort(first))]
        if len(found) >= n:
            break
    return found[:n]
