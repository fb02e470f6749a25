"""A sweep of tiny runs, and ways to disturb one: kill whoever writes a run, or the sweep itself."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chaos.small_runs import differences, small_config

from interp_arith.files import dump_yaml
from interp_arith.storage import RunDirectory
from interp_arith.workers import Job, Outcome, work

STATE_OF_STEP = "step-{:08d}.pt"
SECONDS = 120


def small_sweep(**fields: Any) -> dict[str, Any]:
    """Two operations × two linked batch sizes × two seeds, 30 steps each, a full state every 6 steps."""
    defaults: dict[str, Any] = {
        "name": "small",
        "config": small_config(budget={"steps": 30}).plain(),
        "overrides": {},
        "grid": {
            "task.operation": ["add", "subtract"],
            "batch": [
                {"batch_size": 8, "optimizer.learning_rate": 0.01},
                {"batch_size": 12, "optimizer.learning_rate": 0.02},
            ],
        },
        "seeds": [0, 1],
    }
    return defaults | fields


def write_file(folder: Path, **fields: Any) -> str:
    """A sweep file."""
    file = folder / "sweep-file.yaml"
    file.write_text(dump_yaml(small_sweep(**fields)), encoding="utf-8")
    return str(file)


def in_this_process(
    jobs: list[Job], workers: int, retries: int, request: object, report: Any
) -> list[Outcome]:
    """What run_locally does, without processes and without retries."""
    here = Path.cwd()
    try:
        outcomes = [work(index, job) for index, job in enumerate(jobs)]
    finally:
        os.chdir(here)
    for outcome in outcomes:
        report("ended", outcome)
    return outcomes


def all_differences(expected: Path, found: Path) -> dict[str, list[str]]:
    """Run -> files that are not the same, of two folders of runs; what is there in one alone, too."""
    names = {p.name for folder in (expected, found) for p in folder.iterdir()}
    return {n: odd for n in sorted(names) if (odd := differences(expected / n, found / n))}


def command(*arguments: str) -> subprocess.Popen[str]:
    """The command line in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "interp_arith.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"},
    )


def wait_for_a_run_in_its_middle(runs: Path) -> Path:
    """The first run that has saved a state of a step after its first and is still written."""
    look = threading.Event()
    for _ in range(SECONDS * 500):
        for state in runs.glob("*/state/" + STATE_OF_STEP.format(6)):
            if RunDirectory(state.parent.parent).is_locked:
                return state.parent.parent
        look.wait(0.002)
    raise AssertionError(f"no run in {runs} came to step 6")


def wait_until_nobody_writes(runs: Path) -> None:
    """Until the locks of all runs are free."""
    look = threading.Event()
    for _ in range(SECONDS * 100):
        if not any(RunDirectory(run).is_locked for run in runs.iterdir()):
            return
        look.wait(0.01)
    raise AssertionError(f"a run in {runs} is still written")


@contextmanager
def one_writer_killed(runs: Path) -> Iterator[list[str]]:
    """Meanwhile, kill the process that writes a run in its middle; the run's name is in the list afterwards."""
    killed: list[str] = []

    def kill() -> None:
        run = wait_for_a_run_in_its_middle(runs)
        os.kill(int((run / ".lock").read_text(encoding="ascii")), signal.SIGKILL)
        killed.append(run.name)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        thread.join()


def resumed(runs: Path) -> list[str]:
    """The runs that were gone on with after their first state."""
    logs = {run.name: (run / "train.log").read_text(encoding="utf-8") for run in runs.iterdir()}
    return [name for name, log in logs.items() if "resumed from step" in log]
