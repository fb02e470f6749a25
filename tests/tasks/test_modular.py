"""Modular arithmetic against plain Python, and every format's tokens, splits and messages."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import plain_answer

from interp_arith.errors import RequestError
from interp_arith.tasks import ModularArithmetic
from interp_arith.tasks.modular import OPERATIONS

FORMATS = ("numbers", "numbers-with-operation", "numbers-bare", "characters")
SIGNS = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/"}


@pytest.mark.parametrize("p", [7, 11])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_answer_is_that_of_plain_python(operation, p):
    task = ModularArithmetic(p=p, operation=operation)
    pairs = [(a, b) for a in range(p) for b in range(1 if operation == "divide" else 0, p)]
    assert task.all_questions().tolist() == [list(pair) for pair in pairs]
    assert task.answer(np.array(pairs)).tolist() == [plain_answer(operation, a, b, p) for a, b in pairs]


@pytest.mark.parametrize("p", [7, 11, 113])
def test_a_quotient_times_its_divisor_is_the_dividend(p):
    task = ModularArithmetic(p=p, operation="divide")
    questions = task.all_questions()
    assert ((task.answer(questions) * questions[:, 1] - questions[:, 0]) % p == 0).all()


def test_parity_mixed_divides_by_odd_numbers_and_subtracts_even_ones():
    task = ModularArithmetic(p=7, operation="parity-mixed")
    # 5 / 3 = 4 because 3 · 4 = 12 = 5 (mod 7); 5 − 6 = −1 = 6; 5 − 0 = 5; 0 / 1 = 0.
    assert task.answer(["5@3=", "5@6=", "5@0=", "0@1="]).tolist() == [4, 6, 5, 0]


def test_polynomials_of_published_size_do_not_overflow():
    task = ModularArithmetic(p=113, operation="x^3+xy^2+y")
    assert task.answer(["112@111="]).tolist() == [(112**3 + 112 * 111**2 + 111) % 113]


@given(a=st.integers(0, 112), b=st.integers(0, 112), operation=st.sampled_from(sorted(SIGNS)))
def test_a_question_survives_text_and_back(a, b, operation):
    task = ModularArithmetic(p=113, operation=operation)
    if operation == "divide" and b == 0:
        b = 1
    question = f"{a}{SIGNS[operation]}{b}="
    assert task.text(np.array([[a, b]])) == [question]
    assert task.parse([question]).tolist() == [[a, b]]
    assert task.answer([question]).tolist() == [plain_answer(operation, a, b, 113)]


@pytest.mark.parametrize(
    ("p", "operation", "sizes"),
    [
        (97, "add", (6586, 1411, 1412)),
        (97, "subtract", (6586, 1411, 1412)),
        (97, "divide", (6518, 1396, 1398)),
        (113, "add", (8938, 1915, 1916)),
    ],
)
def test_split_sizes_are_the_published_ones(p, operation, sizes):
    task = ModularArithmetic(p=p, operation=operation, train_fraction=0.7, val_fraction=0.15)
    assert tuple(len(task.split(name)) for name in ("train", "val", "test")) == sizes


def test_thirty_percent_of_113_squared_is_3830_rows():
    task = ModularArithmetic(p=113)
    assert [len(task.split(name)) for name in ("train", "val", "test")] == [3830, 0, 12769 - 3830]


@pytest.mark.parametrize("operation", ["add", "divide"])
def test_splits_are_disjoint_and_together_are_all_questions(operation):
    task = ModularArithmetic(p=11, operation=operation, train_fraction=0.4, val_fraction=0.3, seed=5)
    rows = [tuple(row) for name in ("train", "val", "test") for row in task.split(name).tolist()]
    assert len(rows) == len(set(rows))
    assert sorted(rows) == [tuple(row) for row in task.all_questions().tolist()]


def test_splits_differ_by_seed_and_repeat_for_one_seed():
    first, again, other = (ModularArithmetic(p=31, seed=seed).split("train") for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert first.shape == other.shape
    assert not np.array_equal(first, other)
    assert np.array_equal(ModularArithmetic(p=31).with_seed(1).split("train"), other)


def test_a_split_is_spread_over_the_table():
    train = ModularArithmetic(p=113).split("train")
    per_row = np.bincount(train[:, 0], minlength=113)
    assert per_row.min() > 10  # 34 expected, standard deviation below 5
    assert per_row.max() < 60


def test_all_questions_may_be_trained_on():
    task = ModularArithmetic(p=7, train_fraction=1.0)
    assert len(task.split("train")) == 49
    assert len(task.split("test")) == 0
    assert len(task.examples(task.split("test"))) == 0


def test_with_split_round_trips_and_leaves_the_rest_for_test():
    task = ModularArithmetic(p=7, operation="divide", val_fraction=0.1)
    mask = np.random.default_rng(0).random((7, 7)) < 0.5
    given_task = task.with_split(mask)
    assert np.array_equal(given_task.train_mask, mask)
    trained = [(a, b) for a in range(7) for b in range(1, 7) if mask[a, b]]
    tested = [(a, b) for a in range(7) for b in range(1, 7) if not mask[a, b]]
    assert list(map(tuple, given_task.split("train").tolist())) == trained
    assert list(map(tuple, given_task.split("test").tolist())) == tested
    assert len(given_task.split("val")) == 0
    assert task.train_mask is None  # the task itself is unchanged
    assert np.array_equal(given_task.with_seed(9).split("train"), given_task.split("train"))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones((7, 6), dtype=bool), r"given shape \[7, 6\] of bool; allowed: \[7, 7\] of bool"),
        (np.ones((7, 7)), r"given shape \[7, 7\] of float64; allowed: \[7, 7\] of bool"),
        (np.zeros((7, 7), dtype=bool), "no training row; set at least one"),
        (np.eye(1, 49, dtype=bool).reshape(7, 7), "no training row"),  # 0/0 alone, which is no question
    ],
)
def test_a_wrong_split_mask_is_refused(mask, message):
    with pytest.raises(RequestError, match=message):
        ModularArithmetic(p=7, operation="divide").with_split(mask)


def test_residues_have_their_own_ids_and_equals_has_p():
    task = ModularArithmetic(p=113)
    assert task.tokens(["23+45="]).tolist() == [[23, 45, 113]]
    assert task.answer_tokens(["23+45="]).tolist() == [[68]]
    assert len(task.vocabulary) == 114
    assert task.d_vocab_out == 113


def test_tokens_of_the_other_formats():
    with_operation = ModularArithmetic(p=7, format="numbers-with-operation")
    assert with_operation.tokens(["3+5="]).tolist() == [[3, 8, 5, 7]]
    assert with_operation.vocabulary.decode([3, 8, 5, 7]) == ["3", "+", "5", "="]
    bare = ModularArithmetic(p=7, format="numbers-bare")
    assert bare.tokens(["3+5="]).tolist() == [[3, 5]]
    assert len(bare.vocabulary) == 7
    spelt = ModularArithmetic(p=113, format="characters")
    assert spelt.tokens(["23+45="]).tolist() == [[0, 2, 3, 10, 0, 4, 5, 11]]
    assert spelt.answer_tokens(["23+45="]).tolist() == [[0, 6, 8]]
    assert spelt.vocabulary.decode(list(range(12))) == [*"0123456789", "+", "="]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("operation", ["add", "divide", "x^2+y^2"])
def test_the_token_after_each_answer_position_is_the_target_there(format, operation):
    task = ModularArithmetic(p=11, operation=operation, format=format)
    questions = task.all_questions()
    examples = task.examples(questions)
    full = torch.cat([task.tokens(questions), task.answer_tokens(questions)], dim=1)
    assert examples.tokens.shape == (len(questions), task.n_ctx)
    assert torch.equal(examples.tokens, full[:, :-1])
    for column, position in enumerate(task.answer_positions):
        assert torch.equal(full[:, position + 1], examples.targets[:, column])
    assert examples.targets.shape[1] == len(task.answer_positions)
    assert int(examples.targets.max()) < task.d_vocab_out
    assert int(examples.tokens.max()) < len(task.vocabulary)


def test_mask_first_n_takes_the_loss_off_the_first_targets():
    task = ModularArithmetic(p=113, format="characters", mask_first_n=2)
    assert task.examples(["23+45=", "1+2="]).mask.tolist() == [[False, False, True]] * 2
    assert ModularArithmetic(p=113).examples(["23+45="]).mask.tolist() == [[True]]


@pytest.mark.parametrize(
    ("format", "most", "wrong"), [("numbers", 1, 1), ("characters", 3, 3), ("characters", 3, 7)]
)
def test_a_mask_that_leaves_no_loss_is_refused(format, most, wrong):
    with pytest.raises(
        RequestError, match=f"mask_first_n = {wrong} leaves no loss: an answer has {most} target"
    ):
        ModularArithmetic(p=113, format=format, mask_first_n=wrong)


@pytest.mark.parametrize("format", FORMATS)
def test_answers_are_read_back_as_numbers(format):
    task = ModularArithmetic(p=113, format=format)
    assert task.read_answer(task.answer_tokens(["23+45=", "100+20=", "0+0="])) == ["68", "7", "0"]


def test_an_answer_with_a_sign_in_it_is_read_as_it_stands():
    task = ModularArithmetic(p=113, format="characters")
    assert task.read_answer(torch.tensor([[0, 10, 8], [11, 11, 11]])) == ["0+8", "==="]


@pytest.mark.parametrize(
    ("question", "named"),
    [
        ("23+=", "'23+='"),
        ("23+4a=", "'23+4a='"),
        ("23-45=", "'23-45='"),
        ("23+45", "'23+45'"),
        ("", "''"),
        ("23+45=68", "'23+45=68'"),
        ("-1+2=", "'-1+2='"),
        ("1.5+2=", "'1.5+2='"),
        ("٢٣+45=", "'٢٣+45='"),
        ("２3+45=", "'２3+45='"),
    ],
)
def test_a_malformed_question_is_named_with_the_form_and_an_example(question, named):
    with pytest.raises(RequestError) as caught:
        ModularArithmetic(p=113).parse(["1+1=", question])
    assert str(caught.value) == (
        f"question {named} is not of the form a+b= with two whole numbers; for example '23+45='"
    )


@pytest.mark.parametrize("number", ["113", "999", "9" * 17, "9" * 19, "9" * 30, "0" * 40 + "9" * 30])
def test_a_number_of_p_or_more_is_refused_with_the_range(number):
    with pytest.raises(RequestError) as caught:
        ModularArithmetic(p=113).parse([f"{number}+1="])
    assert "numbers must be from 0 to 112; for example '23+45='" in str(caught.value)
    assert number in str(caught.value)


def test_the_example_in_a_message_is_itself_allowed():
    task = ModularArithmetic(p=7)
    with pytest.raises(RequestError, match=r"for example '6\+6='"):
        task.parse(["7+1="])
    assert task.answer(["6+6="]).tolist() == [5]


def test_an_array_out_of_range_is_refused_by_its_first_bad_row():
    with pytest.raises(RequestError, match=r"question -1\+3=: numbers must be from 0 to 6"):
        ModularArithmetic(p=7).parse(np.array([[1, 2], [-1, 3], [9, 9]]))


def test_division_by_zero_is_refused():
    for questions in (["5/0="], np.array([[1, 1], [5, 0]])):
        with pytest.raises(RequestError, match=r"question 5/0=: b must be from 1 to 112; for example"):
            ModularArithmetic(operation="divide").parse(questions)


@pytest.mark.parametrize(
    ("array", "shape"),
    [
        (np.zeros((3, 3), dtype=np.int64), r"\[3, 3\] and type int64"),
        (np.zeros(2, dtype=np.int64), r"\[2\] and type int64"),
        (np.zeros((3, 2)), r"\[3, 2\] and type float64"),
        (torch.zeros(3, 2), r"\[3, 2\] and type float32"),
        (np.zeros((3, 2), dtype=bool), r"\[3, 2\] and type bool"),
    ],
)
def test_an_array_of_the_wrong_shape_or_type_is_refused(array, shape):
    with pytest.raises(RequestError, match=rf"given an array of shape {shape}; allowed: integers .*\[n, 2\]"):
        ModularArithmetic(p=7).parse(array)


@pytest.mark.parametrize("spacing", ["23 + 45 =", "  23+45=\n", "023+0045=", "0" * 5000 + "23+45="])
def test_spaces_and_leading_zeros_do_not_matter(spacing):
    assert ModularArithmetic().parse([spacing]).tolist() == [[23, 45]]


def test_lists_arrays_and_tensors_mean_the_same_questions():
    task = ModularArithmetic()
    pairs = np.array([[23, 45], [1, 2]], dtype=np.int32)
    for questions in (["23+45=", "1+2="], pairs, torch.from_numpy(pairs), pairs.astype(np.uint8)):
        assert task.parse(questions).tolist() == [[23, 45], [1, 2]]
        assert task.parse(questions).dtype == np.int64


def test_no_questions_give_no_rows():
    for task in (ModularArithmetic(), ModularArithmetic(format="characters", operation="divide")):
        assert task.tokens([]).shape[0] == 0
        assert task.answer([]).shape == (0,)
        assert task.text([]) == []


def test_an_unknown_operation_names_the_nearest():
    with pytest.raises(RequestError, match=r"no operation is called 'multipy'; did you mean multiply\?"):
        ModularArithmetic(operation="multipy")
    with pytest.raises(RequestError, match="no operation is called"):
        ModularArithmetic(operation=["add"])


@pytest.mark.parametrize("operation", ["divide", "parity-mixed"])
def test_operations_with_inverses_need_a_prime(operation):
    with pytest.raises(RequestError, match=f"p = 9 is not prime, and {operation} needs inverses"):
        ModularArithmetic(p=9, operation=operation)
    assert ModularArithmetic(p=9, operation="multiply").answer(["4*7="]).tolist() == [1]


def test_p_starts_at_three():
    assert ModularArithmetic(p=3).answer(["2+2="]).tolist() == [1]
    with pytest.raises(RequestError, match="greater than or equal to 3"):
        ModularArithmetic(p=2)


@pytest.mark.parametrize("share", [0, -0.1, 1.01])
def test_a_train_share_outside_zero_to_one_is_refused(share):
    with pytest.raises(RequestError, match="train_fraction"):
        ModularArithmetic(train_fraction=share)


def test_shares_over_one_together_are_refused():
    with pytest.raises(RequestError, match=r"0\.7 and val_fraction 0\.4 exceed 1 together; lower one"):
        ModularArithmetic(train_fraction=0.7, val_fraction=0.4)


def test_a_share_of_less_than_one_question_is_refused():
    with pytest.raises(
        RequestError, match=r"train_fraction = 0\.1 of 9 questions is none; give at least 0\.11"
    ):
        ModularArithmetic(p=3, train_fraction=0.1).split("train")
    assert len(ModularArithmetic(p=3, train_fraction=0.12).split("train")) == 1


@given(
    p=st.integers(3, 40),
    operation=st.sampled_from(["add", "subtract", "multiply", "x^2+y^2"]),
    format=st.sampled_from(FORMATS),
    seed=st.integers(0, 5),
)
def test_a_task_is_its_own_config(p, operation, format, seed):
    task = ModularArithmetic(p=p, operation=operation, format=format, seed=seed)
    assert ModularArithmetic.model_validate(task.model_dump()) == task
    assert ModularArithmetic.model_validate_json(task.model_dump_json()) == task


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("operation", ["add", "divide"])
def test_the_asking_token_is_what_stands_at_the_first_answer_position(format, operation):
    task = ModularArithmetic(p=11, operation=operation, format=format)
    standing = task.examples(task.all_questions()).tokens[:, task.answer_positions[0]].unique().tolist()
    assert task.asking_token == (standing[0] if len(standing) == 1 else None)
    assert (task.asking_token is None) == (format == "numbers-bare")
