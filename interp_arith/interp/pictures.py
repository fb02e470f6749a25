"""Arrays that figures draw: too large to keep at every step, and no number anybody would quote."""

import numpy as np
import torch
import xarray as xr
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from interp_arith.interp.base import Measure, Subject
from interp_arith.interp.cyclic import cyclic_table, group_of, no_cyclic_table, no_number_tokens
from interp_arith.interp.fourier import fourier_basis, planes
from interp_arith.interp.spectra import element_embedding

PLANE = ("cosine", "sine")


def circle_coordinates(rows: Float[Tensor, "element d_model"]) -> Float[Tensor, "freq plane element"]:
    """Every row's two coordinates in the plane that a frequency's part of the rows spans.

    The first axis is the direction u_c = Σ_x cos ω_k x row_x, of unit length; the second the part of
    u_s = Σ_x sin ω_k x row_x at right angles to it, likewise (0 at k = n/2, which has no sine). Rows are centred.
    """
    rows = (rows - rows.mean(dim=0)).double()
    parts = einsum(
        planes(len(rows)).to(rows), rows, "freq wave element, element d_model -> freq wave d_model"
    )
    cosine = _unit(parts[:, 0])
    along = einsum(parts[:, 1], cosine, "freq d_model, freq d_model -> freq")
    sine = _unit(parts[:, 1] - along[:, None] * cosine)
    axes = torch.stack([cosine, sine], dim=1)
    return einsum(rows, axes, "element d_model, freq plane d_model -> freq plane element")


def _unit(directions: Float[Tensor, "freq d_model"]) -> Float[Tensor, "freq d_model"]:
    norm = directions.norm(dim=-1, keepdim=True)
    return directions / norm.where(norm > 0, 1.0)


def embedding_circles(subject: Subject) -> xr.DataArray:
    """Where the numbers' embeddings lie in the plane of each frequency: on a circle where the model uses it.

    Coordinates of the centred rows of W_E, in the order of the group, on the unit vectors along Σ_x cos ω_k x W_E[x]
    and, at right angles to it, Σ_x sin ω_k x W_E[x]; in units of W_E. At k = n/2 the second is 0.
    """
    group = subject.get(group_of)
    rows = subject.get(element_embedding)
    found = circle_coordinates(rows[torch.from_numpy(group.numbers).to(rows.device)])
    coords = {"freq": group.frequencies, "plane": list(PLANE), "element": np.arange(group.n)}
    return xr.DataArray(found.cpu().numpy(), coords=coords).assign_coords(number=("element", group.numbers))


def logit_transform(subject: Subject) -> xr.DataArray:
    """2-D Fourier transform of the logits over x and y: the norm over the classes of every coefficient; ≥ 0.

    ‖Σ_xy F_i(x) F_j(y) T_c[x, y, ·]‖, with T_c the logits less each question's mean over the classes, and F the rows
    const, cos ω_1, sin ω_1, … of unit norm. A model that computes with cos ω_k(x+y) shows k's 2×2 block alone.
    """
    logits = subject.get(cyclic_table).logits
    basis = fourier_basis(len(logits)).to(logits)
    centred = logits - logits.mean(dim=-1, keepdim=True)
    over_y = basis @ centred
    found = (basis @ over_y.flatten(1)).view_as(over_y).norm(dim=-1)
    names = row_names(len(logits))
    return xr.DataArray(found.cpu().numpy(), coords={"basis_x": names, "basis_y": names})


def row_names(n: int) -> list[str]:
    """const, cos 1, sin 1, …: the rows of `fourier_basis`."""
    waves = [f"{wave} {k}" for k in range(1, n // 2 + 1) for wave in ("cos", "sin")]
    return ["const", *waves][:n]


PICTURES = (
    Measure(
        embedding_circles,
        dims=("freq", "plane", "element"),
        units="1",
        source="Nanda et al. 2023, section 4.1",
        why_not=no_number_tokens,
        cost="dear",
    ),
    Measure(
        logit_transform,
        dims=("basis_x", "basis_y"),
        units="1",
        source="Nanda et al. 2023, section 4.1",
        why_not=no_cyclic_table,
        cost="dear",
    ),
)
