"""The test protocol's numbers, against a model whose every answer is planted."""

import json
import math

import numpy as np
import pytest
import torch

from interp_arith.errors import RequestError
from interp_arith.evaluation.protocols import MOST_FAILURES, PROTOCOLS, Test
from interp_arith.models.config import ModelConfig
from interp_arith.models.transformer import build_model
from interp_arith.tasks import Addition, ModularArithmetic

MODULAR = ModularArithmetic(p=7, train_fraction=0.5)


@torch.no_grad()
def constant_model(task, logits):
    """A model that writes the same logits everywhere: all weights 0, the unembedding's bias planted."""
    model = build_model(ModelConfig(d_model=4, n_heads=1, d_mlp=4, unembed_bias=True), task)
    for parameter in model.parameters():
        parameter.zero_()
    model.unembed.b_U.copy_(torch.as_tensor(logits))
    return model.eval()


def test_a_run_that_holds_nothing_out_has_no_test():
    task = Addition(n_digits=2, val_questions=0, test_questions=0)
    with pytest.raises(RequestError, match=r"task\.test_questions are 0; take another: ten-digit, million"):
        Test().evaluate(constant_model(task, [0.0] * 14), task, {})


def test_every_number_of_a_model_that_always_answers_3():
    logits = [0.0, 1.0, 0.0, 2.0, 0.0, 0.0, 0.0]
    sets = {"train": MODULAR.split("train"), "test": MODULAR.split("test")}
    found = Test().evaluate(constant_model(MODULAR, logits), MODULAR, sets)
    normalizer = math.log(5 + math.e + math.e**2)
    for row, questions in zip(found.table.to_dict("records"), sets.values(), strict=True):
        answers = [(a + b) % 7 for a, b in questions.tolist()]
        right = sum(answer == 3 for answer in answers)
        assert row["questions"] == len(answers)
        assert row["accuracy"] == row["exact_match"] == pytest.approx(right / len(answers))
        assert row["wrong"] == len(answers) - right
        assert row["loss"] == pytest.approx(np.mean([normalizer - logits[answer] for answer in answers]))
    assert [row["set"] for row in found.table.to_dict("records")] == ["train", "test"]


def test_failures_are_exactly_the_wrong_questions():
    sets = {"train": MODULAR.split("train"), "test": MODULAR.split("test")}
    found = Test().evaluate(constant_model(MODULAR, [0.0, 0, 0, 2, 0, 0, 0]), MODULAR, sets)
    expected = [
        {"set": name, "question": f"{a}+{b}=", "right": str((a + b) % 7), "given": "3"}
        for name, questions in sets.items()
        for a, b in questions.tolist()
        if (a + b) % 7 != 3
    ]
    assert found.failures == expected


def test_a_perfect_answer_has_no_failures():
    questions = np.array([[1, 2], [0, 3], [5, 5]])
    found = Test().evaluate(constant_model(MODULAR, [0.0, 0, 0, 9, 0, 0, 0]), MODULAR, {"threes": questions})
    assert found.failures == []
    assert found.table["exact_match"].tolist() == [1.0]


def test_token_accuracy_and_exact_match_differ_where_answers_have_several_tokens():
    task = Addition(n_digits=2, val_questions=0, test_questions=1)
    logits = [0.0] * 14
    logits[1] = 5.0
    questions = np.array([[10, 1], [55, 56], [0, 0], [1, 0]])  # 011, 111, 000, 001: units first in the model
    found = Test().evaluate(constant_model(task, logits), task, {"made": questions})
    (row,) = found.table.to_dict("records")
    assert row["accuracy"] == pytest.approx((2 + 3 + 0 + 1) / 12)
    assert row["exact_match"] == pytest.approx(1 / 4)
    assert row["wrong"] == 3
    assert [failure["question"] for failure in found.failures] == ["10+1=", "0+0=", "1+0="]
    assert {failure["given"] for failure in found.failures} == {"111"}


def test_masked_tokens_count_neither_as_right_nor_as_wrong():
    task = Addition(n_digits=2, val_questions=0, test_questions=1, mask_first_n=2)
    logits = [0.0] * 14
    logits[0] = 5.0
    questions = np.array([[12, 13], [99, 99]])  # 025, 198
    found = Test().evaluate(constant_model(task, logits), task, {"made": questions})
    (row,) = found.table.to_dict("records")
    assert (row["accuracy"], row["exact_match"], row["wrong"]) == (0.5, 0.5, 1)
    assert [failure["question"] for failure in found.failures] == ["99+99="]


def test_failures_are_cut_at_a_thousand_a_set_and_all_are_counted():
    task = ModularArithmetic(p=53, train_fraction=0.5)
    found = Test().evaluate(constant_model(task, [1.0] + [0.0] * 52), task, {"train": task.split("train")})
    assert len(found.failures) == MOST_FAILURES == 1000
    assert found.table["wrong"].item() == sum((a + b) % 53 != 0 for a, b in task.split("train").tolist())


def test_plain_results_survive_json():
    found = (
        Test().evaluate(constant_model(MODULAR, [0.0] * 7), MODULAR, {"test": MODULAR.split("test")}).plain()
    )
    assert json.loads(json.dumps(found)) == found
    assert set(found) == {"notes", "table", "failures"}


def test_the_table_of_protocols_has_test():
    assert PROTOCOLS["test"] is Test
