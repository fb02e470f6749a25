"""The circuit of each digit is the planted one, node by node, and what a node brings is what was planted."""

import pytest
import torch
from planted_carries import UNITS_LAST, PlantedAdder, predicts

from interp_arith.errors import RequestError
from interp_arith.interp.ablation import by_class
from interp_arith.interp.digit_circuits import Digit, brought, digit_circuit, digit_circuits
from interp_arith.interp.interventions import Node
from interp_arith.interp.mean_held import MeanHeld
from interp_arith.tasks import Addition, ModularArithmetic

TASK = UNITS_LAST
ADDER = PlantedAdder(TASK)


@pytest.fixture(scope="module")
def found():
    return digit_circuits(ADDER, TASK, searched=40, checked=100)


def planted(column):
    """Base_add by head 0, the carry in by head 1 and the MLP above it; units have no carry, the top no base_add."""
    at = predicts(TASK, column)
    base, carry = [Node(0, 0, at)], [Node(0, 1, at), Node(1, None, at)]
    return {0: base, 3: carry}.get(column, base + carry)


def test_each_digit_has_the_nodes_that_were_planted_and_no_other(found):
    for answer in found.answer:
        one = found.sel(answer=answer)
        named = set(one.node.values[one.named.values])
        assert named == {str(node) for node in planted(int(one.column))}
        assert (one.right == 1).all()
        assert (one.whole == 1).all()
        assert (one.lost.values[one.named.values] > 0.3).all()
        assert one.lost.isnull().sum() == one.sizes["node"] - len(named)


def test_the_circuits_together_write_whole_answers_and_random_nodes_do_not(found):
    assert (found.exact_match == 1).all()
    assert (found.random_exact_match < 0.3).all()
    together = {str(node) for column in range(4) for node in planted(column)}
    assert set(found.node.values[found.useful.values]) == together


def test_random_circuits_of_the_same_size_are_right_by_chance_alone(found):
    units = found.random.values[found.column.values == 0]
    assert units.max() < 0.5


def test_a_mask_of_one_changes_nothing_and_of_zero_is_the_mean():
    asked = by_class(ADDER, TASK, n=10)
    held = MeanHeld.of(ADDER, asked)
    tokens = torch.cat([asked.prompts, asked.answers[:, :-1]], dim=1)
    assert torch.equal(held.logits(tokens, held.mask(held.nodes)), ADDER(tokens))
    nothing = held.logits(tokens, held.mask([]))
    assert torch.allclose(nothing, nothing[:1].expand_as(nothing), atol=1e-6)


def test_later_positions_are_no_part_of_a_digit():
    asked = by_class(ADDER, TASK, n=10)
    digit = Digit.of(MeanHeld.of(ADDER, asked), asked, 1)
    assert max(node.position for node in digit.nodes) == predicts(TASK, 2) == digit.tokens.shape[1] - 1
    assert digit_circuit(digit) == sorted(planted(2), key=digit.nodes.index)


def test_a_node_brings_what_was_planted():
    nodes = [*planted(2), Node(1, 0, 0)]
    effects = brought(ADDER, TASK, nodes, n=10)
    base, carry, copy, idle = (str(node) for node in nodes)
    assert effects.sel(node=base, feature="base_add 2") == 1
    for node in (carry, copy):
        assert effects.sel(node=node, feature="generate 1") == 1
        assert effects.sel(node=node, feature="propagate 1") == 1
        assert effects.sel(node=node, feature="base_add 2") == 0
    assert not effects.sel(node=idle).any()
    assert not effects.sel(feature="generate 0", node=[base, carry, copy]).any()


def test_what_cannot_be_searched_is_refused():
    broken = PlantedAdder(TASK)
    broken.columns = lambda tokens: tuple(x * 0 for x in PlantedAdder.columns(broken, tokens))
    message = r"^the model is right in .* less than the floor of 98.0%; take a later"
    with pytest.raises(RequestError, match=message):
        digit_circuits(broken, TASK, searched=20)
    with pytest.raises(RequestError, match="choose padded = True"):
        digit_circuits(ADDER, Addition(n_digits=3, padded=False, end_token=True))
    with pytest.raises(RequestError, match="the modular task has no columns"):
        digit_circuits(ADDER, ModularArithmetic(p=7))
