"""Clock and pizza: planted tables and embeddings, numbers worked by hand, and two published models."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from oracles import random_weights

from interp_arith.errors import RequestError
from interp_arith.interp.base import Subject
from interp_arith.interp.clock_pizza import (
    CLOCK_PIZZA_MEASURES,
    algorithm,
    circularity,
    clock_fit,
    distance_irrelevance,
    embedding_gradients,
    fits,
    gradient_symmetricity,
    irrelevance,
    logits_with_rows,
    number_positions,
    pizza_fit,
    principal_components,
    verdict,
)
from interp_arith.interp.cyclic import cyclic_table, group_of
from interp_arith.models import ModelConfig, NoPositions, build_model
from interp_arith.models.imported import imported_model, read_tensors
from interp_arith.tasks import ModularArithmetic, PermutationComposition

PIZZA = Path(__file__).parent.parent / "external" / "pizza"
SMALL = ModelConfig(d_model=16, n_heads=2, d_mlp=24)
MEASURES = {measure.name: measure for measure in CLOCK_PIZZA_MEASURES}


def published(file: str, alpha: float) -> Subject:
    """A model of Zhong et al. 2023, addition mod 59 on two tokens."""
    task = ModularArithmetic(p=59, format="numbers-bare", train_fraction=0.8)
    weights = read_tensors(PIZZA / f"model_{file}.pt")
    return Subject(imported_model(weights, ModelConfig(attention_coefficient=alpha), task), task)


@pytest.fixture(scope="module")
def model_a() -> Subject:
    return published("p99zdpze5l", alpha=0)


@pytest.fixture(scope="module")
def model_b() -> Subject:
    return published("l8k1hzciux", alpha=1)


def small_subject(config: ModelConfig = SMALL, **fields) -> Subject:
    task = ModularArithmetic(**({"p": 7, "train_fraction": 0.5} | fields))
    return Subject(random_weights(build_model(config, task)).eval(), task)


def questions(n: int) -> tuple[torch.Tensor, ...]:
    """x, y and z of a table, as floating-point numbers."""
    return torch.meshgrid(*[torch.arange(n, dtype=torch.float64)] * 3, indexing="ij")


def clock_table(n: int, k: int) -> torch.Tensor:
    x, y, z = questions(n)
    return (2 * math.pi * k * (x + y - z) / n).cos()


def pizza_table(n: int, k: int) -> torch.Tensor:
    x, y, z = questions(n)
    half = math.pi * k / n
    error = (half * (x + y - z)).cos().abs() - (half * (x + y - z)).sin().abs()
    return 2 * (half * (x - y)).cos().abs() * error


def circle(n: int, k: int, d_model: int = 6, at: int = 0, radius: float = 1.0) -> torch.Tensor:
    """Rows of W_E on a circle in two coordinates."""
    rows, angle = torch.zeros(n, d_model), 2 * math.pi * k * torch.arange(n) / n
    rows[:, at], rows[:, at + 1] = radius * angle.cos(), radius * angle.sin()
    return rows


class TestPublishedModels:
    def test_model_a_has_its_published_numbers_and_is_a_pizza(self, model_a):
        assert distance_irrelevance(model_a).sel(variant="correct") == pytest.approx(0.1717364566, rel=1e-6)
        assert gradient_symmetricity(model_a) == pytest.approx(0.9936651683, rel=1e-6)
        assert circularity(model_a) == pytest.approx(0.9978184480, rel=1e-6)
        assert algorithm(model_a) == "pizza"

    @pytest.mark.parametrize(
        ("delta", "clock", "pizza"), [(7, 0.754, 0.983), (20, 0.756, 0.983), (4, 0.754, 0.984)]
    )
    def test_each_circle_of_model_a_has_its_published_fits(self, model_a, delta, clock, pizza):
        k = pow(delta, -1, 59)
        assert clock_fit(model_a).sel(freq=k) == pytest.approx(clock, rel=1e-3)
        assert pizza_fit(model_a).sel(freq=k) == pytest.approx(pizza, rel=1e-3)

    def test_model_a_has_no_other_circles(self, model_a):
        assert clock_fit(model_a).dropna("freq").freq.values.tolist() == [3, 15, 17]
        assert pizza_fit(model_a).sizes == {"freq": 29}

    def test_model_b_has_its_published_numbers_and_is_a_clock(self, model_b):
        assert distance_irrelevance(model_b).sel(variant="correct") == pytest.approx(0.848, rel=1e-3)
        # published to three digits: 0.3336 is 0.334 rounded
        assert round(gradient_symmetricity(model_b).item(), 3) == 0.334
        assert circularity(model_b) == pytest.approx(0.999, rel=1e-3)
        assert algorithm(model_b) == "clock"

    def test_the_verdict_carries_the_numbers_that_decided(self, model_b):
        found = MEASURES["algorithm"](model_b)
        assert found.attrs["distance_irrelevance"] == distance_irrelevance(model_b).values[0]
        assert found.attrs["gradient_symmetricity"] == gradient_symmetricity(model_b).item()
        assert 0.5 < found.attrs["logit_variance_explained"] <= 1

    def test_a_verdict_is_kept_in_a_file_with_its_numbers(self, model_b, tmp_path):
        found = MEASURES["algorithm"](model_b)
        found.to_netcdf(tmp_path / "algorithm.nc", engine="h5netcdf")
        again = xr.load_dataarray(tmp_path / "algorithm.nc", engine="h5netcdf")
        assert again.item() == "clock"
        assert again.attrs["distance_irrelevance"] == found.attrs["distance_irrelevance"]


class TestFits:
    @pytest.mark.parametrize(("n", "k"), [(7, 1), (7, 3), (12, 5), (59, 17)])
    def test_an_exact_clock_fits_a_clock_and_an_exact_pizza_a_pizza(self, n, k):
        assert fits(3 * clock_table(n, k) - 8, k)[0] == pytest.approx(1)
        assert fits(0.2 * pizza_table(n, k) + 5, k)[1] == pytest.approx(1)
        assert fits(clock_table(n, k), k)[1] < 0.99
        assert fits(pizza_table(n, k), k)[0] < 0.99

    def test_a_clock_turned_over_fits_with_minus_three(self):
        assert fits(-clock_table(11, 2), 2)[0] == pytest.approx(-3)

    @pytest.mark.parametrize(("n", "k"), [(5, 2), (8, 3)])
    def test_a_table_of_noise_fits_by_its_correlation_with_each(self, n, k):
        table = torch.randn(n, n, n, generator=torch.Generator().manual_seed(0))
        for found, ideal in zip(fits(table, k), (clock_table(n, k), pizza_table(n, k)), strict=True):
            z_scored = [(t - t.mean()) / t.std(correction=0) for t in (table.double(), ideal)]
            wanted = 1 - (z_scored[0] - z_scored[1]).var(correction=0) / z_scored[0].var(correction=0)
            assert found == pytest.approx(wanted.item(), abs=1e-6)

    def test_a_frequency_without_a_circle_has_no_fit(self):
        subject = small_subject()
        with torch.no_grad():
            subject.model.embed.W_E[:7] = circle(7, 2, 16)
        found = clock_fit(Subject(subject.model, subject.task, keys=(2, 3)))
        assert found.freq.values.tolist() == [1, 2, 3]
        assert found.notnull().values.tolist() == [False, True, False]

    @pytest.mark.parametrize(
        ("config", "fields"),
        [
            (SMALL, {}),
            (SMALL, {"operation": "multiply"}),
            (SMALL, {"operation": "divide", "format": "numbers-with-operation"}),
            (SMALL.model_copy(update={"n_layers": 2, "normalization": "layer"}), {"operation": "subtract"}),
            (
                SMALL.model_copy(update={"tied": True, "attention_coefficient": 0.3}),
                {"format": "numbers-bare"},
            ),
        ],
    )
    def test_with_the_rows_that_a_model_has_the_logits_are_its_own(self, config, fields):
        subject = small_subject(config, **fields)
        rows = subject.model.embed.W_E[torch.from_numpy(subject.get(group_of).numbers)]
        found = logits_with_rows(subject, rows)
        torch.testing.assert_close(found.double(), subject.get(cyclic_table).logits, rtol=1e-5, atol=1e-4)

    @pytest.mark.parametrize(
        ("config", "form"),
        [
            (SMALL, "numbers"),
            (SMALL.model_copy(update={"attention_coefficient": 0.3, "attention_bias": True}), "numbers"),
            (SMALL.model_copy(update={"mlp_bias": False, "activation": "gelu"}), "numbers-with-operation"),
            (SMALL.model_copy(update={"unembed_bias": True}), "numbers"),
            (SMALL.model_copy(update={"tied": True, "unembed_bias": True}), "numbers-bare"),
            (SMALL.model_copy(update={"n_layers": 2, "normalization": "rms"}), "numbers-with-operation"),
        ],
    )
    def test_with_other_rows_the_hooked_model_says_the_same_when_it_embeds_them(self, config, form):
        subject = small_subject(config, format=form)
        rows = circle(7, 2, 16) + 0.3
        table = torch.cat([rows, subject.model.embed.W_E.detach()[7:]])
        tokens = subject.task.tokens(subject.task.all_questions())
        hooked = subject.model.run_with_hooks(
            tokens, fwd_hooks=[("hook_embed", lambda x, hook: table[tokens])]
        )
        found = logits_with_rows(subject, rows)
        torch.testing.assert_close(found, hooked[:, -1].unflatten(0, (7, 7)), rtol=1e-5, atol=1e-4)

    def test_heads_that_read_nothing_are_no_obstacle(self):
        subject = small_subject(SMALL)
        with torch.no_grad():
            subject.model.blocks[0].attn.W_V.zero_()
        found = logits_with_rows(subject, circle(7, 2, 16))
        torch.testing.assert_close(found.double(), subject.get(cyclic_table).logits, rtol=1e-5, atol=1e-4)


class TestDistanceIrrelevance:
    def test_two_by_two_worked_by_hand(self):
        # x−y = 0 has 1 and 7 (std 3), x−y = 1 has 2 and 3 (std 1/2); all have variance 83/16.
        found = irrelevance(torch.tensor([[1.0, 2.0], [3.0, 7.0]], dtype=torch.float64))
        assert found == pytest.approx(1.75 / math.sqrt(83 / 16))

    def test_what_depends_on_the_distance_alone_has_none(self):
        x, y = torch.arange(5)[:, None], torch.arange(5)
        assert irrelevance(((x - y) % 5).double() ** 2) == 0

    def test_what_depends_on_the_sum_alone_has_all_where_n_is_odd(self):
        x, y = torch.arange(5)[:, None], torch.arange(5)
        assert irrelevance(((x + y) % 5).double() ** 2) == pytest.approx(1)

    def test_an_exact_pizza_has_none_and_the_largest_wrong_logit_is_another_variant(self):
        subject = small_subject()
        subject.get(cyclic_table).logits.copy_(pizza_table(7, 2))
        found = distance_irrelevance(subject)
        assert found.sel(variant="correct") == pytest.approx(0, abs=1e-12)
        table = pizza_table(7, 2).numpy()
        wrong = [[max(np.delete(table[x, y], (x + y) % 7)) for y in range(7)] for x in range(7)]
        assert found.sel(variant="top_wrong") == pytest.approx(irrelevance(torch.tensor(wrong)))

    def test_a_character_model_has_it_over_its_log_probabilities(self):
        subject = small_subject(p=11, format="characters")
        assert 0 < MEASURES["distance_irrelevance"](subject).sel(variant="correct") < 1.5


class TestGradientSymmetricity:
    def plain_sum(self, weight: float) -> Subject:
        """A model whose logits are those of E_b + weight · (E_a + E_b)."""
        config = ModelConfig(
            d_model=8, n_heads=1, attention_only=True, attention_coefficient=0, positions=NoPositions()
        )
        subject = small_subject(config, p=5, format="numbers-bare")
        with torch.no_grad():
            attention = subject.model.blocks[0].attn
            attention.W_V[0], attention.W_O[0] = torch.eye(8), weight * torch.eye(8)
        return subject

    @pytest.mark.parametrize(("weight", "cosine"), [(1.0, 1.0), (-0.5, -1.0), (2.0, 1.0), (-3.0, 1.0)])
    def test_gradients_along_one_line_have_cosine_one_or_minus_one(self, weight, cosine):
        # at a it is weight · W_U, at b (1 + weight) · W_U
        assert gradient_symmetricity(self.plain_sum(weight)) == pytest.approx(cosine)

    def test_a_gradient_that_vanishes_has_no_cosine(self):
        assert math.isnan(gradient_symmetricity(self.plain_sum(-1.0)))

    def test_the_gradient_is_the_slope_of_the_logit(self):
        subject = small_subject()
        model, tokens = subject.model.double(), torch.tensor([[2, 5, 7]])
        model.cfg.dtype = torch.float64
        gradient = embedding_gradients(model, tokens, torch.tensor([3]))[0]
        step, embedding = 1e-6, model.embed.W_E.detach().clone()
        for position, token in ((0, 2), (1, 5)):
            with torch.no_grad():
                model.embed.W_E[token, 4] += step
                up = model(tokens)[0, -1, 3]
                model.embed.W_E[token, 4] -= 2 * step
                down = model(tokens)[0, -1, 3]
                model.embed.W_E.copy_(embedding)
            assert gradient[position, 4].item() == pytest.approx(((up - down) / (2 * step)).item(), rel=1e-5)

    @pytest.mark.parametrize(
        ("form", "positions"),
        [("numbers", (0, 1)), ("numbers-bare", (0, 1)), ("numbers-with-operation", (0, 2))],
    )
    def test_the_numbers_stand_where_the_format_puts_them(self, form, positions):
        assert number_positions(ModularArithmetic(p=5, operation="divide", format=form)) == positions

    def test_of_a_product_the_numbers_are_powers_of_the_root(self):
        subject = small_subject(p=5, operation="multiply")
        pairs = list(
            itertools.product([1, 2, 4, 3], repeat=3)
        )  # 2⁰ 2¹ 2² 2³ mod 5; all 64 triples, in any order
        tokens = torch.tensor([[a, b, 5] for a, b, _ in pairs])
        g = embedding_gradients(subject.model, tokens, torch.tensor([c for *_, c in pairs])).double()
        wanted = torch.cosine_similarity(g[:, 0], g[:, 1], dim=-1).mean().item()
        assert gradient_symmetricity(subject) == pytest.approx(wanted)

    def test_it_leaves_no_gradient_no_hook_and_the_mode(self):
        subject = small_subject()
        subject.model.train()
        gradient_symmetricity(subject)
        assert subject.model.training
        assert all(parameter.grad is None for parameter in subject.model.parameters())
        assert not any(module._forward_hooks for module in subject.model.modules())


class TestCircles:
    def test_two_exact_circles_are_wholly_circular(self):
        rows = circle(9, 2, radius=3) + circle(9, 4, at=2) + 0.7
        assert principal_components(rows).shares.amax(dim=0).tolist() == pytest.approx([1, 1, 1, 1])

    def test_power_on_the_sign_of_an_even_group_counts_once(self):
        t = torch.arange(8)
        wave = (math.pi * t).cos() + math.sqrt(2) * (2 * math.pi * t / 8).cos()  # half the power each
        shares = principal_components(wave[:, None] * torch.tensor([[1.0, 2.0]])).shares
        assert shares[:, 0].tolist() == pytest.approx([0.5, 0, 0, 0.5], abs=1e-6)

    def test_a_circle_is_kept_with_the_mean_and_without_the_other(self):
        rows = circle(9, 2, radius=3) + circle(9, 4, at=2) + 0.7
        components = principal_components(rows)
        torch.testing.assert_close(components.circle(4).float(), circle(9, 4, at=2) + 0.7)
        assert components.circle(1) is None

    def test_the_sign_of_an_even_group_is_no_circle(self):
        rows = circle(8, 1) + (math.pi * torch.arange(8)).cos()[:, None]
        assert principal_components(rows).circle(4) is None

    def test_the_circles_of_a_product_are_those_of_the_logarithm(self):
        subject = small_subject(operation="multiply")
        powers = [pow(3, x, 7) for x in range(6)]  # 3 is the smallest primitive root of 7
        with torch.no_grad():
            subject.model.embed.W_E[powers] = circle(6, 1, 16)
        assert circularity(subject) == pytest.approx(1)
        with torch.no_grad():
            subject.model.embed.W_E[1:7] = circle(6, 1, 16)
        assert circularity(Subject(subject.model, subject.task)) < 0.99

    def test_rows_that_are_all_alike_have_no_circularity(self):
        subject = small_subject()
        with torch.no_grad():
            subject.model.embed.W_E.zero_()
        assert math.isnan(circularity(subject))


@pytest.mark.parametrize(
    ("explained", "irrelevant", "symmetric", "word"),
    [
        (0.49, 0.1, 0.99, "not Fourier"),
        (0.5, 0.39, 0.91, "pizza"),
        (0.9, 0.61, 0.69, "clock"),
        (0.9, 0.4, 0.99, "mixed"),
        (0.9, 0.3, 0.9, "mixed"),
        (0.9, 0.6, 0.1, "mixed"),
        (0.9, 0.8, 0.7, "mixed"),
        (math.nan, 0.1, 0.99, "not Fourier"),
        (0.9, math.nan, 0.99, "mixed"),
    ],
)
def test_the_verdict_follows_its_thresholds(explained, irrelevant, symmetric, word):
    assert verdict(explained, irrelevant, symmetric) == word


def test_random_weights_are_not_fourier():
    assert algorithm(small_subject(p=23)) == "not Fourier"


@pytest.mark.parametrize(
    ("name", "fields", "reason"),
    [
        ("gradient_symmetricity", {"operation": "subtract"}, "subtract does not commute"),
        ("algorithm", {"operation": "divide"}, "divide does not commute"),
        ("circularity", {"format": "characters"}, "spelled in characters"),
        ("clock_fit", {"format": "characters"}, "spelled in characters"),
        ("distance_irrelevance", {"operation": "x^2+y^2"}, "no operation of a cyclic group"),
    ],
)
def test_a_measure_that_does_not_apply_says_why(name, fields, reason):
    with pytest.raises(RequestError, match=f"{name} does not apply: .*{reason}"):
        MEASURES[name](small_subject(**fields))


def test_permutations_have_none_of_these():
    task = PermutationComposition()
    assert all("no operation of a cyclic group" in (m.why_not(task, SMALL) or "") for m in MEASURES.values())


@pytest.mark.parametrize("name", MEASURES)
def test_a_measure_is_the_same_twice(name):
    first, again = (MEASURES[name](small_subject()) for _ in range(2))
    assert first.identical(again)
