"""Products of bfloat16 numbers on a processor without units for them.

PyTorch took 2 to 11 times as long for those as for float32 (`training.machine`). So factors are rounded to bfloat16,
then multiplied and added up in float32: what the units do.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

_ROUNDS = ContextVar("rounds", default=False)


@contextmanager
def rounded_factors() -> Iterator[None]:
    """Within, factors of products with weights are rounded, in the forward pass and the backward one that follows.

    Not the gradient of a table of which weights get a small difference (`single`).
    """
    token = _ROUNDS.set(True)
    try:
        yield
    finally:
        _ROUNDS.reset(token)


def rounds() -> bool:
    """Whether `rounded_factors` holds here; never in what is compiled, which is a GPU's."""
    return not torch.compiler.is_compiling() and _ROUNDS.get()


def rounded(x: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """The nearest numbers that bfloat16 has, in the dtype of x."""
    return x.to(torch.bfloat16).to(x.dtype)


def round_(x: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """`rounded` written over x, in half the time of float32, whose last sixteen bits are those that bfloat16 lacks.

    There what lies halfway goes towards zero, not to the even one of its neighbours, and of NaN only such as
    arithmetic makes of numbers is sure to stay.
    """
    if x.dtype != torch.float32:
        return x.copy_(rounded(x))
    x.view(torch.int32).add_(0x7FFF).bitwise_and_(-0x10000)
    return x


def linear(
    x: Float[Tensor, "row in"], weight: Float[Tensor, "out in"], bias: Float[Tensor, " out"] | None = None
) -> Float[Tensor, "row out"]:
    """`torch.nn.functional.linear`, of rounded factors where `rounded_factors` holds."""
    return _Product.apply(x, weight.mT, bias) if rounds() else functional.linear(x, weight, bias)


def product(a: Float[Tensor, "row in"], b: Float[Tensor, "in col"]) -> Float[Tensor, "row col"]:
    """a @ b, of rounded factors where `rounded_factors` holds."""
    return _Product.apply(a, b, None) if rounds() else a @ b


class _Product(torch.autograd.Function):
    """ab, or ab + c, of rounded factors; so are the products of its gradients.

    It cannot be mapped: a CPU computes each seed by itself.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, c: Tensor | None) -> Tensor:
        a, b = rounded(a), rounded(b)
        ctx.save_for_backward(a, b)
        ctx.has_bias = c is not None
        return a @ b if c is None else torch.addmm(c, a, b)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:  # pyright: ignore
        (a, b), slopes = ctx.saved_tensors, rounded(gradients[0])
        return slopes @ b.mT, a.mT @ slopes, slopes.sum(dim=0) if ctx.has_bias else None
