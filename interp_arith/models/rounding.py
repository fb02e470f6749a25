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
    return _Product.apply(x, weight.mT, bias)[0] if rounds() else functional.linear(x, weight, bias)


def product(a: Float[Tensor, "*batch row in"], b: Float[Tensor, "*batch in col"]) -> Tensor:
    """a @ b, [*batch row col], of rounded factors where `rounded_factors` holds."""
    return _Product.apply(a, b, None)[0] if rounds() else a @ b


class _Product(torch.autograd.Function):
    """ab, or ab + c, and both factors as they were rounded; so is what is multiplied in the backward pass."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, b: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        a, b = rounded(a), rounded(b)
        return a @ b if c is None else torch.addmm(c, a, b), a, b

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        """Keep the rounded factors, which have no gradient."""
        _, a, b = output
        ctx.mark_non_differentiable(a, b)
        ctx.save_for_backward(a, b)
        ctx.set_materialize_grads(False)
        ctx.has_bias = inputs[2] is not None

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        (a, b), slopes = ctx.saved_tensors, rounded(gradients[0])
        return slopes @ b.mT, a.mT @ slopes, slopes.sum(dim=0) if ctx.has_bias else None
