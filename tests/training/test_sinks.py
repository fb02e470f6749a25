import importlib
import io
import sys

import pytest
from rich.console import Console

from interp_arith.errors import RequestError
from interp_arith.training.sinks import (
    LINES_PER_RUN,
    LiveTable,
    evaluated_sets,
    learning_state,
    make_tracker,
)


def record(step: int, **scores: float) -> dict[str, float]:
    evaluation = {"train_loss": 1.2e-3, "train_accuracy": 1.0, "test_loss": 3.4, "test_accuracy": 0.123}
    return {"step": step, "batch_loss": 1e-3, **evaluation, **scores}


def plain(runs: list[str], total_steps: int) -> tuple[LiveTable, io.StringIO]:
    out = io.StringIO()
    return LiveTable(runs, total_steps, "mod-add-113", Console(file=out, force_terminal=False, width=60)), out


def rendered(table: LiveTable, width: int = 80, height: int = 24) -> list[str]:
    console = Console(file=io.StringIO(), record=True, width=width, height=height)
    console.print(table.render())
    return [line.rstrip() for line in console.export_text().splitlines()]


def test_sets_are_those_with_a_score_and_a_batch_is_none():
    keys = ["step", "batch_loss", "length_5_loss", "test_accuracy", "train_exact_match", "gradient_norm"]
    assert evaluated_sets(keys) == ["train", "test", "length_5"]


@pytest.mark.parametrize(
    ("latest", "state"),
    [
        ({}, "waiting"),
        ({"step": 1, "train_accuracy": 0.98}, "learning"),
        ({"step": 1, "train_accuracy": 1.0, "test_accuracy": 0.98}, "fits train"),
        ({"step": 1, "train_accuracy": 1.0, "test_accuracy": 0.99}, "generalised"),
        ({"step": 1, "train_accuracy": 1.0, "test_accuracy": 1.0, "test_exact_match": 0.9}, "fits train"),
        ({"step": 1, "val_exact_match": 1.0}, "generalised"),
        ({"step": 1, "batch_loss": float("nan")}, "diverged"),
    ],
)
def test_state_follows_the_questions_that_are_right(latest, state):
    assert learning_state(latest) == state


def test_one_run_has_a_row_for_each_set_and_a_line_of_other_scores():
    table, _ = plain(["run"], 600)
    table.log("run", record(120, length_5_accuracy=0.5, test_exact_match=0.1, gradient_norm=0.25))
    lines = rendered(table)
    assert [line.split() for line in lines if line.startswith(("train", "test", "length"))] == [
        ["train", "1.000", "1.2e-03"],
        ["test", "0.123", "0.100", "3.4e+00"],
        ["length_5", "0.500"],
    ]
    assert any("120/600 steps" in line for line in lines)
    assert any("gradient norm 0.25" in line for line in lines)


def test_scores_stay_until_the_next_evaluation():
    table, _ = plain(["run"], 600)
    table.log("run", record(120))
    table.log("run", {"step": 121, "batch_loss": 1.0})
    assert any("0.123" in line for line in rendered(table))


def test_only_a_whole_share_reads_one():
    table, _ = plain(["run"], 600)
    table.log("run", record(120, train_accuracy=0.99999))
    (row,) = [line for line in rendered(table) if line.startswith("train")]
    assert row.split()[1] == "0.999"


def test_several_runs_have_a_row_each():
    runs = [f"mod-add-113-s{seed}" for seed in range(3)]
    table, _ = plain(runs, 600)
    for seed, run in enumerate(runs[:2]):
        table.log(run, record(120, test_accuracy=float(seed), test_exact_match=float(seed)))
    rows = [line.split(maxsplit=6) for line in rendered(table) if line.startswith("mod-add-113-s")]
    assert rows == [
        ["mod-add-113-s0", "120", "1.000", "1.2e-03", "0.000", "0.000", "3.4e+00  fits train"],
        ["mod-add-113-s1", "120", "1.000", "1.2e-03", "1.000", "1.000", "3.4e+00  generalised"],
        ["mod-add-113-s2", "waiting"],
    ]


def test_several_runs_with_a_grid_of_lengths_show_it():
    table, _ = plain(["add-10d-s0", "add-10d-s1"], 600)
    grid = {"val_current_exact_match": 0.75, "grid_exact_match": 0.5, "test_exact_match": 0.25}
    table.log("add-10d-s0", {"step": 120, "test_accuracy": 0.875, "test_loss": 1.5, **grid})
    lines = rendered(table)
    assert max(map(len, lines)) <= 80
    (row,) = [line.split() for line in lines if line.startswith("add-10d-s0")]
    assert row[:7] == ["add-10d-s0", "120", "0.750", "0.500", "0.875", "0.250", "1.5e+00"]


def test_a_grid_of_lengths_has_rows_of_its_own_and_a_place_in_the_line():
    grid = {"val_4_exact_match": 0.25, "grid_exact_match": 0.125, "curriculum_digits": 4.0}
    table, out = plain(["run"], 600)
    table.log("run", record(120, **grid))
    table.close("finished")
    lines = rendered(table)
    assert [line.split() for line in lines if line.startswith(("val_4", "grid"))] == [
        ["grid", "0.125"],
        ["val_4", "0.250"],
    ]
    assert any("curriculum digits 4" in line for line in lines)
    assert "grid exact 0.125 to digits 4" in out.getvalue()


def test_a_long_grid_fits_the_screen_and_its_mean_is_always_shown():
    lengths = {f"val_{length}_exact_match": 0.5 for length in range(1, 51)}
    table, _ = plain(["run"], 600)
    table._console.height = 24
    table.log("run", record(120, **lengths, val_current_exact_match=0.75, grid_exact_match=0.25))
    lines = rendered(table)
    assert len(lines) <= 24
    first = [line.split()[0] for line in lines if line.startswith(("train", "test", "grid", "val_"))]
    assert first[:5] == ["train", "test", "grid", "val_current", "val_1"]
    assert f"and {54 - len(first)} more" in lines


def test_many_runs_fit_the_screen_and_are_summed_up():
    runs = [f"mod-add-113-s{seed}" for seed in range(101)]
    table, _ = plain(runs, 600)
    table._console.height = 24
    for seed, run in enumerate(runs):
        table.log(run, record(120, test_accuracy=seed / 100))
    lines = rendered(table)
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    summary = {
        line.split()[0]: line.split()[4] for line in lines if line.startswith(("min", "median", "max"))
    }
    assert summary == {"min": "0.000", "median": "0.500", "max": "1.000"}
    assert "99 fits train   2 generalised" in lines


def test_a_terminal_is_drawn_on_and_left_with_the_status():
    out = io.StringIO()
    table = LiveTable(["run"], 600, "mod-add-113", Console(file=out, force_terminal=True, width=80))
    try:
        for step in range(601):
            table.log("run", record(step))
        drawn_while_training = out.getvalue().count("token accuracy")
    finally:
        table.close("finished")
    assert 1 <= drawn_while_training < 60
    assert "finished" in out.getvalue()
    assert "600/600" in out.getvalue()


def test_without_a_terminal_an_evaluation_is_one_line():
    table, out = plain(["run"], 600)
    table.log("run", record(0, test_exact_match=0.01))
    table.log("run", {"step": 1, "batch_loss": 4.0})
    assert out.getvalue() == (
        "step   0/600  train loss 1.2e-03 acc 1.000  test loss 3.4e+00 acc 0.123 exact 0.010\n"
    )


def test_a_line_names_its_run_where_there_are_several():
    table, out = plain(["s0", "s10"], 600)
    table.log("s0", record(0))
    assert out.getvalue().startswith("s0   step   0/600  train")


@pytest.mark.parametrize("total_steps", [7, 600, 40_000])
def test_lines_are_few_and_hold_the_first_and_the_last(total_steps):
    table, out = plain(["run"], total_steps)
    every = max(1, total_steps // 1000)
    for step in range(0, total_steps + 1, every):
        table.log("run", record(step))
    table.close("finished")
    lines = out.getvalue().splitlines()
    assert min(total_steps + 1, 30) <= len(lines) <= LINES_PER_RUN
    assert f" 0/{total_steps} " in lines[0]
    assert f"step {total_steps}/{total_steps} " in lines[-1]
    assert len(set(lines)) == len(lines)


def test_an_interrupted_run_still_prints_its_last_evaluation():
    table, out = plain(["run"], 600)
    for step in (0, 1, 2):
        table.log("run", record(step))
    table.close("interrupted")
    assert [line.split("  train")[0] for line in out.getvalue().splitlines()] == [
        "step   0/600",
        "step   2/600",
        "mod-add-113: interrupted at step 2/600",
    ]


def test_an_unknown_tracker_is_answered_with_the_nearest_name():
    with pytest.raises(RequestError, match="no tracker is called 'wandbb'; did you mean wandb"):
        make_tracker("wandbb", {}, {}, "group")


@pytest.mark.parametrize(("name", "module"), [("wandb", "wandb"), ("tensorboard", "torch.utils.tensorboard")])
def test_a_missing_package_is_named_with_how_to_install_it(monkeypatch, name, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        RequestError, match=rf'{name} is not installed; run `pip install "interp-arith\[{name}\]"`'
    ):
        make_tracker(name, {}, {}, "group")


def test_wandb_keeps_one_offline_run_for_each_run(tmp_path, monkeypatch):
    for name, value in {"MODE": "offline", "SILENT": "true", "DATA_DIR": str(tmp_path)}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    directories = {"s0": tmp_path / "s0", "s1": tmp_path / "s1"}
    sink = make_tracker("wandb", {"s0": {"p": 113}, "s1": {"p": 113}}, directories, "mod-add-113")
    for run in directories:
        sink.log(run, record(0))
        sink.log(run, record(10))
    sink.close("finished")
    for directory in directories.values():
        (file,) = directory.glob("wandb/offline-run-*/run-*.wandb")
        assert file.stat().st_size > 0


def test_a_tracker_that_does_not_start_says_what_to_do(tmp_path, monkeypatch):
    wandb = importlib.import_module("wandb")

    def refuse(**_):
        raise wandb.errors.UsageError("no API key configured")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(
        RequestError, match="no API key configured; log in with `wandb login`, or set WANDB_MODE"
    ):
        make_tracker("wandb", {"s0": {}}, {"s0": tmp_path}, "group")


def test_tensorboard_files_read_back_under_the_names_of_the_metrics(tmp_path):
    accumulators = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    for steps in ((0, 10, 20), (10, 20)):  # the second is a run resumed at step 10
        sink = make_tracker("tensorboard", {}, {"s0": tmp_path / "s0"}, "group")
        for step in steps:
            sink.log("s0", record(step, test_loss=3.5))
        sink.close("finished")
    events = accumulators.EventAccumulator(str(tmp_path / "s0")).Reload()
    assert set(events.Tags()["scalars"]) == {key for key in record(0) if key != "step"}
    assert [(event.step, event.value) for event in events.Scalars("test_loss")] == [
        (0, 3.5),
        (10, 3.5),
        (20, 3.5),
    ]
