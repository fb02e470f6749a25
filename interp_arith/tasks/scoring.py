"""Loss in float64 and accuracy, at the answer positions only; knows no model.

Every function keeps leading axes, so that an ensemble is scored at once: logits [*seed batch answer
d_vocab_out] with targets and mask [*seed batch answer].
"""

from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

LossName = Literal["softmax", "stablemax"]
_SMALLEST = -70.0  # nats below the largest logit
_COUNTS = 2e-22
"""Of a row's largest exponential: gradients of less would end as numbers so small that a CPU slows down."""


def log_softmax(logits: Float[Tensor, "*axes d_vocab_out"]) -> Float[Tensor, "*axes d_vocab_out"]:
    """Log-probabilities in float64 (in float32 the loss bottoms out near 1e-7 and spikes)."""
    return logits.double().log_softmax(dim=-1)


def log_stablemax(logits: Float[Tensor, "*axes d_vocab_out"]) -> Float[Tensor, "*axes d_vocab_out"]:
    """Log-probabilities s(z)/Σs(z) in float64, with s(z) = z+1 for z ≥ 0, else 1/(1−z).

    Source: Prieto et al. 2025, "Grokking at the edge of numerical stability", definition 4.
    """
    z = logits.double()
    log_s = torch.where(z >= 0, torch.log1p(z.clamp(min=0)), -torch.log1p(-z.clamp(max=0)))
    return log_s - log_s.logsumexp(dim=-1, keepdim=True)


LOG_PROBABILITIES = {"softmax": log_softmax, "stablemax": log_stablemax}


def cross_entropy(
    logits: Float[Tensor, "*seed batch answer d_vocab_out"],
    targets: Int[Tensor, "*seed batch answer"],
    mask: Bool[Tensor, "*seed batch answer"],
    loss: LossName = "softmax",
) -> Float[Tensor, "*seed"]:
    """Mean cross-entropy over the answer tokens where the mask is set: nats per answer token, in float64."""
    return total_cross_entropy(logits, targets, mask, loss) / mask.sum(dim=(-2, -1))


def total_cross_entropy(
    logits: Float[Tensor, "*seed batch answer d_vocab_out"],
    targets: Int[Tensor, "*seed batch answer"],
    mask: Bool[Tensor, "*seed batch answer"],
    loss: LossName = "softmax",
) -> Float[Tensor, "*seed"]:
    """Sum of the cross-entropy over the answer tokens where the mask is set: nats, in float64."""
    if loss == "softmax":
        on_cpu = logits.device.type == "cpu"
        return (_SoftmaxCrossEntropy if on_cpu else _FusedCrossEntropy).apply(logits, targets, mask)
    right = LOG_PROBABILITIES[loss](logits).gather(-1, targets[..., None])[..., 0]
    return -(right * mask).sum(dim=(-2, -1))


class _SoftmaxCrossEntropy(torch.autograd.Function):
    """The sum of −log softmax(z)[target]; its gradient is softmax(z) − one-hot. On a CPU.

    The loss is float64 throughout. Exponentials are kept for the gradient in float32, of float32 logits; how far the
    right answer's probability is from 1 in float64: there float32 would lose what is left of a small loss.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
        top, ids = logits.amax(dim=-1, keepdim=True).double(), targets[..., None]
        right = logits.gather(-1, ids).double() - top
        parts = logits.to(torch.float64, copy=True).sub_(top).exp_()
        total = parts.sum(dim=-1, keepdim=True)
        of_right = parts.gather(-1, ids) - total
        kept = parts.to(torch.promote_types(logits.dtype, torch.float32))
        functional.threshold(kept, _COUNTS, 0.0, inplace=True)
        ctx.save_for_backward(kept, of_right, total, ids, mask)
        ctx.dtype = logits.dtype
        return ((total.log() - right)[..., 0] * mask).sum(dim=(-2, -1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore
        (parts, of_right, total, ids, mask), (gradient,) = ctx.saved_tensors, gradients
        scale = (mask * gradient[..., None, None])[..., None] / total
        slopes = (parts * scale.to(parts.dtype)).scatter_(-1, ids, (of_right * scale).to(parts.dtype))
        return slopes.to(ctx.dtype), None, None


class _FusedCrossEntropy(torch.autograd.Function):
    """The same where kernels are compiled: nothing of the table's size is kept, nothing is scattered.

    A GPU takes long for exponentials and quotients in float64: those of the loss are float32 too, and there is one
    reciprocal a row.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
        top = logits.amax(dim=-1, keepdim=True)
        total = _exponentials(logits, top).double().sum(dim=-1, keepdim=True)
        ctx.save_for_backward(logits, top, total, targets, mask)
        right = logits.gather(-1, targets[..., None]).double() - top.double() - total.log()
        return -(right[..., 0] * mask).sum(dim=(-2, -1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore
        (logits, top, total, targets, mask), (gradient,) = ctx.saved_tensors, gradients
        is_right = targets[..., None] == torch.arange(logits.shape[-1], device=logits.device)
        slopes = _exponentials(logits, top).double() * (1 / total) - is_right.double()
        return (slopes * (mask * gradient[..., None, None])[..., None]).to(logits.dtype), None, None


def _exponentials(
    logits: Float[Tensor, "*axes d_vocab_out"], top: Float[Tensor, "*axes 1"]
) -> Float[Tensor, "*axes d_vocab_out"]:
    """Of the logits less the largest of their row, at least in float32.

    What is too small to count is cut off at e⁻⁷⁰: below e⁻⁸⁷ float32 has few digits left.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return (logits.to(dtype) - top.to(dtype)).clamp_(min=_SMALLEST).exp_()


def token_hits(
    logits: Float[Tensor, "*seed batch answer d_vocab_out"], targets: Int[Tensor, "*seed batch answer"]
) -> Bool[Tensor, "*seed batch answer"]:
    """Whether the largest logit is the right token."""
    return logits.argmax(dim=-1) == targets


def accuracy(
    hits: Bool[Tensor, "*seed batch answer"], mask: Bool[Tensor, "*seed batch answer"]
) -> Float[Tensor, "*seed"]:
    """Share of the masked answer tokens that are right."""
    return (hits & mask).sum(dim=(-2, -1)).double() / mask.sum(dim=(-2, -1))


def exact_match(
    hits: Bool[Tensor, "*seed batch answer"], mask: Bool[Tensor, "*seed batch answer"]
) -> Float[Tensor, "*seed"]:
    """Share of the questions with every masked answer token right (as under greedy decoding).

    A question without a masked token is none.
    """
    is_question = mask.any(dim=-1)
    return ((hits | ~mask).all(dim=-1) & is_question).sum(dim=-1).double() / is_question.sum(dim=-1)


def accuracy_per_digit(
    hits: Bool[Tensor, "*seed batch answer"], mask: Bool[Tensor, "*seed batch answer"]
) -> Float[Tensor, "*seed answer"]:
    """Share of right tokens at each answer position; NaN where the loss counts nowhere."""
    return (hits & mask).sum(dim=-2).double() / mask.sum(dim=-2)
