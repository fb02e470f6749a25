"""What a run keeps while it trains: trajectory, best weights, full states, and its way back from them.

Order matters: metrics, trajectory and best weights are on disk before the state that rests on them, and nothing
that an older state rests on is deleted before a newer one stands. So a run killed anywhere resumes as if it had
never stopped.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from interp_arith.errors import RequestError
from interp_arith.storage import Checkpoint, RunDirectory
from interp_arith.tasks.pairs import PairTask
from interp_arith.training.config import RunConfig, is_lower_better

Weights = Mapping[str, Tensor]


@dataclass
class Keeper:
    """The writing side of one run directory.

    Attributes:
        config: the run's.
        directory: where it is kept.
        best: the best evaluations so far, best first, as on disk when the last state was written.
        earlier: those that the state before rests on, kept as long as it is.
        candidates: weights of best steps that are not on disk yet.
        records: metrics that are not on disk yet.
    """

    config: RunConfig
    directory: RunDirectory
    best: list[Checkpoint] = field(default_factory=list)
    earlier: list[Checkpoint] = field(default_factory=list)
    candidates: dict[int, Weights] = field(default_factory=dict)
    records: list[dict[str, float]] = field(default_factory=list)

    def would_be_best(self, metrics: Mapping[str, float]) -> bool:
        """Whether an evaluation belongs among the best."""
        plan = self.config.checkpoints
        if plan.best_metric not in metrics or not plan.keep_best:
            return False
        return len(self.best) < plan.keep_best or self._rank(metrics) < self._rank(self.best[-1].metrics)

    def add_best(self, step: int, weights: Weights, metrics: Mapping[str, float]) -> None:
        """Keep these weights among the best; they reach the disk with the next state."""
        self.candidates[step] = weights
        ranked = [*self.best, Checkpoint(step, "", "", dict(metrics))]
        self.best = sorted(ranked, key=lambda c: self._rank(c.metrics))[: self.config.checkpoints.keep_best]
        self.candidates = {s: w for s, w in self.candidates.items() if s in {c.step for c in self.best}}

    def _rank(self, metrics: Mapping[str, float]) -> float:
        metric = self.config.checkpoints.best_metric
        return metrics[metric] if is_lower_better(metric) else -metrics[metric]

    def write_checkpoint(self, step: int, weights: Weights, metrics: Mapping[str, float]) -> None:
        """One point of the trajectory."""
        self.directory.write_checkpoint(step, weights, metrics)

    def write_state(self, step: int, state: Mapping[str, Any]) -> None:
        """Everything up to this step, then the state itself, then the tidying."""
        self.flush()
        self.best = [
            self.directory.write_best(c.step, self.candidates[c.step], c.metrics)
            if c.step in self.candidates
            else c
            for c in self.best
        ]
        self.candidates = {}
        if self.best:
            self.directory.write_best_list(self.best)
        kept = {"step": step, "best": [asdict(c) for c in self.best], **state}
        self.directory.write_state(step, kept)
        self.directory.prune_best(self.earlier)
        self.earlier = self.best

    def finish(self) -> None:
        """The run is over: no earlier state will be asked for."""
        self.directory.prune_best()

    def flush(self) -> None:
        """Put the metrics on disk."""
        self.directory.append_metrics(self.records)
        self.records = []

    def rewind(self, step: int | None) -> dict[str, Any] | None:
        """Forget what came after a state and return it; None starts from nothing."""
        state = None if step is None else self.directory.read_state(step)
        last = -1 if step is None else step
        self.directory.cut_states(last)
        self.directory.cut_metrics(last, inclusive=True)
        self.directory.cut_checkpoints(last, inclusive=True)
        self.best = self.earlier = [] if state is None else [Checkpoint(**c) for c in state["best"]]
        return state


def create(config: RunConfig, directory: RunDirectory) -> None:
    """Begin a run directory; it is one from the moment that its config stands."""
    mask = _given_split(config)
    if mask is not None:
        directory.write_split(mask)
    directory.write_config(config.plain())


def check(config: RunConfig, directory: RunDirectory, resume: bool) -> None:
    """Check that a run can be begun here, or that the directory holds this very run.

    Raises:
        RequestError: it exists and resume is False; it holds another config; it is no run.
    """
    mask = _given_split(config)
    if not directory.exists:
        # What a run killed before it had a config may leave: a split, and a tracker's folder.
        expected = {directory.tracker_folder.name} | ({"split.npy"} if mask is not None else set())
        found = [f.name for f in directory.path.glob("*") if not f.name.startswith(".")]
        if set(found) - expected:
            raise RequestError(f"{directory.path} exists and is no run; give another --name or --out")
        return
    differing = _differing(RunConfig.model_validate(directory.read_config()).plain(), config.plain())
    if not np.array_equal(directory.read_split(), mask):  # type: ignore[arg-type]
        differing.append("another split.npy")
    if differing:
        raise RequestError(
            f"{directory.path} exists with another config ({', '.join(differing[:3])}); "
            f"give another --name, or resume that run: interp-arith train {directory.path}/config.yaml --resume"
        )
    if not resume:
        raise RequestError(
            f"{directory.path} exists already; add --resume to go on with it (in Python resume=True; a finished "
            "run is left as it is), or give another --name"
        )


def _given_split(config: RunConfig) -> np.ndarray | None:
    return config.task.train_mask if isinstance(config.task, PairTask) else None


def _differing(old: Any, new: Any, path: str = "") -> list[str]:
    """Dotted names of the fields that differ, with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = dict.fromkeys([*old, *new])
        return [d for n in names for d in _differing(old.get(n), new.get(n), f"{path}.{n}" if path else n)]
    return [] if old == new else [f"{path}: there {old}, here {new}"]
