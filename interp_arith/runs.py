"""Run: a run directory, typed; and the calls that make, find, train and evaluate runs."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor

from interp_arith.errors import RequestError, WorkError, unknown
from interp_arith.evaluation.protocols import PROTOCOLS
from interp_arith.figures.curves import training_curves, write_html
from interp_arith.files import DamagedFileError, read_yaml
from interp_arith.models.transformer import ArithmeticTransformer, build_model
from interp_arith.presets import preset
from interp_arith.storage import Checkpoint, RunDirectory
from interp_arith.tasks.base import Task
from interp_arith.tasks.pairs import PairTask
from interp_arith.tasks.sources import question_sets
from interp_arith.training.config import RunConfig
from interp_arith.training.lanes import fresh_weights
from interp_arith.training.machine import pick_device
from interp_arith.training.sinks import TRACKERS, LiveTable, Sink, make_tracker
from interp_arith.training.trainer import Trainer

Step = int | Literal["last", "best"]
SHIPPED = Path(__file__).parent.parent / "checkpoints"
"""Trained runs that come with the repository."""


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
        return f"Run({self.path}: {self.status}, {kept})"

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
        status = self.info.get("status", "running")
        return "stopped" if status == "running" and not self.directory.is_locked else status

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

    def model(self, step: Step = "last", device: str | torch.device = "cpu") -> ArithmeticTransformer:
        """The model of a step, in eval mode."""
        return self._model(self.weights(step)).to(device, print_details=False)

    def _model(self, weights: dict[str, Tensor]) -> ArithmeticTransformer:
        model = build_model(self.config.model, self.task)
        model.load_state_dict(weights)
        return model.eval()


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


def train(
    config: RunConfig | str,
    seed: int | None = None,
    out: str | Path = "runs",
    name: str | None = None,
    device: str = "auto",
    resume: bool = False,
    track: str | None = None,
    progress: bool = True,
) -> Run:
    """Train one run.

    Args:
        config: a RunConfig, or a preset's name.
        seed: of weights, split and draws; the config's own if None.
        out: the folder of runs.
        name: what to call the run, the seed added; the config's own name if None.
        device: "auto" takes a GPU where there is one; "cpu", "cuda".
        resume: go on with the run if it exists; a finished one is returned as it is.
        track: "wandb" or "tensorboard" besides the run directory.
        progress: show the live table.

    Raises:
        RequestError: something about the request is wrong; nothing is written.
        Interrupted: SIGINT or SIGTERM; everything is saved.
        WorkError: the loss is not finite, or the disk is full; what was saved stands.
    """
    config = _named(config, name)
    configs = [config if seed is None else config.with_seed(seed)]
    return train_configs(configs, out, device, resume, track, progress)[0]


def train_seeds(
    config: RunConfig | str,
    seeds: Iterable[int] = range(8),
    out: str | Path = "runs",
    name: str | None = None,
    device: str = "auto",
    resume: bool = False,
    track: str | None = None,
    progress: bool = True,
) -> list[Run]:
    """Train several seeds together, in one process; each gets its own run. See train."""
    config, seeds = _named(config, name), list(seeds)
    if not seeds or len(set(seeds)) < len(seeds):
        raise RequestError(f"seeds: given {seeds}; allowed: one or more different whole numbers")
    return train_configs([config.with_seed(seed) for seed in seeds], out, device, resume, track, progress)


def train_configs(
    configs: Sequence[RunConfig],
    out: str | Path = "runs",
    device: str = "auto",
    resume: bool = False,
    track: str | None = None,
    progress: bool = True,
) -> list[Run]:
    """Train runs of one `RunConfig.stack_key` together: seeds, or variants of rates or train share. See train.

    Where a GPU's memory does not hold them all, one half trains after the other, with a warning.
    """
    if not configs:
        raise RequestError("no config is given; give one or more")
    if track is not None and track not in TRACKERS:
        raise unknown("tracker", track, TRACKERS)
    directories = [RunDirectory(Path(out) / config.run_name) for config in configs]

    def open_sinks(total_steps: int) -> list[Sink]:
        sinks: list[Sink] = []
        if track is not None:
            plain = {d.name: c.plain() for c, d in zip(configs, directories, strict=True)}
            folders = {d.name: d.tracker_folder for d in directories}
            sinks.append(make_tracker(track, plain, folders, configs[0].name))
        if progress:
            sinks.append(LiveTable([d.name for d in directories], total_steps, configs[0].name))
        return sinks

    trainer = Trainer(
        configs,
        directories,
        pick_device(device, configs[0].precision),
        open_sinks=open_sinks,
        resume=resume,
        initial_weights=_initial_weights(configs[0], directories),
        notify=lambda message: warnings.warn(message, stacklevel=2),
    )
    try:
        trainer.run()
        return _draw_curves(directories)
    except torch.OutOfMemoryError as error:
        if len(configs) == 1:
            raise WorkError(
                f"{directories[0].name} does not fit into memory by itself; give a batch_size, or accumulation > 1"
            ) from error
    except WorkError:
        with suppress(WorkError):  # a full disk takes no picture either
            _draw_curves(directories)
        raise
    del trainer  # and with it what filled the memory
    half = (len(configs) + 1) // 2
    warnings.warn(
        f"{len(configs)} runs do not fit into memory together; {half} train first, then the rest",
        stacklevel=2,
    )
    return [
        run
        for part in (configs[:half], configs[half:])
        for run in train_configs(part, out, device, True, track, progress)
    ]


def _named(config: RunConfig | str, name: str | None) -> RunConfig:
    config = preset(config) if isinstance(config, str) else config
    return config if name is None else config.replace(name=name)


def _draw_curves(directories: Iterable[RunDirectory]) -> list[Run]:
    runs = [Run(directory.path) for directory in directories if directory.exists]
    for run in runs:
        if not run.metrics.empty:
            run.directory.write_curves(write_html(training_curves(run.metrics, run.name)))
    return runs


def _initial_weights(
    config: RunConfig, directories: Iterable[RunDirectory]
) -> Callable[[RunConfig], dict[str, Tensor]]:
    """Fresh, or those of init_from; a run that exists already may have outlived the run that it came from."""
    source = config.init_from
    if source is None:
        return fresh_weights
    weights = cache(lambda: _weights_of(source, config))
    if not all(directory.exists for directory in directories):
        weights()
    return lambda _: weights()


def _weights_of(source: str, config: RunConfig) -> dict[str, Tensor]:
    """Initial weights from RUN or RUN@STEP.

    Raises:
        RequestError: no such run or step, or tensors of another shape.
    """
    path, _, at = source.partition("@")
    run = load_run(path)
    weights = run.weights(parse_step(at or "last"))
    if isinstance(config.task, PairTask) and _trained(run.task) != _trained(config.task):
        warnings.warn(
            f"init_from {source}: its training questions are others than this run's, so some of the test questions "
            f"here were trained on there; --seed {run.config.seed} takes the same split",
            stacklevel=2,
        )
    wanted = {name: tuple(p.shape) for name, p in fresh_weights(config).items()}
    given = {name: tuple(p.shape) for name, p in weights.items()}
    if wanted != given:
        odd = next(name for name in (*wanted, *given) if wanted.get(name) != given.get(name))
        raise RequestError(
            f"init_from {source}: {odd} is {given.get(odd, 'missing')} there and {wanted.get(odd, 'missing')} here; "
            "give both runs the same model and task"
        )
    return weights


def _trained(task: Task) -> set[tuple[int, ...]]:
    return set(map(tuple, task.split("train").tolist()))


def parse_step(step: str) -> Step:
    """ "last", "best", or a step's number."""
    if step in ("last", "best"):
        return step  # pyright: ignore[reportReturnType]
    if not step.isdecimal():
        raise RequestError(f"step {step!r}; allowed: a whole number, 'last' or 'best'")
    return int(step)


def evaluate(
    run: Run | str | Path, protocol: str = "test", step: Step | str = "last", device: str = "auto"
) -> pd.DataFrame:
    """What the command line prints: how good a run is. The failures too go to evaluations/ in the run.

    Args:
        run: a run, its path or its name.
        protocol: a name of PROTOCOLS.
        step: "last", "best", or a step of the trajectory.
        device: as in train.

    Returns:
        the table; its `attrs` say the step and the file.
    """
    how = PROTOCOLS.make(protocol)
    run = run if isinstance(run, Run) else load_run(run)
    checkpoint, weights = run.whole_checkpoint(parse_step(str(step)))
    model = run._model(weights).to(pick_device(device), print_details=False)
    found = how.evaluate(model, run.task, question_sets(run.task, run.config.data_dir))
    file = run.directory.write_evaluation(
        protocol, checkpoint.step, {"step": checkpoint.step, **found.plain()}
    )
    found.table.attrs |= {"step": checkpoint.step, "file": str(file)}
    return found.table
