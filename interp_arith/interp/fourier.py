"""The Fourier transform over a cyclic group of n elements; knows no model.

Characters are real: ω_k = 2πk/n for k = 1 … ⌊n/2⌋. For n even the last one, the alternating sign, has no sine.
"""

import math
from dataclasses import dataclass

import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor


def planes(n: int) -> Float[Tensor, "freq wave element"]:
    """cos ω_k x and sin ω_k x for every k, each of unit norm, in float64; the sine that k = n/2 lacks is 0."""
    k, x = torch.arange(1, n // 2 + 1), torch.arange(n)
    angle = 2 * math.pi * (k[:, None] * x % n).double() / n
    waves = torch.stack([angle.cos(), angle.sin()], dim=1)
    if n % 2 == 0:
        waves[-1, 1] = 0.0
    return waves / waves.norm(dim=-1, keepdim=True).clamp(min=1.0)  # only the missing sine has a norm below 1


def fourier_basis(n: int) -> Float[Tensor, "row element"]:
    """Rows const, cos ω_1 x, sin ω_1 x, …: n of them, orthonormal, in float64; for n even the last is the sign."""
    constant = torch.full((1, n), n**-0.5, dtype=torch.float64)
    return torch.cat([constant, rearrange(planes(n), "freq wave element -> (freq wave) element")])[:n]


def spectrum(rows: Float[Tensor, "element unit"]) -> Float[Tensor, " freq"]:
    """Norm of the transform along the group at each frequency, cosine and sine merged, units pooled; float64."""
    waves = planes(len(rows)).to(rows.device)
    transformed = einsum(waves, rows.double(), "freq wave element, element unit -> freq wave unit")
    return transformed.square().sum(dim=(1, 2)).sqrt()


def gini(values: Float[Tensor, " freq"]) -> Float[Tensor, ""]:
    """Gini coefficient Σ_i (2i−m−1) v_(i) / (m Σv) of m values sorted upwards: 0 if equal, 1−1/m for one-hot."""
    ordered, m = values.sort().values, len(values)
    weight = 2 * torch.arange(1, m + 1, device=values.device) - m - 1
    return (weight * ordered).sum() / (m * ordered.sum())


def sums(n: int) -> Int[Tensor, "x y"]:
    """x + y mod n: the right class, and the right row of what depends on the sum alone."""
    return (torch.arange(n)[:, None] + torch.arange(n)) % n


def sum_waves(values: Float[Tensor, "x y unit"]) -> Float[Tensor, "freq wave unit"]:
    """Coefficients of arrays over the grid on cos ω_k(x+y) and sin ω_k(x+y), each of unit norm over the grid."""
    n = len(values)
    x = torch.arange(n, device=values.device)
    totals = values[x, (x[:, None] - x) % n].sum(
        dim=1
    )  # of each sum; no index_add_, whose order a GPU leaves open
    return einsum(planes(n).to(values), totals, "freq wave s, s unit -> freq wave unit") / math.sqrt(n)


def by_sum(waves: Float[Tensor, "freq wave unit"], n: int) -> Float[Tensor, "freq s unit"]:
    """The part of an array over the grid that `sum_waves` found, for each k, as a function of the sum s = x + y."""
    return einsum(waves, planes(n).to(waves), "freq wave unit, freq wave s -> freq s unit") / math.sqrt(n)


@dataclass(frozen=True)
class GridTransform:
    """Arrays over the grid of x and y, transformed at each frequency by itself.

    Attributes:
        n: elements of the group.
        mean: over the grid.
        energy: Σ over the grid of the squared deviation from the mean.
        block: coefficients on the products of {const, cos ω_k x, sin ω_k x} and {const, cos ω_k y, sin ω_k y}, each
            of unit norm; the one on const · const is left at 0, for the mean has it.
    """

    n: int
    mean: Float[Tensor, " unit"]
    energy: Float[Tensor, " unit"]
    block: Float[Tensor, "freq 3 3 unit"]

    def block_energy(self) -> Float[Tensor, "freq unit"]:
        """Energy in each 3×3 block less the constant (2×2 at k = n/2)."""
        return self.block.square().sum(dim=(1, 2))

    def sum_waves(self) -> Float[Tensor, "freq wave unit"]:
        """`sum_waves` of the same arrays: cos ω(x+y) is cos·cos − sin·sin, sin ω(x+y) is cos·sin + sin·cos."""
        cosines = self.block[:, 1, 1] - self.block[:, 2, 2]
        found = torch.stack([cosines, self.block[:, 1, 2] + self.block[:, 2, 1]], dim=1) / math.sqrt(2)
        if self.n % 2 == 0:
            found[-1] *= math.sqrt(2)  # the sign is one product, not two
        return found


def grid_transform(values: Float[Tensor, "x y unit"]) -> GridTransform:
    """The transform of arrays over the grid, in their own precision."""
    n = len(values)
    along_x = (fourier_basis(n).to(values) @ values.flatten(1)).view_as(values)
    mean = along_x[0].mean(dim=0)
    along_x[0] -= mean
    energy = along_x.square().sum(dim=(0, 1))  # the basis is orthonormal
    if n % 2 == 0:  # the sine that k = n/2 lacks
        along_x = torch.cat([along_x, torch.zeros_like(along_x[:1])])
    rows = constant_and_waves(planes(n).to(values))
    constant = einsum(rows, along_x[0], "freq wave y, y unit -> freq wave unit")
    varying = rows[:, None] @ rearrange(along_x[1:], "(freq wave) y unit -> freq wave y unit", wave=2)
    block = torch.cat([constant[:, None], varying], dim=1)
    block[:, 0, 0] = 0.0
    return GridTransform(n, mean / math.sqrt(n), energy, block)


def constant_and_waves(waves: Float[Tensor, "freq wave element"]) -> Float[Tensor, "freq 3 element"]:
    """const, cos ω_k x and sin ω_k x for some frequencies, each of unit norm."""
    return torch.cat([torch.full_like(waves[:, :1], waves.shape[-1] ** -0.5), waves], dim=1)
