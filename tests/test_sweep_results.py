"""What a sweep found, as a table, a summary and a Dataset, against numbers worked by hand."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from small_sweeps import in_this_process, small_sweep

import interp_arith as ia
from interp_arith import sweep as sweep_module
from interp_arith.cli import main
from interp_arith.errors import RequestError
from interp_arith.grid import Sweep
from interp_arith.storage import RunDirectory
from interp_arith.sweep import sweep
from interp_arith.sweep_results import load_sweep, results_table, summary_table, sweep_dataset


@pytest.fixture
def by_hand(tmp_path):
    """A sweep of 2 batches × 2 seeds whose runs say what we like; the last has not begun."""
    sizes = [
        {"batch_size": 8, "optimizer.learning_rate": 0.5},
        {"batch_size": 12, "optimizer.learning_rate": 2},
    ]
    plan = Sweep.model_validate(small_sweep(grid={"batch": sizes}, seeds=[4, 2]))
    swept = plan.runs()
    for run, loss, step in zip(swept, (1.0, 3.0, 0.5), (10, None, 30), strict=False):
        directory = RunDirectory(tmp_path / "runs" / run.config.run_name)
        directory.write_config(run.config.plain())
        last = {"train_loss": loss, "train_accuracy": 1.0, "test_accuracy": 0.25}
        marks = {"steps_to_train_accuracy_1": step, "steps_to_test_accuracy_0.95": None}
        directory.write_info(
            {"status": "finished", "step": 40, "training_seconds": 2.5, "summary": {**marks, "last": last}}
        )
    return plan, swept, results_table(plan, swept, tmp_path / "runs")


def test_the_table_has_a_row_a_run(by_hand):
    _, _, table = by_hand
    assert list(table.columns) == [
        "batch",
        "batch_size",
        "optimizer.learning_rate",
        "seed",
        "train_loss",
        "train_accuracy",
        "test_accuracy",
        "steps_to_train_accuracy_1",
        "steps_to_test_accuracy_0.95",
        "step",
        "seconds",
        "status",
        "run",
    ]
    assert list(table["optimizer.learning_rate"]) == [0.5, 0.5, 2, 2]
    assert list(table["seed"]) == [4, 2, 4, 2]
    assert list(table["train_loss"][:3]) == [1.0, 3.0, 0.5]
    assert list(table["status"]) == ["finished", "finished", "finished", "not begun"]
    assert list(table["steps_to_train_accuracy_1"].isna()) == [False, True, False, True]


def test_the_summary_is_mean_and_spread_over_seeds_and_says_how_many_reached_a_milestone(by_hand):
    rows = summary_table(*by_hand).to_dict("records")
    assert [row["batch"] for row in rows] == [8, 12]
    assert rows[0]["train_loss"] == "2 ± 1.41"
    assert rows[0]["steps_to_train_accuracy_1"] == "10 (1 of 2)"
    assert rows[0]["steps_to_test_accuracy_0.95"] == "–"
    assert (rows[1]["runs"], rows[1]["train_loss"]) == (1, "0.5")


def test_the_dataset_has_a_dim_an_axis_and_one_for_the_seeds(by_hand):
    plan, _, table = by_hand
    dataset = sweep_dataset(plan, table)
    assert dict(dataset.sizes) == {"batch": 2, "seed": 2}
    np.testing.assert_array_equal(dataset["train_loss"], [[1.0, 3.0], [0.5, np.nan]])
    assert list(dataset["batch"].values) == [8, 12]
    assert list(dataset["seed"].values) == [4, 2]
    assert dataset["optimizer.learning_rate"].dims == ("batch",)
    assert list(dataset["optimizer.learning_rate"].values) == [0.5, 2.0]
    assert dataset["train_loss"].attrs == {"long_name": "train loss", "units": "nats per answer token"}
    milestone = dataset["steps_to_test_accuracy_0.95"].attrs
    assert milestone == {"long_name": "steps to test accuracy 0.95", "units": "steps"}
    assert dataset["seconds"].attrs["units"] == "s"
    nowhere_reached = dataset[["steps_to_test_accuracy_0.99", "steps_to_test_accuracy_0.999"]]
    assert nowhere_reached.isnull().all().to_array().all()


def test_results_are_kept_as_csv_parquet_and_netcdf(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweep_module, "run_locally", in_this_process)
    table = sweep(small_sweep(), device="cpu", progress=False)
    assert pd.read_csv("runs/small/results.csv").equals(pd.read_parquet("runs/small/results.parquet"))
    assert list(table["run"]) == list(pd.read_parquet("runs/small/results.parquet")["run"])
    with xr.open_dataset("runs/small/results.nc", engine="h5netcdf") as kept:
        assert kept.identical(ia.load_sweep("runs/small"))
        assert dict(kept.sizes) == {"task.operation": 2, "batch": 2, "seed": 2}
    cell = load_sweep("runs/small").sel({"task.operation": "subtract", "batch": 12, "seed": 1})
    info = json.loads(Path("runs/small/runs/operation-subtract_batch-12-s1/run.json").read_text())
    assert float(cell["test_loss"]) == info["summary"]["last"]["test_loss"]


def test_the_folder_of_a_sweep_lists_its_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweep_module, "run_locally", in_this_process)
    table = sweep(small_sweep(), device="cpu", progress=False)
    assert main(["runs", "runs/small"]) == 0
    out = capsys.readouterr().out
    assert len(table) == 8
    assert [run for run in table["run"] if run not in out] == []


def test_load_sweep_wants_a_sweep():
    with pytest.raises(RequestError, match=r"nowhere is no sweep: it has no sweep\.yaml; train one with"):
        load_sweep("nowhere")
