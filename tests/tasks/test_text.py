"""The sanity task: a text learnt by heart."""

import numpy as np
import pytest

from interp_arith.errors import RequestError
from interp_arith.tasks import Text


def test_one_question_asks_for_the_whole_text():
    task = Text(text_to_learn="abcab")
    assert task.vocabulary.symbols == ("a", "b", "c")
    assert task.split("train").tolist() == [[1]]
    assert len(task.split("val")) == len(task.split("test")) == 0
    examples = task.examples(task.split("train"))
    assert examples.tokens.tolist() == [[0, 1, 2, 0]]
    assert examples.targets.tolist() == [[1, 2, 0, 1]]
    assert examples.mask.all()
    assert task.answer_positions == (0, 1, 2, 3)
    assert task.n_ctx == 4


def test_the_first_targets_may_be_masked():
    task = Text(text_to_learn="abcab", mask_first_n=3)
    assert task.examples(task.split("train")).mask.tolist() == [[False, False, False, True]]
    with pytest.raises(RequestError, match="mask_first_n = 4 leaves no loss: the text has 4 target tokens"):
        Text(text_to_learn="abcab", mask_first_n=4)


def test_a_longer_beginning_asks_for_the_rest():
    task = Text(text_to_learn="abcab")
    assert task.answer(["abc"]) == ["ab"]
    assert task.text(np.array([[3]])) == ["abc"]
    assert task.read_answer(task.answer_tokens(["abc"])) == ["ab"]


def test_empty_splits_give_no_rows():
    task = Text()
    assert len(task.examples(task.split("val"))) == 0


@pytest.mark.parametrize("question", ["b", "", "abd", "abcabc"])
def test_a_question_that_is_no_beginning_is_refused(question):
    with pytest.raises(
        RequestError, match=f"question '{question}' is not how the text begins; for example 'abca'"
    ):
        Text(text_to_learn="abcab").parse([question])


def test_the_whole_text_leaves_nothing_to_ask():
    with pytest.raises(RequestError, match="a question gives 1 to 4 characters of the text"):
        Text(text_to_learn="abcab").parse(["abcab"])


def test_beginnings_of_different_lengths_do_not_stack():
    with pytest.raises(RequestError, match="different lengths do not stack; ask them one by one"):
        Text(text_to_learn="abcab").parse(["a", "ab"])
