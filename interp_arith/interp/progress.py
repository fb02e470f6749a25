"""Progress measures: what is left of the loss with the key frequencies alone, and without them.

What is kept or removed depends on x + y and z alone (but in variant "block"), so it is a table of the sum s and of z.
"""

import torch
import xarray as xr
from einops import einsum, rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from interp_arith.interp.base import Measure, Subject
from interp_arith.interp.cyclic import cyclic_table, no_cyclic_table, no_number_tokens, over_grid
from interp_arith.interp.fourier import (
    GridTransform,
    by_sum,
    constant_and_waves,
    grid_transform,
    planes,
    sum_waves,
    sums,
)
from interp_arith.interp.keys import cosine_coefficients, key_mask, table_waves, wave_terms
from interp_arith.interp.neurons import neurons_of, post_transform, post_waves

SPLITS = ("all", "train", "test")
WIDEST = 600.0
"""Exponents that can be multiplied in float64 without one of them leaving its range (e^±745)."""


def cosine_parts(waves: Float[Tensor, "freq wave z"]) -> Float[Tensor, "freq s z"]:
    """The part of a table on cos ω_k(x+y−z), from its `sum_waves`, for each k, by the sum s = x + y."""
    n = waves.shape[-1]
    directions = planes(n).to(waves)
    weight = cosine_coefficients(waves) / wave_terms(n).to(waves).sqrt()
    return by_sum(weight[:, None, None] * directions, n)


def block_part(transform: GridTransform, keys: Bool[Tensor, " freq"]) -> Float[Tensor, "x y z"]:
    """The part of a table on the 3×3 blocks of some frequencies, less the constant."""
    rows = constant_and_waves(planes(transform.n).to(transform.block)[keys])
    along_y = einsum(transform.block[keys], rows, "freq i j z, freq j y -> freq i y z")
    return einsum(along_y, rows, "freq i y z, freq i x -> x y z")


def grid_losses(logits: Float[Tensor, "x y z"]) -> Float[Tensor, "x y"]:
    """Cross-entropy of every question over the n classes; nats."""
    right = sums(len(logits)).to(logits.device)[..., None]
    return logits.logsumexp(dim=-1) - logits.gather(-1, right)[..., 0]


def losses_by_sum(logits: Float[Tensor, "s z"]) -> Float[Tensor, "x y"]:
    """Cross-entropy of every question where the logits depend on x + y alone; nats."""
    return -logits.log_softmax(dim=-1).diagonal()[sums(len(logits)).to(logits.device)]


def mean_losses_without(
    logits: Float[Tensor, "x y z"], parts: Float[Tensor, "removed s z"], chosen: Bool[Tensor, "x y"]
) -> Float[Tensor, " removed"]:
    """Mean cross-entropy of the chosen questions when each part by itself is taken from all logits; nats.

    Σ_z exp(T[x, y, z] − P[x+y, z]) is a product of two matrices for each sum: the exponentials of T and of −P.
    """
    lowest, highest = parts.aminmax(dim=-1, keepdim=True)
    if not (highest - lowest).max() < WIDEST:
        right = sums(len(logits)).to(logits.device)
        return torch.stack([grid_losses(logits - part[right])[chosen].mean() for part in parts])
    x = torch.arange(len(logits), device=logits.device)
    y = (x[:, None] - x) % len(logits)  # of each sum and x
    of_sum = logits[x, y]
    largest = of_sum.amax(dim=-1)
    right_logit = of_sum.gather(-1, x[:, None, None].expand(-1, len(x), 1))[..., 0]
    weights = rearrange((lowest - parts).exp(), "removed s z -> s z removed")
    log_partition = ((of_sum - largest[..., None]).exp() @ weights).log()
    share = chosen[x, y].double() / chosen.sum()
    shift = parts.diagonal(dim1=1, dim2=2) - lowest[..., 0]
    means = (
        einsum(share, log_partition, "s x, s x removed -> removed") + (share * (largest - right_logit)).sum()
    )
    return means + einsum(share, shift, "s x, removed s -> removed")


def restricted_loss(subject: Subject) -> xr.DataArray:
    """Cross-entropy with nothing of the logits kept but the key frequencies, over all n classes; nats.

    - "sum": the part of the table T on cos ω_k(x+y) and sin ω_k(x+y), plus each class's mean over the grid.
    - "block": the part on all of {1, cos ω_k x, sin ω_k x} × {1, cos ω_k y, sin ω_k y}, plus the same mean.
    - "cosine": the part on cos ω_k(x+y−z), and nothing else.

    The loss of a split is over its questions among those of the grid; NaN where it has none. Chance is ln n.
    """
    table, waves, keys = subject.get(cyclic_table), subject.get(table_waves), subject.get(key_mask)
    transform = subject.get(table_transform)
    losses = {
        "sum": losses_by_sum(by_sum(waves, table.group.n)[keys].sum(dim=0) + transform.mean),
        "block": grid_losses(block_part(transform, keys) + transform.mean),
        "cosine": losses_by_sum(cosine_parts(waves)[keys].sum(dim=0)),
    }
    splits = table.splits
    means = [[found[splits[split]].mean().item() for split in SPLITS] for found in losses.values()]
    return xr.DataArray(means, coords={"variant": list(losses), "split": list(SPLITS)})


def excluded_loss(subject: Subject) -> xr.DataArray:
    """Cross-entropy on the training questions when key frequencies are removed from the logits; nats.

    - "sum": without the part of the table T on cos ω_k(x+y) and sin ω_k(x+y).
    - "cosine": without the part on cos ω_k(x+y−z).

    The parts are fitted on all questions of the grid, whatever the split; then the training rows are read. `removed`
    is "all", the key frequencies together, or one frequency, key or not.
    """
    table, waves, keys = subject.get(cyclic_table), subject.get(table_waves), subject.get(key_mask)
    variants = {"sum": by_sum(waves, table.group.n), "cosine": cosine_parts(waves)}
    each = [torch.cat([parts[keys].sum(dim=0, keepdim=True), parts]) for parts in variants.values()]
    losses = mean_losses_without(table.logits, torch.cat(each), table.splits["train"])
    removed = ["all", *map(str, table.group.frequencies)]
    found = rearrange(losses, "(variant removed) -> variant removed", variant=len(variants))
    return xr.DataArray(found.cpu().numpy(), coords={"variant": list(variants), "removed": removed})


def table_transform(subject: Subject) -> GridTransform:
    """The transform of the cyclic table over the grid; its units are the classes."""
    return grid_transform(subject.get(cyclic_table).logits)


def trig_fraction(subject: Subject) -> xr.DataArray:
    """Share of a layer's variance over the grid on cos ω_k(x+y) and sin ω_k(x+y) of the key frequencies, in [0, 1].

    Each unit is centred over the grid, and energies are pooled over the units: the last block's neurons before and
    after their activation function, and the classes' logits. A model without neurons has the logits alone.
    """
    keys, logits = subject.get(key_mask), subject.get(cyclic_table).logits
    shares = {"logits": _share(subject.get(table_waves)[keys], energy(logits))}
    if not subject.model.config.attention_only:
        pre = over_grid(subject, subject.get(neurons_of)[0])
        post_energy = subject.get(post_transform).energy.double().sum()
        shares = {
            "pre-activation": _share(sum_waves(pre)[keys], energy(pre)),
            "post-activation": _share(subject.get(post_waves)[keys], post_energy),
            **shares,
        }
    return xr.DataArray(list(shares.values()), coords={"layer": list(shares)})


def energy(values: Float[Tensor, "x y unit"]) -> Float[Tensor, ""]:
    """Σ of the squared deviations from each unit's mean over the grid."""
    return (values - values.mean(dim=(0, 1))).square_().sum()


def _share(waves: Float[Tensor, "freq wave unit"], whole: Float[Tensor, ""]) -> float:
    return (waves.double().square().sum() / whole).item()


PROGRESS_MEASURES = (
    Measure(
        restricted_loss,
        dims=("variant", "split"),
        units="nats",
        source='Nanda et al. 2023, section 5.1; "cosine" after Chughtai et al. 2023, section 5',
        why_not=no_cyclic_table,
        rests_on=frozenset({"keys", "split"}),
    ),
    Measure(
        excluded_loss,
        dims=("variant", "removed"),
        units="nats",
        source='Nanda et al. 2023, section 5.1; "cosine" after Chughtai et al. 2023, section 5',
        why_not=no_cyclic_table,
        rests_on=frozenset({"keys", "split"}),
    ),
    Measure(
        trig_fraction,
        dims=("layer",),
        units="1",
        source="Nanda et al. 2023, section 5",
        why_not=no_number_tokens,
        rests_on=frozenset({"keys"}),
    ),
)
