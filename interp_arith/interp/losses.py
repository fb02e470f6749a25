"""Losses and accuracies of a model on the splits of its task, and how many rows have no loss left in float32."""

from collections.abc import Callable

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from interp_arith.evaluation.decoding import answer_logits
from interp_arith.interp.base import Measure, Subject
from interp_arith.interp.forward import forward, in_eval_mode, row_of
from interp_arith.models.config import ModelConfig
from interp_arith.tasks import scoring
from interp_arith.tasks.base import Examples, SampledTask, Task
from interp_arith.tasks.pairs import PairTask
from interp_arith.tasks.sampling import SplitName

Scored = tuple[Float[Tensor, "batch answer d_vocab_out"], Examples]


def no_questions(split: SplitName) -> Callable[[Task, ModelConfig], str | None]:
    """Why a task has no questions in a split that a loss could be taken over."""

    def why_not(task: Task, model: ModelConfig) -> str | None:
        if split == "train" and isinstance(task, SampledTask):
            return f"the training questions of the {task.kind} task are drawn anew at every step"
        return None if len(task.split(split)) else f"the {task.kind} task as it is has no {split} questions"

    return why_not


def train_answers(subject: Subject) -> Scored:
    """Logits at the answer positions of the training questions, and what is right there."""
    return _answers(subject, "train")


def val_answers(subject: Subject) -> Scored:
    """Logits at the answer positions of the validation questions, and what is right there."""
    return _answers(subject, "val")


def test_answers(subject: Subject) -> Scored:
    """Logits at the answer positions of the test questions, and what is right there."""
    return _answers(subject, "test")


test_answers.__test__ = False  # pyright: ignore[reportFunctionMemberAccess] # no test case, whatever its name


def _answers(subject: Subject, split: SplitName) -> Scored:
    task, questions = subject.task, subject.task.split(split)
    examples = task.examples(questions)
    if isinstance(task, PairTask) and len(task.answer_positions) == 1:
        passed = subject.get(forward).logits
        logits = passed[torch.from_numpy(row_of(task, questions)).to(passed.device), None]
    else:
        with in_eval_mode(subject.model):
            logits = answer_logits(subject.model, examples, task.answer_positions)
    return logits, examples.to(logits.device)


def _loss(scored: Scored) -> xr.DataArray:
    logits, examples = scored
    return xr.DataArray(scoring.cross_entropy(logits, examples.targets, examples.mask).item())


def _accuracy(scored: Scored) -> xr.DataArray:
    logits, examples = scored
    return xr.DataArray(scoring.accuracy(scoring.token_hits(logits, examples.targets), examples.mask).item())


def train_loss(subject: Subject) -> xr.DataArray:
    """Mean cross-entropy over the answer tokens of the training questions, in float64; nats per answer token."""
    return _loss(subject.get(train_answers))


def val_loss(subject: Subject) -> xr.DataArray:
    """Mean cross-entropy over the answer tokens of the validation questions, in float64; nats per answer token."""
    return _loss(subject.get(val_answers))


def test_loss(subject: Subject) -> xr.DataArray:
    """Mean cross-entropy over the answer tokens of the test questions, in float64; nats per answer token."""
    return _loss(subject.get(test_answers))


def train_accuracy(subject: Subject) -> xr.DataArray:
    """Share of the answer tokens of the training questions whose logit is largest, each after the right ones."""
    return _accuracy(subject.get(train_answers))


def val_accuracy(subject: Subject) -> xr.DataArray:
    """Share of the answer tokens of the validation questions whose logit is largest, each after the right ones."""
    return _accuracy(subject.get(val_answers))


def test_accuracy(subject: Subject) -> xr.DataArray:
    """Share of the answer tokens of the test questions whose logit is largest, each after the right ones."""
    return _accuracy(subject.get(test_answers))


def softmax_collapse(subject: Subject) -> xr.DataArray:
    """Share of the training questions whose loss, computed in float32, is exactly 0: they no longer have a gradient.

    The loss is −log softmax of the float32 logits; of an answer of several tokens every one must be 0. In [0, 1].
    """
    logits, examples = subject.get(train_answers)
    losses = -logits.float().log_softmax(dim=-1).gather(-1, examples.targets[..., None])[..., 0]
    return xr.DataArray(((losses == 0) | ~examples.mask).all(dim=-1).double().mean().item())


_LOSS = "Power et al. 2022; in float64 after Nanda et al. 2023"
_SPLIT = frozenset({"split"})
LOSS_MEASURES = (
    Measure(train_loss, (), "nats", _LOSS, no_questions("train"), _SPLIT, "cheap"),
    Measure(val_loss, (), "nats", _LOSS, no_questions("val"), _SPLIT, "cheap"),
    Measure(test_loss, (), "nats", _LOSS, no_questions("test"), _SPLIT, "cheap"),
    Measure(train_accuracy, (), "1", _LOSS, no_questions("train"), _SPLIT, "cheap"),
    Measure(val_accuracy, (), "1", _LOSS, no_questions("val"), _SPLIT, "cheap"),
    Measure(test_accuracy, (), "1", _LOSS, no_questions("test"), _SPLIT, "cheap"),
    Measure(
        softmax_collapse, (), "1", "Prieto et al. 2025, section 3", no_questions("train"), _SPLIT, "cheap"
    ),
)
