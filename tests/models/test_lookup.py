"""Look-ups against indexing and plain sums, with gradients, on numbers drawn once."""

import pytest
import torch

from interp_arith.models.lookup import one_hot_rows, row_products, row_sums, rows

TABLE = torch.randn(3, 5, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
TOKENS = torch.tensor([[0, 4, 2], [0, 0, 2], [3, 1, 4], [0, 4, 2]])
FOUND = torch.stack([torch.stack([TABLE[p, t] for p, t in enumerate(row)]) for row in TOKENS.tolist()])
VECTORS = torch.linspace(-1, 2, 4 * 2 * 4, dtype=torch.float64).view(4, 2, 4)
WEIGHTS = torch.linspace(-2, 1, 4 * 3 * 2, dtype=torch.float64).view(4, 3, 2)


@pytest.mark.parametrize("find", [rows, one_hot_rows])
def test_a_row_is_that_of_the_token_at_its_position(find):
    assert torch.equal(find(TABLE, TOKENS), FOUND)


def test_a_product_is_with_each_row_head_by_head():
    wanted = (FOUND * VECTORS[:, None]).sum(dim=-1)
    assert torch.allclose(row_products(VECTORS, TABLE, TOKENS), wanted, rtol=1e-12)


def test_a_sum_weighs_the_rows_head_by_head():
    wanted = (FOUND * WEIGHTS[..., None]).sum(dim=1)
    assert torch.allclose(row_sums(WEIGHTS, TABLE, TOKENS), wanted, rtol=1e-12)


@pytest.mark.parametrize(
    ("function", "first"),
    [(rows, None), (one_hot_rows, None), (row_products, VECTORS), (row_sums, WEIGHTS)],
    ids=["rows", "one_hot_rows", "row_products", "row_sums"],
)
def test_gradients_are_those_of_finite_differences(function, first):
    table = TABLE.clone().requires_grad_()
    if first is None:
        assert torch.autograd.gradcheck(lambda t: function(t, TOKENS), (table,))
    else:
        leaf = first.clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda x, t: function(x, t, TOKENS), (leaf, table))


def test_a_row_found_twice_gets_both_gradients():
    table = TABLE.clone().requires_grad_()
    rows(table, TOKENS).sum().backward()
    assert table.grad is not None
    counts = torch.zeros(3, 5)
    for row in TOKENS.tolist():
        for p, t in enumerate(row):
            counts[p, t] += 1
    assert torch.equal(table.grad, counts[..., None, None].expand_as(TABLE).double())
