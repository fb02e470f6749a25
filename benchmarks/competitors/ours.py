"""What this package's trainer runs at each step: the lean forward on stacked parameters, and its own AdamW."""

import sys

import torch
from torch import Tensor

from competitors.base import Setting, TorchCompetitor
from interp_arith.tasks.base import Examples
from interp_arith.training import ensemble, machine
from interp_arith.training import step as training_step
from interp_arith.training.optimizers import Number
from interp_arith.training.recorded import Recorded
from interp_arith.training.step import StepReport


class Ours(TorchCompetitor):
    """`training.step.update`, in the precision of the config.

    Args:
        setting: what is trained.
        draws: draw the questions of each step within it, as the trainer does.
    """

    def __init__(self, setting: Setting, draws: bool) -> None:
        super().__init__(setting)
        device = torch.device(setting.device)
        if device.type == "cpu":
            machine.keep_memory()  # as the trainer does
        weights = ensemble.stack(setting.weights())
        self._parameters = {name: tensor.to(device) for name, tensor in weights.items()}
        self._state = training_step.initial_state(setting.config, self._parameters)
        self._batches = setting.batches()
        self._sources = setting.sources() if draws else []

        self._do = self._update if device.type == "cpu" else Recorded(self._update, _complain)

    def step(self, index: int) -> Tensor:
        return self._do(self._batch(index), step=index + 1, multiplier=1.0).loss

    def _update(self, batch: Examples, *, step: Number, multiplier: Number) -> StepReport:
        config = self.setting.config
        return training_step.update(
            config,
            self._parameters,
            self._state,
            batch,
            config.task.answer_positions,
            step=step,
            multiplier=multiplier,
        )

    def _batch(self, index: int) -> Examples:
        if self._sources and len(self._batches) > 1:
            return self.setting.draw(self._sources, index)
        return self._batches[index % len(self._batches)]


def _complain(message: str) -> None:
    print(message, file=sys.stderr)


def make(setting: Setting, name: str) -> Ours:
    """The competitor: its name says the precision, and whether it draws."""
    precision = "bf16" if "bf16" in name else "fp32"
    config = setting.config.replace(precision=precision)
    return Ours(Setting(config, setting.seeds, setting.device), draws="drawing" in name)
