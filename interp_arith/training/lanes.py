"""The members of an ensemble: each seed's questions, run directory and account of itself; knows no loop."""

import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from interp_arith import models
from interp_arith.errors import RequestError
from interp_arith.files import sha256_of_folder
from interp_arith.storage import RunDirectory
from interp_arith.tasks.sampling import torch_seed
from interp_arith.tasks.sources import Source, make_source
from interp_arith.training.checkpoints import Keeper
from interp_arith.training.config import RunConfig
from interp_arith.training.machine import products_of

Status = Literal["running", "finished", "interrupted", "failed"]
LIBRARIES = ("interp-arith", "torch", "transformer-lens", "numpy", "safetensors")
MILESTONES = {
    "steps_to_train_accuracy_1": ("train_accuracy", 1.0),
    "steps_to_test_accuracy_0.95": ("test_accuracy", 0.95),
    "steps_to_test_accuracy_0.99": ("test_accuracy", 0.99),
    "steps_to_test_accuracy_0.999": ("test_accuracy", 0.999),
}
"""Marks of a run's summary: the first evaluation at which a metric reaches a value."""


@dataclass
class Lane:
    """One seed of an ensemble.

    Attributes:
        keeper: what it keeps on disk.
        source: its questions.
        held: evaluations in a row that met the stop rule.
        seconds: training time so far, earlier processes included.
        failure: why it stopped without finishing, if it did.
        together: seeds that began to train in one stack, this one included; the seconds are those of all.
    """

    keeper: Keeper
    source: Source
    held: int = 0
    seconds: float = 0.0
    failure: str | None = None
    together: int = 1

    @property
    def config(self) -> RunConfig:
        """The run's config."""
        return self.keeper.config

    @property
    def directory(self) -> RunDirectory:
        """The run's directory."""
        return self.keeper.directory

    def count(self, record: Mapping[str, float]) -> None:
        """Count an evaluation that meets the stop rule, in a row; one that does not starts anew."""
        rule = self.config.stop
        met = rule.metric is not None and rule.is_met(record[rule.metric])
        self.held = self.held + 1 if met else 0

    def write_info(self, status: Status, step: int, total_steps: int, device: torch.device) -> None:
        """run.json: what happened, where, with which versions, and the summary of the metrics."""
        config = self.config
        data = sha256_of_folder(config.data_dir, "*.jsonl") if config.data_dir is not None else None
        self.directory.write_info(
            {
                "status": status,
                "failure": self.failure,
                "step": step,
                "total_steps": total_steps,
                "training_seconds": round(self.seconds, 3),
                "trained_together": self.together,
                "summary": summary(self.directory.read_metrics()),
                "device": _device_name(device),
                "threads": torch.get_num_threads(),
                "products": products_of(config.precision, device),
                "data_sha256": data,
                "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                **environment(),
            }
        )

    def log(self, line: str) -> None:
        """One line in train.log, with the time."""
        self.directory.append_log(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}")


def open_lanes(configs: Sequence[RunConfig], directories: Sequence[RunDirectory]) -> list[Lane]:
    """A lane for every run that is not finished yet.

    One whose loss was not finite keeps its failure where others go on; where none does, it is tried again.
    """
    lanes = []
    for config, directory in zip(configs, directories, strict=True):
        info = directory.read_info()
        if info.get("status") != "finished":
            source = make_source(config.task, config.batch_size, config.seed, config.data_dir)
            lanes.append(Lane(Keeper(config, directory), source, failure=info.get("failure")))
    if all(lane.failure is not None for lane in lanes):
        for lane in lanes:
            lane.failure = None
    return lanes


def common_step(directories: Iterable[RunDirectory], notify: Callable[[str], None]) -> int | None:
    """The newest step that every run can be resumed from; damaged states are named and passed over.

    Raises:
        RequestError: there is none, and to start over would lose what some runs have done.
    """
    shared: set[int] | None = None
    newest: dict[str, int] = {}
    for directory in directories:
        for file in directory.damaged_states():
            notify(f"{file} is damaged; it is passed over")
        steps = set(directory.state_steps())
        newest[directory.name] = max(steps, default=0)
        shared = steps if shared is None else shared & steps
    if not shared and any(newest.values()):
        stand = ", ".join(f"{name} at step {step}" for name, step in newest.items())
        raise RequestError(f"these runs cannot go on together: {stand}; resume each by itself, with --seed")
    return max(shared or (), default=None)


def fresh_weights(config: RunConfig) -> dict[str, Tensor]:
    """The initial weights of a run, drawn with its seed."""
    model = models.build_model(config.model, config.task)
    model.initialize(torch.Generator().manual_seed(torch_seed(config.seed, "initialization")))
    return {name: parameter.detach().clone() for name, parameter in model.trained_parameters().items()}


def summary(metrics: Sequence[dict[str, float]]) -> dict[str, Any]:
    """The milestones (a step, or None where never reached) and the last value of every evaluated metric."""
    marks: dict[str, Any] = {
        name: next((int(r["step"]) for r in metrics if r.get(metric, -1.0) >= value), None)
        for name, (metric, value) in MILESTONES.items()
    }
    last = next((r for r in reversed(metrics) if any(k.endswith("_exact_match") for k in r)), {})
    return marks | {"last": last}


@cache
def environment() -> dict[str, Any]:
    """Versions and the machine, for run.json."""
    return {
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in LIBRARIES},
        "platform": platform.platform(terse=True),
        "git_commit": _git_commit(),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:  # a checkout that was not installed
        return None


def _git_commit() -> str | None:
    here = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
