"""Symbols and their ids."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp_arith.errors import RequestError
from interp_arith.tasks.tokenizer import Vocabulary, characters, numbers


@given(st.text("0123456789+="))
def test_decoding_undoes_encoding(text):
    vocabulary = characters("+", "=")
    assert "".join(vocabulary.decode(vocabulary.encode(text))) == text


def test_digits_have_the_ids_zero_to_nine():
    assert characters("+").encode("0123456789+") == list(range(11))


def test_numbers_come_before_the_extra_symbols():
    assert numbers(97, "=").id("96") == 96
    assert numbers(97, "=").id("=") == 97
    assert len(numbers(97, "=")) == 98


def test_an_unknown_symbol_is_named_with_those_that_there_are():
    with pytest.raises(RequestError, match=r"symbol 'x' is not in the vocabulary; there are: a b"):
        Vocabulary(("a", "b")).encode("ax")
