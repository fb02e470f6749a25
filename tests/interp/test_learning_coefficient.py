"""The learning coefficient: losses whose answer is known, the chains' health on made-up traces, and small models."""

import math

import numpy as np
import pytest
import torch
from oracles import random_weights

from interp_arith.errors import RequestError
from interp_arith.interp import learning_coefficient as module
from interp_arith.interp.base import Measures, Subject
from interp_arith.interp.learning_coefficient import (
    LEARNING_COEFFICIENT_MEASURES,
    Langevin,
    coefficients,
    drift,
    langevin_losses,
    sampled,
    split_r_hat,
)
from interp_arith.models.config import ModelConfig
from interp_arith.models.transformer import build_model
from interp_arith.tasks import Addition, ModularArithmetic

MEASURES = Measures(*LEARNING_COEFFICIENT_MEASURES)
N = 1000
N_BETA = N / math.log(N)
TOY = Langevin(epsilon=2e-4, gamma=1.0, chains=200, burn_in=1000, draws=1500)


def toy_losses(loss, dimensions, settings=TOY):
    start = {"w": torch.zeros(dimensions, dtype=torch.float64)}
    return langevin_losses(lambda weights, step: loss(weights["w"]), start, N, settings)


def found(loss, dimensions, settings=TOY) -> float:
    return float(coefficients(toy_losses(loss, dimensions, settings), 0.0, N).mean())


def small_subject(**fields) -> Subject:
    task = ModularArithmetic(p=7, train_fraction=0.6, **fields)
    model = random_weights(build_model(ModelConfig(d_model=8, n_heads=2, d_mlp=12), task)).eval()
    return Subject(model, task)


@pytest.mark.parametrize("dimensions", [1, 4, 20])
def test_a_quadratic_in_d_dimensions_has_half_of_d(dimensions):
    assert found(lambda w: w.square().sum(dim=-1) / 2, dimensions) == pytest.approx(dimensions / 2, rel=0.05)


def test_a_quadratic_with_a_flat_direction_has_half_of_the_others():
    assert found(lambda w: w[:, :3].square().sum(dim=-1) / 2, 5) == pytest.approx(1.5, rel=0.05)


def test_a_steeper_quadratic_has_the_same():
    settings = TOY.model_copy(update={"epsilon": 2e-5})
    assert found(lambda w: 10 * w.square().sum(dim=-1) / 2, 4, settings) == pytest.approx(2.0, rel=0.05)


def test_a_crossing_of_two_valleys_is_well_below_a_regular_minimum_and_is_what_the_integral_says():
    # E[nβL] under exp(−nβ w₁² w₂² − γ(w₁² + w₂²)/2), by the trapezoidal rule on a grid.
    w = torch.linspace(-6, 6, 2401, dtype=torch.float64)
    energy = N_BETA * w[:, None].square() * w.square()
    weight = (-energy - (w[:, None].square() + w.square()) / 2).exp()
    wanted = float((weight * energy).sum() / weight.sum())
    assert wanted < 0.4
    assert found(lambda w: (w[:, 0] * w[:, 1]).square(), 2) == pytest.approx(wanted, rel=0.15)


def test_the_pull_back_shrinks_the_estimate_as_it_should():
    # Curvature nβ and pull γ = nβ add up: the estimate halves.
    settings = TOY.model_copy(update={"gamma": N_BETA, "epsilon": 1e-4})
    assert found(lambda w: w.square().sum(dim=-1) / 2, 4, settings) == pytest.approx(1.0, rel=0.05)


def test_a_place_that_is_no_minimum_gives_a_negative_number():
    assert found(lambda w: 2.0 + w[:, 0], 1, TOY.model_copy(update={"gamma": 100.0})) - 2 * N_BETA < -1


def test_chains_repeat_with_their_seed_and_differ_between_seeds_and_from_each_other():
    few = Langevin(chains=3, burn_in=2, draws=6, epsilon=1e-3)

    def quadratic(w):
        return w.square().sum(dim=-1)

    first, again = toy_losses(quadratic, 4, few), toy_losses(quadratic, 4, few)
    other = toy_losses(quadratic, 4, few.model_copy(update={"seed": 1}))
    assert first.shape == (3, 6)
    assert torch.equal(first, again)
    assert not torch.isclose(first, other).any()
    assert len(first[:, 0].unique()) == 3


def test_the_first_loss_without_burn_in_is_that_of_the_start():
    few = Langevin(chains=2, burn_in=0, draws=4, epsilon=1e-3)
    losses = toy_losses(lambda w: 0.25 + w.square().sum(dim=-1), 3, few)
    assert losses[:, 0].tolist() == [0.25, 0.25]
    assert (losses[:, 1] > 0.25).all()


def test_split_r_hat_worked_by_hand():
    # Halves (0 2) (2 4) (0 2) (2 4): variances 2, means 1 3 1 3 of variance 4/3; N = 2: √(1/2 + (4/3)/2).
    assert split_r_hat(torch.tensor([[0.0, 2, 2, 4], [0, 2, 2, 4]])) == pytest.approx(
        math.sqrt(1 / 2 + 2 / 3)
    )
    assert math.isnan(split_r_hat(torch.ones(2, 6)))


def test_split_r_hat_is_one_for_settled_chains_and_large_for_chains_apart():
    draws = torch.randn(4, 1000, generator=torch.Generator().manual_seed(0))
    assert split_r_hat(draws) == pytest.approx(1.0, abs=0.01)
    assert split_r_hat(draws + 3 * torch.arange(4)[:, None]) > 2


def test_drift_is_the_growth_over_the_whole_rise():
    # Rises of 1 and 3 above the initial loss: grown by 2, over a mean of 2.
    assert drift(torch.tensor([[2.0, 2, 4, 4]]), 1.0) == 1.0
    assert drift(torch.tensor([[3.0, 1, 1, 3]]), 1.0) == 0.0
    assert math.isnan(drift(torch.ones(1, 4), 1.0))


def test_a_models_initial_loss_is_its_training_loss_per_row():
    few = Langevin(chains=2, burn_in=0, draws=4)
    for fields in ({}, {"format": "characters"}):
        subject = small_subject(**fields)
        rows = subject.task.examples(subject.task.split("train"))
        with torch.no_grad():
            positions = list(subject.task.answer_positions)
            log_p = subject.model(rows.tokens)[:, positions].double().log_softmax(dim=-1)
        wanted = -log_p.gather(-1, rows.targets[..., None])[..., 0].sum(dim=1).mean().item()
        losses, initial, n = sampled(subject, few)
        assert n == len(rows) == 29
        assert initial == pytest.approx(wanted, rel=1e-5)
        np.testing.assert_allclose(losses[:, 0], initial, rtol=1e-6)


def test_batches_are_of_the_training_rows_and_each_chain_has_its_own():
    subject = small_subject()
    losses, initial, _ = sampled(
        subject, Langevin(chains=3, burn_in=0, draws=40, batch_size=10, epsilon=1e-12)
    )
    assert len(losses[:, 0].unique()) == 3
    assert losses.mean().item() == pytest.approx(initial, rel=0.1)


def test_sampling_leaves_the_model_as_it_was():
    subject = small_subject()
    subject.model.train()
    before = {name: p.detach().clone() for name, p in subject.model.named_parameters()}
    sampled(subject, Langevin(chains=2, burn_in=1, draws=4, epsilon=1e-2))
    assert all(torch.equal(before[name], p) for name, p in subject.model.named_parameters())
    assert all(p.grad is None for p in subject.model.parameters())
    assert subject.model.training


def test_the_measures_share_their_chains_and_say_how_these_fared(monkeypatch):
    short = Langevin(chains=2, burn_in=10, draws=40)
    monkeypatch.setattr(module, "Langevin", lambda: short)
    subject = small_subject()
    mean, chains, health, trace = (MEASURES[name](subject) for name in MEASURES)
    assert chains.sizes == {"chain": 2}
    assert trace.sizes == {"chain": 2, "draw": 40}
    assert float(mean) == pytest.approx(float(chains.mean()))
    np.testing.assert_allclose(trace.mean("draw"), chains, rtol=1e-9, atol=1e-9)
    assert float(health.sel(health="diverged")) == 0
    # Random weights are no minimum: the chains fall.
    assert float(mean) < 0
    assert float(health.sel(health="negative")) == 1


def test_chains_that_leave_the_numbers_are_called_diverged(monkeypatch):
    wild = Langevin(chains=2, burn_in=0, draws=8, epsilon=1e30)
    monkeypatch.setattr(module, "Langevin", lambda: wild)
    assert float(MEASURES["learning_coefficient_health"](small_subject()).sel(health="diverged")) == 1


def test_it_is_taken_only_where_it_is_named_and_where_training_rows_have_a_number():
    assert {entry.cost for entry in MEASURES.values()} == {"dear"}
    task = Addition(n_digits=2)
    subject = Subject(build_model(ModelConfig(d_model=8, n_heads=2, d_mlp=12), task), task)
    with pytest.raises(
        RequestError, match="training questions of the addition task are drawn anew at every step"
    ):
        MEASURES["learning_coefficient"](subject)


def test_settings_that_make_no_sense_are_refused():
    for wrong in ({"epsilon": 0}, {"gamma": -1}, {"chains": 0}, {"draws": 3}, {"batch_size": 0}):
        with pytest.raises(RequestError, match=next(iter(wrong))):
            Langevin(**wrong)
