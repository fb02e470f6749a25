"""Losses and accuracies on every kind of task, by the package's evaluation and by hand."""

import math

import numpy as np
import pytest
import torch
from interp_oracles import by_number, lookup_model, right_answers
from oracles import random_weights

from interp_arith.errors import RequestError
from interp_arith.evaluation.protocols import Test
from interp_arith.interp.base import Subject
from interp_arith.interp.measures import MEASURES
from interp_arith.models.config import ModelConfig
from interp_arith.models.transformer import build_model
from interp_arith.tasks import Addition, ModularArithmetic, PermutationComposition, Text

SMALL = ModelConfig(d_model=8, n_heads=2, d_mlp=12)
TASKS = {
    "numbers": ModularArithmetic(p=11, train_fraction=0.5, val_fraction=0.2),
    "characters": ModularArithmetic(p=13, train_fraction=0.5, format="characters"),
    "masked": ModularArithmetic(p=13, train_fraction=0.5, format="characters", mask_first_n=1),
    "one-digit": ModularArithmetic(p=7, train_fraction=0.5, format="characters"),
    "polynomial": ModularArithmetic(p=7, operation="x^3+xy", train_fraction=0.5),
    "permutations": PermutationComposition(train_fraction=0.3),
    "addition": Addition(n_digits=2, val_questions=20, test_questions=30),
    "text": Text(),
}


def take(name, subject):
    return MEASURES[name](subject).item()


@pytest.mark.parametrize("name", TASKS)
def test_losses_and_accuracies_are_those_of_an_evaluation(name):
    task = TASKS[name]
    model = random_weights(build_model(SMALL, task)).eval()
    subject, compared = Subject(model, task), 0
    for split in ("train", "val", "test"):
        loss, accuracy = MEASURES[f"{split}_loss"], MEASURES[f"{split}_accuracy"]
        if loss.why_not(task, model.config) is None:
            table = Test().evaluate(model, task, {split: task.split(split)}).table
            assert loss(subject).item() == pytest.approx(table.loss[0], rel=1e-6)
            assert accuracy(subject).item() == pytest.approx(table.accuracy[0])
            compared += 1
    assert compared == {"numbers": 3, "addition": 2, "text": 1}.get(name, 2)


def test_a_split_without_questions_is_refused_with_the_reason():
    model = build_model(SMALL, TASKS["characters"])
    with pytest.raises(
        RequestError, match="val_loss does not apply: the modular task as it is has no val questions"
    ):
        MEASURES["val_loss"](Subject(model, TASKS["characters"]))
    model = build_model(SMALL, TASKS["addition"])
    with pytest.raises(RequestError, match="the training questions of the addition task are drawn anew"):
        MEASURES["train_loss"](Subject(model, TASKS["addition"]))


def test_a_given_split_is_the_one_that_is_scored():
    task = ModularArithmetic(p=5)
    mask = np.zeros((5, 5), dtype=bool)
    mask[1, 2] = True
    scores = np.zeros((5, 5, 5))
    scores[1, 2, 3] = 7.0
    subject = Subject(lookup_model(task, scores), task.with_split(mask))
    assert take("train_loss", subject) == pytest.approx(math.log1p(4 * math.exp(-7)), rel=1e-5)
    assert take("train_accuracy", subject) == 1
    assert take("test_loss", subject) == pytest.approx(math.log(5))


def test_right_answers_are_right_everywhere():
    task = ModularArithmetic(p=7, operation="divide", train_fraction=0.5)
    subject = Subject(lookup_model(task, 10 * right_answers(task)), task)
    assert take("train_accuracy", subject) == take("test_accuracy", subject) == 1
    assert take("test_loss", subject) == pytest.approx(math.log1p(6 * math.exp(-10)), rel=1e-5)


def test_collapse_counts_rows_whose_float32_loss_is_zero():
    task = ModularArithmetic(p=5, train_fraction=1.0)
    margins = np.full((5, 5, 1), 10.0)
    margins[:3] = 40.0  # e^−40 is lost beside 1 in float32, e^−10 is not
    subject = Subject(lookup_model(task, margins * right_answers(task)), task)
    assert take("softmax_collapse", subject) == pytest.approx(3 / 5)
    assert 0 < take("train_loss", subject) < 1e-3


def test_losses_below_the_resolution_of_float32_are_told():
    task = ModularArithmetic(p=5, train_fraction=1.0)
    subject = Subject(lookup_model(task, by_number(task, 30.0 * right_answers(task))), task)
    assert take("train_loss", subject) == pytest.approx(4 * math.exp(-30), rel=1e-3)


def test_every_token_of_a_spelled_answer_must_have_collapsed():
    task = TASKS["characters"]
    model = random_weights(build_model(SMALL, task)).eval()
    assert take("softmax_collapse", Subject(model, task)) == 0
    with torch.no_grad():
        model.unembed.W_U.mul_(1e6)
    share, accuracy = (take(name, Subject(model, task)) for name in ("softmax_collapse", "train_accuracy"))
    questions = task.split("train")
    logits = model(task.examples(questions).tokens)[:, list(task.answer_positions)]
    right = (logits.argmax(dim=-1) == task.answer_tokens(questions)).all(dim=-1)
    assert share == pytest.approx(right.double().mean().item())
    assert share <= accuracy
