"""What counts as right, which questions differ, and how long they may be."""

import pytest
import torch
from oracles import random_weights
from planted_adders import Writer, small_model

from interp_arith.errors import RequestError
from interp_arith.evaluation.asking import Tally, adder, ask, longest_operands, sharpened, with_digits
from interp_arith.models.config import ModelConfig
from interp_arith.models.positions import Rotary
from interp_arith.models.transformer import build_model
from interp_arith.tasks import Addition, ModularArithmetic


def plant(monkeypatch, written):
    monkeypatch.setattr("interp_arith.evaluation.asking.greedy_continuation", lambda *_: written)


def asked(monkeypatch, task, questions, change):
    """Questions with their right answers, changed."""
    written = task.answer_tokens(questions).clone()
    change(written)
    plant(monkeypatch, written)
    return ask(small_model(task), task, task.drawn(task.parse(questions)))


def test_one_wrong_token_makes_an_answer_wrong(monkeypatch):
    task = Addition(n_digits=2)

    def change(written):
        written[1, 2] = 5

    found = asked(monkeypatch, task, ["1+2=", "30+4=", "99+99="], change)
    assert found.right.tolist() == [True, False, True]
    assert found.failures("made", 10) == [{"set": "made", "question": "30+4=", "right": "34", "given": "534"}]


def test_tokens_that_training_masks_count(monkeypatch):
    task = Addition(n_digits=2, mask_first_n=2)

    def change(written):
        written[0, 0] = 9

    assert asked(monkeypatch, task, ["1+2=", "3+4="], change).right.tolist() == [False, True]


def test_what_follows_the_end_does_not_count(monkeypatch):
    task = Addition(n_digits=3, padded=False, end_token=True)
    pad = task.vocabulary.id("<pad>")

    def change(written):
        assert written[0, -1] == pad
        written[0, -1] = 7
        written[1, 0] = (written[1, 0] + 1) % 10

    assert asked(monkeypatch, task, ["1+2=", "3+4="], change).right.tolist() == [True, False]


def test_of_worked_steps_the_answer_alone_counts(monkeypatch):
    task = Addition(n_digits=2, scratchpad=True, supervision="mask_answer")

    def change(written):
        written[0, 0] = (written[0, 0] + 1) % 10
        written[1, -2] = (written[1, -2] + 1) % 10

    assert asked(monkeypatch, task, ["1+2=", "3+4=", "5+6="], change).right.tolist() == [True, False, True]


def test_failures_are_cut_by_set_and_all_are_counted(monkeypatch):
    task, tally = Addition(n_digits=2), Tally(["empty"])
    everything = asked(monkeypatch, task, ["1+2="] * 700, lambda written: written.add_(1))
    for name in ("one", "one", "other"):
        tally.add(name, everything)
    tally.total("all")
    found = tally.evaluation(["noted"])
    assert found.table["questions"].tolist() == [0, 1400, 700, 2100]
    assert found.table["wrong"].tolist() == [0, 1400, 700, 2100]
    assert [failure["set"] for failure in found.failures] == ["one"] * 1000 + ["other"] * 700
    assert found.notes == ("noted",)


@pytest.mark.parametrize(("n_ctx", "longest"), [(None, 4), (16, 4), (17, 5), (19, 5), (20, 6), (99, 6)])
def test_operands_are_as_long_as_positions_permit(n_ctx, longest):
    task = Addition(n_digits=4)  # of n digits, 3n + 2 positions
    assert longest_operands(small_model(task, n_ctx), task, 6) == longest


@pytest.mark.parametrize("kind", ["rotary", "none", "segment-digit", "abacus", "coupled"])
def test_only_learned_positions_end_with_the_context(kind):
    task = Addition(n_digits=4)
    assert longest_operands(small_model(task, kind=kind), task, 8) == 8
    assert longest_operands(small_model(task, kind="learned"), task, 8) == 4


@pytest.mark.parametrize(("max_place", "longest"), [(5, 4), (6, 5), (8, 7), (9, 8), (30, 8)])
def test_numbers_are_as_long_as_there_are_places(max_place, longest):
    task = Addition(n_digits=4)  # of n digits, an answer of n + 1
    model = small_model(task, kind="segment-digit", max_place=max_place)
    assert longest_operands(model, task, 8) == longest


def test_too_few_places_are_said():
    task = Addition(n_digits=4)
    with pytest.raises(RequestError) as raised:
        with_digits(small_model(task, kind="abacus", max_place=6), task, 9)
    assert str(raised.value) == (
        "operands of 9 digits: the model has positions for 5; train with task.n_digits = 9, "
        "or with model.positions.max_place = 10"
    )


def test_a_longer_question_is_of_the_same_task():
    task = Addition(n_digits=4, carry_share=0.3)
    model = small_model(task, 17)
    assert with_digits(model, task, 3) is task
    assert with_digits(model, task, 5) == Addition(n_digits=5, carry_share=0.3)
    with pytest.raises(RequestError, match="operands of 6 digits: the model has positions for 5; train with"):
        with_digits(model, task, 6)


def test_only_whole_numbers_are_added():
    assert adder(task := Addition(), "million") is task
    with pytest.raises(RequestError, match="protocol million asks for sums"):
        adder(ModularArithmetic(), "million")


def test_a_planted_writer_is_right_where_it_is_not_told_to_be_wrong(monkeypatch):
    task = Addition(n_digits=3)
    monkeypatch.setattr(
        "interp_arith.evaluation.asking.greedy_continuation", Writer(task, lambda row: row[0] == 2)
    )
    drawn = task.drawn(task.parse(["2+2=", "3+999="]))
    assert ask(small_model(task), task, drawn).right.tolist() == [False, True]


@pytest.mark.parametrize(
    "fields", [{}, {"attention_scale": 1.5}, {"positions": Rotary(base=3), "tied": True}]
)
def test_a_sharpened_copy_has_the_scores_times_the_factor_and_leaves_the_model_alone(fields):
    task = Addition(n_digits=2)
    small = {"d_model": 8, "n_heads": 2, "d_mlp": 12}
    model, scaled = (
        random_weights(build_model(ModelConfig(**small | fields | {"attention_scale": scale}), task))
        for scale in (fields.get("attention_scale", 1.0), 2 * fields.get("attention_scale", 1.0))
    )
    tokens = task.examples(["23+45=", "99+1="]).tokens
    before = model(tokens)
    sharp = sharpened(model, task, 2)
    assert torch.equal(sharp(tokens), scaled(tokens))
    assert torch.equal(model(tokens), before)
    assert not torch.equal(sharp(tokens), before)
    assert sharp.training == model.training
