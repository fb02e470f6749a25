"""What a sweep found: a row a run, the mean over seeds, and a Dataset with a dim per swept field; trains nothing."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from interp_arith.comparison import runs_table, seeds_table
from interp_arith.errors import RequestError
from interp_arith.figures.curves import write_html
from interp_arith.figures.sweeps import sweep_points
from interp_arith.files import dump_yaml, read_yaml, write_atomically
from interp_arith.grid import Axis, Sweep, SweptRun, read_sweep
from interp_arith.run import Run
from interp_arith.storage import RunDirectory
from interp_arith.training.lanes import MILESTONES

RESULTS = (
    "train_loss",
    "train_accuracy",
    "val_loss",
    "val_accuracy",
    "test_loss",
    "test_accuracy",
    *MILESTONES,
    "step",
    "seconds",
)
"""The columns of numbers that come first; others that the runs have follow."""
ALWAYS = (
    "train_loss",
    "train_accuracy",
    "test_accuracy",
    "steps_to_train_accuracy_1",
    "steps_to_test_accuracy_0.95",
    "step",
    "seconds",
)
"""Those that are there even where no run reached them."""
NOT_BEGUN = "not begun"


class SweepFolder:
    """The files of one sweep: the runs, the sweep file as it was resolved, and the results.

    Args:
        path: the folder, OUT/NAME.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def runs(self) -> Path:
        """The folder of runs."""
        return self.path / "runs"

    @property
    def file(self) -> Path:
        """sweep.yaml; a sweep is one from the moment that it stands."""
        return self.path / "sweep.yaml"

    @property
    def table(self) -> Path:
        """results.csv."""
        return self.path / "results.csv"

    def write_sweep(self, resolved: Mapping[str, Any]) -> None:
        """Keep the sweep as it was resolved."""
        write_atomically(self.file, dump_yaml(resolved).encode())

    def read_sweep(self) -> Sweep:
        """The sweep as it was resolved.

        Raises:
            RequestError: there is none.
        """
        if not self.file.is_file():
            raise RequestError(
                f"{self.path} is no sweep: it has no {self.file.name}; train one with `interp-arith sweep FILE.yaml`"
            )
        return read_sweep(self.file)

    def write_groups(self, groups: Sequence[Sequence[str]]) -> None:
        """Which runs train together."""
        write_atomically(self.path / "groups.yaml", dump_yaml({"groups": groups}).encode())

    def read_groups(self) -> list[list[str]]:
        """Which runs trained together the last time; none where there was none."""
        file = self.path / "groups.yaml"
        return read_yaml(file)["groups"] if file.is_file() else []

    def write_results(self, sweep: Sweep, table: pd.DataFrame) -> None:
        """results.csv, results.parquet and results.nc, and results.html, their picture."""
        write_atomically(self.table, table.to_csv(index=False).encode())
        write_atomically(self.path / "results.parquet", table.to_parquet(index=False))
        dataset = sweep_dataset(sweep, table)
        write_atomically(self.path / "results.nc", bytes(dataset.to_netcdf(engine="h5netcdf")))
        write_atomically(self.path / "results.html", write_html(sweep_points(dataset, sweep.name)).encode())


def load_sweep(folder: str | Path) -> xr.Dataset:
    """The results of a sweep as they are now, with a dim per axis and one for the seeds.

    Raises:
        RequestError: the folder holds no sweep.
    """
    place = SweepFolder(folder)
    sweep = place.read_sweep()
    return sweep_dataset(sweep, results_table(sweep, sweep.runs(), place.runs))


def results_table(sweep: Sweep, swept: Sequence[SweptRun], folder: Path) -> pd.DataFrame:
    """One row a run of the sweep: the swept fields, the seed, what it reached and when, its status."""
    begun = [s.config.run_name for s in swept if RunDirectory(folder / s.config.run_name).exists]
    found = runs_table(Run(folder / name) for name in begun)
    axes = sweep.axes()
    rows = pd.DataFrame(
        [{**s.place, **_linked(axes, s), "seed": s.config.seed, "run": s.config.run_name} for s in swept]
    )
    if begun:
        rows = rows.merge(found.drop(columns=["config", "seed"]), on="run", how="left")
    for name in (*RESULTS, "status"):
        if name not in rows:
            rows[name] = None
    rows["status"] = rows["status"].astype(object).fillna(NOT_BEGUN)
    swept_columns = [*(axis.name for axis in axes), *_linked_names(axes), "seed"]
    others = [c for c in rows.columns if c not in (*swept_columns, *RESULTS, "run", "status")]
    numbers = {name: pd.Series(rows[name], dtype=float) for name in (*RESULTS, *others)}
    kept = [name for name, column in numbers.items() if name in ALWAYS or column.notna().any()]
    return rows.assign(**numbers).loc[:, [*swept_columns, *kept, "status", "run"]]


def summary_table(sweep: Sweep, swept: Sequence[SweptRun], table: pd.DataFrame) -> pd.DataFrame:
    """The mean ± std over the seeds of every point, and "k of n" where a milestone was not reached by all."""
    axes = [axis.name for axis in sweep.axes()]
    names = {s.config.run_name: s.config.name for s in swept}
    whole = table.drop(columns=[*axes, *_linked_names(sweep.axes())])
    means = seeds_table(whole.assign(config=[names[run] for run in table["run"]]))
    if means.empty:
        return means
    places = pd.DataFrame([{"config": s.config.name, **s.place} for s in swept]).drop_duplicates("config")
    return places.merge(means, on="config").drop(columns="config")


def sweep_dataset(sweep: Sweep, table: pd.DataFrame) -> xr.Dataset:
    """A results_table as a Dataset: dims are the axes and `seed`; a milestone that was not reached is NaN."""
    axes = sweep.axes()
    names = [*(axis.name for axis in axes), "seed"]
    linked = [name for name in _linked_names(axes) if name in table]
    table = table.assign(**{name: math.nan for name in MILESTONES if name not in table})
    dataset = xr.Dataset.from_dataframe(table.drop(columns=linked).set_index(names))
    order: dict[str, Any] = {axis.name: axis.coordinates for axis in axes} | {"seed": list(sweep.seeds)}
    dataset = dataset.sel(order).transpose(*names)
    for axis in axes:
        for name in linked:
            if name in axis.fields and name != axis.name:
                values = table.drop_duplicates(axis.name).set_index(axis.name)[name]
                dataset = dataset.assign_coords({name: (axis.name, values.loc[order[axis.name]].to_numpy())})
    for name, variable in dataset.variables.items():
        variable.attrs |= {"long_name": _in_words(str(name))} | _units(str(name))
    return dataset.assign_attrs(
        title=sweep.name, source="interp-arith sweep", sweep=dump_yaml(sweep.resolved())
    )


def _linked_names(axes: Sequence[Axis]) -> list[str]:
    return [name for axis in axes for name in axis.fields if name != axis.name and len(axis.fields) > 1]


def _linked(axes: Sequence[Axis], swept: SweptRun) -> dict[str, Any]:
    """The fields that move together with an axis, as the run has them."""
    return {name: _value(swept.config, name) for name in _linked_names(axes)}


def _value(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part, None)
    return config if config is None or isinstance(config, int | float | str) else str(config)


def _in_words(name: str) -> str:
    for milestone, words in (("steps_to_train_", "steps to training "), ("steps_to_test_", "steps to test ")):
        if name.startswith(milestone):
            metric, _, value = name.removeprefix(milestone).rpartition("_")
            return f"{words}{metric} {value}"
    return {"step": "step it stopped at", "seconds": "seconds of training"}.get(name, name.replace("_", " "))


def _units(name: str) -> dict[str, str]:
    if name.endswith("_loss"):
        return {"units": "nats per answer token"}
    if name.startswith("steps_to_") or name == "step":
        return {"units": "steps"}
    if name.endswith(("_accuracy", "_exact_match")):
        return {"units": "1"}
    return {"units": "s"} if name == "seconds" else {}
