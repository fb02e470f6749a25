"""Adders whose every answer is planted: right, but for the questions that a test names."""

import torch

from interp_arith.models.config import ModelConfig
from interp_arith.models.transformer import build_model


def small_model(task, n_ctx=None, **positions):
    """Any model of the task: what it would write is replaced."""
    fields = {"d_model": 4, "n_heads": 1, "d_mlp": 4, "n_ctx": n_ctx}
    scheme = {"kind": "learned"} | positions
    return build_model(ModelConfig.model_validate({**fields, "positions": scheme}), task).eval()


class Writer:
    """Stands for greedy decoding: writes right answers, with wrong units where a question is named wrong.

    Args:
        task: with zero-padded operands, units last; of any length.
        is_wrong: takes a row of integers.

    Attributes:
        asked: the rows, in order.
    """

    def __init__(self, task, is_wrong=lambda row: False):
        self.task, self.is_wrong, self.asked = task, is_wrong, []

    def __call__(self, model, task, prompts, new):
        rows = task.parse(["".join(task.vocabulary.decode(prompt)) for prompt in prompts.tolist()])
        tokens = task.answer_tokens(rows).clone()
        assert tokens.shape[1] == new
        wrong = torch.tensor([self.is_wrong(row) for row in rows.tolist()], dtype=torch.bool)
        tokens[wrong, 0] = (tokens[wrong, 0] + 1) % 10
        self.asked += map(tuple, rows.tolist())
        return tokens


def columns(row, n_digits=20):
    """The digits of both numbers in each column, units first."""
    return [(row[0] // 10**k % 10, row[1] // 10**k % 10) for k in range(n_digits)]


def longest_run(starts, goes_on):
    """The longest run of columns that go on, directly above one that starts; -1 where none starts."""
    longest = -1
    for k, start in enumerate(starts):
        if start:
            run = next((i for i, more in enumerate(goes_on[k + 1 :]) if not more), 0)
            longest = max(longest, run)
    return longest


def cascade(row):
    """The longest cascade of a sum."""
    sums = [x + y for x, y in columns(row)]
    return longest_run([r >= 10 for r in sums], [r == 9 for r in sums])


def plain_class(row, subtracts):
    """The complexity class, by its definition (Quirke et al. 2024)."""
    if not subtracts:
        return f"S{min(1 + cascade(row), 5)}"
    a, b = row[:2]
    width = len(str(max(a, b)))
    pairs = columns((max(a, b), min(a, b)), width)
    level = min(1 + longest_run([x < y for x, y in pairs], [x == y for x, y in pairs] + [False]), 4)
    return f"N{max(level, 1)}" if a < b else f"M{level}"
