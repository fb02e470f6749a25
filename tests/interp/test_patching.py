"""Patching finds the planted carry and nothing else; gradients and paths agree with it."""

import numpy as np
import pytest
import torch
from oracles import random_weights
from planted_carries import UNITS_FIRST, UNITS_LAST, PlantedAdder, predicts

from interp_arith.errors import RequestError
from interp_arith.interp.base import Subject
from interp_arith.interp.interventions import Node
from interp_arith.interp.measures import MEASURES
from interp_arith.interp.pairs import matched_pairs
from interp_arith.interp.patching import (
    attribution_patching,
    by_place,
    interchange,
    logit_effect,
    pair_effects,
    patch_effects,
    path_effect,
)
from interp_arith.models.config import ModelConfig
from interp_arith.models.transformer import build_model

SMALL = ModelConfig(n_layers=2, d_model=8, n_heads=2, d_mlp=12, activation="gelu")


def on_the_path(task, column):
    """The carry into the column above passes through these, at the position that predicts it."""
    at = predicts(task, column + 1)
    return {str(Node(0, 1, at)), str(Node(1, None, at))}


@pytest.mark.parametrize("task", [UNITS_FIRST, UNITS_LAST], ids=["units-first", "units-last"])
@pytest.mark.parametrize("column", [0, 1, 2])
def test_the_planted_nodes_carry_everything_and_no_other_node_anything(task, column):
    found = patch_effects(PlantedAdder(task), matched_pairs(task, "generate", column, 20))
    assert found.attrs["pairs"] == 20
    carries = found.node.isin(list(on_the_path(task, column)))
    assert carries.sum() == 2
    assert (found.where(carries, drop=True) == 1).all()
    assert (found.where(~carries, drop=True) == 0).all()


@pytest.mark.parametrize("feature", ["propagate", "carry_in"])
def test_the_feature_is_replaced_without_the_digit_beside_it(feature):
    found = patch_effects(PlantedAdder(UNITS_LAST), matched_pairs(UNITS_LAST, feature, 2, 20))
    column = 2 if feature == "propagate" else 1
    strong = found.sel(effect="strong")
    assert (strong.where(found.node.isin(list(on_the_path(UNITS_LAST, column))), drop=True) == 1).all()
    assert strong.sum() == 4
    beside = str(Node(0, 0 if feature == "propagate" else 1, predicts(UNITS_LAST, column)))
    assert (found.sel(node=beside, effect="weak") == 1).all()


def test_two_heads_carry_what_either_does():
    at = predicts(UNITS_LAST, 2)
    pairs = matched_pairs(UNITS_LAST, "generate", 1, 20)
    found = pair_effects(PlantedAdder(UNITS_LAST), pairs, [at - 1, at])
    assert found.node.values.tolist() == [f"{b}.H0@{p} + {b}.H1@{p}" for b in (0, 1) for p in (at - 1, at)]
    assert found.sel(direction="noising", effect="strong").values.tolist() == [0, 1, 0, 0]


def test_attribution_is_the_true_effect_where_the_logits_are_linear():
    pairs = matched_pairs(UNITS_LAST, "generate", 1, 20)
    adder = PlantedAdder(UNITS_LAST)
    found = attribution_patching(adder, pairs)
    np.testing.assert_allclose(found, logit_effect(adder, pairs), atol=1e-6)
    assert set(found.node.values[found > 0]) == on_the_path(UNITS_LAST, 1)
    assert found.max() == pytest.approx(2.0)


def small_interchange(monkeypatch):
    """A random model, which answers nothing right: its pairs are all kept."""
    task = UNITS_LAST
    model = random_weights(build_model(SMALL, task)).double().eval()
    monkeypatch.setattr("interp_arith.interp.patching.greedy", lambda m, prompts, new, *_, guess: guess)
    return model, matched_pairs(task, "generate", 1, 10)


def test_attribution_is_the_true_effect_to_first_order_on_a_transformer(monkeypatch):
    model, pairs = small_interchange(monkeypatch)
    with torch.no_grad():  # small changes: tokens are told apart by little
        model.embed.W_E[:] = model.embed.W_E.mean(dim=0) + 1e-4 * model.embed.W_E
    first, true = attribution_patching(model, pairs), logit_effect(model, pairs)
    np.testing.assert_allclose(first, true, atol=1e-3 * float(abs(true).max()))
    assert abs(true).max() > 1e-6
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())


def test_a_path_carries_what_its_sender_does_when_nothing_else_lies_between():
    at = predicts(UNITS_LAST, 2)
    adder, pairs = PlantedAdder(UNITS_LAST), matched_pairs(UNITS_LAST, "generate", 1, 20)
    assert (path_effect(adder, pairs, Node(0, 1, at), Node(1, None, at)) == 1).all()
    assert (path_effect(adder, pairs, Node(0, 0, at), Node(1, None, at)) == 0).all()
    assert (path_effect(adder, pairs, Node(0, 1, at - 1), Node(1, 0, at)) == 0).all()


@pytest.mark.parametrize(
    ("sender", "receiver"),
    [
        (Node(1, 0, 3), Node(0, 0, 3)),
        (Node(0, 0, 3), Node(0, 1, 3)),
        (Node(0, 0, 4), Node(1, 1, 3)),
        (Node(0, None, 3), Node(0, None, 3)),
        (Node(0, 0, 3), Node(1, None, 4)),
    ],
)
def test_a_path_that_does_not_exist_is_refused(sender, receiver):
    with pytest.raises(
        RequestError, match=f"^there is no direct path from {sender} to {receiver}: a head reads"
    ):
        path_effect(PlantedAdder(UNITS_LAST), matched_pairs(UNITS_LAST, "generate", 1, 4), sender, receiver)


def test_wrong_nodes_and_models_that_answer_nothing_are_refused():
    pairs = matched_pairs(UNITS_LAST, "generate", 1, 10)
    with pytest.raises(RequestError, match=r"^node 0.H7@1 does not exist: blocks are 0 to 1, their parts"):
        patch_effects(PlantedAdder(UNITS_LAST), pairs, [Node(0, 7, 1)])
    with pytest.raises(
        RequestError, match=r"^generate in column 1: of 10 pairs of questions the model answers none"
    ):
        interchange(random_weights(build_model(SMALL, UNITS_LAST)), pairs)


def test_the_measure_is_the_map_by_block_part_and_position():
    adder = PlantedAdder(UNITS_LAST)
    found = MEASURES["patch_effect"](Subject(adder, UNITS_LAST))
    assert found.shape == (3, 2, 2, 2, 3, UNITS_LAST.n_ctx)
    strong = found.sel(column=0, effect="strong", direction="noising")
    at = predicts(UNITS_LAST, 1)
    assert strong.sel(block=0, part="H1", pos=at) == strong.sel(block=1, part="MLP", pos=at) == 1
    assert strong.sum() == 2
    one = patch_effects(adder, matched_pairs(UNITS_LAST, "generate", 0, 24))
    assert (by_place(one, adder.config) == found.sel(column=0)).all()
