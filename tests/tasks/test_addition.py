"""Addition through its tokens and back by an independent decoder."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp_arith.errors import RequestError
from interp_arith.tasks import Addition
from interp_arith.tasks.digits import numbers_of
from interp_arith.tasks.sampling import Limits, key

NUMBERS = st.integers(0, 10**10 - 1)


def spelt(task: Addition, ids: torch.Tensor) -> str:
    """Token ids as characters, by the documented ids alone."""
    return "".join({10: "+", 11: "="}.get(int(i), str(int(i))) for i in ids)


@given(a=NUMBERS, b=NUMBERS)
def test_tokens_spell_the_question_with_leading_zeros_and_the_answer_units_first(a, b):
    task = Addition(n_digits=10)
    questions = np.array([[a, b]])
    assert spelt(task, task.tokens(questions)[0]) == f"{a:010d}+{b:010d}="
    assert spelt(task, task.answer_tokens(questions)[0])[::-1] == f"{a + b:011d}"
    assert task.read_answer(task.answer_tokens(questions)) == [str(a + b)]
    assert task.parse(task.text(questions)).tolist() == [[a, b]]


@pytest.mark.parametrize(
    ("question", "digits"),
    [
        ("23+45=", "8600"),
        ("999+1=", "0001"),
        ("999+999=", "8991"),
        ("0+0=", "0000"),
        ("445+555=", "0001"),
        ("95+5=", "0010"),
    ],
)
def test_answers_carry_into_the_next_column(question, digits):
    task = Addition(n_digits=3)
    assert spelt(task, task.answer_tokens([question])[0]) == digits
    assert task.answer([question]).tolist() == [int(digits[::-1])]


def test_eighteen_digits_are_exact():
    task = Addition(n_digits=18)
    a, b = 10**18 - 1, 999_999_999_999_999_999
    assert spelt(task, task.answer_tokens(np.array([[a, b]]))[0])[::-1] == str(a + b)
    c = 123_456_789_012_345_678
    assert spelt(task, task.tokens(np.array([[c, 7]]))[0]) == f"{c}+{7:018d}="
    assert task.answer([f"{a}+{c}="]).tolist() == [a + c]


def test_the_layout_has_fourteen_tokens_and_the_published_positions():
    task = Addition(n_digits=10)
    assert task.vocabulary.symbols == (*"0123456789", "+", "=", "<pad>", "<end>")
    assert (task.n_ctx, len(task.vocabulary), task.d_vocab_out) == (32, 14, 14)
    assert task.answer_positions == tuple(range(21, 32))
    assert task.tokens(["1+2="])[0, 21] == 11


@given(st.integers(1, 18), st.data())
def test_the_token_after_each_answer_position_is_the_target_there(n_digits, data):
    task = Addition(n_digits=n_digits)
    numbers = st.integers(0, 10**n_digits - 1)
    questions = np.array([[data.draw(numbers), data.draw(numbers)]])
    examples = task.examples(questions)
    full = torch.cat([task.tokens(questions), task.answer_tokens(questions)], dim=1)
    assert examples.tokens.shape == (1, task.n_ctx)
    assert torch.equal(full[:, [position + 1 for position in task.answer_positions]], examples.targets)


def test_an_answer_with_a_sign_in_it_is_read_as_it_stands():
    assert Addition(n_digits=2).read_answer(torch.tensor([[1, 10, 2], [0, 0, 0]])) == ["2+1", "0"]


def test_mask_first_n_leaves_the_later_digits():
    assert Addition(n_digits=2, mask_first_n=1).examples(["1+2="]).mask.tolist() == [[False, True, True]]
    with pytest.raises(RequestError, match="mask_first_n = 3 leaves no loss: an answer has 3 target tokens"):
        Addition(n_digits=2, mask_first_n=3)


@pytest.mark.parametrize("question", ["23+=", "23+4a=", "23-45=", "2 3+4=", "٢+3=", "23+45", "1e3+2="])
def test_a_malformed_question_is_named_with_the_form_and_an_example(question):
    with pytest.raises(RequestError) as caught:
        Addition().parse([question])
    assert str(caught.value) == (
        f"question {question!r} is not of the form a+b= with two whole numbers; for example '23+45='"
    )


@pytest.mark.parametrize("n_digits", [1, 2])
@pytest.mark.parametrize(
    "fields", [{}, {"operation": "subtract"}, {"operation": "mixed"}, {"operands": 2}, {"operands": 4}]
)
def test_the_example_of_a_message_is_a_question_of_the_task(fields, n_digits):
    task = Addition(n_digits=n_digits, **fields)
    with pytest.raises(RequestError) as caught:
        task.parse(["what?"])
    assert len(task.parse([str(caught.value).split("'")[-2]])) == 1


def test_the_range_of_one_digit_is_in_the_singular():
    with pytest.raises(RequestError, match=r"from 0 to 9 \(1 digit\); for example '3\+5='"):
        Addition(n_digits=1).parse(["10+1="])


@pytest.mark.parametrize("question", ["1000+1=", "1+1000=", f"{10**30}+1=", "9" * 5000 + "+1="])
def test_a_number_with_too_many_digits_is_refused(question):
    with pytest.raises(
        RequestError, match=r"numbers must be from 0 to 999 \(3 digits\); for example '23\+45='"
    ):
        Addition(n_digits=3).parse([question])


@pytest.mark.parametrize("pair", [[1000, 1], [1, 1000], [-1, 2]])
def test_an_array_out_of_range_is_refused(pair):
    with pytest.raises(RequestError, match=r"question -?\d+\+\d+=: numbers must be from 0 to 999"):
        Addition(n_digits=3).parse(np.array([[1, 2], pair]))


def test_leading_zeros_beyond_the_layout_do_not_matter():
    assert Addition(n_digits=3).parse(["0000023+45="]).tolist() == [[23, 45]]


def test_an_array_of_the_wrong_shape_is_refused():
    with pytest.raises(
        RequestError, match=r"a list with list; allowed: strings, or an integer array of shape \[n, 2\]"
    ):
        Addition().tokens([[23, 45]])
    with pytest.raises(RequestError, match=r"shape \[1, 3\] .*allowed: integers of shape \[n, 2\]"):
        Addition().parse(np.array([[1, 2, 3]]))


def test_held_out_sets_have_their_size_and_repeat():
    task = Addition(n_digits=5, val_questions=30, test_questions=70, seed=4)
    assert [len(task.split(name)) for name in ("val", "test")] == [30, 70]
    assert np.array_equal(task.split("test"), task.split("test"))
    assert not np.array_equal(task.split("test"), task.with_seed(5).split("test"))


def test_a_held_out_set_may_be_empty():
    assert Addition(val_questions=0).split("val").shape == (0, 2)


def test_the_training_split_has_no_end():
    with pytest.raises(RequestError, match=r"split 'train' of a sampled task has no end; use task\.sample"):
        Addition().split("train")


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32), n_digits=st.integers(1, 4))
def test_no_drawn_training_question_is_held_out(seed, n_digits):
    task = Addition(n_digits=n_digits, carry_share=0.5)
    start = key(seed, "train")
    drawn = {
        name: set(map(tuple, numbers_of(task.sample(name, 300, start)).tolist()))
        for name in ("train", "val", "test")
    }
    assert not drawn["train"] & drawn["val"]
    assert not drawn["train"] & drawn["test"]
    assert not drawn["val"] & drawn["test"]
    fixed = task.with_seed(seed % 1000)
    assert not drawn["train"] & {tuple(row) for name in ("val", "test") for row in fixed.split(name).tolist()}


def nines_share(pairs: np.ndarray, n_digits: int) -> float:
    """Share of the columns that sum to exactly nine, from the decimal strings."""
    columns = [
        int(x) + int(y) == 9
        for a, b in pairs.tolist()
        for x, y in zip(f"{a:0{n_digits}d}", f"{b:0{n_digits}d}", strict=True)
    ]
    return sum(columns) / len(columns)


@pytest.mark.parametrize(("carry_share", "expected"), [(0.0, 0.1), (0.5, 0.37), (1.0, 0.64)])
def test_carry_share_sets_how_many_columns_sum_to_nine(carry_share, expected):
    # A carry-heavy column sums to 9 with probability 0.6 + 0.4 · 0.1, any other with 0.1.
    task = Addition(n_digits=6)
    pairs = numbers_of(task.sample("train", 4000, key(0, "train"), Limits(6, 6, carry_share)))
    assert nines_share(pairs, 6) == pytest.approx(expected, abs=0.015)


def test_the_tasks_own_carry_share_is_the_default():
    pairs = numbers_of(Addition(n_digits=6, carry_share=1.0).sample("train", 2000, key(0, "train")))
    plain = numbers_of(Addition(n_digits=6).sample("train", 2000, key(0, "train")))
    assert nines_share(pairs, 6) > nines_share(plain, 6) + 0.1


@pytest.mark.parametrize(("low", "high"), [(1, 1), (2, 4), (1, 10), (10, 10)])
def test_lengths_stay_within_the_limits(low, high):
    pairs = numbers_of(Addition(n_digits=10).sample("train", 3000, key(1, "train"), Limits(low, high, 0.3)))
    assert pairs.max() < 10**high
    assert pairs.min() >= 0
    assert pairs.max() >= 10 ** (high - 1)  # the longest length does occur


def test_every_length_is_drawn_equally_often():
    pairs = numbers_of(Addition(n_digits=4).sample("train", 8000, key(2, "train"), Limits(1, 4, 0.0)))
    below_ten = (pairs < 10).all(axis=1).mean()
    # Both numbers are below 10 always at length 1, and by chance at the others: 1/4 (1 + 1/100 + …).
    assert below_ten == pytest.approx(0.25 * 1.0101, abs=0.02)


def test_held_out_questions_are_uniform_over_all_numbers():
    test = Addition(n_digits=10, test_questions=4000).split("test")
    assert test.mean() == pytest.approx(5e9, rel=0.03)
    assert (test >= 10**9).mean() == pytest.approx(0.9, abs=0.02)


def test_sampling_draws_from_the_key_alone():
    random.seed(0)
    before = np.random.get_state()[1].copy(), torch.random.get_rng_state(), random.getstate()
    Addition().sample("train", 10, key(0, "train"))
    assert np.array_equal(np.random.get_state()[1], before[0])
    assert torch.equal(torch.random.get_rng_state(), before[1])
    assert random.getstate() == before[2]


def test_positions_and_answer_tokens_have_names_in_every_padded_layout():
    task = Addition(n_digits=2, answer_order="units-last")
    assert task.position_names == ("a1", "a0", "+", "b1", "b0", "=", "s2", "s1")
    assert task.answer_names == ("s2", "s1", "s0")
    task = Addition(n_digits=1, operation="mixed", end_token=True)
    assert task.position_names[:5] == ("a0", "±", "b0", "=", *task.position_names[4:5])
    assert sorted(task.answer_names) == ["end", "s0", "s1", "sign"]
    assert set(task.position_names[4:]) <= {"s0", "s1", "±"}
