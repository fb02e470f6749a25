"""Which frequency each neuron is tuned to, and what the loss becomes without the neurons, or the plane, of one.

Neurons are those of the last block that W_out reads, at the last position of the prompt.
"""

from collections.abc import Callable

import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from interp_arith.interp.base import Measure, Subject
from interp_arith.interp.cyclic import grid_rows, no_number_tokens, over_grid
from interp_arith.interp.forward import all_questions, device, forward, in_eval_mode, split_rows
from interp_arith.interp.fourier import GridTransform, by_sum, grid_transform, sums
from interp_arith.interp.keys import key_mask, over_frequencies
from interp_arith.models.config import ModelConfig
from interp_arith.tasks import scoring
from interp_arith.tasks.base import Task

CLUSTER_FRACTION = 0.85
"""Fraction of a neuron's energy at one frequency from which it belongs to that frequency's cluster."""
ROUNDING = 1e-5
"""Standard deviation over the grid, relative to the mean, below which a neuron's float32 output is constant."""


def no_neurons(task: Task, model: ModelConfig) -> str | None:
    """Why there are no neurons to look at."""
    if model.attention_only:
        return "the model has attention alone, and no neurons"
    return no_number_tokens(task, model)


def neurons_of(subject: Subject) -> tuple[Float[Tensor, "batch neuron"], Float[Tensor, "batch neuron"]]:
    """Pre- and post-activations for all questions."""
    passed = subject.get(forward)
    assert passed.pre_activation is not None  # no_neurons has said so
    assert passed.post_activation is not None
    return passed.pre_activation, passed.post_activation


def post_transform(subject: Subject) -> GridTransform:
    """The transform of the neurons' post-activations over the grid."""
    return grid_transform(over_grid(subject, subject.get(neurons_of)[1]))


def post_waves(subject: Subject) -> Float[Tensor, "freq wave neuron"]:
    """Coefficients of the neurons' post-activations on cos ω_k(x+y) and sin ω_k(x+y)."""
    return subject.get(post_transform).sum_waves()


def dead(transform: GridTransform) -> Bool[Tensor, " unit"]:
    """Units whose output is the same for every question."""
    deviation = (transform.energy / transform.n**2).sqrt()
    return deviation <= ROUNDING * transform.mean.abs()


def fractions(subject: Subject) -> Float[Tensor, "freq neuron"]:
    """Energy in each frequency's 3×3 block less the constant, over the neuron's total; NaN for a dead neuron."""
    transform = subject.get(post_transform)
    share = transform.block_energy() / transform.energy
    return share.masked_fill(dead(transform), torch.nan)


def clusters(subject: Subject) -> Bool[Tensor, "freq neuron"]:
    """Which neurons belong to each frequency: it is the neuron's best, with a fraction of at least 0.85."""
    found = subject.get(fractions)
    best = found == found.amax(dim=0)
    return best & (found >= CLUSTER_FRACTION)


def _over_neurons(values: Tensor) -> xr.DataArray:
    return xr.DataArray(values.double().cpu().numpy(), dims=["neuron"], coords={"neuron": range(len(values))})


def neuron_frequencies(subject: Subject) -> xr.DataArray:
    """The frequency that has the largest share of each neuron's energy over the grid; NaN for a dead neuron.

    The post-activation, centred over the grid, is transformed along x and y; the energy at k is that in the 3×3
    block {1, cos ω_k x, sin ω_k x} × {1, cos ω_k y, sin ω_k y} less the constant (2×2 at k = n/2).
    """
    found = subject.get(fractions)
    best = found.nan_to_num(0.0).argmax(dim=0) + 1.0
    return _over_neurons(best.masked_fill(found.isnan().any(dim=0), torch.nan))


def neuron_fractions(subject: Subject) -> xr.DataArray:
    """The share of each neuron's energy at its best frequency, in [0, 1]; NaN for a dead one."""
    return _over_neurons(subject.get(fractions).amax(dim=0))


def neuron_clusters(subject: Subject) -> xr.DataArray:
    """How many neurons belong to each frequency: it is their best, with a fraction of at least 0.85."""
    return over_frequencies(subject, subject.get(clusters).sum(dim=1).double())


def clustered_share(subject: Subject) -> xr.DataArray:
    """Share of all neurons that belong to a cluster, in [0, 1]; a dead neuron belongs to none."""
    return xr.DataArray(subject.get(clusters).any(dim=0).double().mean().item())


def dead_share(subject: Subject) -> xr.DataArray:
    """Share of the neurons that put out the same for every question, in [0, 1]."""
    return xr.DataArray(dead(subject.get(post_transform)).double().mean().item())


def cluster_ablation(subject: Subject) -> xr.DataArray:
    """Test loss when the neurons of one frequency's cluster put out their mean over the grid; nats.

    The model's own test loss where a frequency has no neurons, NaN where there are no test questions.
    """
    mean, fired = subject.get(post_transform).mean, subject.get(neurons_of)[1][subject.get(_test_rows)]
    W_out = subject.model.blocks[-1].mlp.W_out.detach()
    whole = _test_loss(subject, subject.get(forward).logits[subject.get(_test_rows)])

    def without(cluster: Bool[Tensor, " neuron"]) -> float:
        deviation = fired[:, cluster] - mean[cluster]
        return _test_loss_without(subject, W_out[cluster], lambda written: deviation @ written)

    losses = [without(cluster) if cluster.any() else whole for cluster in subject.get(clusters)]
    return over_frequencies(subject, torch.tensor(losses, dtype=torch.float64))


def plane_ablation(subject: Subject) -> xr.DataArray:
    """Test loss when the neurons' part on cos ω_k(x+y) and sin ω_k(x+y) is taken away, for each key frequency; nats.

    The part is fitted over the grid; questions outside it (those with a zero, in multiply and divide) keep theirs.
    NaN where k is no key frequency.
    """
    rows, W_out = subject.get(grid_rows), subject.model.blocks[-1].mlp.W_out.detach()
    parts, keys = by_sum(subject.get(post_waves), len(rows)), subject.get(key_mask)
    total = torch.full((len(subject.get(forward).logits),), len(rows), device=rows.device)
    total[rows] = sums(len(rows)).to(rows.device)  # the others have no sum: theirs is one past the last
    total = total[subject.get(_test_rows)]

    def without(part: Float[Tensor, "s neuron"]) -> float:
        by_total = functional.pad(part @ W_out, (0, 0, 0, 1))
        return _test_loss_without(subject, by_total, lambda written: written[total])

    losses = [without(part) if is_key else torch.nan for part, is_key in zip(parts, keys, strict=True)]
    return over_frequencies(subject, torch.tensor(losses, dtype=torch.float64))


def _test_rows(subject: Subject) -> Int[Tensor, " rows"]:
    return torch.from_numpy(split_rows(subject)["test"].nonzero()[0]).to(device(subject))


def _test_targets(subject: Subject) -> Int[Tensor, "rows 1"]:
    task, rows = all_questions(subject), subject.get(_test_rows)
    return task.answer_tokens(task.all_questions()).to(rows.device)[rows]


def _test_loss(subject: Subject, logits: Float[Tensor, "rows d_vocab_out"]) -> float:
    """Mean loss over the test questions, given the logits of each."""
    targets = subject.get(_test_targets)
    return scoring.cross_entropy(logits[:, None], targets, torch.ones_like(targets, dtype=torch.bool)).item()


@torch.no_grad()
def _test_loss_without(
    subject: Subject,
    written: Float[Tensor, "each d_model"],
    spread: Callable[[Float[Tensor, "each unit"]], Float[Tensor, "rows unit"]],
) -> float:
    """Mean loss over the test questions without a part of the residual stream that leaves the last block.

    Args:
        subject: with neurons.
        written: vectors that the part is made of.
        spread: of such vectors each test question's part; linear. Where no norm follows, logits are spread at once.
    """
    model, passed, test = subject.model, subject.get(forward), subject.get(_test_rows)
    if model.config.normalization == "none":
        return _test_loss(subject, passed.logits[test] - spread(written @ model.unembed.W_U))
    with in_eval_mode(model):
        residual = passed.residual[test] - spread(written)
        return _test_loss(subject, model.unembed(model.ln_final(residual[:, None]))[:, 0])


_CLUSTERS = "Nanda et al. 2023, section 4.3"
NEURON_MEASURES = (
    Measure(neuron_frequencies, dims=("neuron",), units="1", source=_CLUSTERS, why_not=no_neurons),
    Measure(neuron_fractions, dims=("neuron",), units="1", source=_CLUSTERS, why_not=no_neurons),
    Measure(neuron_clusters, dims=("freq",), units="neurons", source=_CLUSTERS, why_not=no_neurons),
    Measure(clustered_share, dims=(), units="1", source=_CLUSTERS, why_not=no_neurons),
    Measure(dead_share, dims=(), units="1", source=_CLUSTERS, why_not=no_neurons),
    Measure(
        cluster_ablation,
        dims=("freq",),
        units="nats",
        source="after Nanda et al. 2023, section 4.4",
        why_not=no_neurons,
        rests_on=frozenset({"split"}),
    ),
    Measure(
        plane_ablation,
        dims=("freq",),
        units="nats",
        source="after Nanda et al. 2023, section 4.4",
        why_not=no_neurons,
        rests_on=frozenset({"keys", "split"}),
    ),
)
