"""Attention by source, entropy and periodicity: planted patterns and scores, and models of every kind."""

import math

import numpy as np
import pytest
import torch
import xarray as xr
from oracles import example_model_configs, random_weights

from interp_arith.errors import RequestError
from interp_arith.interp.attention import (
    ATTENTION_MEASURES,
    attention_by_source,
    best_frequency,
    entropy,
    sources,
)
from interp_arith.interp.base import Measures, Subject
from interp_arith.models.config import ModelConfig
from interp_arith.models.transformer import build_model
from interp_arith.tasks import Addition, ModularArithmetic, PermutationComposition

MEASURES = Measures(*ATTENTION_MEASURES)
SMALL = ModelConfig(d_model=16, n_heads=2, d_mlp=8)


def subject_of(task, config=SMALL) -> Subject:
    return Subject(random_weights(build_model(config, task)).eval(), task)


def score_subject(task, scores) -> Subject:
    """A model of one head whose score, from the last position to a and to b, is given for each number."""
    model = build_model(ModelConfig(d_model=task.p + 1, n_heads=1, d_mlp=4), task)
    with torch.no_grad():
        for parameter in model.trained_parameters().values():
            parameter.zero_()
        model.embed.W_E[: task.p, 0] = torch.as_tensor(scores, dtype=torch.float32)
        model.embed.W_E[task.p, 1] = 1.0
        model.blocks[0].attn.W_Q[0, 1, 0] = math.sqrt(model.cfg.d_head)
        model.blocks[0].attn.W_K[0, 0, 0] = 1.0
    return Subject(model.eval(), task)


def test_every_position_of_a_prompt_belongs_to_one_source():
    places = {
        "numbers": {"a": [0], "b": [1], "=": [2]},
        "numbers-bare": {"a": [0], "b": [1]},
        "numbers-with-operation": {"a": [0], "operation": [1], "b": [2], "=": [3]},
        "characters": {"a": [0, 1], "operation": [2], "b": [3, 4], "=": [5]},
    }
    for form, wanted in places.items():
        task = ModularArithmetic(p=13, format=form)
        assert {name: list(where) for name, where in sources(task).items()} == wanted
        assert sum(map(len, wanted.values())) == task.tokens(["1+2="]).shape[1]
    assert list(sources(PermutationComposition())) == ["a", "b", "="]


def test_attention_to_a_spelled_number_is_that_to_all_its_digits():
    pattern = torch.tensor([0.1, 0.2, 0.0, 0.3, 0.15, 0.25])
    found = attention_by_source(pattern, sources(ModularArithmetic(p=13, format="characters")))
    torch.testing.assert_close(found, torch.tensor([0.3, 0.0, 0.45, 0.25]))


def test_entropy_is_the_logarithm_of_equally_attended_positions():
    pattern = torch.tensor([[1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0.25, 0.25, 0.25, 0.25]])
    torch.testing.assert_close(entropy(pattern), torch.tensor([0.0, math.log(2), math.log(4)]))


@pytest.mark.parametrize("n", [12, 13])
def test_a_pure_cosine_has_its_whole_variance_at_its_frequency_the_last_one_included(n):
    x, k = torch.arange(n), torch.arange(1, n // 2 + 1)
    waves = 3.0 + (2 * math.pi * k[:, None] * x / n + (0 if n % 2 == 0 else 0.7)).cos()
    share, best = best_frequency(waves)
    torch.testing.assert_close(share, torch.ones(len(k), dtype=torch.float64), atol=1e-6, rtol=0)
    assert best.tolist() == k.tolist()


def test_a_mixture_has_the_share_of_its_largest_part():
    # Amplitudes 2 and 1 have variances 4/2 and 1/2; in the second row the alternating sign has variance 4.
    x = torch.arange(12, dtype=torch.float64)
    low = (2 * math.pi * 2 * x / 12).sin()
    share, best = best_frequency(
        torch.stack([2 * (2 * math.pi * 5 * x / 12).cos() + low, 2 * (-1) ** x + low])
    )
    torch.testing.assert_close(share, torch.tensor([4 / 5, 8 / 9], dtype=torch.float64))
    assert best.tolist() == [5, 6]


def test_a_score_that_does_not_vary_has_neither_share_nor_frequency():
    share, best = best_frequency(torch.tensor([[0.0] * 7, [5.0] * 7, [1e6 + 0.5, *[1e6] * 6]]))
    assert share.isnan().all()
    assert best.isnan().all()


@pytest.mark.parametrize("operation", ["add", "subtract", "multiply", "divide"])
def test_periodicity_is_found_in_each_operations_own_characters(operation):
    task = ModularArithmetic(p=13, operation=operation)
    angle = {"add": np.arange(13) / 13, "subtract": np.arange(13) / 13}.get(operation)
    if angle is None:
        logarithm = {pow(2, x, 13): x for x in range(12)}  # 2 is the smallest primitive root of 13
        angle = np.array([logarithm.get(a, 0.4) for a in range(13)]) / 12
    subject = score_subject(task, np.cos(2 * np.pi * 5 * angle + 0.3))
    share, best = MEASURES["attention_periodicity"](subject), MEASURES["attention_frequency"](subject)
    np.testing.assert_allclose(share, np.ones((1, 1, 2)), atol=1e-5)
    np.testing.assert_array_equal(best, np.full((1, 1, 2), 5.0))


def test_a_multiplicative_character_is_spread_over_the_additive_ones():
    logarithm = {pow(2, x, 13): x for x in range(12)}
    scores = [0.0, *(math.cos(2 * math.pi * 5 * logarithm[a] / 12) for a in range(1, 13))]
    share = MEASURES["attention_periodicity"](score_subject(ModularArithmetic(p=13), scores))
    assert float(share.max()) < 0.5


def test_a_head_of_zeros_attends_evenly_and_has_no_frequency():
    subject = score_subject(ModularArithmetic(p=11), np.zeros(11))
    np.testing.assert_allclose(MEASURES["attention_to"](subject), np.full((1, 1, 3), 1 / 3), rtol=1e-6)
    np.testing.assert_allclose(MEASURES["attention_entropy"](subject), [[math.log(3)]], rtol=1e-6)
    assert bool(MEASURES["attention_periodicity"](subject).isnull().all())


def test_the_grid_is_the_softmax_of_the_planted_scores():
    task = ModularArithmetic(p=5)
    scores = np.array([0.0, 1.0, -2.0, 0.5, 3.0])
    grid = MEASURES["attention_grid"](score_subject(task, scores))
    for a, b in ((1, 4), (4, 1), (2, 2)):
        weights = np.exp([scores[a], scores[b], 0.0])  # "=" has a score of 0 with itself
        np.testing.assert_allclose(grid.sel(block=0, head=0, a=a, b=b), weights / weights.sum(), rtol=1e-6)


@pytest.mark.parametrize("config", example_model_configs().values(), ids=example_model_configs())
@pytest.mark.parametrize("form", ["numbers", "characters"])
def test_attention_is_that_of_an_analysed_forward_pass(config, form):
    task = ModularArithmetic(p=5, operation="divide", format=form)
    model = config.model_copy(update={"tied": config.tied and form == "characters"})
    subject = subject_of(task, model)
    found = MEASURES["attention_to"](subject)
    grid = MEASURES["attention_grid"](subject)
    questions = task.all_questions()
    _, patterns = subject.model.forward_analysis(task.tokens(questions))
    for name, where in sources(task).items():
        wanted = np.stack([p[:, :, -1, list(where)].sum(dim=-1).double().numpy() for p in patterns])
        np.testing.assert_allclose(found.sel(source=name), wanted.mean(axis=1), atol=1e-6)
        for row in (0, 7, 19):
            a, b = questions[row]
            np.testing.assert_allclose(grid.sel(source=name, a=a, b=b), wanted[:, row], atol=1e-6)
    np.testing.assert_array_equal(grid.sel(b=0), np.nan)


def test_measures_have_their_labels_and_are_float64():
    subject = subject_of(ModularArithmetic(p=7), SMALL.model_copy(update={"n_layers": 2}))
    for name, entry in MEASURES.items():
        found = entry(subject)
        assert (found.name, found.dims, found.dtype) == (name, entry.dims, np.float64)
        assert found.sizes["block"] == 2
        xr.testing.assert_identical(found, entry(Subject(subject.model, subject.task)))


def test_what_does_not_apply_says_why():
    spelled = subject_of(ModularArithmetic(p=13, format="characters"))
    with pytest.raises(RequestError, match="attention_periodicity does not apply: numbers are spelled"):
        MEASURES["attention_periodicity"](spelled)
    with pytest.raises(
        RequestError, match=r"attention_frequency does not apply: x\^2\+y\^2 is no operation of a"
    ):
        MEASURES["attention_frequency"](subject_of(ModularArithmetic(p=7, operation="x^2+y^2")))
    with pytest.raises(RequestError, match="attention_to does not apply: the questions of the addition task"):
        MEASURES["attention_to"](subject_of(Addition(n_digits=2)))
    mixed = SMALL.model_copy(update={"attention_coefficient": 0.5})
    with pytest.raises(
        RequestError, match=r"attention_entropy does not apply: with an attention coefficient of 0.5"
    ):
        MEASURES["attention_entropy"](subject_of(ModularArithmetic(p=7), mixed))
