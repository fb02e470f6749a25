"""What is shown of one question is what the model does with it."""

import itertools

import numpy as np
import pytest
import torch

from interp_arith.errors import RequestError
from interp_arith.interp.one_question import (
    OneQuestion,
    attention_to_tokens,
    attribution_of_question,
    carries_of_question,
    lens_of_question,
    next_tokens,
    units_over_pairs,
)
from interp_arith.models import ModelConfig
from interp_arith.models.transformer import build_model
from interp_arith.tasks import Addition, ModularArithmetic

ADDER = Addition(n_digits=3, answer_order="units-last")
MODULAR = ModularArithmetic(p=7)
CONFIG = ModelConfig(n_layers=2, n_heads=2, d_model=16, d_mlp=24)


@pytest.fixture(scope="module", params=[ADDER, MODULAR], ids=["adder", "modular"])
def asked(request):
    question = "95+47=" if request.param is ADDER else "3+5="
    return OneQuestion.of(request.param, question)


@pytest.fixture(scope="module")
def model(asked):
    return build_model(CONFIG, asked.task).eval()


def test_a_question_is_read_with_its_right_answer():
    asked = OneQuestion.of(ADDER, "95+47=")
    assert asked.symbols == [*"095+047=014"]
    assert asked.positions[3] == "3: +"
    assert asked.answer == ["1: 0", "2: 1", "3: 4", "4: 2"]
    with pytest.raises(RequestError, match="question"):
        OneQuestion.of(ADDER, "95+47+1=")


def test_attention_is_the_model_s_pattern(model, asked):
    found = attention_to_tokens(model, asked)
    pattern = model.forward_analysis(asked.examples.tokens)[1]
    np.testing.assert_allclose(found.sel(head="1.0"), pattern[1][0, 0], atol=1e-6)
    assert found.dims == ("head", "query", "key")
    np.testing.assert_allclose(found.sum("key"), 1, atol=1e-5)


def test_the_lens_ends_at_the_model_s_own_probability(model, asked):
    found = lens_of_question(model, asked)
    logits = model.forward_analysis(asked.examples.tokens)[0]
    chances = logits[0, list(asked.task.answer_positions)].double().softmax(-1)
    right = [chances[i, int(token)].item() for i, token in enumerate(asked.examples.targets[0])]
    np.testing.assert_allclose(found.isel(hook=-1), right, atol=1e-6)


def test_what_the_parts_add_is_the_logit_less_the_mean(model, asked):
    found = attribution_of_question(model, asked)
    logits = model.forward_analysis(asked.examples.tokens)[0][0, list(asked.task.answer_positions)].double()
    right = logits.gather(-1, asked.examples.targets[0][:, None])[:, 0]
    np.testing.assert_allclose(found.sum("term"), right - logits.mean(-1), atol=1e-4)


def test_tokens_are_those_of_generate_next_token(model, asked):
    found = next_tokens(model, asked, shown=3)
    tokens = asked.task.tokens([asked.text])
    for step in sorted(found["step"].unique()):
        new, logits = model.generate_next_token(tokens, temperature=0)
        rows = found[found["step"] == step]
        (chosen,) = rows[rows["chosen"]].itertuples()
        assert chosen.token == asked.task.vocabulary.symbols[int(new)]
        assert chosen.logit == pytest.approx(logits[0, int(new)].item(), abs=1e-5)
        assert chosen.probability == pytest.approx(logits[0].softmax(-1)[int(new)].item(), abs=1e-5)
        assert rows["right"].sum() == 1
        tokens = torch.cat([tokens, new], dim=1)


def test_drawn_tokens_repeat_with_the_generator(model, asked):
    drawn = [
        next_tokens(model, asked, 2.0, generator=torch.Generator().manual_seed(3))["token"].tolist()
        for _ in range(2)
    ]
    assert drawn[0] == drawn[1]


def test_true_carries_stand_under_their_columns():
    found = carries_of_question(OneQuestion.of(ADDER, "95+47="))
    assert found is not None
    assert list(found.columns) == ["column 3", "column 2", "column 1", "column 0"]
    assert found.loc["carry in"].tolist() == ["0", "1", "1", "0"]
    assert found.loc["number 1"].tolist() == ["", "0", "9", "5"]
    assert carries_of_question(OneQuestion.of(MODULAR, "3+5=")) is None


def test_a_unit_over_all_pairs_is_what_each_question_gives():
    model = build_model(CONFIG, MODULAR).eval()
    found = units_over_pairs(model, MODULAR, logit=4, neuron=5)
    assert dict(found.sizes) == {"a": 7, "b": 7}
    for a, b in itertools.product(range(7), repeat=2):
        logits, cache = model.run_with_cache(MODULAR.tokens([f"{a}+{b}="]))
        here = found.sel(a=a, b=b)
        assert float(here["logit"]) == pytest.approx(logits[0, -1, 4].item(), abs=1e-5)
        assert float(here["activation"]) == pytest.approx(
            cache["blocks.1.mlp.hook_post"][0, -1, 5].item(), abs=1e-5
        )
    assert set(units_over_pairs(model, MODULAR, 4)) == {"logit"}


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ({"logit": 0, "neuron": 24}, "neuron 24; allowed: 0 to 23"),
        ({"logit": -1}, "token -1; allowed: 0 to 6"),
    ],
)
def test_a_unit_that_there_is_not_is_refused(units, message):
    with pytest.raises(RequestError, match=message):
        units_over_pairs(build_model(CONFIG, MODULAR), MODULAR, **units)


def test_units_over_pairs_need_pairs_and_neurons():
    with pytest.raises(RequestError, match="cannot all be listed"):
        units_over_pairs(build_model(CONFIG, ADDER), ADDER, 0)
    attention_only = ModelConfig(n_layers=1, n_heads=2, d_model=16, attention_only=True)
    with pytest.raises(RequestError, match="has no neurons"):
        units_over_pairs(build_model(attention_only, MODULAR), MODULAR, 0, 0)
