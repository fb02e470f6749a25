"""The calls that make and evaluate runs; what a run is, is said in `run`."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from interp_arith.bars import bar
from interp_arith.errors import RequestError, WorkError, unknown
from interp_arith.evaluation.base import Protocol
from interp_arith.evaluation.decoding import BATCH
from interp_arith.evaluation.protocols import PROTOCOLS
from interp_arith.figures.curves import training_curves, write_html
from interp_arith.interp.live import live_measures
from interp_arith.presets import preset
from interp_arith.run import Run, Step, find_runs, load_config, load_run, parse_step
from interp_arith.storage import RunDirectory
from interp_arith.tasks.base import Task
from interp_arith.tasks.pairs import PairTask
from interp_arith.tasks.sources import question_sets
from interp_arith.training.config import RunConfig
from interp_arith.training.lanes import fresh_weights
from interp_arith.training.machine import pick_device, prepared, threads_for
from interp_arith.training.sinks import TRACKERS, LiveTable, Sink, make_tracker
from interp_arith.training.trainer import Trainer

__all__ = ["Run", "evaluate", "find_runs", "load_config", "load_run", "train", "train_configs", "train_seeds"]


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
        live=live_measures(configs[0]),
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


def evaluate(
    run: Run | str | Path,
    protocol: Protocol | str = "test",
    step: Step | str = "last",
    device: str = "auto",
    progress: bool = True,
) -> pd.DataFrame:
    """What the command line prints: how good a run is. The failures too go to evaluations/ in the run.

    Args:
        run: a run, its path or its name.
        protocol: one of PROTOCOLS, or its name.
        step: "last", "best", or a step of the trajectory; "all" is every one.
        device: as in train.
        progress: show a bar on a terminal.

    Returns:
        the table; its `attrs` say the step, the file, the model's parameters and what is to be noted. Of all steps,
        the tables one below the other with a column `step`, and the folder of the files.

    Raises:
        RequestError: no such run, step or protocol, or the protocol has no meaning for the run's task.
    """
    how = PROTOCOLS.make(protocol) if isinstance(protocol, str) else protocol
    run = run if isinstance(run, Run) else load_run(run)
    if step == "all":
        tables = [evaluate(run, how, each, device, progress) for each in run.steps]
        whole = pd.concat([table.assign(step=table.attrs["step"]) for table in tables], ignore_index=True)
        whole.attrs |= tables[-1].attrs | {"step": "all", "file": str(Path(tables[-1].attrs["file"]).parent)}
        return whole
    checkpoint, weights = run.whole_checkpoint(parse_step(str(step)))
    where = pick_device(device)
    model = run.model_of(weights).to(where, print_details=False)
    parameters = sum(p.numel() for p in model.trained_parameters().values())
    threads = threads_for(2.0 * parameters * BATCH)  # a token of every question that is answered together
    with prepared(where, threads), bar(how.label, progress) as told:
        found = how.evaluate(model, run.task, question_sets(run.task, run.config.data_dir), told)
    head = {"step": checkpoint.step, "parameters": parameters}
    file = run.directory.write_evaluation(how.label, checkpoint.step, {**head, **found.plain()})
    found.table.attrs |= {**head, "file": str(file), "notes": found.notes}
    return found.table
