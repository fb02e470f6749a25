"""Interventions act where they say, compose, stay while an answer is written, and leave no hook behind."""

import pytest
import torch
from oracles import random_weights
from planted_carries import UNITS_FIRST, PlantedAdder, predicts

from interp_arith.errors import RequestError
from interp_arith.interp.interventions import (
    Exchange,
    Node,
    Put,
    Site,
    all_nodes,
    check_nodes,
    greedy,
    intervened,
    mean,
    patch,
    recorded,
    remove,
    resample,
    zero,
)
from interp_arith.models.config import ModelConfig
from interp_arith.models.transformer import build_model

TASK = UNITS_FIRST
RESIDUAL = "blocks.0.hook_resid_post"


@pytest.fixture(scope="module")
def model():
    config = ModelConfig(n_layers=2, d_model=8, n_heads=2, d_mlp=12)
    return random_weights(build_model(config, TASK)).eval()


def prompts(*questions):
    return TASK.tokens(list(questions or ("12+34=", "999+1=", "555+446=")))


def hooks_on(model):
    return [module for module in model.modules() if module._forward_hooks or module._backward_hooks]


def test_a_model_has_a_node_for_every_head_and_mlp_at_every_position():
    nodes = all_nodes(ModelConfig(n_layers=2, n_heads=2, d_model=8), 3)
    assert len(set(nodes)) == len(nodes) == 2 * 3 * 3
    assert [str(node) for node in nodes[:4]] == ["0.H0@0", "0.H0@1", "0.H0@2", "0.H1@0"]
    assert str(nodes[-1]) == "1.MLP@2"
    assert len(all_nodes(ModelConfig(n_heads=2, d_model=8, attention_only=True), 3)) == 6


@pytest.mark.parametrize("node", [Node(2, 0, 0), Node(0, 2, 0), Node(0, -1, 0), Node(0, None, 3)])
def test_a_node_that_does_not_exist_is_refused_with_what_there_is(node):
    allowed = "blocks are 0 to 1, their parts H0 to H1 and MLP, and positions 0 to 2; all_nodes lists them"
    with pytest.raises(RequestError, match=rf"^node {node} does not exist: {allowed}$"):
        check_nodes(ModelConfig(n_layers=2, n_heads=2, d_model=8), 3, [Node(0, 0, 0), node])


def test_a_hook_that_does_not_exist_is_refused(model):
    with (
        pytest.raises(RequestError, match=r"hook 'blocks.7.hook_z' does not exist; model.hook_dict lists"),
        intervened(model, [Put(Site("blocks.7.hook_z", 0), torch.zeros(8))]),
    ):
        pass
    assert not hooks_on(model)


def test_no_hook_is_left_behind_even_after_an_exception(model):
    node = Node(0, 1, 2)
    put = zero(node, recorded(model, prompts()))

    def fails():
        with intervened(model, [put]):
            assert hooks_on(model)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert not hooks_on(model)
    greedy(model, prompts(), 4, [put])
    assert not hooks_on(model)


def test_hooks_of_others_stay(model):
    handle = model.register_hook("mine", "blocks.0.hook_mlp_out", lambda module, inputs, output: None)
    with intervened(model, [zero(Node(0, None, 2), recorded(model, prompts()))]):
        pass
    assert len(hooks_on(model)) == 1
    handle.remove()


@pytest.mark.parametrize("node", [Node(0, 1, 2), Node(1, None, 5)])
def test_a_patch_changes_its_node_alone_in_its_block(model, node):
    tokens = prompts()
    source, clean = recorded(model, tokens.flip(0)), recorded(model, tokens)
    with intervened(model, [patch(node, source)]):
        found = recorded(model, tokens)
    assert torch.equal(found.at(node), source.at(node))
    others = [n for n in all_nodes(model.config, tokens.shape[1]) if n.block <= node.block and n != node]
    same = [n for n in others if torch.equal(found.at(n), clean.at(n))]
    assert [n for n in others if n not in same] == ([Node(0, None, 2)] if node.head is not None else [])


def test_a_patch_with_the_own_activations_changes_nothing(model):
    tokens = prompts()
    clean = recorded(model, tokens)
    with (
        torch.no_grad(),
        intervened(model, [patch(n, clean) for n in all_nodes(model.config, tokens.shape[1])]),
    ):
        found = model(tokens)
    assert torch.equal(found, model(tokens))


def test_ablations_are_zero_the_mean_and_another_question(model):
    clean, node = recorded(model, prompts()), Node(0, 0, 3)
    x = clean.at(node)
    assert not zero(node, clean).changed(x).any()
    torch.testing.assert_close(mean(node, clean).changed(x), x.mean(dim=0).expand_as(x))
    order = torch.tensor([2, 0, 1])
    assert torch.equal(resample(node, clean, order).changed(x), x[order])
    assert torch.equal(resample(node, clean, order).rows(torch.tensor([1])).changed(x[1:2]), x[:1])


def test_removing_a_direction_leaves_the_others_and_exchanging_it_twice_is_the_identity():
    site, x = Site(RESIDUAL, 1), torch.tensor([[3.0, 4.0, 5.0]])
    directions = torch.tensor([[2.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    torch.testing.assert_close(remove(site, directions).changed(x), torch.tensor([[0.0, 0.0, 5.0]]))
    torch.testing.assert_close(remove(site, directions[:1]).changed(x), torch.tensor([[0.0, 4.0, 5.0]]))
    source = torch.tensor([[7.0, 8.0, 9.0]])
    there = Exchange(site, directions[:1], source).changed(x)
    torch.testing.assert_close(there, torch.tensor([[7.0, 4.0, 5.0]]))
    torch.testing.assert_close(Exchange(site, directions[:1], x).changed(there), x)


def test_interventions_at_one_place_act_in_their_order(model):
    x, site = torch.ones(8), Site(RESIDUAL, 1)
    first = torch.eye(8)[:1]
    kept = {}

    def keep(module, inputs, output):
        kept["x"] = output[:, 1]

    with intervened(model, [Put(site, x), remove(site, first)]):
        handle = model.register_hook("kept", RESIDUAL, keep)
        model(prompts())
        handle.remove()
    torch.testing.assert_close(kept["x"][0], x - first[0])


def test_greedy_writes_what_generate_writes_under_interventions_from_any_guess(model):
    tokens, source = prompts(), recorded(model, TASK.examples(["101+99=", "5+5=", "777+7="]).tokens)
    for node in (Node(0, 1, 4), Node(1, None, 8), Node(0, None, 9)):
        acts = [patch(node, source)]
        with intervened(model, acts):
            slow = model.generate(tokens, 4)[:, tokens.shape[1] :]
        assert torch.equal(greedy(model, tokens, 4, acts), slow)
        assert torch.equal(greedy(model, tokens, 4, acts, guess=slow.flip(1)), slow)


def test_the_planted_adders_are_right():
    questions = ["12+34=", "999+1=", "555+446=", "0+0=", "999+999=", "95+5="]
    for route in ("ahead", "reads"):
        adder = PlantedAdder(TASK, route)
        assert torch.equal(greedy(adder, TASK.tokens(questions), 4), TASK.answer_tokens(questions))
    assert predicts(TASK, 0) == 7
