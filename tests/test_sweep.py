"""Sweeps as a user runs them: checked first, trained in groups, killed and gone on with; and their results."""

import errno
import os
import re
import signal
from pathlib import Path

import pandas as pd
import pytest
from chaos.small_runs import small_config
from small_sweeps import (
    all_differences,
    command,
    in_this_process,
    one_writer_killed,
    resumed,
    small_sweep,
    wait_for_a_run_in_its_middle,
    wait_until_nobody_writes,
    write_file,
)

import interp_arith as ia
from interp_arith import files, storage, workers
from interp_arith import sweep as sweep_module
from interp_arith.cli import main
from interp_arith.errors import RequestError, WorkError
from interp_arith.grid import Sweep
from interp_arith.runs import train_configs
from interp_arith.storage import RunDirectory
from interp_arith.sweep import groups, sweep
from interp_arith.training.signals import StopRequest
from interp_arith.workers import Job, work

QUIET = {"device": "cpu", "progress": False}
RUNS = 8


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda handle: None)


@pytest.fixture
def _here(monkeypatch):
    """Jobs are done in this process, one after the other."""
    monkeypatch.setattr(sweep_module, "run_locally", in_this_process)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A folder of the runs of a small sweep, each group of a worker's share trained by one call."""
    folder = tmp_path_factory.mktemp("undisturbed")
    plan = Sweep.model_validate(small_sweep())
    for members in groups([run.config for run in plan.runs()], [], (), RUNS // 2, "cpu"):
        train_configs(members, out=folder, **QUIET)
    return folder


# --- groups ---


def configs(*settings):
    return [small_config(name=f"c{i}", **fields) for i, fields in enumerate(settings)]


def together(members):
    return [[config.name for config in group] for group in members]


def test_runs_that_differ_in_seed_rate_decay_or_share_train_together():
    same = configs(
        {},
        {"seed": 3},
        {"optimizer": {"kind": "adamw", "learning_rate": 0.5, "weight_decay": 0.0}},
        {"task": {"kind": "modular", "p": 7, "train_fraction": 0.7, "seed": 4}},
    )
    others = configs({}, {"model": {"d_model": 16, "n_heads": 2, "d_mlp": 12}}, {"batch_size": 9})
    assert together(groups(same, [], (), 9, "cuda")) == [["c0", "c1", "c2", "c3"]]
    assert together(groups(same, [], (), 9, "cpu")) == [["c0", "c1", "c2"], ["c3"]]  # its share is another
    assert together(groups(others, [], (), 9, "cpu")) == [["c0"], ["c1"], ["c2"]]


def test_a_group_is_at_most_one_worker_s_share():
    five = configs({}, {}, {}, {}, {})
    assert together(groups(five, [], (), 2, "cpu")) == [["c0", "c1"], ["c2", "c3"], ["c4"]]


def test_a_group_that_has_begun_stays_as_it_was_and_the_others_are_made_anew():
    five = configs({}, {}, {}, {}, {})
    earlier = [["c0-s0", "c3-s0"], ["c1-s0"], ["c2-s0"], ["c4-s0"]]
    assert together(groups(five, earlier, {"c3-s0"}, 9, "cpu")) == [["c0", "c3"], ["c1", "c2", "c4"]]


# --- a whole sweep, its workers killed, itself killed ---


def test_a_worker_that_is_killed_is_replaced_and_the_runs_are_the_same_to_the_bit(undisturbed, capsys):
    with one_writer_killed(Path("runs/small/runs")) as killed:
        assert main(["sweep", write_file(Path()), "--workers", "2", "--device", "cpu"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "its process died (killed); tried again" in printed.out
    assert "a row a run: runs/small/results.csv" in printed.out
    assert killed[0] in resumed(Path("runs/small/runs"))
    assert all_differences(undisturbed, Path("runs/small/runs")) == {}


@pytest.mark.parametrize(
    ("number", "status", "said"),
    [
        (signal.SIGKILL, -9, ""),
        (signal.SIGTERM, 143, "interp-arith: stopped with "),
    ],
)
def test_a_sweep_that_is_killed_or_stopped_goes_on(undisturbed, monkeypatch, number, status, said):
    process = command("sweep", write_file(Path()), "--workers", "2", "--device", "cpu")
    runs = Path("runs/small/runs")
    wait_for_a_run_in_its_middle(runs)
    process.send_signal(number)
    printed, told = process.communicate()
    assert process.returncode == status
    assert told.startswith(said)
    assert not said or re.search(r"^\d/\d \S.*: stopped: saved at step \d+$", printed, re.MULTILINE)
    assert "Traceback" not in told
    wait_until_nobody_writes(runs)
    monkeypatch.setattr(sweep_module, "run_locally", in_this_process)
    table = sweep(small_sweep(), **QUIET, workers=2)
    assert list(table["status"]) == ["finished"] * RUNS
    assert resumed(runs)
    assert all_differences(undisturbed, runs) == {}


def test_a_stop_while_workers_start_ends_them_before_they_begin(tmp_path):
    request, heard = StopRequest(), []

    def stop(what: str, _: object) -> None:
        heard.append(what)
        request.signal = signal.SIGINT

    job = Job((small_config(),), tmp_path, tmp_path)
    outcomes = workers.run_locally([job, job], 1, 2, request, stop)
    assert [(o.error, o.stopped) for o in outcomes] == [("stopped: not begun", True)]
    assert heard == ["started", "ended"]  # not tried again, and the second never started
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("_here")
def test_a_stop_after_the_last_run_stops_nothing(monkeypatch, capsys):
    def stopped_late(jobs, count, retries, request, report):
        outcomes = in_this_process(jobs, count, retries, request, report)
        request.signal = signal.SIGINT
        return outcomes

    monkeypatch.setattr(sweep_module, "run_locally", stopped_late)
    assert main(["sweep", write_file(Path()), "--workers", "2", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    counts = [int(line.partition("/")[0]) for line in lines if re.match(rf"\d/{RUNS} ", line)]
    assert counts == sorted(counts)
    assert counts[-1] == RUNS  # runs are counted, though some train together


# --- in this process ---


@pytest.mark.usefixtures("_here")
def test_a_finished_sweep_trains_nothing_again(monkeypatch, capsys):
    first = sweep(small_sweep(), **QUIET)

    def refuse(*_: object) -> None:
        raise AssertionError("nothing is left to train")

    monkeypatch.setattr(sweep_module, "run_locally", refuse)
    assert ia.sweep(small_sweep(), **QUIET | {"progress": True}).equals(first)
    assert f"{RUNS} runs were finished already" in capsys.readouterr().out


@pytest.mark.usefixtures("_here")
def test_the_sweep_as_resolved_is_kept_and_is_the_same_sweep():
    sweep(small_sweep(seeds="0..1"), **QUIET)
    assert files.read_yaml(Path("runs/small/sweep.yaml")) == small_sweep()
    assert main(["sweep", "runs/small/sweep.yaml", "--device", "cpu"]) == 0
    assert ia.find_runs("runs") == []
    assert len(ia.find_runs("runs/small/runs")) == RUNS


@pytest.mark.usefixtures("_here")
def test_a_run_that_fails_is_named_and_the_others_finish(capsys):
    rates = [0.01, 1e30]
    file = write_file(Path(), grid={"optimizer.learning_rate": rates}, seeds=[0, 1])
    assert main(["sweep", file, "--device", "cpu"]) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("interp-arith: 2 of 4 runs did not finish: learning-rate-1e30-s0, ")
    assert "the loss is not finite at step 1" in printed.err
    assert printed.err.endswith("; the same sweep again goes on with them\n")
    assert printed.err.count("\n") == 1
    table = pd.read_csv("runs/small/results.csv")
    assert list(table["status"]) == ["finished", "finished", "failed", "failed"]
    assert "learning rate" in printed.out


@pytest.mark.usefixtures("_here")
def test_a_full_disk_loses_nothing_and_the_same_sweep_again_finishes(undisturbed, monkeypatch, capsys):
    write, left = storage.write_atomically, [120]

    def write_until_full(file: Path, data: bytes) -> None:
        left[0] -= 1
        if left[0] < 0 and "results" not in file.name:
            raise files.cannot_write(file, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        write(file, data)

    monkeypatch.setattr(storage, "write_atomically", write_until_full)
    options = ["sweep", write_file(Path()), "--workers", "2", "--device", "cpu"]
    assert main(options) == 1
    told = capsys.readouterr().err
    assert "could not be written (No space left on device); the same sweep again goes on" in told
    assert "--resume" not in told
    assert 0 < list(pd.read_csv("runs/small/results.csv")["status"]).count("finished") < RUNS
    monkeypatch.setattr(storage, "write_atomically", write)
    assert main(options) == 0
    assert all_differences(undisturbed, Path("runs/small/runs")) == {}


def test_a_bug_in_a_job_is_one_line(monkeypatch, tmp_path):
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("by 0\nand more")

    monkeypatch.setattr(workers, "train_configs", fail)
    outcome = work(4, Job((small_config(),), tmp_path, tmp_path))
    assert (outcome.index, outcome.error, outcome.again) == (4, "ZeroDivisionError: by 0", True)


# --- refusals ---


@pytest.fixture
def refused(capsys):
    """A sweep that must be refused with one line, and nothing written; the line."""

    def refused(*options, **fields):
        file = write_file(Path(), **fields)
        before = sorted(Path().rglob("*"))
        assert main(["sweep", file, *options]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.count("\n") == 1
        assert sorted(Path().rglob("*")) == before
        return printed.err

    return refused


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        (
            {"grid": {"task.oprtion": ["add"]}},
            "interp-arith: no config field is called 'task.oprtion'; did you mean",
        ),
        ({"grid": {}}, "grid: empty; give at least one field"),
        (
            {"grid": {"task.train_fraction": [0.5, 0.001]}},
            "train-fraction-0.001: train_fraction = 0.001 of 49",
        ),
        ({"grid": {"model.d_model": [8, 9]}}, "d_model = 9 is not divisible by n_heads = 2"),
        (
            {"grid": {"optimizer.learning_rate": [0.1, -1], "model.d_model": [8]}},
            "adamw: learning_rate = -1: Input should be greater than 0 "
            "(grid point: optimizer.learning_rate = -1, model.d_model = 8)",
        ),
        (
            {"grid": {"model.n_ctx": [3, 2]}},
            "n-ctx-2: model.n_ctx = 2, and the modular task needs 3 positions",
        ),
        ({"grid": {"stop.metric": ["test_acc"]}}, "stop.metric = 'test_acc' is not measured in this run"),
        ({"overrides": {"init_from": "nowhere"}}, "no run is called 'nowhere'"),
        ({"overrides": {"data_dir": "nowhere"}}, "data folder nowhere: no train.jsonl"),
    ],
)
def test_a_wrong_sweep_is_refused_before_anything_is_trained(refused, fields, complaint):
    assert complaint in refused(**fields)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ("--workers 0", "workers = 0; allowed: 1 or more"),
        ("--retries -1", "retries = -1; allowed: 0 or more"),
        ("--gpus-per-worker 0", "gpus per worker = 0.0; allowed: more than 0, such as 0.5"),
        ("--device tpu", "no device is called 'tpu'; did you mean cpu?"),
        ("--out sweep-file.yaml", "--out sweep-file.yaml is a file; give a folder"),
    ],
)
def test_wrong_options(refused, options, complaint):
    assert complaint in refused(*options.split())


def test_a_sweep_file_that_there_is_not(capsys):
    assert main(["sweep", "nowhere.yaml"]) == 2
    assert capsys.readouterr().err == "interp-arith: nowhere.yaml: no such file\n"


@pytest.mark.usefixtures("_here")
def test_another_sweep_of_the_same_name_is_refused_with_the_next_step(refused):
    sweep(small_sweep(), **QUIET)
    message = refused(seeds=[0, 2])
    assert (
        "holds another sweep of that name (other seeds); give this one another name, or go on with" in message
    )
    assert "runs/small/sweep.yaml\n" in message


def test_a_folder_that_is_no_sweep_is_not_taken(refused):
    Path("runs/small").mkdir(parents=True)
    Path("runs/small/thesis.tex").write_text("years of work", encoding="utf-8")
    assert "runs/small exists and is no sweep; give the sweep another name, or another --out" in refused()


def test_a_sweep_that_is_being_trained_is_refused():
    with (
        RunDirectory(Path("runs/small")).lock(),
        pytest.raises(RequestError, match="is being trained by another"),
    ):
        sweep(small_sweep(), **QUIET)


@pytest.mark.usefixtures("_here")
def test_a_run_that_is_being_written_is_refused():
    sweep(small_sweep(), **QUIET)
    with (
        RunDirectory(Path("runs/small/runs/operation-add_batch-8-s0")).lock(),
        pytest.raises(
            RequestError, match="operation-add_batch-8-s0 is being written by another process; wait"
        ),
    ):
        sweep(small_sweep(), **QUIET)


def test_a_failing_sweep_from_python_is_a_work_error(monkeypatch):
    monkeypatch.setattr(sweep_module, "run_locally", in_this_process)
    with pytest.raises(WorkError, match="1 of 1 runs did not finish: learning-rate-1e30-s0: "):
        sweep(small_sweep(grid={"optimizer.learning_rate": [1e30]}, seeds=[0]), **QUIET)


@pytest.mark.parametrize(
    "file", sorted((Path(__file__).parent.parent / "sweeps").glob("*.yaml")), ids=lambda f: f.stem
)
def test_every_shipped_sweep_has_a_cap_three_seeds_and_its_file_s_name(file):
    plan = sweep_module.read_sweep(file)
    runs = plan.runs()
    assert plan.name == file.stem
    assert plan.seeds == (42, 123, 456)
    text = file.read_text(encoding="utf-8")
    assert all(run.config.budget.steps for run in runs)
    assert all(run.config.stop.metric for run in runs) or "No run stops before the cap" in text
    assert "cap of " in text
    assert len({run.config.run_name for run in runs}) == len(runs)
