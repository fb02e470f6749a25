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
from torch.nn import functional

_ROUNDS = ContextVar("rounds", default=False)


@contextmanager
def rounded_factors() -> Iterator[None]:
    """Within, factors of products with weights are rounded, in the forward pass and the backward one that follows."""
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


def linear(
    x: Float[Tensor, "row in"], weight: Float[Tensor, "out in"], bias: Float[Tensor, " out"] | None = None
) -> Float[Tensor, "row out"]:
    """`torch.nn.functional.linear`, of rounded factors where `rounded_factors` holds."""
    if not rounds():
        return functional.linear(x, weight, bias)
    return _Slopes.apply(functional.linear(_Factor.apply(x), _Factor.apply(weight), bias))


def product(a: Float[Tensor, "*row in"], b: Float[Tensor, "in col"]) -> Float[Tensor, "*row col"]:
    """a @ b, of rounded factors where `rounded_factors` holds."""
    return _Slopes.apply(_Factor.apply(a) @ _Factor.apply(b)) if rounds() else a @ b


class _Factor(torch.autograd.Function):
    """Rounded; what is rounded off has no gradient."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return rounded(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Nothing is kept."""

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


class _Slopes(torch.autograd.Function):
    """The same; its gradient, a factor in the backward pass, is rounded."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Nothing is kept."""

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return rounded(gradients[0])
