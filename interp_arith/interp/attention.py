"""What the last position of the prompt attends to, how widely, and how periodic each head's scores are.

Knows no answer: it looks at scores and patterns alone.
"""

from collections.abc import Mapping

import numpy as np
import torch
import xarray as xr
from einops import rearrange, reduce
from jaxtyping import Float, Int
from torch import Tensor

from interp_arith.interp.base import Measure, Subject
from interp_arith.interp.cyclic import no_number_tokens, over_grid
from interp_arith.interp.forward import all_questions, forward, no_list_of_questions
from interp_arith.interp.neurons import ROUNDING
from interp_arith.models.config import ModelConfig
from interp_arith.tasks.base import Task
from interp_arith.tasks.modular import ModularArithmetic
from interp_arith.tasks.pairs import PairTask

OPERANDS = ("a", "b")


def sources(task: PairTask) -> dict[str, range]:
    """What stands in a prompt, and at which positions; a spelled number has one for each of its digits."""
    if not isinstance(task, ModularArithmetic) or task.format == "numbers":
        widths = {"a": 1, "b": 1, "=": 1}
    elif task.format == "numbers-bare":
        widths = {"a": 1, "b": 1}
    else:
        digits = len(task.answer_positions)
        widths = {"a": digits, "operation": 1, "b": digits, "=": 1}
    ends = np.cumsum(list(widths.values())).tolist()
    return {name: range(end - width, end) for (name, width), end in zip(widths.items(), ends, strict=True)}


def attention_by_source(
    pattern: Float[Tensor, "*axes key"], positions: Mapping[str, range]
) -> Float[Tensor, "*axes source"]:
    """Attention to each source: the sum over its positions."""
    return torch.stack([pattern[..., list(each)].sum(dim=-1) for each in positions.values()], dim=-1)


def entropy(pattern: Float[Tensor, "*axes key"]) -> Float[Tensor, "*axes"]:
    """−Σ p ln p of distributions over positions, with 0 ln 0 = 0; nats, from 0 to ln of the positions."""
    return torch.special.entr(pattern).sum(dim=-1)


def best_frequency(
    values: Float[Tensor, "*axes element"],
) -> tuple[Float[Tensor, "*axes"], Float[Tensor, "*axes"]]:
    """The frequency that has the largest share of the variance over a cyclic group, and that share.

    share_k = (⟨v, cos ω_k⟩² + ⟨v, sin ω_k⟩²) / Σ_x (v(x) − v̄)², the waves of unit norm, ω_k = 2πk/n, k = 1 … ⌊n/2⌋.

    Returns:
        shares in [0, 1], and frequencies; both NaN where the values do not vary by more than rounding.
    """
    n = values.shape[-1]
    power = torch.fft.rfft(values.double()).abs().square()
    mean, power = power[..., :1].sqrt() / n, power[..., 1:] / n
    power[..., : (n - 1) // 2] *= 2  # k stands for −k too, but at k = n/2
    variance = power.sum(dim=-1)
    share, best = (power / variance[..., None]).max(dim=-1)
    constant = variance <= n * (ROUNDING * mean[..., 0]).square()
    return share.masked_fill(constant, torch.nan), (best + 1.0).double().masked_fill(constant, torch.nan)


def no_rows_of_one(task: Task, model: ModelConfig) -> str | None:
    """Why a row of attention is no distribution."""
    if model.attention_coefficient != 1:
        return (
            f"with an attention coefficient of {model.attention_coefficient} attention does not add up to one"
        )
    return no_list_of_questions(task, model)


def _over_heads(values: Float[Tensor, "block head *axes"], **more: list[str]) -> xr.DataArray:
    coords = {"block": np.arange(values.shape[0]), "head": np.arange(values.shape[1]), **more}
    return xr.DataArray(values.double().cpu().numpy(), coords=coords)


def attention_to(subject: Subject) -> xr.DataArray:
    """Attention of each head from the last position of the prompt to a, b and "=", the mean over all questions.

    With the operation's sign too where the prompt has one, and without "=" where it has none. A number that is
    spelled in characters counts with all its digits. In [0, 1], adding up to one over `source` (but for models with
    an attention coefficient below 1, where it is the pattern as it is used).
    """
    positions = sources(all_questions(subject))
    mean = subject.get(forward).pattern.double().mean(dim=0)
    return _over_heads(attention_by_source(mean, positions), source=list(positions))


def attention_entropy(subject: Subject) -> xr.DataArray:
    """How widely each head looks from the last position of the prompt: the mean over all questions of −Σ p ln p.

    From 0 (one position) to the logarithm of the number of positions, in nats.
    """
    return _over_heads(entropy(subject.get(forward).pattern.double()).mean(dim=0))


def number_scores(subject: Subject) -> Float[Tensor, "operand block head element"]:
    """Each head's score from the last position to a number's position, by that number's group element."""
    positions, scores = sources(all_questions(subject)), subject.get(forward).scores.double()
    by_number = [
        reduce(
            over_grid(subject, scores[..., positions[name][0]]),
            f"x y block head -> block head {kept}",
            "mean",
        )
        for name, kept in zip(OPERANDS, ("x", "y"), strict=True)
    ]
    return torch.stack(by_number)


def score_frequencies(
    subject: Subject,
) -> tuple[Float[Tensor, "block head operand"], Float[Tensor, "block head operand"]]:
    """Share and frequency for each head and operand; see `best_frequency`."""
    share, best = best_frequency(subject.get(number_scores))
    order = "operand block head -> block head operand"
    return rearrange(share, order), rearrange(best, order)


def attention_periodicity(subject: Subject) -> xr.DataArray:
    """Share of the variance of a head's score at its best frequency, over the number that it looks at; in [0, 1].

    The score is the one before the softmax, from the last position of the prompt to the position of a, or of b, as a
    function of that number's element in the cyclic group (multiplicative characters for multiply and divide, zeros
    left out). Where it depends on the other number too (in later blocks, and without an "=") it is the mean over it.
    NaN for a score that does not vary.
    """
    return _over_heads(subject.get(score_frequencies)[0], operand=list(OPERANDS))


def attention_frequency(subject: Subject) -> xr.DataArray:
    """The frequency k that has the largest share of a head's score over a number; see attention_periodicity."""
    return _over_heads(subject.get(score_frequencies)[1], operand=list(OPERANDS))


def attention_grid(subject: Subject) -> xr.DataArray:
    """Attention of each head from the last position of the prompt to each source, for every question a, b.

    By number, not by group element; NaN where a question has no answer. See attention_to for the sources.
    """
    task = all_questions(subject)
    positions, questions = sources(task), task.all_questions()
    found = attention_by_source(subject.get(forward).pattern, positions)
    n = task.n_elements
    grid = torch.full((n, n, *found.shape[1:]), torch.nan, dtype=torch.float64, device=found.device)
    a, b = _columns(questions, found.device)
    grid[a, b] = found.double()
    over = rearrange(grid, "a b block head source -> block head source a b")
    numbers = {"a": np.arange(n), "b": np.arange(n)}
    heads = {"block": np.arange(over.shape[0]), "head": np.arange(over.shape[1])}
    return xr.DataArray(over.cpu().numpy(), coords={**heads, "source": list(positions), **numbers})


def _columns(questions: Int[np.ndarray, "batch operands"], device: torch.device) -> tuple[Tensor, Tensor]:
    a, b = torch.from_numpy(questions).to(device).unbind(dim=1)
    return a, b


_HEADS = "Nanda et al. 2023, section 4.1 and appendix C"
ATTENTION_MEASURES = (
    Measure(
        attention_to,
        dims=("block", "head", "source"),
        units="1",
        source=_HEADS,
        why_not=no_list_of_questions,
    ),
    Measure(
        attention_entropy,
        dims=("block", "head"),
        units="nats",
        source="Shannon 1948, section 6",
        why_not=no_rows_of_one,
    ),
    Measure(
        attention_periodicity,
        dims=("block", "head", "operand"),
        units="1",
        source=_HEADS,
        why_not=no_number_tokens,
    ),
    Measure(
        attention_frequency,
        dims=("block", "head", "operand"),
        units="1",
        source=_HEADS,
        why_not=no_number_tokens,
    ),
    Measure(
        attention_grid,
        dims=("block", "head", "source", "a", "b"),
        units="1",
        source=_HEADS,
        why_not=no_list_of_questions,
        cost="dear",
    ),
)
