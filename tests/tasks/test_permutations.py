"""Composition in S5 against permutations composed one by one."""

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp_arith.errors import RequestError
from interp_arith.tasks import PermutationComposition

GROUP = list(permutations(range(5)))
ELEMENTS = st.integers(0, 119)


def compose(x: tuple[int, ...], y: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(x[y[i]] for i in range(5))


def inverse(x: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(x.index(i) for i in range(5))


def ask(operation: str, a: int, b: int) -> int:
    return int(PermutationComposition(operation=operation).answer(np.array([[a, b]]))[0])


@pytest.mark.parametrize(
    ("operation", "plain"),
    [
        ("xy", compose),
        ("xyx^-1", lambda x, y: compose(compose(x, y), inverse(x))),
        ("xyx", lambda x, y: compose(compose(x, y), x)),
    ],
)
def test_all_14400_answers_are_those_of_plain_composition(operation, plain):
    task = PermutationComposition(operation=operation)
    wanted = [GROUP.index(plain(x, y)) for x, y in product(GROUP, GROUP)]
    assert task.answer(task.all_questions()).tolist() == wanted


def test_a_product_worked_by_hand():
    # 1 is 01243, 2 is 01324. 1·2 does 2 first: 2→3→4, 3→2→2, 4→4→3 is 01423, number 4; 2·1 is 01342, number 3.
    assert (GROUP[1], GROUP[2]) == ((0, 1, 2, 4, 3), (0, 1, 3, 2, 4))
    assert (GROUP[4], GROUP[3]) == ((0, 1, 4, 2, 3), (0, 1, 3, 4, 2))
    assert PermutationComposition().answer(["1*2=", "2*1="]).tolist() == [4, 3]


@given(x=ELEMENTS)
def test_zero_is_the_identity(x):
    assert ask("xy", 0, x) == x == ask("xy", x, 0)
    assert ask("xyx^-1", x, 0) == 0


@given(x=ELEMENTS, y=ELEMENTS, z=ELEMENTS)
def test_the_product_is_associative(x, y, z):
    assert ask("xy", ask("xy", x, y), z) == ask("xy", x, ask("xy", y, z))


@given(x=ELEMENTS, y=ELEMENTS)
def test_a_conjugate_times_x_is_x_times_y(x, y):
    assert ask("xy", ask("xyx^-1", x, y), x) == ask("xy", x, y)


@given(x=ELEMENTS, y=ELEMENTS, z=ELEMENTS)
def test_conjugation_respects_products(x, y, z):
    assert ask("xyx^-1", x, ask("xy", y, z)) == ask("xy", ask("xyx^-1", x, y), ask("xyx^-1", x, z))


def test_tokens_are_element_numbers_and_equals_is_120():
    task = PermutationComposition()
    assert task.tokens(["12*34="]).tolist() == [[12, 34, task.asking_token]] == [[12, 34, 120]]
    assert (len(task.vocabulary), task.d_vocab_out, task.n_ctx, task.answer_positions) == (121, 120, 3, (2,))
    assert task.text(np.array([[12, 34]])) == ["12*34="]


def test_there_is_no_element_120():
    with pytest.raises(RequestError, match=r"question 120\*1=: numbers must be from 0 to 119; for example"):
        PermutationComposition().parse(["120*1="])


def test_a_malformed_product_is_named():
    with pytest.raises(RequestError, match=r"'1\+2=' is not of the form a\*b= .* for example '23\*45='"):
        PermutationComposition().parse(["1+2="])
