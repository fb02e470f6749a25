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


DIFFERENCES = [
    Addition(n_digits=4, operation="subtract", answer_order="units-last"),
    Addition(n_digits=4, operation="mixed"),
    Addition(n_digits=4, operation="subtract", padded=False, end_token=True, operand_order="units-first"),
]


def numbers(task, prompts, sign="+"):
    """The operands, by reading the symbols."""
    found = []
    for row in prompts.tolist():
        text = "".join(task.vocabulary.decode(row)).replace("<pad>", "").rstrip("=")
        parts = text.split(sign)
        found.append([int(p[::-1] if task.operand_order == "units-first" else p) for p in parts])
    return found


def questions(task, pairs, sign="+"):
    """Base, source, and what the answers become, pair by pair."""
    return zip(
        numbers(task, pairs.base, sign),
        numbers(task, pairs.source, sign),
        map(int, task.read_answer(pairs.replaced)),
        map(int, task.read_answer(pairs.source_replaced)),
        strict=True,
    )


def assert_they_differ_in_one_column(base, source, column):
    for x, y in zip(base, source, strict=True):
        assert (x - y) % 10**column == 0
        assert x // 10 ** (column + 1) == y // 10 ** (column + 1)


FEATURES_OF_CARRIES = [name for name in PAIR_FEATURES if name != "base_add"]
_NAMES = {"ids": lambda task: f"{task.n_digits}-{task.operation}-{task.padded}"}


@pytest.mark.parametrize("task", LAYOUTS, **_NAMES)
@pytest.mark.parametrize("feature", FEATURES_OF_CARRIES)
def test_pairs_differ_in_one_column_and_one_digit_of_the_answer_is_replaced(task, feature):
    for column in feature_columns(task, feature):
        moved = {"generate": column, "propagate": column, "carry_in": max(column - 2, 0)}[feature]
        carry = 10 ** (column + (feature != "carry_in"))
        for base, source, replaced, back in questions(task, matched_pairs(task, feature, column, 30)):
            assert_they_differ_in_one_column(base, source, moved)
            assert replaced == sum(base) + carry
            assert back == sum(source) - carry
            assert sum(source) - sum(base) == (10**moved if feature == "propagate" else 10 ** (moved + 1))


@pytest.mark.parametrize("task", DIFFERENCES, **_NAMES)
@pytest.mark.parametrize("feature", FEATURES_OF_CARRIES)
def test_pairs_of_differences_differ_in_a_borrow_and_none_is_negative(task, feature):
    columns = feature_columns(task, feature, "subtract")
    assert columns[-1] == (3 if feature == "carry_in" else 2)
    for column in columns:
        pairs = matched_pairs(task, feature, column, 30, operation="subtract")
        moved = {"generate": column, "propagate": column, "carry_in": max(column - 2, 0)}[feature]
        borrow = 10 ** (column + (feature != "carry_in"))
        for (x, y), (z, w), replaced, back in questions(task, pairs, "-"):
            assert_they_differ_in_one_column((x, y), (z, w), moved)
            assert x > y
            assert z >= w
            assert replaced == x - y - borrow >= 0
            assert back == z - w + borrow
            assert (x - y) - (z - w) == (10**moved if feature == "propagate" else 10 ** (moved + 1))
        changed = (pairs.replaced != pairs.answer).sum(dim=1)
        assert (changed == 1).all() or not task.padded


@pytest.mark.parametrize("task", [*LAYOUTS[:2], *DIFFERENCES], **_NAMES)
def test_pairs_of_base_add_differ_in_one_digit_and_no_carry(task):
    sign = "-" if task.operation == "subtract" else "+"
    of = {"-": lambda x, y: x - y, "+": lambda x, y: x + y}[sign]
    for column in feature_columns(task, "base_add"):
        for base, source, replaced, back in questions(
            task, matched_pairs(task, "base_add", column, 30), sign
        ):
            assert_they_differ_in_one_column(base, source, column)
            assert (replaced, back) == (of(*source), of(*base))
            gained = abs(of(*source) - of(*base))
            assert gained in [k * 10**column for k in range(1, 9)]


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
    with pytest.raises(RequestError, match="its carries are those of two numbers; choose operands = 2"):
        matched_pairs(Addition(n_digits=2, operands=3), "generate", 0, 5)
    with pytest.raises(RequestError, match=r"^operation subtract: this task has add alone"):
        matched_pairs(task, "generate", 1, 5, operation="subtract")
    with pytest.raises(
        RequestError, match=r"^generate in column 3: differences of 4 digits have it in columns 0 to 2"
    ):
        matched_pairs(DIFFERENCES[0], "generate", 3, 5)
    with pytest.raises(RequestError, match="choose scratchpad = False"):
        matched_pairs(Addition(n_digits=2, scratchpad=True), "generate", 0, 5)
