"""Where questions come from: splits, draws, and data files that round-trip or say what is wrong."""

import json

import numpy as np
import pytest
import torch
from oracles import example_tasks

from interp_arith.errors import RequestError
from interp_arith.tasks import Addition, ModularArithmetic, PermutationComposition, Text
from interp_arith.tasks.base import Examples, SampledTask
from interp_arith.tasks.sampling import Limits
from interp_arith.tasks.sources import make_source, read_data, split_questions, write_data

TASKS = example_tasks()
NAMES = [f"{task.kind}-{number}" for number, task in enumerate(TASKS)]


def same(one: Examples, other: Examples) -> bool:
    pairs = (one.tokens, other.tokens), (one.targets, other.targets), (one.mask, other.mask)
    return all(torch.equal(a, b) for a, b in pairs)


def write_lines(folder, *lines: str, split: str = "train") -> None:
    (folder / f"{split}.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def line(question: str, answer: str) -> str:
    return json.dumps({"question": question, "answer": answer})


RIGHT = line("23+45=", "68")


def test_a_full_batch_is_constant_and_is_the_training_split():
    task = ModularArithmetic(p=11, train_fraction=0.5)
    source = make_source(task, None, seed=0)
    assert source.constant
    assert source.steps_per_epoch == 1
    assert source.batch(0, None) is source.batch(5, None)
    assert same(source.batch(0, None), task.examples(task.split("train")))
    assert set(source.evaluation) == {"train", "test"}


def test_a_batch_larger_than_the_split_is_the_whole_split():
    source = make_source(ModularArithmetic(p=7, train_fraction=0.5), 1000, seed=0)
    assert source.constant
    assert len(source.batch(0, None)) == 24


def test_an_epoch_covers_each_training_question_at_most_once():
    task = ModularArithmetic(p=11, train_fraction=0.5)  # 60 rows: 8 batches of 7, 4 rows left out
    source = make_source(task, 7, seed=3)
    assert not source.constant
    assert source.steps_per_epoch == 8
    rows = torch.cat([source.batch(step, None).tokens for step in range(8)])
    assert len(rows) == len(rows.unique(dim=0)) == 56
    trained = set(map(tuple, task.tokens(task.split("train")).tolist()))
    assert set(map(tuple, rows.tolist())) <= trained


@pytest.mark.parametrize("task", [ModularArithmetic(p=11, train_fraction=0.5), Addition(n_digits=4)])
def test_a_batch_is_a_pure_function_of_the_step(task):
    forwards, backwards = make_source(task, 16, seed=3), make_source(task, 16, seed=3)
    wanted = [forwards.batch(step, None) for step in range(6)]
    for step in reversed(range(6)):
        assert same(backwards.batch(step, None), wanted[step])
    assert not torch.equal(wanted[0].tokens, wanted[1].tokens)
    assert not torch.equal(wanted[0].tokens, make_source(task, 16, seed=4).batch(0, None).tokens)


def test_drawn_batches_respect_the_limits_of_the_step():
    source = make_source(Addition(n_digits=4), 200, seed=0)
    short = source.batch(0, Limits(1, 2, 0.0)).tokens
    assert short.shape == (200, 14)
    assert not short[:, [0, 1, 5, 6]].any()  # thousands and hundreds of both operands
    assert short[:, [2, 3, 7, 8]].any(dim=0).all()
    assert source.steps_per_epoch is None
    assert set(source.evaluation) == {"val", "test"}


def test_drawn_questions_need_a_batch_size():
    with pytest.raises(RequestError, match="batch_size: none given; the addition task draws its questions"):
        make_source(Addition(), None, seed=0)


def test_a_text_trains_on_its_one_question():
    source = make_source(Text(), None, seed=0)
    assert len(source.batch(0, None)) == 1
    assert set(source.evaluation) == {"train"}


@pytest.mark.parametrize("task", TASKS, ids=NAMES)
def test_every_task_gives_batches_in_its_vocabulary(task):
    source = make_source(task, 8, seed=0)
    for examples in (source.batch(0, None), *source.evaluation.values()):
        assert examples.tokens.shape[1] == task.n_ctx
        assert examples.targets.shape == examples.mask.shape
        assert 0 <= int(examples.tokens.min()) <= int(examples.tokens.max()) < len(task.vocabulary)
        assert int(examples.targets.max()) < task.d_vocab_out
        assert examples.mask.any(dim=1).all()


@pytest.mark.parametrize("task", TASKS, ids=NAMES)
def test_data_files_round_trip(task, tmp_path):
    n = 25 if isinstance(task, SampledTask) else None
    counts = write_data(task, tmp_path, n)
    read = read_data(task, tmp_path)
    assert counts == {name: len(rows) for name, rows in read.items()}
    assert counts["train"] > 0
    for name in ("val", "test"):
        assert np.array_equal(read[name], task.split(name))
    if isinstance(task, SampledTask):
        assert counts["train"] == 25
    else:
        assert np.array_equal(read["train"], task.split("train"))
    source = make_source(task, None, seed=0, data_dir=tmp_path)
    assert same(source.batch(0, None), task.examples(read["train"]))


def test_a_data_line_is_a_question_and_its_answer(tmp_path):
    write_data(ModularArithmetic(p=3, operation="divide", train_fraction=1.0), tmp_path)
    lines = [json.loads(text) for text in (tmp_path / "train.jsonl").read_text().splitlines()]
    # 1/2 = 2 and 2/2 = 1 mod 3.
    assert [row["question"] + row["answer"] for row in lines] == [
        "0/1=0", "0/2=0", "1/1=1", "1/2=2", "2/1=2", "2/2=1",
    ]  # fmt: skip


def test_a_text_with_odd_line_ends_in_it_round_trips(tmp_path):
    task = Text(text_to_learn="a\u2028b\x85c\nd")
    write_data(task, tmp_path)
    assert read_data(task, tmp_path)["train"].tolist() == [[1]]


def test_listed_questions_are_all_written(tmp_path):
    with pytest.raises(RequestError, match="-n 5: the modular task lists its questions, all are written"):
        write_data(ModularArithmetic(), tmp_path, 5)


def test_a_missing_training_file_is_named(tmp_path):
    with pytest.raises(RequestError, match=r"no train\.jsonl; write one with `interp-arith data PRESET"):
        read_data(Addition(), tmp_path)


def test_an_empty_training_file_is_named(tmp_path):
    write_lines(tmp_path, "")
    with pytest.raises(RequestError, match=r"train\.jsonl has no questions"):
        read_data(Addition(), tmp_path)


def test_missing_val_and_test_files_are_empty_sets(tmp_path):
    write_lines(tmp_path, RIGHT)
    read = read_data(Addition(), tmp_path)
    assert {name: len(rows) for name, rows in read.items()} == {"train": 1, "val": 0, "test": 0}


@pytest.mark.parametrize("broken", ["{", "[1, 2]", '"23+45="', "null", '{"question": "1+1="}', "\x00\x00"])
def test_a_broken_line_is_named_by_its_number_in_the_file(broken, tmp_path):
    write_lines(tmp_path, RIGHT, "", RIGHT, broken, RIGHT)
    with pytest.raises(RequestError, match=r"train\.jsonl, line 4: .* is no question; a line looks like"):
        read_data(Addition(), tmp_path)


@pytest.mark.parametrize(
    ("task", "malformed", "form"),
    [
        (Addition(), "23+4a=", r"a\+b="),
        (ModularArithmetic(), "23+=", r"a\+b="),
        (ModularArithmetic(format="characters"), "2x+1=", r"a\+b="),
        (PermutationComposition(), "1+2=", r"a\*b="),
    ],
)
def test_a_malformed_question_is_named_by_its_line(task, malformed, form, tmp_path):
    right = task.text(np.array([[2, 3]]))[0], str(task.answer(np.array([[2, 3]]))[0])
    write_lines(tmp_path, line(*right), "", line(malformed, "1"))
    with pytest.raises(RequestError, match=rf"train\.jsonl, line 3: question '.*' is not of the form {form}"):
        read_data(task, tmp_path)


def test_a_text_line_that_is_no_beginning_is_named_by_its_line(tmp_path):
    write_lines(tmp_path, line("a", "bc"), line("x", "bc"))
    with pytest.raises(RequestError, match=r"line 2: question 'x' is not how the text begins"):
        read_data(Text(text_to_learn="abc"), tmp_path)


def test_a_wrong_answer_is_named_with_the_right_one(tmp_path):
    write_lines(tmp_path, RIGHT)
    write_lines(tmp_path, RIGHT, line("1+1=", "3"), split="test")
    with pytest.raises(RequestError, match=r"test\.jsonl, line 2: 1\+1=3 is wrong; right is 2"):
        read_data(Addition(), tmp_path)


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_held_out_question_that_is_trained_on_is_named(split, tmp_path):
    write_lines(tmp_path, RIGHT, line("1+1=", "2"))
    write_lines(tmp_path, line("2+2=", "4"), line("01+1=", "2"), RIGHT, split=split)
    with pytest.raises(RequestError) as caught:
        read_data(Addition(), tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / split}.jsonl: 2 of 3 questions are in train.jsonl too, 1+1= the first; "
        "leave them out of one of the files"
    )


def test_numbers_are_answers_too(tmp_path):
    write_lines(tmp_path, '{"question": "23+45=", "answer": 68}')
    assert read_data(Addition(), tmp_path)["train"].tolist() == [[23, 45]]


def test_a_number_of_p_or_more_is_named_by_its_line(tmp_path):
    write_lines(tmp_path, line("7+1=", "1"))
    with pytest.raises(RequestError, match=r"line 1: question 7\+1=: numbers must be from 0 to 6"):
        read_data(ModularArithmetic(p=7), tmp_path)


def test_sequences_over_the_context_length_are_refused_with_their_count(tmp_path):
    # Three digits: 12 tokens. 1000+1 takes 15 in this layout, 1+12345 takes 18.
    write_lines(tmp_path, RIGHT, line("1000+1=", "1001"), RIGHT, line("1+12345=", "12346"))
    with pytest.raises(RequestError) as caught:
        read_data(Addition(n_digits=3), tmp_path)
    assert (
        "2 of 4 sequences are over the context length of 12 tokens (the longest has 18); drop them or widen"
    ) in str(caught.value)


def test_over_long_numbers_in_characters_are_counted_too(tmp_path):
    write_lines(tmp_path, line("1+1=", "2"), line("1000+1=", "1"))
    with pytest.raises(RequestError, match="1 of 2 sequences are over the context length of 11 tokens"):
        read_data(ModularArithmetic(p=113, format="characters"), tmp_path)


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "train.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RequestError, match=r"train\.jsonl is no UTF-8 text"):
        read_data(Addition(), tmp_path)


def test_questions_to_look_at_are_drawn_without_repeats_from_the_split():
    task = ModularArithmetic(p=11)
    shown = split_questions(task, "test", 20)
    held = set(map(tuple, task.split("test").tolist()))
    assert len(shown) == len(set(map(tuple, shown.tolist()))) == 20
    assert set(map(tuple, shown.tolist())) <= held
    assert np.array_equal(shown, split_questions(task, "test", 20))
    assert np.array_equal(split_questions(task, "test"), task.split("test"))


def test_more_questions_than_there_are_or_none_are_refused():
    task = ModularArithmetic(p=3, train_fraction=0.5)
    with pytest.raises(RequestError, match="-n 5: the train split has 4 questions; give at most that many"):
        split_questions(task, "train", 5)
    for n in (0, -1):
        with pytest.raises(RequestError, match=f"-n {n}: allowed: 1 or more"):
            split_questions(task, "train", n)


def test_sampled_questions_to_look_at_belong_to_their_split_and_limits():
    task = Addition(n_digits=6)
    shown = {name: split_questions(task, name, 200, Limits(1, 3, 0.0)) for name in ("train", "val", "test")}
    as_sets = {name: set(map(tuple, rows.tolist())) for name, rows in shown.items()}
    assert all(len(rows) == 200 and rows.max() < 1000 for rows in shown.values())
    assert not as_sets["train"] & (as_sets["val"] | as_sets["test"])
    assert len(split_questions(task, "train")) == 10_000
