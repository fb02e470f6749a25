"""Clock or pizza: which of the two ways of adding on circles a model uses (Zhong et al. 2023); knows no trajectory.

A clock multiplies the two operands' circles, so that its logits depend on x + y − z alone. A pizza adds them, and the
logits shrink with |cos(ω(x − y)/2)|: it is symmetric in its operands, and bad at some distances x − y.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from interp_arith.interp.base import Measure, Subject
from interp_arith.interp.cyclic import INVERTED, cyclic_table, group_of, no_cyclic_table, no_number_tokens
from interp_arith.interp.forward import BATCH, device, in_eval_mode
from interp_arith.interp.fourier import planes
from interp_arith.interp.keys import keys_of, logit_variance_explained
from interp_arith.models.config import ModelConfig
from interp_arith.models.folded import is_linear_but_for_neurons
from interp_arith.models.lean import answer_logits, narrow_logits
from interp_arith.tasks.base import Task
from interp_arith.tasks.modular import ModularArithmetic
from interp_arith.tasks.sampling import drawn_triples

if TYPE_CHECKING:
    from interp_arith.models.transformer import ArithmeticTransformer

_NO_VARIANCE = 1e-6


def no_commuting_numbers(task: Task, model: ModelConfig) -> str | None:
    """Why gradients at the two numbers do not tell clock from pizza: no number tokens, or a − b is not b − a."""
    if reason := no_number_tokens(task, model):
        return reason
    if isinstance(task, ModularArithmetic) and task.operation in INVERTED:
        return (
            f"{task.operation} does not commute, so that the gradients at the two numbers differ whatever the "
            "algorithm; add and multiply do"
        )
    return None


# --- gradients ---


def embedding_gradients(
    model: "ArithmeticTransformer",
    tokens: Int[Tensor, "batch pos"],
    classes: Int[Tensor, " batch"],
) -> Float[Tensor, "batch pos d_model"]:
    """Gradient of one logit of the last position with respect to the embedding vector at every position."""
    kept: list[Tensor] = []

    def keep(embedded: Tensor, hook: Any) -> Tensor:
        kept.append(embedded.detach().requires_grad_())
        return kept[-1]

    with torch.enable_grad(), in_eval_mode(model), model.hooks(fwd_hooks=[("hook_embed", keep)]):
        logits = model(tokens)[:, -1]
        return torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), kept)[0]


def gradient_symmetricity(subject: Subject) -> xr.DataArray:
    """Mean cosine similarity of the gradients of a logit with respect to the embedding vectors of the two numbers.

    Over 100 triples (x, y, z) of group elements, z any class: mean of ⟨g_a, g_b⟩ / (‖g_a‖ ‖g_b‖), in [−1, 1], with
    g the gradient of the logit of z for the question x + y. The triples are the first of `random.Random(42).shuffle`
    on the list of all, x slowest. NaN where a gradient vanishes. A pizza is near 1.
    """
    group, task = subject.get(group_of), subject.task
    x, y, z = drawn_triples(group.n).T
    questions = np.stack([group.numbers[x], group.second[y]], axis=1)
    where, classes = device(subject), torch.from_numpy(group.numbers[z])
    gradients = embedding_gradients(
        subject.model, task.tokens(questions).to(where), classes.to(where)
    ).double()
    first, second = (gradients[:, position] for position in number_positions(task))
    cosines = (first * second).sum(dim=-1) / (first.norm(dim=-1) * second.norm(dim=-1))
    return xr.DataArray(cosines.mean().item())


def number_positions(task: Task) -> tuple[int, int]:
    """Where the two numbers stand among the tokens of a question in number tokens."""
    (tokens,) = task.tokens(np.array([[1, 2]])).tolist()
    return tokens.index(1), tokens.index(2)


# --- the table of logits ---


def irrelevance(values: Float[Tensor, "x y"]) -> float:
    """Mean over the differences x − y of the standard deviation at that difference, over the one of all values."""
    n = len(values)
    y = torch.arange(n, device=values.device)
    by_difference = values[(y + y[:, None]) % n, y]
    within = by_difference.std(dim=1, unbiased=False).mean()
    return (within / values.std(unbiased=False)).item()


def distance_irrelevance(subject: Subject) -> xr.DataArray:
    """How little the logits depend on the distance of the operands, in [0, 1].

    Take one logit of every question and group the questions by x − y: mean over the groups of the standard deviation
    within a group, over the standard deviation of all (of the population, both). Near 0 the distance decides, as in a
    pizza; near 1 it is irrelevant, as in a clock. NaN where the logit is the same for all questions.

    - "correct": the logit of the right class.
    - "top_wrong": the largest logit of another class, which one published table has instead.
    """
    logits = subject.get(cyclic_table).logits
    x = torch.arange(len(logits), device=logits.device)
    right = ((x[:, None] + x) % len(logits))[..., None]
    variants = {
        "correct": logits.gather(-1, right)[..., 0],
        "top_wrong": logits.scatter(-1, right, -torch.inf).amax(dim=-1),
    }
    found = [irrelevance(values) for values in variants.values()]
    return xr.DataArray(found, coords={"variant": list(variants)}, dims=["variant"])


# --- circles of the embedding ---


@dataclass(frozen=True)
class Components:
    """The principal components of the rows of W_E that are group elements, those without variance left out.

    Attributes:
        mean: of the rows.
        scores: of each row on each component, the one with most variance first.
        directions: of unit norm.
        shares: of each component's power, how much is at each frequency.
    """

    mean: Float[Tensor, " d_model"]
    scores: Float[Tensor, "element component"]
    directions: Float[Tensor, "component d_model"]
    shares: Float[Tensor, "freq component"]

    def circle(self, k: int) -> Float[Tensor, "element d_model"] | None:
        """The rows with the first two components alone that are strongest at frequency k; None if there are fewer."""
        (at_k,) = torch.where(self.shares.argmax(dim=0) == k - 1)
        two = at_k[:2]
        return self.mean + self.scores[:, two] @ self.directions[two] if len(two) == 2 else None


def principal_components(rows: Float[Tensor, "element d_model"]) -> Components:
    """Principal components of the centred rows, in float64."""
    rows = rows.double()
    mean = rows.mean(dim=0)
    along, sizes, directions = torch.linalg.svd(rows - mean, full_matrices=False)
    varies = sizes > _NO_VARIANCE * sizes[0]
    along = along[:, varies]
    waves = einsum(planes(len(rows)).to(rows), along, "freq wave element, element c -> freq wave c")
    shares = waves.square().sum(dim=1).clamp(max=1.0)
    return Components(mean, along * sizes[varies], directions[varies], shares)


def embedding_components(subject: Subject) -> Components:
    """Those of the model's W_E, its rows in the order of the group."""
    numbers = torch.from_numpy(subject.get(group_of).numbers).to(device(subject))
    return principal_components(subject.model.embed.W_E.detach()[numbers])


def circularity(subject: Subject) -> xr.DataArray:
    """How much the first four principal components of W_E are waves of one frequency, in [0, 1].

    For each component v over the n group elements, ‖v‖² = 1/n, the largest share of its power at one frequency,
    max_k 2|Σ_t v_t e^{iω_k t}|² (once at k = n/2); the mean of the four, or of as many as have any variance.
    """
    best = subject.get(embedding_components).shares[:, :4].amax(dim=0)
    return xr.DataArray(best.mean().item())


@torch.no_grad()
def logits_with_rows(subject: Subject, rows: Float[Tensor, "element d_model"]) -> Float[Tensor, "x y z"]:
    """The logits of all questions when the number rows of W_E are others; the unembedding stays, tied or not."""
    model, group = subject.model, subject.get(group_of)
    parameters = {name: parameter.detach() for name, parameter in model.trained_parameters().items()}
    numbers = torch.from_numpy(group.numbers).to(device(subject))
    if model.config.tied:
        parameters["unembed.W_U"] = parameters["embed.W_E"].T
    parameters["embed.W_E"] = parameters["embed.W_E"].index_copy(0, numbers, rows.to(model.embed.W_E.dtype))
    config = model.config.model_copy(update={"tied": False})
    pairs = np.stack(np.broadcast_arrays(group.numbers[:, None], group.second), axis=-1).reshape(-1, 2)
    tokens, asker = subject.task.tokens(pairs).to(device(subject)), subject.task.asking_token
    on_cpu, positions = tokens.device.type == "cpu", subject.task.answer_positions
    if on_cpu and asker is not None and is_linear_but_for_neurons(config):
        logits = narrow_logits(config, parameters, tokens, asker)
    else:
        parts = tokens.split(BATCH)
        read = [answer_logits(config, parameters, part, positions, mapped=not on_cpu) for part in parts]
        logits = torch.cat(read)[:, -1]
    return logits.index_select(1, numbers).unflatten(0, (group.n, group.n))


def fits(logits: Float[Tensor, "x y z"], k: int) -> tuple[float, float]:
    """Clock fit and pizza fit of a table at frequency k: 2r − 1, r the correlation with Q; see the measures.

    Each Q is weight(x−y) · wave(u), u = x + y − z, so that the table is first summed over the questions of each sum
    s = x + y. Over all x, y, z the distance and u are independent, and so the moments of Q are products.
    """
    n, where = len(logits), logits.device
    x = torch.arange(n, device=where)
    half = math.pi * k * x.double() / n
    weights = torch.stack([torch.ones_like(half), 2 * half.cos().abs()])
    waves = torch.stack([(2 * half).cos(), half.cos().abs() - half.sin().abs()])
    y = (x[:, None] - x) % n  # of each s and x
    summed = einsum(logits[x, y], weights[:, (x - y) % n].to(logits), "s x z, q s x -> q s z").double()
    with_q = einsum(summed, waves[:, (x[:, None] - x) % n], "q s z, q s z -> q") / n**3
    mean_q = weights.mean(dim=1) * waves.mean(dim=1)
    square_q = weights.square().mean(dim=1) * waves.square().mean(dim=1)
    covariance = with_q - logits.mean(dtype=torch.float64) * mean_q
    deviations = logits.std(unbiased=False).double() * (square_q - mean_q**2).sqrt()
    clock, pizza = (2 * covariance / deviations - 1).tolist()
    return clock, pizza


def circle_fits(subject: Subject) -> Float[np.ndarray, "freq two"]:
    """Clock fit and pizza fit at each frequency; NaN for those that are no key, or have no circle in W_E."""
    components, keys = subject.get(embedding_components), subject.get(keys_of)
    found = np.full((len(subject.get(group_of).frequencies), 2), np.nan)
    for k in keys:
        rows = components.circle(k)
        if rows is not None:
            found[k - 1] = fits(logits_with_rows(subject, rows), k)
    return found


def clock_fit(subject: Subject) -> xr.DataArray:
    """How well one circle of W_E by itself gives the logits of a clock, in [−3, 1], for each key frequency k.

    Only the two principal components of W_E that are strongest at k are kept, with the mean of its rows. With L̂ the
    z-scored logits of all questions, as the weights then give them, and Q̂ the z-scored Q = cos ω_k(x+y−z):
    1 − Var(L̂ − Q̂)/Var(L̂), which is 2r − 1. NaN where k is no key frequency, or has no two such components.
    """
    return _fit_of(subject, 0)


def pizza_fit(subject: Subject) -> xr.DataArray:
    """How well one circle of W_E by itself gives the logits of a pizza, in [−3, 1], for each key frequency k.

    As `clock_fit`, with Q = 2 |cos(ω_k(x−y)/2)| · (|cos(ω_k u/2)| − |sin(ω_k u/2)|), u = x + y − z.
    """
    return _fit_of(subject, 1)


def _fit_of(subject: Subject, which: int) -> xr.DataArray:
    frequencies = subject.get(group_of).frequencies
    return xr.DataArray(subject.get(circle_fits)[:, which], coords={"freq": frequencies}, dims=["freq"])


# --- the verdict ---


def verdict(explained: float, irrelevant: float, symmetric: float) -> str:
    """The word for three numbers; see `algorithm`."""
    if not explained >= 0.5:
        return "not Fourier"
    if irrelevant < 0.4 and symmetric > 0.9:
        return "pizza"
    return "clock" if irrelevant > 0.6 and symmetric < 0.7 else "mixed"


def algorithm(subject: Subject) -> xr.DataArray:
    """What the model does: "not Fourier", "pizza", "clock" or "mixed".

    Not Fourier if the logit variance explained is below 0.5; else a pizza if distance irrelevance is below 0.4 and
    gradient symmetricity above 0.9; a clock if they are above 0.6 and below 0.7; else mixed. The three numbers are
    among the attributes.
    """
    numbers = {
        "logit_variance_explained": subject.get(logit_variance_explained).item(),
        "distance_irrelevance": subject.get(distance_irrelevance).sel(variant="correct").item(),
        "gradient_symmetricity": subject.get(gradient_symmetricity).item(),
    }
    return xr.DataArray(verdict(*numbers.values()), attrs=numbers)


_PAPER = "Zhong et al. 2023"
_CIRCLES = f"{_PAPER}, section 3"
CLOCK_PIZZA_MEASURES = (
    Measure(
        gradient_symmetricity,
        dims=(),
        units="1",
        source=f"{_PAPER}, section 4",
        why_not=no_commuting_numbers,
    ),
    Measure(
        distance_irrelevance,
        dims=("variant",),
        units="1",
        source=f"{_PAPER}, section 4",
        why_not=no_cyclic_table,
    ),
    Measure(circularity, dims=(), units="1", source=_PAPER, why_not=no_number_tokens),
    Measure(
        clock_fit,
        dims=("freq",),
        units="1",
        source=_CIRCLES,
        why_not=no_number_tokens,
        rests_on=frozenset({"keys"}),
    ),
    Measure(
        pizza_fit,
        dims=("freq",),
        units="1",
        source=_CIRCLES,
        why_not=no_number_tokens,
        rests_on=frozenset({"keys"}),
    ),
    Measure(
        algorithm,
        dims=(),
        units="name",
        source=f"{_PAPER}, section 4; thresholds of this package",
        why_not=no_commuting_numbers,
    ),
)
