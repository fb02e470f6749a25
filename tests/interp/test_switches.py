"""A switch does to a model what it says, for as long as it stands."""

import pytest
import torch

from interp_arith.errors import RequestError
from interp_arith.interp.switches import (
    Switches,
    changed_scores,
    failing_questions,
    held_out_examples,
    question_of,
    switched,
)
from interp_arith.models import ModelConfig
from interp_arith.models.transformer import build_model
from interp_arith.tasks import Addition, ModularArithmetic

TASK = ModularArithmetic(p=7)
ADDER = Addition(n_digits=2)
CONFIG = ModelConfig(n_layers=2, n_heads=2, d_model=16, d_mlp=24)
MODEL = build_model(CONFIG, TASK).eval()
TOKENS = TASK.tokens(["2+3=", "4+6="])


def cached(*switches, other=None):
    with switched(MODEL, *switches, other):
        return MODEL.run_with_cache(TOKENS)


@torch.no_grad()
def logits(switches, other=None):
    with switched(MODEL, switches, other):
        return MODEL(TOKENS)


def test_what_is_switched_off_puts_out_nothing_and_the_rest_is_as_it_was():
    _, cache = cached(Switches(heads=((0, 1),), mlps=(1,), neurons=((0, 3), (0, 5))))
    _, plain = MODEL.run_with_cache(TOKENS)
    assert (cache["blocks.0.attn.hook_z"][:, :, 1] == 0).all()
    assert torch.equal(cache["blocks.0.attn.hook_z"][:, :, 0], plain["blocks.0.attn.hook_z"][:, :, 0])
    assert (cache["blocks.1.hook_mlp_out"] == 0).all()
    assert (cache["blocks.0.mlp.hook_post"][:, :, [3, 5]] == 0).all()
    assert (cache["blocks.0.mlp.hook_post"][:, :, 4] != 0).any()


def test_afterwards_the_model_is_as_it_was():
    before = MODEL(TOKENS)
    logits(Switches(heads=((0, 0),), scale=2.0))
    with pytest.raises(ZeroDivisionError), switched(MODEL, Switches(mlps=(0,))):
        raise ZeroDivisionError
    assert torch.equal(MODEL(TOKENS), before)


def test_a_mean_is_that_over_other_questions():
    other = TASK.examples(TASK.all_questions()).tokens
    _, cache = cached(Switches(heads=((0, 1),), way="mean"), other=other)
    _, whole = MODEL.run_with_cache(other)
    mean = whole["blocks.0.attn.hook_z"][:, :, 1].mean(dim=0)
    torch.testing.assert_close(cache["blocks.0.attn.hook_z"][:, :, 1], mean.expand(2, -1, -1))


def test_a_patch_of_every_part_gives_the_other_question_s_last_mlp():
    source = TASK.examples(["5+1="]).tokens
    _, cache = cached(Switches(mlps=(1,), way="patch"), other=source)
    _, theirs = MODEL.run_with_cache(source)
    torch.testing.assert_close(
        cache["blocks.1.hook_mlp_out"], theirs["blocks.1.hook_mlp_out"].expand(2, -1, -1)
    )


def test_scaled_scores_are_sharper_attention():
    _, cache = cached(Switches(scale=3.0))
    _, plain = MODEL.run_with_cache(TOKENS)
    expected = (3 * plain["blocks.0.attn.hook_attn_scores"]).softmax(dim=-1)
    torch.testing.assert_close(cache["blocks.0.attn.hook_pattern"], expected)


def test_nothing_switched_changes_no_score():
    assert Switches().do_nothing
    found = changed_scores(MODEL, TASK, Switches(), 30)
    assert found["untouched"].tolist() == found["changed"].tolist()
    assert found["questions"].tolist() == [30]


def test_scores_of_an_adder_are_by_class():
    model = build_model(CONFIG, ADDER).eval()
    found = changed_scores(model, ADDER, Switches(mlps=(0,), way="mean"), 50)
    assert found["questions of"].tolist() == ["S0", "S1", "S2"]
    assert (found["questions"] == 10).all()
    assert (found["loss changed"] != found["loss untouched"]).all()


def test_an_untrained_adder_fails_and_says_what_it_wrote():
    model = build_model(CONFIG, ADDER).eval()
    found = failing_questions(model, ADDER, 20)
    assert len(found) > 50
    first = found.iloc[0]
    assert str(ADDER.answer([first["question"]])[0]) == first["right"] != first["said"]
    assert ADDER.complexity([first["question"]])[0] == first["class"]


@pytest.mark.parametrize("task", [ADDER, Addition(n_digits=3, operation="mixed", answer_order="units-last")])
def test_a_prompt_reads_back_as_its_question(task):
    questions = task.text(task.split("test")[:20])
    tokens = task.tokens(questions)
    assert [question_of(task, row) for row in tokens] == questions


def test_held_out_examples_are_of_the_test_split():
    assert torch.equal(held_out_examples(TASK, 5).tokens, TASK.examples(TASK.split("test")[:5]).tokens)


@pytest.mark.parametrize(
    ("switches", "said"),
    [
        (Switches(heads=((2, 0),)), "block 2; allowed: 0 to 1"),
        (Switches(heads=((0, 2),)), "head 2; allowed: 0 to 1"),
        (Switches(neurons=((0, 24),)), "neuron 24; allowed: 0 to 23"),
        (Switches(scale=-1.0), "scale -1.0; allowed: 0 or more"),
        (Switches(mlps=(0,), way="mean"), "needs other questions"),
        (Switches(mlps=(0,), way="maen"), "mean"),
    ],
)
def test_what_there_is_not_is_refused(switches, said):
    with pytest.raises(RequestError, match=said), switched(MODEL, switches):
        raise AssertionError("not refused")


def test_scores_are_not_of_a_patch():
    with pytest.raises(RequestError, match="of one question"):
        changed_scores(MODEL, TASK, Switches(mlps=(0,), way="patch"))
