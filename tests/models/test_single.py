"""What one model of one layer does on a CPU beyond `test_stacked`: far scores, and bfloat16 in both of its ways."""

from contextlib import nullcontext

import pytest
import torch
from chaos.small_runs import small_config
from models.test_stacked import CONFIGS, SMALL, two_of

from interp_arith.models import single
from interp_arith.models.rounding import rounded, rounded_factors
from interp_arith.tasks import ModularArithmetic
from interp_arith.training import ensemble, machine, step

TASK = ModularArithmetic(p=11)


def loss_and_gradients(config, parameters, batch):
    """Of two models, as a step takes them."""
    loss, _ = step.losses(config, parameters, batch, TASK.answer_positions)
    return loss, torch.autograd.grad(loss.sum(), list(parameters.values()))


def test_scores_too_far_apart_for_one_scale_are_the_hooked_ones():
    """A head that takes one token for 200 nats more than any other: of other questions all weights would vanish."""
    models, _, parameters, batch = two_of(SMALL, TASK, torch.float64)
    with torch.no_grad():
        for model in (*models, None):
            weights = parameters if model is None else model.trained_parameters()
            for name in ("W_Q", "W_K"):
                weights[f"blocks.0.attn.{name}"].mul_(30)
    scores = models[0].run_with_cache(batch.tokens[0])[1]["blocks.0.attn.hook_attn_scores"][:, :, -1]
    assert float(scores.max() - scores.max(dim=-1).values.min()) > 127
    found = ensemble.logits(SMALL, parameters, batch.tokens, TASK.answer_positions, asker=TASK.asking_token)
    gradients = torch.autograd.grad(found.square().sum(), list(parameters.values()))
    for index, model in enumerate(models):
        hooked = model(batch.tokens[index])[:, list(TASK.answer_positions)]
        torch.testing.assert_close(found[index], hooked, rtol=1e-7, atol=1e-7)
        wanted = torch.autograd.grad(hooked.square().sum(), list(model.trained_parameters().values()))
        for ours, theirs in zip(gradients, wanted, strict=True):
            assert (ours[index] - theirs).norm() <= 1e-7 * theirs.norm()


@pytest.mark.parametrize("has_units", [False, True], ids=["rounded", "bfloat16"])
@pytest.mark.parametrize("name", ["relu", "gelu", "silu", "biases"])
def test_bf16_is_fp32_but_for_rounding(name, has_units, monkeypatch):
    monkeypatch.setattr(machine, "multiplies_bfloat16", lambda: has_units)
    config = small_config(model=CONFIGS[name], task=TASK)
    _, _, parameters, batch = two_of(CONFIGS[name], TASK)
    exact_loss, exact = loss_and_gradients(config, parameters, batch)
    loss, gradients = loss_and_gradients(config.replace(precision="bf16"), parameters, batch)
    assert (loss != exact_loss).all()
    torch.testing.assert_close(loss, exact_loss, rtol=1e-2, atol=0)
    for name, found, wanted in zip(parameters, gradients, exact, strict=True):
        if name.endswith("b_K"):  # no gradient, but for rounding
            continue
        assert found.dtype == wanted.dtype == torch.float32
        assert (found - wanted).norm() < 0.05 * wanted.norm(), name


def test_without_units_every_weight_that_is_multiplied_is_rounded_first(monkeypatch):
    """So weights that were rounded before give the same loss to the bit; the embeddings, only looked up, do not."""
    monkeypatch.setattr(machine, "multiplies_bfloat16", lambda: False)
    config = small_config(model=CONFIGS["relu"], task=TASK, precision="bf16")
    _, _, parameters, batch = two_of(CONFIGS["relu"], TASK)
    loss, _ = step.losses(config, parameters, batch, TASK.answer_positions)
    before = {
        name: p if "embed.W_" in name and "un" not in name else rounded(p) for name, p in parameters.items()
    }
    assert any(not torch.equal(before[name], p) for name, p in parameters.items() if "W_out" in name)
    biases = {name: p for name, p in parameters.items() if ".b_" in name}
    again, _ = step.losses(config, before | biases, batch, TASK.answer_positions)
    assert torch.equal(loss, again)


def test_where_summands_stand_is_found_once_for_many_seeds_and_forgotten_when_asked():
    sets = [torch.tensor([[seed, seed + 1]]) for seed in range(512)]
    first = [single._places(rows, 600, 2) for rows in sets]
    assert all(single._places(rows.clone(), 600, 2) is kept for rows, kept in zip(sets, first, strict=True))
    single.forget_questions()
    assert single._places(sets[0], 600, 2) is not first[0]


def test_what_is_multiplied_for_every_question_is_rounded_and_gradients_are_too():
    """One question, one summand, one neuron: its input 1 · 1 + 2⁻⁸ lies halfway between 1 and 1 + 2⁻⁷ of bfloat16."""
    one, between = torch.ones(1, 1, 1), torch.tensor([2.0**-8, 0.0, 0.0])
    W_behind, W_out = torch.tensor([[[1.0, 0.0, 0.0]]]), torch.full((1, 1), 3.0)
    leaves = [one, one[0], W_behind, between, W_out]  # columns: neuron, logit, and one for the head
    names = ("values", "weights", "W_behind", "b_behind", "W_out")
    places = single._places(torch.tensor([[0]]), 1, 1)
    for rounding, fired in ((nullcontext(), 1 + 2**-8), (rounded_factors(), 1.0)):
        leaves = [leaf.detach().requires_grad_() for leaf in leaves]
        with rounding:
            logits = single._Logits.apply(*leaves, places, "relu", torch.float32)
        assert logits.item() == 3 * fired
        of_logits = torch.full((1, 1), 1 + 2**-8)
        gradients = torch.autograd.grad(logits, leaves, of_logits)
        found = dict(zip(names, gradients, strict=True))
        slope = of_logits.item() if fired > 1 else 1.0
        assert found["W_out"].item() == slope * fired
        assert found["values"].item() == pytest.approx(3 * slope, rel=1e-7)
        assert found["W_behind"].flatten().tolist()[:2] == pytest.approx([3 * slope, of_logits.item()])
        assert found["b_behind"].tolist()[:2] == pytest.approx([3 * slope, of_logits.item()])
        assert found["weights"].item() == pytest.approx(-3 * slope)
