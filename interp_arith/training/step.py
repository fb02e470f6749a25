"""One update of an ensemble: a function of stacked parameters and a batch; knows no loop and no files."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp_arith.models.rounding import rounded_factors
from interp_arith.tasks import scoring
from interp_arith.tasks.base import Examples
from interp_arith.training import ensemble, machine
from interp_arith.training.config import RunConfig
from interp_arith.training.optimizers import Number, clip_by_norm, global_norm
from interp_arith.training.side_by_side import side_by_side, workers_on

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}
_SCALE, _GOOD_STEPS = "loss_scale", "good_steps"
_GROWTH_INTERVAL = 2000
_SMALL = 1 << 20
"""Numbers that the residual stream of a part of a seed's batch has, at most, where a CPU computes seeds together."""
_AT_ONCE = 1 << 26
"""The same of all seeds that a CPU computes side by side: what their gradients need is some 4 GB."""
_WORTH_TWO_PARTS = 4
"""Small seeds; of fewer, more is lost by what Python does twice than is gained."""


@dataclass(frozen=True)
class StepReport:
    """What one update saw, for every seed.

    Attributes:
        loss: on the batch, before the update; nats per answer token.
        gradient_norm: before clipping.
        largest_logit: the greatest absolute logit of the batch.
    """

    loss: Float[Tensor, " seed"]
    gradient_norm: Float[Tensor, " seed"]
    largest_logit: Float[Tensor, " seed"]

    def columns(self) -> dict[str, Float[Tensor, " seed"]]:
        """The report as logged metrics."""
        return {
            "batch_loss": self.loss,
            "gradient_norm": self.gradient_norm,
            "largest_logit": self.largest_logit,
        }

    @staticmethod
    def joined(reports: "Sequence[StepReport]") -> "StepReport":
        """Reports of some seeds each, as one."""
        columns = zip(*((r.loss, r.gradient_norm, r.largest_logit) for r in reports), strict=True)
        return StepReport(*(torch.cat(column) for column in columns))

    def rows(self, kept: Bool[Tensor, " seed"]) -> "StepReport":
        """The report of some of the seeds."""
        return StepReport(self.loss[kept], self.gradient_norm[kept], self.largest_logit[kept])


Forward = Callable[..., tuple[Float[Tensor, " seed"], Float[Tensor, " seed"]]]
"""`losses`, computed in some way."""
Apply = Callable[..., Float[Tensor, " seed"]]
"""`apply`, computed in some way."""


def losses(
    config: RunConfig,
    parameters: Mapping[str, Float[Tensor, "seed ..."]],
    batch: Examples,
    answer_positions: Sequence[int],
    mapped: bool | None = None,
) -> tuple[Float[Tensor, " seed"], Float[Tensor, " seed"]]:
    """The sum of the loss over a batch, in nats, and the largest absolute logit of every seed."""
    with _precision(config, batch.tokens.device):
        ids = config.model.positions.ids(config.task, batch.tokens, batch.offset)
        # What sums of table rows hold is more than the range of fp16.
        asker = None if config.precision == "fp16" else config.task.asking_token
        out = ensemble.logits(config.model, parameters, batch.tokens, answer_positions, mapped, ids, asker)
    loss = scoring.total_cross_entropy(out, batch.targets, batch.mask, config.loss)
    out = out.detach()
    return loss, torch.maximum(out.amax(dim=(1, 2, 3)), -out.amin(dim=(1, 2, 3)))


def apply(
    config: RunConfig,
    parameters: Mapping[str, Float[Tensor, "seed ..."]],
    gradients: Mapping[str, Float[Tensor, "seed ..."]],
    state: Mapping[str, Float[Tensor, "seed ..."]],
    *,
    step: Number,
    multiplier: Number,
) -> Float[Tensor, " seed"]:
    """Clip the gradients and update parameters and state with them, in place; the norms before clipping."""
    norm = global_norm(gradients) if config.clip_norm is None else clip_by_norm(gradients, config.clip_norm)
    if config.precision != "fp16":
        config.optimizer.update(parameters, gradients, state, step=step, multiplier=multiplier)
    else:
        _update_where_finite(config, parameters, gradients, state, norm.isfinite(), step, multiplier)
    return norm


@dataclass(frozen=True)
class Kernels:
    """How the two halves of an update are computed: as they are, or compiled.

    Attributes:
        losses: forward pass and loss.
        apply: what is done with the gradients, where step and multiplier are tensors.
    """

    losses: Forward = losses
    apply: Apply = apply


def initial_state(config: RunConfig, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The optimizer's state, and in fp16 each seed's loss scale."""
    state = config.optimizer.initial_state(parameters)
    if config.precision == "fp16":
        first = next(iter(parameters.values()))
        state[_SCALE] = torch.full((len(first),), 2.0**16, device=first.device)
        state[_GOOD_STEPS] = torch.zeros(len(first), device=first.device)
    return state


def update(
    config: RunConfig,
    parameters: Mapping[str, Float[Tensor, "seed ..."]],
    state: Mapping[str, Float[Tensor, "seed ..."]],
    batch: Examples,
    answer_positions: Sequence[int],
    *,
    step: Number,
    multiplier: Number,
    kernels: Kernels = Kernels(),
    cores: int = 1,
) -> StepReport:
    """Make update number `step` (from 1) in place, each seed by itself.

    On a CPU seeds are updated side by side where PyTorch has fewer threads than there are `cores`, each to the bit as
    alone.

    Args:
        config: loss, precision, clipping, accumulation and optimizer.
        parameters: stacked.
        state: of initial_state, stacked.
        batch: every seed's questions, with a leading seed axis.
        answer_positions: the task's.
        step: which update this is.
        multiplier: of the learning rate.
        kernels: how.
        cores: of a CPU, that all seeds may use; by default they are updated one after the other.
    """

    def updated(
        at: Mapping[str, Tensor],
        parameters: Mapping[str, Tensor],
        state: Mapping[str, Tensor],
        batch: Examples,
    ) -> StepReport:
        """Of all seeds of a batch, with the gradients at some weights: the parameters, or copies of them."""
        with _products(config):
            loss, largest, gradients = _gradients(
                config, at, batch, answer_positions, state.get(_SCALE), kernels.losses
            )
        finish = kernels.apply if isinstance(step, Tensor) else apply
        norm = finish(config, parameters, gradients, state, step=step, multiplier=multiplier)
        return StepReport(loss, norm, largest)

    parts, workers = _parts_and_workers(config, parameters, batch, workers_on(cores))
    if len(parts) == 1 or kernels.losses is not losses:
        return updated(parameters, parameters, state, batch)
    is_alone = len(parts) == len(batch.tokens)

    def updated_part(part: slice) -> StepReport:
        # `data` counts its changes by itself: autograd would take those of other parts for changes of this one.
        own = {name: x.data for name, x in parameters.items()}
        weights, memory = ({name: x[part] for name, x in of_all.items()} for of_all in (own, state))
        at = ensemble.alone(own, part.start) if is_alone else weights
        return updated(at, weights, memory, batch.rows(part))

    return StepReport.joined(side_by_side(updated_part, parts, workers))


def _parts_and_workers(
    config: RunConfig, parameters: Mapping[str, Tensor], batch: Examples, most_workers: int
) -> tuple[list[slice], int]:
    """The seeds that are computed together, part by part, and of how many parts at once.

    A GPU takes all together. A CPU takes a large seed alone, since the memory that its gradients need is then near at
    hand, and no more side by side than it has memory for. Small seeds wait for Python's calls, and so they are
    computed together, in two parts side by side: a third would find Python busy.
    """
    n_seeds, n_questions = batch.tokens.shape[:2]
    if batch.tokens.device.type != "cpu":
        return [slice(0, n_seeds)], 1
    kept = batch.tokens[0].numel() * config.model.d_model // config.accumulation
    size = sum(p[0].numel() for p in parameters.values())
    if kept > _SMALL or machine.operations_of(config, size, n_questions) > machine.WORTH_A_THREAD:
        each = [slice(seed, seed + 1) for seed in range(n_seeds)]
        return each, min(most_workers, max(1, _AT_ONCE // kept))
    if most_workers < 2 or n_seeds < _WORTH_TWO_PARTS:
        return [slice(0, n_seeds)], 1
    return [slice(0, n_seeds // 2), slice(n_seeds // 2, n_seeds)], 2


def _gradients(
    config: RunConfig,
    parameters: Mapping[str, Tensor],
    batch: Examples,
    answer_positions: Sequence[int],
    scale: Float[Tensor, " seed"] | None,
    forward: Forward = losses,
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Loss, largest logit and gradients of the whole batch, computed in `accumulation` parts."""
    leaves = {name: p.detach().requires_grad_() for name, p in parameters.items()}
    total = batch.mask.sum(dim=(-2, -1))
    parts_of_loss, largest, sums = [], [], None
    for part in _parts(batch, config.accumulation):
        sum_of_losses, logit = forward(config, leaves, part, answer_positions)
        loss = sum_of_losses / total
        wanted = (loss if scale is None else loss * scale).sum()
        parts = torch.autograd.grad(wanted, list(leaves.values()))
        sums = list(parts) if sums is None else torch._foreach_add(sums, parts)
        parts_of_loss.append(loss.detach())
        largest.append(logit.detach())
    assert sums is not None
    if scale is not None:
        sums = [g / scale.view(-1, *[1] * (g.ndim - 1)) for g in sums]
    gradients = dict(zip(leaves, sums, strict=True))
    return ensemble.add_up(parts_of_loss), torch.stack(largest).amax(dim=0), gradients


def _parts(batch: Examples, n: int) -> list[Examples]:
    n = min(n, batch.tokens.shape[1])
    if n == 1:
        return [batch]
    return [batch.each(lambda x, part=part: x.tensor_split(n, dim=1)[part]) for part in range(n)]


def _precision(config: RunConfig, device: torch.device) -> AbstractContextManager:
    if config.precision not in PRECISIONS:
        return nullcontext()
    if config.precision == "bf16" and device.type == "cpu" and not machine.multiplies_bfloat16():
        return rounded_factors()
    return torch.autocast(device.type, dtype=PRECISIONS[config.precision])


@contextmanager
def _products(config: RunConfig) -> Iterator[None]:
    """Products of float32 matrices in TF32 where the config says so."""
    if config.precision != "tf32":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _update_where_finite(
    config: RunConfig,
    parameters: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    finite: Bool[Tensor, " seed"],
    step: Number,
    multiplier: Number,
) -> None:
    """Update the seeds whose gradients are finite; the others skip the step and halve their loss scale.

    A scale doubles after 2,000 good steps (Micikevicius et al. 2018, "Mixed precision training").
    """
    scale, good = state[_SCALE].clone(), state[_GOOD_STEPS].clone()
    before = {name: tensor.clone() for part in (parameters, state) for name, tensor in part.items()}
    config.optimizer.update(parameters, gradients, state, step=step, multiplier=multiplier)
    for part in (parameters, state):
        for name, tensor in part.items():
            keep = finite.view(-1, *[1] * (tensor.ndim - 1))
            tensor.copy_(torch.where(keep, tensor, before[name]))
    grown = good + 1 >= _GROWTH_INTERVAL
    state[_SCALE].copy_(torch.where(finite, torch.where(grown, scale * 2, scale), scale / 2))
    state[_GOOD_STEPS].copy_(torch.where(finite & ~grown, good + 1, torch.zeros_like(good)))
