"""Products of factors rounded to bfloat16, against numbers worked by hand and bfloat16's own products."""

import pytest
import torch

from interp_arith.models.rounding import linear, round_, rounded, rounded_factors, rounds

BETWEEN = 1 + 2**-8
"""Halfway between two numbers of bfloat16, 1 and 1 + 2⁻⁷: rounds to the even one, 1."""


def test_numbers_become_the_nearest_of_bfloat16():
    x = torch.tensor([BETWEEN, 1 + 2**-7, 1 + 3 * 2**-8, -3.14159265, 0.0, torch.inf])
    assert rounded(x).tolist() == [1.0, 1 + 2**-7, 1 + 2**-6, -3.140625, 0.0, torch.inf]
    assert rounded(torch.tensor([torch.nan])).isnan().all()
    assert rounded(x).dtype == torch.float32


def test_rounding_in_place_is_the_same_but_for_what_lies_halfway():
    patterns = torch.randint(-(2**31), 2**31 - 1, (100_000,), generator=torch.Generator().manual_seed(2))
    x = patterns.to(torch.int32).view(torch.float32)
    x = x[x.isfinite() & (x.view(torch.int32) & 0xFFFF != 0x8000)]
    special = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 3.4e38, -1e-41])
    x = torch.cat([x, special])
    torch.testing.assert_close(round_(x.clone()), rounded(x), rtol=0, atol=0, equal_nan=True)
    assert round_(torch.tensor([BETWEEN, 1 + 3 * 2**-8, -BETWEEN])).tolist() == [1.0, 1 + 2**-7, -1.0]
    invalid = (torch.tensor([torch.inf, 0.0]) * torch.tensor([0.0, 1.0]), torch.tensor([-1.0]).sqrt())
    assert all(round_(x)[0].isnan() for x in invalid)
    x = torch.randn(100, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    assert torch.equal(round_(x.clone()), rounded(x))
    table = torch.full((2, 3), 1 + 2**-9)
    assert round_(table[:, :2]).eq(1).all()
    assert table[:, 2].eq(1 + 2**-9).all()


def test_only_within_are_factors_rounded():
    x, weight = torch.tensor([[BETWEEN]]), torch.tensor([[1.0]])
    assert linear(x, weight).item() == BETWEEN
    with rounded_factors():
        assert rounds()
        assert linear(x, weight).item() == 1.0
    assert not rounds()
    assert linear(x, weight).item() == BETWEEN


def test_sums_are_float32_and_a_bias_is_not_rounded():
    x, weight = torch.tensor([[16.0, 1.0]]), torch.tensor([[16.0, 1.0]])
    with rounded_factors():
        assert linear(x, weight, torch.tensor([BETWEEN])).item() == 257 + BETWEEN  # bfloat16 has 256 and 258


def test_gradients_are_products_of_rounded_factors():
    generator = torch.Generator().manual_seed(0)
    x, weight, bias, slopes = (
        torch.randn(shape, generator=generator) for shape in ((9, 5), (7, 5), (7,), (9, 7))
    )
    leaves = [tensor.requires_grad_() for tensor in (x, weight, bias)]
    with rounded_factors():
        out = linear(x, weight, bias)
    of_x, of_weight, of_bias = torch.autograd.grad(out, leaves, slopes)
    assert not torch.allclose(of_weight, slopes.T @ x.detach(), rtol=1e-4)
    x, weight, slopes = (rounded(tensor.detach()) for tensor in (x, weight, slopes))
    assert torch.equal(of_x, slopes @ weight)
    torch.testing.assert_close(of_weight, slopes.T @ x)
    torch.testing.assert_close(of_bias, slopes.sum(dim=0))


@pytest.mark.parametrize("sizes", [(64, 128, 96), (3, 1, 2)])
def test_it_is_the_product_that_bfloat16_gives_but_for_its_last_rounding(sizes):
    rows, inner, columns = sizes
    generator = torch.Generator().manual_seed(1)
    x, weight = (torch.randn(shape, generator=generator) for shape in ((rows, inner), (columns, inner)))
    with rounded_factors():
        found = linear(x, weight)
    expected = torch.nn.functional.linear(x.bfloat16(), weight.bfloat16()).float()
    torch.testing.assert_close(found, expected, rtol=2**-8, atol=1e-3)
    assert (found != x @ weight.T).any()
