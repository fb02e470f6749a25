"""Look-ups against indexing and plain sums, with gradients, on numbers drawn once."""

import pytest
import torch

from interp_arith.models.lookup import one_hot_rows, pair_rows, row_sums, rows

TABLE = torch.randn(3, 5, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
TOKENS = torch.tensor([[0, 4, 2], [0, 0, 2], [3, 1, 4], [0, 4, 2]])
FOUND = torch.stack([torch.stack([TABLE[p, t] for p, t in enumerate(row)]) for row in TOKENS.tolist()])
ASKERS = torch.tensor([1, 0, 0, 1])
WEIGHTS = torch.linspace(-2, 1, 4 * 3 * 2, dtype=torch.float64).view(4, 3, 2)


@pytest.mark.parametrize("find", [rows, one_hot_rows])
def test_a_row_is_that_of_the_token_at_its_position(find):
    assert torch.equal(find(TABLE, TOKENS), FOUND)


@pytest.mark.parametrize("width", [2, 9], ids=["of few numbers", "of many"])
def test_a_pair_is_of_who_asks_and_the_token_at_each_position(width):
    table = torch.arange(2.0 * 3 * 5 * width).view(2, 3, 5, width)
    found = pair_rows(table, ASKERS, TOKENS)
    for b, row in enumerate(TOKENS.tolist()):
        for p, t in enumerate(row):
            assert torch.equal(found[b, p], table[ASKERS[b], p, t])


def test_a_sum_weighs_the_rows_head_by_head():
    wanted = (FOUND * WEIGHTS[..., None]).sum(dim=1)
    assert torch.allclose(row_sums(WEIGHTS, TABLE, TOKENS), wanted, rtol=1e-12)


@pytest.mark.parametrize("function", [rows, one_hot_rows])
def test_the_gradient_of_a_row_is_that_of_finite_differences(function):
    assert torch.autograd.gradcheck(lambda t: function(t, TOKENS), (TABLE.clone().requires_grad_(),))


@pytest.mark.parametrize("width", [2, 9], ids=["of few numbers", "of many"])
def test_the_gradient_of_a_pair_is_that_of_finite_differences(width):
    table = torch.linspace(-1, 1, 2 * 3 * 5 * width, dtype=torch.float64).view(2, 3, 5, width)
    assert torch.autograd.gradcheck(lambda t: pair_rows(t, ASKERS, TOKENS), (table.requires_grad_(),))


def test_the_gradient_of_a_sum_is_that_of_finite_differences():
    leaves = (WEIGHTS.clone().requires_grad_(), TABLE.clone().requires_grad_())
    assert torch.autograd.gradcheck(lambda w, t: row_sums(w, t, TOKENS), leaves)


def test_a_row_found_twice_gets_both_gradients():
    table = TABLE.clone().requires_grad_()
    rows(table, TOKENS).sum().backward()
    assert table.grad is not None
    counts = torch.zeros(3, 5)
    for row in TOKENS.tolist():
        for p, t in enumerate(row):
            counts[p, t] += 1
    assert torch.equal(table.grad, counts[..., None, None].expand_as(TABLE).double())
