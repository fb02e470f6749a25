"""What heads look at while they write an answer: planted patterns, and roles worked out by hand."""

import math

import numpy as np
import pytest
import torch
import xarray as xr
from oracles import digit_model_configs, example_model_configs, example_tasks, random_weights

from interp_arith.errors import RequestError
from interp_arith.interp.base import Subject
from interp_arith.interp.measures import MEASURES
from interp_arith.interp.roles import ROLES, answered_places, looks, roles
from interp_arith.models.config import ModelConfig
from interp_arith.models.transformer import build_model
from interp_arith.tasks import Addition, ModularArithmetic

LETTERS = dict(zip("cbpso", ROLES, strict=True))
"""same Column, column Below, Previous output, Separators, Other."""
SMALL = ModelConfig(d_model=8, n_heads=2, d_mlp=12)


def looking_model(task, targets):
    """A model of one head that looks, from each position, at the position that is named for it."""
    n = task.n_ctx
    model = build_model(ModelConfig(d_model=n, n_heads=1, d_mlp=2), task).eval()
    with torch.no_grad():
        for parameter in model.trained_parameters().values():
            parameter.zero_()
        model.pos_embed.W_pos[:] = torch.eye(n)
        model.blocks[0].attn.W_K[0] = torch.eye(n)
        for query, key in targets.items():
            model.blocks[0].attn.W_Q[0, query, key] = 1e4
    return model


@pytest.mark.parametrize(
    ("task", "question", "wanted"),
    [
        (
            Addition(n_digits=3),  # 123+456=9750
            "123+456=",
            ["oocsoocsooo", "ocbsocbspoo", "cboscbosopo", "boosboosoop"],
        ),
        (
            Addition(n_digits=2, answer_order="units-last"),  # 12+34=046
            "12+34=",
            ["bosbosoo", "cbscbspo", "ocsocsop"],
        ),
        (
            Addition(n_digits=2, operand_order="units-first", answer_order="units-last"),  # 21+43=046
            "12+34=",
            ["obsobsoo", "bcsbcspo", "coscosop"],
        ),
        (
            Addition(n_digits=2, operation="subtract", answer_order="units-last"),  # 12-34=-22
            "12-34=",
            ["oosoosso", "cbscbsso", "ocsocssp"],
        ),
        (
            Addition(n_digits=2, padded=False, end_token=True, answer_order="units-last"),
            "7+5=",  # <pad><pad>7+5=12<end>
            ["oobsbsoo", "oocscspo", "ooososop"],
        ),
        (
            Addition(n_digits=2, padded=False, end_token=True),
            "7+5=",  # <pad><pad>7+5=21<end>
            ["oocscsoo", "oobsbspo", "ooososop"],
        ),
    ],
    ids=["padded", "units-last", "both-ways", "signed", "plain-units-last", "plain"],
)
def test_roles_are_those_worked_out_by_hand(task, question, wanted):
    examples = task.encode(task.drawn(task.parse([question])))
    found = roles(task, examples)[0]
    for answer, letters in enumerate(wanted):
        assert [ROLES[i] for i in found[answer, : len(letters)]] == [LETTERS[each] for each in letters], (
            answer
        )


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("operation", ["add", "subtract"])
@pytest.mark.parametrize("operand_order", ["units-first", "units-last"])
def test_columns_of_an_answer_are_the_same_whichever_way_it_is_written(padded, operation, operand_order):
    fields = {"n_digits": 3, "operation": operation, "padded": padded, "end_token": True}
    for question in ("100-7=", "12-12=", "5-987=") if operation == "subtract" else ("99+1=", "0+0=", "5+36="):
        digits = {}
        for order in ("units-first", "units-last"):
            task = Addition(**fields, operand_order=operand_order, answer_order=order)
            examples = task.encode(task.drawn(task.parse([question])))
            whole = torch.cat([examples.tokens, examples.targets[:, -1:]], dim=1)[0]
            places = answered_places(task, examples)
            answer = (places.segment[0] == 2) & (places.place[0] >= 0)
            digits[order] = {
                (int(p), int(t)) for p, t in zip(places.place[0][answer], whole[answer], strict=True)
            }
        assert digits["units-first"] == digits["units-last"]
        value = sum(t * 10**p for p, t in digits["units-last"])
        assert value == abs(int(task.answer([question])[0]))


def test_attention_of_a_planted_head_has_the_planted_role():
    task = Addition(n_digits=2)  # 12+34=640: answers are predicted from 5, 6, 7
    model = looking_model(task, {5: 1, 6: 4, 7: 7})
    found = MEASURES["attention_roles"](Subject(model, task)).sel(block=0, head=0)
    assert found.sel(answer=0, role="same column") == 1
    assert found.sel(answer=1, role="column below") == 1
    assert found.sel(answer=2, role="previous output") == 1
    assert MEASURES["answer_attention_entropy"](Subject(model, task)).max() == 0
    model = looking_model(task, {5: 2, 6: 0, 7: 0})
    found = MEASURES["attention_roles"](Subject(model, task)).sel(block=0, head=0)
    assert found.sel(answer=0, role="separators") == 1
    assert found.sel(answer=1, role="same column") == 1
    assert found.sel(answer=2, role="column below") == 1


def test_even_attention_is_shared_by_how_many_positions_have_the_role():
    task = Addition(n_digits=2)
    subject = Subject(looking_model(task, {}), task)
    found = MEASURES["attention_roles"](subject).sel(block=0, head=0)
    shares = {"same column": [2, 2, 0], "column below": [0, 2, 2], "previous output": [0, 1, 1]}
    shares |= {"separators": [2, 2, 2], "other": [2, 0, 3]}
    for role, counts in shares.items():
        np.testing.assert_allclose(found.sel(role=role), np.array(counts) / [6, 7, 8], rtol=1e-6)
    spread = MEASURES["answer_attention_entropy"](subject).sel(block=0, head=0)
    np.testing.assert_allclose(spread, np.log([6, 7, 8]), rtol=1e-6)


@pytest.mark.parametrize(
    "task",
    [t for t in example_tasks() if isinstance(t, Addition) and t.n_ctx <= 40],
    ids=lambda task: repr(task)[:80],
)
def test_roles_add_up_to_one_in_every_layout(task):
    model = random_weights(build_model(SMALL, task)).eval()
    found = MEASURES["attention_roles"](Subject(model, task))
    assert found.sizes["answer"] == len(task.answer_positions)
    counted = task.encode(task.sample("test", 50, torch.tensor(1))).mask.any(dim=0).numpy()
    total = found.sum("role", skipna=False)
    np.testing.assert_allclose(total.sel(answer=counted), 1, atol=1e-5)
    assert bool(found.isnull().all(("block", "head", "role")).sel(answer=~counted).all())


@pytest.mark.parametrize("config", {**example_model_configs(), **digit_model_configs()}.values())
def test_every_kind_of_model_has_roles(config):
    task = Addition(n_digits=2)
    subject = Subject(random_weights(build_model(config, task)), task)
    found = MEASURES["attention_roles"](subject)
    assert (found.sizes["block"], found.sizes["head"]) == (config.n_layers, config.n_heads)
    if config.attention_coefficient == 1:
        np.testing.assert_allclose(found.sum("role"), 1, atol=1e-5)
    else:
        with pytest.raises(RequestError, match="answer_attention_entropy does not apply: with an attention"):
            MEASURES["answer_attention_entropy"](subject)


def test_questions_that_do_not_count_are_left_out():
    pattern = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])[None, :, None, None].expand(1, 3, 1, 2, 2)
    role = torch.tensor([0, 4]).expand(3, 2, 2)
    found = looks(pattern, role, torch.tensor([[True, False], [True, True], [False, True]]))
    assert found.counts.tolist() == [2, 2]
    assert found.at[0, 0].tolist() == [[1, 0, 0, 0, 1], [0.5, 0, 0, 0, 1.5]]
    assert found.spread[0, 0].tolist() == pytest.approx([0, math.log(2)])


def test_batches_add_up(monkeypatch):
    task = Addition(n_digits=2)
    model = random_weights(build_model(SMALL, task)).eval()
    whole = MEASURES["attention_roles"](Subject(model, task))
    monkeypatch.setattr("interp_arith.interp.nodes._MOST_NUMBERS", 40_000)
    xr.testing.assert_allclose(MEASURES["attention_roles"](Subject(model, task)), whole)


def test_measures_are_labelled_and_the_same_every_time():
    task = Addition(n_digits=2, answer_order="units-last")
    model = random_weights(build_model(SMALL, task))
    model.train()
    for name in ("attention_roles", "answer_attention_entropy"):
        found = MEASURES[name](Subject(model, task))
        assert (found.name, found.dims, found.dtype) == (name, MEASURES[name].dims, np.float64)
        xr.testing.assert_identical(found, MEASURES[name](Subject(model, task)))
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


def test_a_task_without_columns_is_refused():
    task = ModularArithmetic(p=7)
    with pytest.raises(
        RequestError, match="attention_roles does not apply: the modular task has no digit columns"
    ):
        MEASURES["attention_roles"](Subject(build_model(SMALL, task), task))
