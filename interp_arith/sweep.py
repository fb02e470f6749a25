"""A grid of runs: checked whole, trained in groups by local processes or on Ray, told as a table."""

import math
import os
import sys
from collections.abc import Container, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from interp_arith import models
from interp_arith.errors import RequestError, WorkError
from interp_arith.grid import Sweep, SweptRun, read_sweep
from interp_arith.interp.live import live_measures
from interp_arith.run import load_run
from interp_arith.storage import RunDirectory
from interp_arith.sweep_results import SweepFolder, results_table
from interp_arith.tasks.sources import make_source
from interp_arith.training.checkpoints import check
from interp_arith.training.config import RunConfig
from interp_arith.training.machine import pick_device
from interp_arith.training.measuring import check_metrics
from interp_arith.training.signals import StopRequest, stop_requests
from interp_arith.workers import Job, Outcome, cluster_size, ray_cluster, run_locally, run_on_ray


class SweepStoppedError(WorkError):
    """A signal ended the sweep, everything saved; the exit status is 128 + its number."""

    def __init__(self, number: int, done: str) -> None:
        super().__init__(
            f"stopped with {done}; everything is saved, and the same sweep again goes on from there"
        )
        self.exit_status = 128 + number


def sweep(
    source: str | Path | Mapping[str, Any] | Sweep,
    out: str | Path = "runs",
    device: str = "auto",
    workers: int | None = None,
    ray: str | None = None,
    gpus_per_worker: float = 0.5,
    retries: int = 2,
    progress: bool = True,
) -> pd.DataFrame:
    """Train every run of a sweep, or go on with it.

    Args:
        source: a sweep file, or a mapping that says the same.
        out: the folder of the sweep's folder; with Ray, one that every node sees.
        device: "auto" takes a GPU where there is one; "cpu", "cuda".
        workers: processes at once; a CPU core each unless given, one on a GPU, on Ray what the cluster holds.
        ray: the address of a Ray cluster; None trains here.
        gpus_per_worker: the share of a GPU that a worker takes on Ray.
        retries: how often a job that failed, or whose process died, is tried again.
        progress: tell of every job that ends.

    Returns:
        a row a run; it is also in OUT/NAME as results.csv, results.parquet and results.nc.

    Raises:
        RequestError: something about the request is wrong; nothing is written.
        SweepStoppedError: SIGINT or SIGTERM; everything is saved.
        WorkError: some runs did not finish; the message names them, and the results of the others are written.
    """
    screen = sys.stdout
    plan = read_sweep(source)
    swept = plan.runs()
    folder = SweepFolder(Path(out) / plan.name)
    _check_options(workers, gpus_per_worker, retries)
    resolved = plan.resolved()
    with ExitStack() as stack:
        cluster = stack.enter_context(ray_cluster(ray)) if ray is not None else None
        _check_folder(folder, resolved)
        _check_runs(swept, folder.runs)
        if cluster is None:
            device = max(pick_device(device, p).type for p in {s.config.precision for s in swept})
            count = workers or (1 if device == "cuda" else os.cpu_count() or 1)
        else:
            device, size = cluster_size(cluster, device, gpus_per_worker)
            count = workers or size
        try:
            stack.enter_context(RunDirectory(folder.path).lock())
        except RequestError:
            raise RequestError(
                f"sweep {folder.path} is being trained by another process; wait for it"
            ) from None
        folder.write_sweep(resolved)
        threads = 1 if count > 1 or cluster is not None else None
        jobs = _make_jobs([s.config for s in swept], folder, count, device, threads)
        request = stack.enter_context(stop_requests())
        teller = stack.enter_context(_Teller(jobs, plan.name, screen if progress else None))
        teller.begin(len(swept) - sum(len(job.configs) for job in jobs))
        if not jobs:
            outcomes = []
        elif cluster is None:
            outcomes = run_locally(jobs, count, retries, request, teller.tell)
        else:
            outcomes = run_on_ray(cluster, jobs, count, gpus_per_worker, retries, request, teller.tell)
        table = results_table(plan, swept, folder.runs)
        folder.write_results(plan, table)
    _complain(table, jobs, outcomes, request)
    return table


def groups(
    configs: Sequence[RunConfig],
    earlier: Sequence[Sequence[str]],
    begun: Container[str],
    most: int,
    device: str,
) -> list[list[RunConfig]]:
    """The runs that train together: of one stack_key, at most so many.

    On a CPU, where a stack gains nothing, of one train share too: fewer questions need not be filled up.

    A group of an earlier time of which a run has begun stays as it is, so that it resumes to the bit.
    """
    by_name = {config.run_name: config for config in configs}
    kept = [[by_name.pop(n) for n in names] for names in earlier if any(n in begun for n in names)]
    stacks: dict[str, list[RunConfig]] = {}
    for config in by_name.values():
        share = getattr(config.task, "train_fraction", None) if device == "cpu" else None
        stacks.setdefault(f"{config.stack_key()} {share}", []).append(config)
    return kept + [stack[i : i + most] for stack in stacks.values() for i in range(0, len(stack), most)]


def _make_jobs(
    configs: Sequence[RunConfig], folder: SweepFolder, workers: int, device: str, threads: int | None
) -> list[Job]:
    """What is left to train; the groups are kept, for the next time."""
    status = {c.run_name: RunDirectory(folder.runs / c.run_name).read_info().get("status") for c in configs}
    begun = {name for name in status if RunDirectory(folder.runs / name).exists}
    most = len(configs) if device == "cuda" else math.ceil(len(configs) / workers)
    together = groups(configs, folder.read_groups(), begun, most, device)
    folder.write_groups([[config.run_name for config in members] for members in together])
    return [
        Job(tuple(members), folder.runs.absolute(), Path.cwd(), device, threads)
        for members in together
        if any(status[config.run_name] != "finished" for config in members)
    ]


def _check_options(workers: int | None, gpus_per_worker: float, retries: int) -> None:
    if workers is not None and workers < 1:
        raise RequestError(f"workers = {workers}; allowed: 1 or more")
    if not gpus_per_worker > 0:
        raise RequestError(f"gpus per worker = {gpus_per_worker}; allowed: more than 0, such as 0.5")
    if retries < 0:
        raise RequestError(f"retries = {retries}; allowed: 0 or more")


def _check_folder(folder: SweepFolder, resolved: Mapping[str, Any]) -> None:
    """Refuse a folder that holds another sweep, or something else."""
    if not folder.file.is_file():
        if folder.path.is_file() or any(not f.name.startswith(".") for f in folder.path.glob("*")):
            raise RequestError(
                f"{folder.path} exists and is no sweep; give the sweep another name, or another --out"
            )
        return
    there = folder.read_sweep().resolved()
    names = [name for name in dict.fromkeys([*there, *resolved]) if there.get(name) != resolved.get(name)]
    if names:
        raise RequestError(
            f"{folder.path} holds another sweep of that name (other {', '.join(names)}); "
            f"give this one another name, or go on with that one: interp-arith sweep {folder.file}"
        )


def _check_runs(swept: Sequence[SweptRun], folder: Path) -> None:
    """Refuse what a run would refuse when it begins, before any has."""
    built: set[str] = set()
    for name, config in {s.config.name: s.config for s in swept}.items():
        try:
            source = make_source(config.task, config.batch_size, config.seed, config.data_dir)
            check_metrics(config, source)
            config.total_steps(source.steps_per_epoch)
            if config.stack_key() not in built:
                models.build_model(config.model, config.task)
                live_measures(config)
                built.add(config.stack_key())
            if config.init_from is not None:
                load_run(config.init_from.partition("@")[0])
        except RequestError as error:
            raise RequestError(f"{name}: {error}") from None
    for directory, config in ((RunDirectory(folder / s.config.run_name), s.config) for s in swept):
        check(config, directory, resume=True)
        if directory.is_locked:
            raise RequestError(f"run {directory.path} is being written by another process; wait for it")


def _complain(
    table: pd.DataFrame, jobs: Sequence[Job], outcomes: Iterable[Outcome], request: StopRequest
) -> None:
    """Raise what is to be said of runs that did not finish."""
    unfinished = list(table.loc[table["status"] != "finished", "run"])
    if unfinished and request.signal is not None:
        raise SweepStoppedError(
            request.signal, f"{len(table) - len(unfinished)} of {len(table)} runs finished"
        )
    if unfinished:
        why = {c.run_name: o.error for o in outcomes if o.error is not None for c in jobs[o.index].configs}
        reasons: dict[str, list[str]] = {}
        for run in unfinished:
            reasons.setdefault(_in_a_sweep(why.get(run) or "not finished"), []).append(run)
        told = "; ".join(f"{', '.join(runs)}: {reason}" for reason, runs in reasons.items())
        raise WorkError(
            f"{len(unfinished)} of {len(table)} runs did not finish: {told}; the same sweep again goes on with them"
        )


def _in_a_sweep(error: str) -> str:
    """An error of one run, without the advice that is for `train`."""
    advice = (
        "; everything saved before it",
        "; the last good checkpoint",
    )
    return min((error.partition(words)[0] for words in advice), key=len)


class _Teller:
    """A bar of runs, and a line for each job that ends; lines alone where there is no terminal."""

    def __init__(self, jobs: Sequence[Job], title: str, screen: TextIO | None) -> None:
        self._jobs = jobs
        self._console = Console(file=screen, quiet=screen is None)
        columns = (TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(
            *columns, console=self._console, disable=screen is None or not self._console.is_terminal
        )
        self._total = sum(len(job.configs) for job in jobs)
        self._bar = self._progress.add_task(title, total=self._total)
        self._title, self._running, self._failed, self._done = title, 0, 0, 0

    def __enter__(self) -> "_Teller":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begin(self, already: int) -> None:
        """How many runs an earlier time has finished."""
        self._done, self._total = already, self._total + already
        self._progress.update(self._bar, total=self._total, completed=already)
        if already:
            self._console.print(f"{already} runs were finished already", markup=False, highlight=False)

    def tell(self, what: str, outcome: Outcome) -> None:
        """One event of one job."""
        self._running += {"started": 1, "ended": -1}.get(what, 0)
        ended = what == "ended" and not outcome.stopped
        self._failed += ended and outcome.error is not None
        self._done += len(self._jobs[outcome.index].configs) if ended else 0
        if what != "started":
            names = [config.run_name for config in self._jobs[outcome.index].configs]
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            end = "finished" if outcome.error is None else _in_a_sweep(outcome.error)
            again = "; tried again" if what == "retried" else ""
            count = f"{self._done}/{self._total}"
            notes = "".join(f" ({note})" for note in dict.fromkeys(outcome.notes))
            line = f"{count} {names[0]}{more}: {end}{again}{notes}"
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
        failed = f", {self._failed} failed" if self._failed else ""
        text = f"{self._title}: {self._running} running{failed}"
        self._progress.update(self._bar, completed=self._done, description=text)


class _CallableModule(ModuleType):
    """`interp_arith.sweep` is this module as well as a public function: called, it is the function."""

    def __call__(self, *arguments: Any, **options: Any) -> pd.DataFrame:
        return sweep(*arguments, **options)


sys.modules[__name__].__class__ = _CallableModule
