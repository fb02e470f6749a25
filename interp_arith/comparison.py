"""Runs and seeds side by side: as tables, and as one Dataset of measures; knows no files."""

from collections.abc import Iterable

import pandas as pd
import xarray as xr

from interp_arith.errors import RequestError
from interp_arith.run import Run


def runs_table(runs: Iterable[Run]) -> pd.DataFrame:
    """One row a run: status, steps, milestones, the last losses and accuracies, seconds of training.

    The seconds are of all seeds that trained together; `together` says how many, where there are several.
    """
    rows = []
    for run in runs:
        info = run.info
        summary = info.get("summary", {})
        last = {
            name: value
            for name, value in summary.get("last", {}).items()
            if name.endswith(("_loss", "_accuracy", "_exact_match")) and name != "batch_loss"
            # one token an answer: exact match says nothing that accuracy does not
            if not (name.endswith("_exact_match") and len(run.task.answer_positions) == 1)
        }
        marks = {name: value for name, value in summary.items() if name != "last"}
        head = {"run": run.name, "config": run.config.name, "seed": run.config.seed, "status": run.status}
        together = info.get("trained_together", 1)
        cost = {"seconds": info.get("training_seconds"), "together": together if together > 1 else None}
        rows.append(head | {"step": info.get("step")} | marks | last | cost)
    return pd.DataFrame(rows)


def seeds_table(table: pd.DataFrame) -> pd.DataFrame:
    """A runs_table over its seeds, finished runs alone: one row a config, every number the mean ± std (over n − 1).

    A milestone that some runs did not reach says how many did.
    """
    rows = []
    for name, group in table[table["status"] == "finished"].groupby("config", sort=False):
        row: dict[str, object] = {"config": name, "runs": len(group)}
        for column in table.columns.difference(["run", "config", "seed", "status"], sort=False):
            values = pd.Series(group[column], dtype=float).dropna()
            if values.empty:
                row[column] = "–"
                continue
            spread = f" ± {values.std():.3g}" if len(values) > 1 else ""
            reached = f" ({len(values)} of {len(group)})" if len(values) < len(group) else ""
            row[column] = f"{values.mean():.4g}{spread}{reached}"
        rows.append(row)
    return pd.DataFrame(rows)


def measure_seeds(
    runs: Iterable[Run],
    names: Iterable[str] | None = None,
    steps: Iterable[int] | None = None,
    device: str = "auto",
) -> xr.Dataset:
    """`Run.measure` of several seeds of one config, as one Dataset with a `seed` dim; see mean_over_seeds.

    Every seed has key frequencies of its own, and may have stopped at a step of its own: what a seed does not have is
    NaN. The measures are kept in each run.

    Raises:
        RequestError: no run is given, two have the same seed, or a measure does not apply.
    """
    runs = list(runs)
    seeds = [run.config.seed for run in runs]
    if not runs or len(set(seeds)) < len(seeds):
        raise RequestError(
            f"measure_seeds: given runs of seeds {seeds}; allowed: one or more, each of another seed"
        )
    chosen = None if names is None else list(names)
    at = None if steps is None else list(steps)
    found = [run.measure(chosen, at, device).expand_dims(seed=[run.config.seed]) for run in runs]
    whole = xr.concat(found, dim="seed", join="outer", coords="minimal", compat="override")
    return whole.sortby("step").drop_attrs(deep=False).assign_attrs(runs=" ".join(run.name for run in runs))
