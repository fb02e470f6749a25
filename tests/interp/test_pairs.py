"""Matched pairs differ in one feature of one column, in every layout."""

import numpy as np
import pytest

from interp_arith.errors import RequestError
from interp_arith.interp.pairs import PAIR_FEATURES, answer_tokens, feature_columns, matched_pairs
from interp_arith.tasks import Addition, ModularArithmetic

LAYOUTS = [
    Addition(n_digits=4),
    Addition(n_digits=4, answer_order="units-last", operand_order="units-first"),
    Addition(n_digits=4, operation="mixed"),
    Addition(n_digits=4, padded=False, end_token=True),
    Addition(n_digits=20),
]


def numbers(task, prompts):
    """The operands, by reading the symbols."""
    found = []
    for row in prompts.tolist():
        text = "".join(task.vocabulary.decode(row)).replace("<pad>", "").rstrip("=")
        parts = text.split("+")
        found.append([int(p[::-1] if task.operand_order == "units-first" else p) for p in parts])
    return found


@pytest.mark.parametrize("task", LAYOUTS, ids=lambda task: f"{task.n_digits}-{task.operation}-{task.padded}")
@pytest.mark.parametrize("feature", PAIR_FEATURES)
def test_pairs_differ_in_one_column_and_one_digit_of_the_answer_is_replaced(task, feature):
    for column in feature_columns(task, feature):
        pairs = matched_pairs(task, feature, column, 30)
        moved = {"generate": column, "propagate": column, "carry_in": max(column - 2, 0)}[feature]
        carry = 10 ** (column + (feature != "carry_in"))
        for base, source, replaced, back in zip(
            numbers(task, pairs.base),
            numbers(task, pairs.source),
            task.read_answer(pairs.replaced),
            task.read_answer(pairs.source_replaced),
            strict=True,
        ):
            for x, y in zip(base, source, strict=True):
                assert (x - y) % 10**moved == 0
                assert x // 10 ** (moved + 1) == y // 10 ** (moved + 1)
            assert int(replaced) == sum(base) + carry
            assert int(back) == sum(source) - carry
            assert sum(source) - sum(base) == (10**moved if feature == "propagate" else 10 ** (moved + 1))


def test_the_answers_are_the_right_ones_and_turning_exchanges_them():
    task = LAYOUTS[0]
    pairs = matched_pairs(task, "generate", 1, 20)
    wanted = [str(sum(row)) for row in numbers(task, pairs.base)]
    assert task.read_answer(pairs.answer) == wanted
    assert (pairs.replaced == pairs.source_answer).all()
    assert (pairs.turned().replaced == pairs.answer).all()
    assert (pairs.turned().base == pairs.source).all()
    assert ((pairs.replaced != pairs.answer).sum(dim=1) == 1).all()


def test_the_draw_is_the_seeds():
    first, again, other = (matched_pairs(LAYOUTS[0], "generate", 1, 20, seed=s).base for s in (3, 3, 4))
    assert (first == again).all()
    assert (first != other).any()


def test_any_sum_is_written_as_the_task_writes_it():
    task = Addition(n_digits=2, answer_order="units-last")
    assert task.read_answer(answer_tokens(task, np.arange(199))) == [str(n) for n in range(199)]


def test_what_the_task_does_not_have_is_refused():
    task = LAYOUTS[0]
    with pytest.raises(
        RequestError, match="no feature of matched pairs is called 'generates'; did you mean generate"
    ):
        matched_pairs(task, "generates", 1, 5)
    with pytest.raises(
        RequestError, match=r"^propagate in column 0: sums of 4 digits have it in columns 1 to 3; choose"
    ):
        matched_pairs(task, "propagate", 0, 5)
    with pytest.raises(RequestError, match=r"^propagate in column 0: sums of 1 digits have it in none"):
        matched_pairs(Addition(n_digits=1), "propagate", 0, 5)
    with pytest.raises(RequestError, match="the modular task has no columns; it is of the addition task"):
        matched_pairs(ModularArithmetic(p=7), "generate", 0, 5)
    with pytest.raises(RequestError, match="choose operation add and operands = 2"):
        matched_pairs(Addition(n_digits=2, operands=3), "generate", 0, 5)
    with pytest.raises(RequestError, match="choose scratchpad = False"):
        matched_pairs(Addition(n_digits=2, scratchpad=True), "generate", 0, 5)
