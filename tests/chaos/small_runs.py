"""A run of half a second that writes every kind of file, and what two run directories differ in."""

import json
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from interp_arith.models.config import ModelConfig
from interp_arith.storage import RunDirectory
from interp_arith.tasks.modular import ModularArithmetic
from interp_arith.training.config import RunConfig
from interp_arith.training.sinks import Sink
from interp_arith.training.trainer import Trainer

VOLATILE = ("training_seconds", "trained_together", "written", "git_commit")
"""What run.json says about the clock, the company, and a checkout that somebody may be working on."""


EARLY_STOP = {"metric": "train_loss", "threshold": 1.84, "hold": 2}
"""Of the seeds 0, 1, 2 of the small run the last meets it, at step 14."""


def small_config(**fields: Any) -> RunConfig:
    """24 steps of mini-batches on 24 questions, a full state every 6 steps, a trajectory, and the 2 best."""
    defaults: dict[str, Any] = {
        "name": "small",
        "task": ModularArithmetic(p=7, train_fraction=0.5),
        "model": ModelConfig(d_model=8, n_heads=2, d_mlp=12),
        "optimizer": {"kind": "adamw", "learning_rate": 0.03},
        "schedule": {"kind": "cosine", "warmup_steps": 3},
        "budget": {"steps": 24},
        "checkpoints": {"every": 8, "state_every": 6, "keep_best": 2},
        "batch_size": 8,
        "log_every": 1,
        "evaluate_every": 2,
    }
    return RunConfig.model_validate(defaults | fields)


def differences(expected: Path, found: Path) -> list[str]:
    """The files of two run directories that are missing, left over or not the same; the clock is left out.

    Of the full states the newest must be the same; the one before it may be of the step of an interruption.
    """
    sides = [
        {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()} for root in (expected, found)
    ]
    one_sided = {name for name in sides[0] ^ sides[1] if name.startswith("state/step-")}
    names = (sides[0] | sides[1]) - (one_sided - {max(n for n in sides[0] if n.startswith("state/"))})
    # One is the lock; the other two tell the history of the processes, not of the training.
    names -= {".lock", "train.log", "curves.html"}
    return sorted(name for name in names if not _same(expected / name, found / name))


def _same(one: Path, other: Path) -> bool:
    if not (one.is_file() and other.is_file()):
        return False
    if one.name == "run.json":
        infos = [json.loads(file.read_text()) for file in (one, other)]
        for info in infos:
            for key in VOLATILE:
                del info[key]
        return infos[0] == infos[1]
    if one.suffix == ".pt":
        return same_state(_state(one), _state(other))
    return one.read_bytes() == other.read_bytes()


def _state(file: Path) -> dict[str, Any]:
    return RunDirectory(file.parent.parent).read_state(int(file.stem.removeprefix("step-")))


def same_state(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two full states are the same to the bit, their clocks left out."""
    plain = [
        {k: v for k, v in s.items() if k not in ("seconds", "parameters", "optimizer")} for s in (one, other)
    ]
    return plain[0] == plain[1] and all(
        same_weights(one[part], other[part]) for part in ("parameters", "optimizer")
    )


def same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two dicts of tensors are the same to the bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def train_small(
    config: RunConfig,
    out: Path,
    seeds: Sequence[int] | None = None,
    *,
    resume: bool = False,
    sink: Sink | None = None,
    notify: Callable[[str], None] = lambda message: None,
    **options: Any,
) -> list[RunDirectory]:
    """Train on the CPU, without the curves; seeds of None is the config's own."""
    configs = [config] if seeds is None else [config.with_seed(seed) for seed in seeds]
    directories = [RunDirectory(out / c.run_name) for c in configs]
    Trainer(
        configs,
        directories,
        torch.device("cpu"),
        open_sinks=lambda total: () if sink is None else (sink,),
        resume=resume,
        notify=notify,
        **options,
    ).run()
    return directories


class SignalAt:
    """A sink that sends this process a signal when a step is logged."""

    def __init__(self, step: int, number: int = signal.SIGTERM) -> None:
        self.step, self.number = step, number

    def log(self, run: str, record: Mapping[str, float]) -> None:
        """Send it, once the step has come."""
        if record["step"] == self.step:
            signal.raise_signal(self.number)

    def close(self, status: str) -> None:
        """Nothing is open."""
