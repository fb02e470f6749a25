"""What this package's trainer runs at each step: the lean forward on stacked parameters, and its own AdamW."""

import torch
from torch import Tensor

from competitors.base import Setting, TorchCompetitor
from interp_arith.tasks.base import Examples
from interp_arith.training import ensemble, machine, step


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
        self._state = step.initial_state(setting.config, self._parameters)
        self._batches = setting.batches()
        self._sources = setting.sources() if draws else []

    def step(self, index: int) -> Tensor:
        config = self.setting.config
        report = step.update(
            config,
            self._parameters,
            self._state,
            self._batch(index),
            config.task.answer_positions,
            step=index + 1,
            multiplier=1.0,
        )
        return report.loss

    def _batch(self, index: int) -> Examples:
        if self._sources and len(self._batches) > 1:
            return self.setting.draw(self._sources, index)
        return self._batches[index % len(self._batches)]


def make(setting: Setting, name: str) -> Ours:
    """The competitor: its name says the precision, and whether it draws."""
    precision = "bf16" if "bf16" in name else "fp32"
    config = setting.config.replace(precision=precision)
    return Ours(Setting(config, setting.seeds, setting.device), draws="drawing" in name)
