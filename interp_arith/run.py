"""Run: a run directory, typed, and the ways to find one; trains nothing."""

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor

from interp_arith import models
from interp_arith.errors import RequestError, WorkError, unknown
from interp_arith.evaluation.asking import with_digits_of
from interp_arith.evaluation.decoding import greedy_answers
from interp_arith.files import DamagedFileError, read_yaml
from interp_arith.interp.activations import MODEL, Asked, Upto
from interp_arith.interp.base import Measure
from interp_arith.interp.measures import MEASURES
from interp_arith.interp.phases import phases
from interp_arith.kept import fixed_keys_of, kept_measures, measure_checkpoints
from interp_arith.kept_activations import IN_MEMORY, take_activations
from interp_arith.run_card import run_card
from interp_arith.storage import SHIPPED, Checkpoint, RunDirectory
from interp_arith.tasks.addition import Addition
from interp_arith.tasks.base import Questions, Task
from interp_arith.tasks.pairs import PairTask
from interp_arith.training.config import RunConfig
from interp_arith.training.machine import pick_device

if TYPE_CHECKING:
    from interp_arith.models.transformer import ArithmeticTransformer

Step = int | Literal["last", "best"]
PHASE_CURVES = ("train_accuracy", "test_loss", "restricted_loss")
"""The measures from which the phases are read."""


class Run:
    """A run directory, read.

    Args:
        path: the directory.

    Raises:
        RequestError: there is no run at the path.
    """

    def __init__(self, path: str | Path) -> None:
        self.directory = RunDirectory(Path(path))
        if not self.directory.exists:
            raise RequestError(
                f"{path} is no run: it has no config.yaml; `interp-arith runs` lists what there is"
            )
        self.config = load_config(self.directory.config_file)

    @property
    def task(self) -> Task:
        """What was learnt, with the split that was used."""
        return self.config.task

    def __repr__(self) -> str:
        steps = self.steps
        kept = f"{len(steps)} checkpoints to step {steps[-1]}" if steps else "no checkpoint"
        return f"Run({self._address}: {self.status}, {kept})"

    def _repr_html_(self) -> str:
        checkpoints = self.directory.checkpoints()
        return run_card(self.config, checkpoints, self.name, self.status, str(self._address))

    @property
    def _address(self) -> str | Path:
        """What load_run finds it by: a shipped run has its name, wherever the package lies."""
        return self.name if self.path.parent == SHIPPED else self.path

    @property
    def path(self) -> Path:
        """Where the run is."""
        return self.directory.path

    @property
    def name(self) -> str:
        """What it is called: the folder's name."""
        return self.directory.name

    @property
    def info(self) -> dict[str, Any]:
        """run.json: status, versions, device, seconds, summary."""
        return self.directory.read_info()

    @property
    def status(self) -> str:
        """finished, interrupted, failed, running, or stopped (it says running, and nobody writes it)."""
        return self.directory.status

    @property
    def steps(self) -> list[int]:
        """The steps of the trajectory."""
        return [checkpoint.step for checkpoint in self.directory.checkpoints()]

    @property
    def metrics(self) -> pd.DataFrame:
        """Everything that was logged, a row a step."""
        return pd.DataFrame(self.directory.read_metrics())

    def checkpoint(self, step: Step = "last") -> Checkpoint:
        """The checkpoint of a step; its metrics among its fields.

        Raises:
            RequestError: there is none; the message says which there are.
        """
        trajectory, step = self.directory.checkpoints(), parse_step(str(step))
        if step == "best":
            best = self.directory.best()
            if not best:
                raise RequestError(f"{self.path} keeps no best checkpoint; ask for 'last', or for a step")
            return best[0]
        if not trajectory:
            raise RequestError(f"{self.path} has no checkpoint yet")
        if step == "last":
            return trajectory[-1]
        found = next((c for c in trajectory if c.step == step), None)
        if found is None:
            steps = ", ".join(map(str, sorted(self.steps, key=lambda s: abs(s - int(step)))[:5]))
            raise RequestError(f"{self.path} has no checkpoint at step {step}; the nearest are at {steps}")
        return found

    def weights(self, step: Step = "last") -> dict[str, Tensor]:
        """The trained parameters of a step; see whole_checkpoint."""
        return self.whole_checkpoint(step)[1]

    def whole_checkpoint(self, step: Step = "last") -> tuple[Checkpoint, dict[str, Tensor]]:
        """A checkpoint and its weights, their hash checked.

        If the last checkpoint is damaged, a warning names it and the newest whole one before it is used.

        Raises:
            DamagedFileError: the file of the step that was asked for is missing or altered.
        """
        wanted = self.checkpoint(step)
        if step != "last":
            return wanted, self.directory.read_weights(wanted)
        for checkpoint in reversed(self.directory.checkpoints()):
            try:
                return checkpoint, self.directory.read_weights(checkpoint)
            except DamagedFileError as error:
                warnings.warn(f"{error}; the checkpoint before it is used", stacklevel=3)
        raise DamagedFileError(f"{self.path}: every checkpoint is damaged")

    def model(self, step: Step = "last", device: str | torch.device = "cpu") -> "ArithmeticTransformer":
        """The model of a step, in eval mode."""
        return self.model_of(self.weights(step)).to(device, print_details=False)

    def model_of(self, weights: dict[str, Tensor]) -> "ArithmeticTransformer":
        """The run's model with these weights, in eval mode."""
        model = models.build_model(self.config.model, self.task)
        model.load_state_dict(weights)
        return model.eval()

    def add(self, a: int, b: int, step: Step = "last") -> int:
        """a + b as the model answers, greedily.

        Args:
            a: a whole number, no longer than the task's; where numbers are not padded, as long as positions go.
            b: likewise.
            step: as in `model`.

        Raises:
            RequestError: the run's task does not add two numbers, or these are none that it knows.
            WorkError: what the model writes is no number.
        """
        task = self.task
        if not isinstance(task, Addition) or task.operation == "subtract" or task.operands != 2:
            raise RequestError(
                f"{self.path}: its task does not add two whole numbers; ask it with `interp-arith generate`"
            )
        question, model = f"{a}+{b}=", self.model(step)
        asked = with_digits_of(model, task, question)
        answer = asked.read_answer(greedy_answers(model, asked, [question]))[0]
        if not re.fullmatch(r"[+-]?[0-9]+", answer):
            raise WorkError(
                f"{question} is answered {answer!r}, which is no number; a model of a later step may have learnt it"
            )
        return int(answer)

    def measure(
        self,
        names: Iterable[str] | None = None,
        steps: Iterable[int] | None = None,
        device: str = "auto",
    ) -> xr.Dataset:
        """Measures over the trajectory, one variable each, with a `step` dim; kept in the run, so taken once.

        The key frequencies are those of the last checkpoint, at every step.

        Args:
            names: of MEASURES, or "phases"; all that apply and are not dear, unless given.
            steps: of the trajectory; all, unless given. Phases are of the whole trajectory, whatever is given.
            device: as in train.

        Raises:
            RequestError: a name is unknown or its measure does not apply, or there is no checkpoint at a step.
            WorkError: none of the checkpoints is whole.
        """
        wanted = [names] if isinstance(names, str) else None if names is None else list(dict.fromkeys(names))
        with_phases = wanted is None or "phases" in wanted
        named = None if wanted is None else [name for name in wanted if name != "phases"]
        chosen = MEASURES.chosen(named, self.task, self.config.model)
        curves = [MEASURES[name] for name in PHASE_CURVES]
        reason = next((why for m in curves if (why := m.why_not(self.task, self.config.model))), None)
        if wanted is not None and with_phases and reason is not None:
            raise RequestError(f"phases does not apply: {reason}")
        kept = partial(self._kept, device=device)
        dataset = kept(chosen, self._checkpoints(steps))
        if chosen and not dataset.sizes.get("step"):
            raise WorkError(f"{self.path}: no checkpoint at these steps is whole; measure others")
        if with_phases and reason is None:
            over_all = kept(curves, self._checkpoints(None))
            dataset["phases"] = phases(
                over_all["train_accuracy"],
                over_all["test_loss"],
                over_all["restricted_loss"].sel(variant="sum", split="all", drop=True),
            )
        return dataset.assign_attrs(run=self.name, seed=self.config.seed)

    def kept(self, names: Iterable[str]) -> dict[str, xr.DataArray]:
        """Those measures of which the run keeps something that still holds, over the steps that it has; takes none.

        Args:
            names: of MEASURES.

        Raises:
            RequestError: a name is unknown or its measure does not apply.
        """
        chosen = MEASURES.chosen(names, self.task, self.config.model)
        on_keys = any("keys" in m.rests_on for m in chosen)
        last = self.directory.checkpoints()[-1:] if on_keys else []
        keys = fixed_keys_of(self.directory, last[0], self.task, self.model) if last else None
        return kept_measures(self.directory, self.directory.checkpoints(), self.task, chosen, keys)

    def activations(
        self,
        questions: Questions,
        hooks: str | Iterable[str],
        steps: Step | Iterable[Step] | None = None,
        upto: Upto = "question",
        device: str = "auto",
        in_memory: int = IN_MEMORY,
    ) -> xr.Dataset:
        """What passes at hooks over the trajectory, a variable each; `to_cache(step)` is TransformerLens' cache.

        Dims are step, question, and the hook's own: position, head, query, key, neuron, d_model, d_head, …;
        coordinates are the questions as text and the token at every position. Numbers are as the model has them,
        without a unit. Where they take more than `in_memory`, they are written to the run, a batch at a time and only
        what is not there yet; what is given then reads from there what is looked at, and holds none of it.

        Args:
            questions: strings, or rows of integers; see tasks/base.py.
            hooks: names of TransformerLens, or patterns such as "blocks.*.attn.hook_pattern".
            steps: one of the trajectory or several, "last" and "best" among them; all, unless given.
            upto: where what the model reads ends: with the question, or with its right answer.
            device: as in train.
            in_memory: bytes; 0 keeps every request in the run.

        Raises:
            RequestError: there is no such hook, step or question, or not the room for them.
            DamagedFileError: the weights of a step that was asked for are missing or altered; where no steps are
                given, it is left out with a warning.

        >>> run.activations(["23+45="], "blocks.*.attn.hook_pattern", steps=[0, 400])  # doctest: +SKIP
        """
        asked = Asked(self.task, questions, upto)
        checkpoints = self._whole_checkpoints(steps)
        model_of = partial(self._model_of, pick_device(device))
        found = take_activations(self.directory, checkpoints, model_of, asked, hooks, in_memory)
        found.encoding[MODEL] = partial(self._model_of_step, {c.step: c for c in checkpoints})
        return found.assign_attrs(run=self.name, seed=self.config.seed)

    def _model_of(self, device: torch.device, checkpoint: Checkpoint) -> "ArithmeticTransformer":
        return self.model_of(self.directory.read_weights(checkpoint)).to(device, print_details=False)

    def _model_of_step(self, checkpoints: Mapping[int, Checkpoint], step: int) -> "ArithmeticTransformer":
        return self.model_of(self.directory.read_weights(checkpoints[step]))

    def _whole_checkpoints(self, steps: Step | Iterable[Step] | None) -> list[Checkpoint]:
        """The checkpoints of these steps, by step, their hashes checked; of all steps, those that are whole."""
        if steps is not None:
            wanted = [steps] if isinstance(steps, int | np.integer | str) else list(steps)
            if not wanted:
                raise RequestError("steps: none given; leave them out for all, or name some of run.steps")
            whole = [self.whole_checkpoint(parse_step(str(step)))[0] for step in wanted]
        else:
            self.checkpoint()  # refuses a run that has none
            whole = []
            for checkpoint in self.directory.checkpoints():
                try:
                    self.directory.read_weights(checkpoint)
                    whole.append(checkpoint)
                except DamagedFileError as error:
                    warnings.warn(f"{error}; step {checkpoint.step} is left out", stacklevel=3)
            if not whole:
                raise WorkError(f"{self.path} has no whole checkpoint; train on, or take another run")
        by_step = {checkpoint.step: checkpoint for checkpoint in whole}
        return [by_step[step] for step in sorted(by_step)]

    def _checkpoints(self, steps: Iterable[int] | None) -> list[Checkpoint]:
        if steps is None:
            return self.directory.checkpoints()
        return [self.checkpoint(step) for step in sorted(set(steps))]

    def _kept(
        self, measures: Sequence[Measure], checkpoints: Sequence[Checkpoint], device: str
    ) -> xr.Dataset:
        """The measures at the checkpoints, taken where they are not kept."""
        with warnings.catch_warnings():
            if self.checkpoint() in checkpoints:  # then it is named below
                warnings.simplefilter("ignore")
            last, weights = self.whole_checkpoint()
        model = self.model_of(weights).to(pick_device(device), print_details=False)
        keys = None
        if any("keys" in m.rests_on for m in measures):
            keys = fixed_keys_of(self.directory, last, self.task, lambda: model)

        def weights_of(checkpoint: Checkpoint) -> dict[str, Tensor] | None:
            try:
                return self.directory.read_weights(checkpoint)
            except DamagedFileError as error:
                warnings.warn(f"{error}; step {checkpoint.step} is left out", stacklevel=2)
                return None

        return measure_checkpoints(
            self.directory, checkpoints, model, weights_of, self.task, measures, keys, last
        )


def load_config(file: str | Path) -> RunConfig:
    """A RunConfig from a YAML file, with the split.npy that stands beside a run's.

    Raises:
        RequestError: no such file, no YAML, or a field is wrong.
    """
    config = RunConfig.model_validate(read_yaml(Path(file)))
    mask = RunDirectory(Path(file).parent).read_split()
    if mask is None or not isinstance(config.task, PairTask):
        return config
    return config.replace(task=config.task.with_split(mask))


def load_run(path: str | Path) -> Run:
    """A run by its path, or by its name in runs/ or among the shipped checkpoints.

    Raises:
        RequestError: there is no such run (with the nearest names).
    """
    for candidate in (Path(path), Path("runs") / path, SHIPPED / path):
        if RunDirectory(candidate).exists:
            return Run(candidate)
    if Path(path).exists():
        return Run(path)
    names = [run.name for folder in (Path("runs"), SHIPPED) for run in find_runs(folder)]
    if not names:
        raise RequestError(f"no run at {path}; train one with `interp-arith train mod-add-113`")
    raise unknown("run", str(path), names)


def find_runs(folder: str | Path) -> list[Run]:
    """Every run in a folder, by name; what cannot be read is left out with a warning."""
    found = []
    for path in sorted(Path(folder).glob("*")):
        if not RunDirectory(path).exists:
            continue
        try:
            found.append(Run(path))
        except (RequestError, WorkError) as error:
            warnings.warn(f"{path} is left out: {error}", stacklevel=2)
    return found


def parse_step(step: str) -> Step:
    """ "last", "best", or a step's number."""
    if step in ("last", "best"):
        return step  # pyright: ignore[reportReturnType]
    if not step.isdecimal():
        raise RequestError(f"step {step!r}; allowed: a whole number, 'last' or 'best'")
    return int(step)
