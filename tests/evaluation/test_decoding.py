"""Greedy decoding is one token after the other, whatever the batches."""

import pytest
import torch
from oracles import random_weights

from interp_arith.errors import RequestError
from interp_arith.evaluation.decoding import answer_logits, greedy_answers, greedy_continuation
from interp_arith.models.config import ModelConfig
from interp_arith.models.transformer import build_model
from interp_arith.tasks import Addition, ModularArithmetic, Text
from interp_arith.tasks.sources import split_questions

TASKS = [
    Addition(n_digits=2, val_questions=0, test_questions=7),
    ModularArithmetic(p=13, format="characters", train_fraction=0.5),
    ModularArithmetic(p=7, train_fraction=0.5),
    Text(text_to_learn="carry on"),
]
SMALL = ModelConfig(d_model=8, n_heads=2, d_mlp=12, normalization="layer")


def model_of(task):
    return random_weights(build_model(SMALL, task)).eval()


def some_questions(task):
    return task.split("train" if isinstance(task, Text) else "test")[:7]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.kind)
def test_greedy_answers_equal_token_by_token_argmax(task):
    model, questions = model_of(task), some_questions(task)
    written = greedy_answers(model, task, questions)
    for row, prompt in zip(written, task.tokens(questions), strict=True):
        tokens = prompt.tolist()
        for new in row.tolist():
            with torch.no_grad():
                assert model(torch.tensor([tokens]))[0, -1].argmax().item() == new
            tokens.append(new)
        assert len(tokens) == len(prompt) + len(task.answer_positions)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.kind)
@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_batches_change_nothing(task, batch_size):
    model, questions = model_of(task), some_questions(task)
    examples = task.examples(questions)
    assert torch.equal(
        greedy_answers(model, task, questions, batch_size), greedy_answers(model, task, questions)
    )
    torch.testing.assert_close(
        answer_logits(model, examples, task.answer_positions, batch_size),
        answer_logits(model, examples, task.answer_positions),
    )


def test_answer_logits_are_those_at_the_answer_positions():
    task = TASKS[0]
    model, examples = model_of(task), task.examples(some_questions(task))
    logits = answer_logits(model, examples, task.answer_positions)
    assert logits.shape == (7, 3, 14)
    assert not logits.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(logits, model(examples.tokens)[:, 5:8])


def test_what_does_not_fit_into_the_context_is_refused():
    task = TASKS[0]
    with pytest.raises(RequestError, match="6 tokens and 4 new ones need 9 positions, and the model has 8"):
        greedy_continuation(model_of(task), task, task.tokens(["1+2="]), 4)
    assert greedy_continuation(model_of(task), task, task.tokens(["1+2="]), 3).shape == (1, 3)


@pytest.mark.parametrize("kind", ["rotary", "none", "segment-digit", "abacus", "coupled"])
@pytest.mark.parametrize("n_layers", [1, 2])
def test_without_a_table_of_positions_longer_questions_are_read_as_with_a_larger_context(kind, n_layers):
    short, long = Addition(n_digits=3), Addition(n_digits=7)
    fields = {"d_model": 16, "n_heads": 2, "d_mlp": 12, "n_layers": n_layers, "positions": {"kind": kind}}
    config = ModelConfig.model_validate(fields)
    model = random_weights(build_model(config, short), seed=4).double().eval()
    larger = build_model(config.model_copy(update={"n_ctx": long.n_ctx}), short).double().eval()
    model.cfg.dtype = larger.cfg.dtype = torch.float64
    with torch.no_grad():
        for name, parameter in model.trained_parameters().items():
            parameter.mul_(3 if ".W_" in name else 1)
            larger.trained_parameters()[name].copy_(parameter)
    prompts = long.tokens(split_questions(long, "test", 30))
    assert prompts.shape[1] > model.cfg.n_ctx
    written = greedy_continuation(model, long, prompts, 8)
    assert torch.equal(written, larger.generate(prompts, 8, temperature=0)[:, -8:])
    assert len(written.unique(dim=0)) > 1
