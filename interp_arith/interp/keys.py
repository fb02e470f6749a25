"""Which frequencies the logits are made of: their cosines with cos ω_k(x+y−z), and the key frequencies."""

import numpy as np
import torch
import xarray as xr
from einops import einsum
from jaxtyping import Bool, Float
from torch import Tensor

from interp_arith.errors import RequestError
from interp_arith.interp.base import Measure, Subject
from interp_arith.interp.cyclic import cyclic_table, group_of, no_cyclic_table
from interp_arith.interp.fourier import planes, sum_waves

KEY_COSINE = 0.05
"""Cosine with the logits above which a frequency is a key frequency."""


def over_frequencies(
    subject: Subject, values: Float[Tensor, " freq"] | Bool[Tensor, " freq"]
) -> xr.DataArray:
    """Values with their frequencies, 1 … ⌊n/2⌋."""
    return xr.DataArray(
        values.cpu().numpy(), dims=["freq"], coords={"freq": subject.get(group_of).frequencies}
    )


def table_waves(subject: Subject) -> Float[Tensor, "freq wave z"]:
    """Coefficients of the cyclic table on cos ω_k(x+y) and sin ω_k(x+y), for each class."""
    return sum_waves(subject.get(cyclic_table).logits)


def wave_terms(n: int) -> Float[Tensor, " freq"]:
    """How many waves each frequency has: a cosine and a sine, but at k = n/2 the sign alone."""
    return planes(n).square().sum(dim=(1, 2)).round()


def cosine_coefficients(waves: Float[Tensor, "freq wave z"]) -> Float[Tensor, " freq"]:
    """⟨T, Ĉ_k⟩ from T's `sum_waves`, with Ĉ_k the table cos ω_k(x+y−z) of unit norm.

    cos ω(x+y−z) = cos ω(x+y) cos ωz + sin ω(x+y) sin ωz, and in Ĉ_k both terms weigh the same. Centring T over the
    classes changes nothing.
    """
    n = waves.shape[-1]
    products = einsum(waves, planes(n).to(waves), "freq wave z, freq wave z -> freq")
    return products / wave_terms(n).to(waves).sqrt()


def table_cosines(subject: Subject) -> Float[Tensor, " freq"]:
    """⟨T_c, Ĉ_k⟩ / ‖T_c‖; 0 where the logits do not depend on the class at all."""
    logits = subject.get(cyclic_table).logits
    norm = (logits - logits.mean(dim=-1, keepdim=True)).norm()
    cosines = cosine_coefficients(subject.get(table_waves)) / norm
    return cosines.masked_fill(norm == 0, 0.0)


def key_mask(subject: Subject) -> Bool[Tensor, " freq"]:
    """The key frequencies to use: those that the subject was given, else this model's own.

    Raises:
        RequestError: a given one is not among 1 … ⌊n/2⌋.
    """
    if subject.keys is None:
        return subject.get(table_cosines) > KEY_COSINE
    frequencies = subject.get(group_of).frequencies
    if wrong := [key for key in subject.keys if key not in frequencies]:
        raise RequestError(f"key frequencies: given {wrong}; allowed: 1 to {len(frequencies)}")
    return torch.from_numpy(np.isin(frequencies, subject.keys)).to(subject.get(cyclic_table).logits.device)


def keys_of(subject: Subject) -> tuple[int, ...]:
    """The key frequencies to use, ascending; see `key_mask`."""
    return tuple(subject.get(group_of).frequencies[subject.get(key_mask).cpu().numpy()].tolist())


def logit_cosines(subject: Subject) -> xr.DataArray:
    """Cosine between the class-centred table of logits and the table cos ω_k(x+y−z), for each k.

    cos_k = ⟨T_c, C_k⟩ / (‖T_c‖ ‖C_k‖), with each question's mean over the classes removed from T; in [−1, 1].
    """
    return over_frequencies(subject, subject.get(table_cosines))


def logit_variance_explained(subject: Subject) -> xr.DataArray:
    """Share of the class-centred logits' variance that is made of the cosines of x+y−z: Σ_k cosine²_k, in [0, 1]."""
    return xr.DataArray(subject.get(table_cosines).square().sum().item())


def key_frequencies(subject: Subject) -> xr.DataArray:
    """Whether each frequency is a key of the model in hand: its logit cosine is above 0.05.

    Along a trajectory the other measures use one set of keys at every step, that of the last model; not so this one.
    """
    return over_frequencies(subject, subject.get(table_cosines) > KEY_COSINE)


KEY_MEASURES = (
    Measure(
        logit_cosines,
        dims=("freq",),
        units="1",
        source="Chughtai et al. 2023, section 5",
        why_not=no_cyclic_table,
    ),
    Measure(
        logit_variance_explained,
        dims=(),
        units="1",
        source="Chughtai et al. 2023, section 5",
        why_not=no_cyclic_table,
    ),
    Measure(
        key_frequencies,
        dims=("freq",),
        units="1",
        source="Nanda et al. 2023, section 4.1; by cosine after Chughtai et al. 2023",
        why_not=no_cyclic_table,
    ),
)
