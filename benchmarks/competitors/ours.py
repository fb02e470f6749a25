"""What this package's trainer runs at each step: the lean forward on stacked parameters, and its own optimizers."""

import sys

import torch
from torch import Tensor

from competitors.base import Setting, TorchCompetitor
from interp_arith.tasks.base import Examples, SampledTask
from interp_arith.tasks.sampling import Limits
from interp_arith.training import ensemble, machine
from interp_arith.training import step as training_step
from interp_arith.training.batches import Batches, Given
from interp_arith.training.compiled import compiled_kernels
from interp_arith.training.optimizers import Number
from interp_arith.training.recorded import Recorded
from interp_arith.training.step import StepReport


class Predrawn(Batches):
    """Batches that were drawn before, in turn."""

    def __init__(self, batches: list[Examples]) -> None:
        self._batches = batches
        self._stacked = Examples(
            torch.stack([batch.tokens for batch in batches]),
            torch.stack([batch.targets for batch in batches]),
            torch.stack([batch.mask for batch in batches]),
        )

    def given(self, step: int, limits: Limits | None) -> None:
        """Nothing."""

    def batch(self, given: Given, step: Number) -> Examples:
        """The batch whose turn it is."""
        if len(self._batches) == 1:
            return self._batches[0]
        turn = step % len(self._batches)
        if not isinstance(turn, Tensor):
            return self._batches[int(turn)]
        return self._stacked.each(lambda x: x.index_select(0, turn.long()[None])[0])

    def rows(self, kept: Tensor) -> "Predrawn":
        """The batches of some of the seeds."""
        return Predrawn([batch.rows(kept) for batch in self._batches])


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
        self._batches = setting.all_batches() if draws else Predrawn(setting.batches())
        self._limits = setting.config.task.limits if isinstance(setting.config.task, SampledTask) else None
        on_cpu = device.type == "cpu"
        self._cores = torch.get_num_threads()
        if on_cpu and setting.seeds > 1:
            torch.set_num_threads(max(1, self._cores // setting.seeds))  # as the trainer does
        self._kernels = training_step.Kernels() if on_cpu else compiled_kernels(_complain)
        self._do = self._update if on_cpu else Recorded(self._update, device, _complain)

    def step(self, index: int) -> Tensor:
        given = self._batches.given(index, self._limits)
        return self._do(given, step=index + 1, multiplier=1.0).loss

    def multiply(self, rows: int, inner: int, columns: int, precision: str) -> None:
        """In the precision that this device multiplies in: float32 where it has no units for bfloat16."""
        rounds = precision == "bf16" and self.setting.device == "cpu" and not machine.multiplies_bfloat16()
        super().multiply(rows, inner, columns, "fp32" if rounds else precision)

    def _update(self, given: Given, *, step: Number, multiplier: Number) -> StepReport:
        config, batch = self.setting.config, self._batches.batch(given, step - 1)
        return training_step.update(
            config,
            self._parameters,
            self._state,
            batch,
            config.task.answer_positions,
            step=step,
            multiplier=multiplier,
            kernels=self._kernels,
            cores=self._cores,
        )


def _complain(message: str) -> None:
    print(message, file=sys.stderr)


def make(setting: Setting, name: str) -> Ours:
    """The competitor: its name says the precision, and whether it draws."""
    precision = next((p for p in ("bf16", "tf32") if p in name), "fp32")
    config = setting.config.replace(precision=precision)
    return Ours(Setting(config, setting.seeds, setting.device), draws="drawing" in name)
