"""Ablation breaks what a node is for; a planted circuit is enough; a planted route is found."""

import numpy as np
import pytest
from planted_carries import UNITS_FIRST, UNITS_LAST, PlantedAdder, predicts

from interp_arith.errors import RequestError
from interp_arith.interp.ablation import (
    ablations,
    answer_columns,
    by_class,
    faithfulness,
    route_of_carries,
    silenced,
)
from interp_arith.interp.base import Subject
from interp_arith.interp.circuits import are_heads_of_one_place, carry_nodes
from interp_arith.interp.interventions import Node, all_nodes
from interp_arith.interp.measures import MEASURES
from interp_arith.tasks import Addition, ModularArithmetic

TASK = UNITS_LAST
ADDER = PlantedAdder(TASK)
PATH = [Node(0, 0, p) for p in TASK.answer_positions[1:]] + [
    node for p in TASK.answer_positions[:-1] for node in (Node(0, 1, p), Node(1, None, p))
]
"""All that an answer needs of the question; the units, written last, have no carry in, and the top digit is one."""
CONSTANT = Node(0, 0, TASK.answer_positions[0])
"""Says, of every question alike, that the top digit is 0 but for its carry."""


@pytest.fixture(scope="module")
def asked():
    return by_class(ADDER, TASK, n=20)


@pytest.mark.parametrize("how", ["mean", "zero", "resample"])
def test_unused_nodes_change_nothing(asked, how):
    unused = [node for node in all_nodes(ADDER.config, asked.positions) if node not in [*PATH, CONSTANT]]
    found = ablations(ADDER, asked, unused, how)
    assert len(unused) == 2 * 3 * TASK.n_ctx - 10
    assert not found.lost.any()
    assert not found.broken.any()


def test_a_silent_carry_breaks_its_column_where_there_are_carries(asked):
    node = Node(0, 1, predicts(TASK, 2))
    found = ablations(ADDER, asked, [node], "zero").sel(node=str(node))
    assert found.lost.sel(complexity="S0") == 0
    assert found.lost.sel(complexity="S3") == 1
    assert found.broken.sel(column=2) > 0.3
    assert not found.broken.drop_sel(column=2).any()


def test_the_planted_circuit_is_enough_and_needs_every_node(asked):
    found = faithfulness(ADDER, asked, PATH)
    assert (found.exact_match == 1).all()
    assert (found.whole == 1).all()
    assert (found.random == 0).all()
    assert found.share == 1
    assert (found.lost.max("complexity") > 0).all()
    carry = str(Node(0, 1, predicts(TASK, 2)))
    part = faithfulness(ADDER, asked, [node for node in PATH if str(node) != carry])
    assert 0 < part.share < 1
    assert (part.exact_match < 1).any()


def test_a_circuit_of_nothing_or_of_nodes_that_do_not_exist_is_refused(asked):
    with pytest.raises(
        RequestError, match=r"^the circuit names no node: nothing would be left; name those of all_nodes"
    ):
        faithfulness(ADDER, asked, [])
    with pytest.raises(RequestError, match=r"^node 5.MLP@0 does not exist"):
        faithfulness(ADDER, asked, [Node(5, None, 0)])
    with pytest.raises(RequestError, match=r"^ablation by 'median': choose mean, zero or resample$"):
        silenced(Node(0, 0, 0), "median", asked)


def test_classes_that_the_task_does_not_have_are_refused():
    with pytest.raises(RequestError, match="class S5 needs 5 digits; questions of 3 are S0, S1, S2, S3"):
        by_class(ADDER, TASK, ["S5"])
    with pytest.raises(RequestError, match="the modular task has no columns"):
        by_class(ADDER, ModularArithmetic(p=7))


def test_a_model_that_reads_its_output_has_route_1_and_one_that_looks_ahead_0():
    for route, expected in (("reads", 1), ("ahead", 0)):
        found = MEASURES["carry_route"](Subject(PlantedAdder(UNITS_FIRST, route), UNITS_FIRST))
        assert found.column.values.tolist() == [2, 3]
        assert (found == expected).all()


def test_the_route_needs_answers_with_units_first():
    refused = {
        TASK: "the answer begins with its highest digit",
        Addition(n_digits=1): "choose padded = True and n_digits = 2",
        Addition(n_digits=3, padded=False, end_token=True): "it is of numbers of a fixed length",
        ModularArithmetic(p=7): "the modular task has no columns",
    }
    for task, reason in refused.items():
        with pytest.raises(RequestError, match=f"^carry_route does not apply: .*{reason}"):
            MEASURES["carry_route"](Subject(ADDER, task))
    assert route_of_carries(PlantedAdder(UNITS_FIRST), UNITS_FIRST, 5).shape == (2,)


def test_answer_tokens_have_their_columns():
    assert answer_columns(UNITS_FIRST) == (0, 1, 2, 3)
    assert answer_columns(UNITS_LAST) == (3, 2, 1, 0)
    mixed = Addition(n_digits=2, operation="mixed", end_token=True)
    assert answer_columns(mixed) == (0, 1, 2, -1, -1)


def test_the_measures_are_of_every_node():
    subject = Subject(ADDER, TASK)
    lost, broken = (MEASURES[name](subject) for name in ("ablation_effect", "ablation_digits"))
    assert lost.shape == (4, 2, 3, TASK.n_ctx)
    assert broken.shape == (4, 2, 3, TASK.n_ctx)
    used = {(n.block, n.part, n.position) for n in PATH}
    for block, part, pos in np.argwhere(lost.values.any(axis=0)):
        assert (block, str(lost.part.values[part]), pos) in used


def test_heads_of_one_place_are_of_one_block_and_position():
    assert are_heads_of_one_place(Node(0, 0, 3), Node(0, 1, 3))
    assert not are_heads_of_one_place(Node(0, 0, 3), Node(1, 1, 3))
    assert not are_heads_of_one_place(Node(0, 0, 3), Node(0, None, 3))


def test_the_search_finds_the_planted_nodes_of_every_column():
    found = carry_nodes(ADDER, TASK)
    assert {(each.column, each.nodes) for each in found} == {
        (column, (node,))
        for column in (1, 2, 3)
        for node in (Node(0, 1, predicts(TASK, column)), Node(1, None, predicts(TASK, column)))
    }
    assert all(each.noising == each.denoising == 1 for each in found)
