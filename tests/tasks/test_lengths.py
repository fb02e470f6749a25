"""Questions of one length: all of them that long, of their split, and none twice."""

import pytest
import torch

from interp_arith.tasks import Addition
from interp_arith.tasks.lengths import distinct, of_length, val_examples
from interp_arith.tasks.sampling import in_split, key


def test_distinct_questions_are_the_first_of_each():
    draws = [torch.tensor([3, 1, 3, 2]), torch.tensor([2, 5, 1, 4]), *[torch.tensor([6])] * 30]
    questions = distinct(lambda number: draws[number].reshape(-1, 1, 1), 5)
    assert questions.flatten().tolist() == [3, 1, 2, 5, 4]


def test_where_there_are_fewer_distinct_gives_what_there_is():
    assert distinct(lambda number: torch.tensor([[[number % 3]]]), 5).flatten().tolist() == [0, 1, 2]


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize(
    "task",
    [
        Addition(n_digits=6, carry_share=0.5),
        Addition(n_digits=6, operands=4),
        Addition(n_digits=6, operation="mixed", sample_by="value"),
    ],
    ids=["two", "four", "mixed"],
)
def test_questions_of_a_length_are_that_long_and_of_their_split(task, split):
    drawn = of_length(task, split, 4, 150, key(1, "val"))
    numbers = drawn[:, : task.operands]
    assert len(drawn) == len(drawn.unique(dim=0)) == 150
    assert (numbers[..., 3] > 0).all()
    assert not numbers[..., 4:].any()
    assert in_split(numbers, split).all()
    assert len(numbers[..., 3].unique()) == 9


def test_one_digit_questions_are_all_that_the_split_has():
    pairs = torch.cartesian_prod(torch.arange(10), torch.arange(10))
    held_out = {tuple(pair) for pair in pairs[in_split(pairs[..., None], "val")].tolist()}
    drawn = of_length(Addition(n_digits=3), "val", 1, 200, key(0, "val"))
    assert sorted(map(tuple, drawn[:, :, 0].tolist())) == sorted(held_out)
    assert held_out


def test_validation_questions_of_a_length_follow_the_task_s_seed():
    task = Addition(n_digits=4, val_step=2, val_grid_questions=30)
    other_seed = task.model_copy(update={"seed": 1})
    first, again, other = (val_examples(t, 4) for t in (task, task, other_seed))
    assert torch.equal(first.tokens, again.tokens)
    assert not torch.equal(first.tokens, other.tokens)
    assert len(first) == 30


def test_longer_validation_questions_are_those_of_the_longer_task():
    task = Addition(n_digits=4, val_step=2, val_max_digits=8, val_grid_questions=30)
    short, long = val_examples(task, 2), val_examples(task, 6)
    assert short.tokens.shape[1] == task.n_ctx
    assert long.tokens.shape[1] == Addition(n_digits=6).n_ctx
    for examples, digits in ((short, 4), (long, 6)):
        asked = Addition(n_digits=digits)
        words = [
            "".join(asked.vocabulary.decode(row)) for row in examples.tokens[:, : 2 * digits + 2].tolist()
        ]
        assert torch.equal(asked.answer_tokens(words), examples.targets)
        length = 2 if digits == 4 else 6
        assert {len(str(number)) for row in asked.parse(words).tolist() for number in row} == {length}
