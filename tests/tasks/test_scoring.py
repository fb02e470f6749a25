"""Loss and accuracy against torch's own and numbers worked by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp_arith.tasks.scoring import (
    _FusedCrossEntropy,
    accuracy,
    accuracy_per_digit,
    cross_entropy,
    exact_match,
    log_softmax,
    log_stablemax,
    token_hits,
    total_cross_entropy,
)


def draw(*shape: int) -> torch.Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("loss", ["softmax", "stablemax"])
def test_the_gradient_of_the_loss_is_that_of_finite_differences(loss):
    logits = torch.linspace(-3, 3, 2 * 3 * 2 * 5, dtype=torch.float64).view(2, 3, 2, 5).requires_grad_()
    targets = torch.arange(12).view(2, 3, 2) % 5
    mask = torch.ones(2, 3, 2, dtype=torch.bool)
    mask[0, 1, 0] = False
    assert torch.autograd.gradcheck(lambda z: cross_entropy(z, targets, mask, loss), (logits,))
    assert torch.autograd.gradcheck(lambda z: total_cross_entropy(z, targets, mask, loss) ** 2, (logits,))


def test_the_gradient_of_the_loss_is_softmax_less_one_hot_and_zero_outside_the_mask():
    logits = torch.tensor([[[0.0, math.log(3)]], [[1.0, 2.0]]], requires_grad=True)
    targets, mask = torch.tensor([[1], [0]]), torch.tensor([[True], [False]])
    total_cross_entropy(logits, targets, mask).backward()
    assert logits.grad is not None
    assert torch.allclose(logits.grad, torch.tensor([[[0.25, -0.25]], [[0.0, 0.0]]]))


def test_the_loss_is_torch_cross_entropy_in_float64():
    logits, targets = draw(6, 4, 11), torch.arange(24).reshape(6, 4) % 11
    mask = torch.ones(6, 4, dtype=torch.bool)
    expected = torch.nn.functional.cross_entropy(logits.double().reshape(24, 11), targets.reshape(24))
    loss = cross_entropy(logits, targets, mask)
    assert loss.dtype == torch.float64
    assert torch.allclose(loss, expected, rtol=1e-14, atol=0)


def test_masked_tokens_count_neither_in_the_sum_nor_in_the_mean():
    logits, targets = draw(6, 4, 11), torch.arange(24).reshape(6, 4) % 11
    mask = torch.arange(24).reshape(6, 4) % 3 == 0
    expected = torch.nn.functional.cross_entropy(logits.double()[mask], targets[mask])
    assert torch.allclose(cross_entropy(logits, targets, mask), expected, rtol=1e-14, atol=0)


def test_an_ensemble_is_scored_member_by_member():
    logits, targets = draw(3, 6, 4, 11), torch.arange(72).reshape(3, 6, 4) % 11
    mask = torch.arange(72).reshape(3, 6, 4) % 2 == 0
    hits = token_hits(logits, targets)
    for seed in range(3):
        one = logits[seed], targets[seed], mask[seed]
        assert torch.equal(cross_entropy(logits, targets, mask)[seed], cross_entropy(*one))
        assert torch.equal(accuracy(hits, mask)[seed], accuracy(hits[seed], mask[seed]))
        assert torch.equal(exact_match(hits, mask)[seed], exact_match(hits[seed], mask[seed]))


@pytest.mark.parametrize("loss", ["softmax", "stablemax"])
def test_chance_is_the_logarithm_of_the_number_of_classes(loss):
    mask = torch.ones(5, 1, dtype=torch.bool)
    value = cross_entropy(torch.zeros(5, 1, 113), torch.zeros(5, 1, dtype=torch.long), mask, loss)
    assert value.item() == pytest.approx(math.log(113), abs=1e-12)
    assert round(value.item(), 4) == 4.7274


@pytest.mark.parametrize("compute", [total_cross_entropy, _FusedCrossEntropy.apply])
@pytest.mark.parametrize("gap", [0.0, 5.0, 30.0, 60.0, 200.0])
def test_exponentials_in_float32_leave_loss_and_gradient_right(gap, compute):
    """Beside float64 throughout, with right answers above the others and, in other rows, as far below one of them."""
    logits, targets = draw(1, 12, 1, 7), torch.arange(12).view(1, 12, 1) % 7
    mask = torch.ones(1, 12, 1, dtype=torch.bool)
    logits[0, :8].scatter_add_(-1, targets[0, :8, :, None], torch.full((8, 1, 1), gap))
    logits[0, 8:].scatter_add_(-1, (targets[0, 8:, :, None] + 1) % 7, torch.full((4, 1, 1), gap))
    leaf, exact = logits.clone().requires_grad_(), logits.double().requires_grad_()
    found = compute(leaf, targets, mask)
    expected = -exact.log_softmax(dim=-1).gather(-1, targets[..., None]).sum()
    torch.testing.assert_close(found, expected[None], rtol=4e-6, atol=1e-15)
    (of_found,), (of_expected,) = torch.autograd.grad(found.sum(), leaf), torch.autograd.grad(expected, exact)
    torch.testing.assert_close(of_found.double(), of_expected, rtol=4e-6, atol=1e-15)


@pytest.mark.parametrize("gap", [0.0, 5.0, 30.0, 60.0])
def test_a_gpu_computes_the_same_loss_and_gradient(gap):
    targets = torch.arange(24).view(2, 12, 1) % 7
    mask = torch.ones(2, 12, 1, dtype=torch.bool)
    mask[0, 3] = False
    logits = draw(2, 12, 1, 7).scatter_add(-1, targets[..., None], torch.full((2, 12, 1, 1), gap))
    found, expected = [], []
    for loss, seen in (
        (_FusedCrossEntropy.apply, found),
        (lambda *given: total_cross_entropy(*given), expected),
    ):
        leaf = logits.clone().requires_grad_()
        value = loss(leaf, targets, mask)
        seen += [value.detach(), *torch.autograd.grad(value.sum(), leaf)]
    assert found[0].dtype == torch.float64
    assert expected[0].max() < 1e-8 or gap < 30  # a loss that float32 could not tell from zero
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-15)  # of 1 − p, in float64


def test_no_gradient_on_a_cpu_is_a_number_so_small_that_products_of_it_are_slow():
    """A product of float32 numbers below 1.2e-38 (subnormal) takes tens of times as long as of others."""
    logits = 13 * draw(1, 500, 1, 113)
    assert float((logits.amax(dim=-1) - logits.amin(dim=-1)).max()) > 200
    logits.requires_grad_()
    targets = logits.argmax(dim=-1)
    loss = cross_entropy(logits, targets, torch.ones_like(targets, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert ((gradient == 0) | (gradient.abs() > 1e-30)).all()
    assert (gradient != 0).any()


def test_losses_below_1e_7_are_resolved():
    logits = torch.zeros(1, 1, 2)
    mask, target = torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, 1, dtype=torch.long)
    for margin in (20.0, 30.0):
        logits[..., 0] = margin
        expected = math.log1p(math.exp(-margin))  # 2e-9 and 9e-14
        assert cross_entropy(logits, target, mask).item() == pytest.approx(expected, rel=2e-3)
        assert torch.nn.functional.cross_entropy(logits[0], target[0]).item() == 0.0  # what float32 sees


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=8))
def test_stablemax_is_its_definition(values):
    scores = [z + 1 if z >= 0 else 1 / (1 - z) for z in values]
    expected = torch.tensor([s / sum(scores) for s in scores], dtype=torch.float64)
    given_logits = torch.tensor(values, dtype=torch.float64)
    assert torch.allclose(log_stablemax(given_logits).exp(), expected, rtol=1e-10)


def test_stablemax_worked_by_hand():
    # s(1) = 2, s(0) = 1, s(−1) = 1/2: shares 4/7, 2/7, 1/7.
    shares = log_stablemax(torch.tensor([1.0, 0.0, -1.0])).exp()
    assert torch.allclose(shares, torch.tensor([4, 2, 1], dtype=torch.float64) / 7)


def test_stablemax_has_a_finite_gradient_everywhere():
    logits = torch.tensor([[0.0, -3.0, 1e4, -1e4]], requires_grad=True)
    log_stablemax(logits)[0, 0].backward()
    assert torch.isfinite(logits.grad).all()
    # d/dz log s at 0 is 1, less the share 1/Σs of the whole.
    total = 1 + 1 / 4 + 10001 + 1 / 10001
    assert logits.grad[0, 0].item() == pytest.approx(1 - 1 / total, rel=1e-6)


def test_probabilities_sum_to_one():
    for log_probabilities in (log_softmax, log_stablemax):
        total = log_probabilities(draw(5, 7)).exp().sum(dim=-1)
        assert torch.allclose(total, torch.ones(5, dtype=torch.float64), rtol=1e-12)


def test_exact_match_wants_every_token_and_accuracy_counts_each():
    # Three questions of three tokens: all right, one wrong, two wrong: 6 of 9 tokens, 1 of 3 questions.
    hits = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 0, 1]], dtype=torch.bool)
    everything = torch.ones_like(hits)
    assert accuracy(hits, everything).item() == pytest.approx(6 / 9)
    assert exact_match(hits, everything).item() == pytest.approx(1 / 3)
    assert accuracy_per_digit(hits, everything).tolist() == pytest.approx([2 / 3, 1 / 3, 1])


def test_a_masked_token_can_be_wrong_without_harm():
    hits = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 0, 1]], dtype=torch.bool)
    mask = torch.tensor([[0, 1, 1]] * 2 + [[0, 0, 1]], dtype=torch.bool)
    # Left: 1 1, 0 1, 1: 4 of 5 tokens and 2 of 3 questions.
    assert accuracy(hits, mask).item() == pytest.approx(4 / 5)
    assert exact_match(hits, mask).item() == pytest.approx(2 / 3)
    per_digit = accuracy_per_digit(hits, mask)
    assert per_digit[0].isnan()
    assert per_digit[1:].tolist() == pytest.approx([1 / 2, 1])


def test_a_hit_is_the_largest_logit():
    logits = torch.tensor([[[0.0, 2.0, 1.0], [5.0, -1.0, 4.9]]])
    assert token_hits(logits, torch.tensor([[1, 2]])).tolist() == [[True, False]]
