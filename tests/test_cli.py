"""The command line: every command, what it prints, and what it leaves on disk."""

import importlib
import io
import json
import os
import shlex
import subprocess
import sys

import pytest

from interp_arith import __version__
from interp_arith.cli import COMMANDS, MODULES, main
from interp_arith.presets import PRESETS
from interp_arith.runs import load_run
from interp_arith.training.optimizers import Muon, OrthoGrad

TINY = shlex.split(
    "train mod-add-113 --task.p 7 --task.train-fraction 0.5 --model.d-model 8 --model.n-heads 2 --model.d-mlp 8 "
    "--budget.steps 6 --checkpoints.every 2 --checkpoints.state-every 3 --log-every 1 --evaluate-every 2"
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with one finished run, runs/tiny-s0."""
    folder = tmp_path_factory.mktemp("trained")
    assert main([*TINY, "--name", "tiny", "--out", str(folder / "runs")]) == 0
    return folder


@pytest.fixture
def run(trained):
    return str(trained / "runs" / "tiny-s0")


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def ask(capsys):
    """Run a command that succeeds; what it printed."""

    def ask(*arguments):
        assert main([str(a) for a in arguments]) == 0
        printed = capsys.readouterr()
        assert printed.err == ""
        return printed.out

    return ask


# --- the program ---


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_every_command_in_80_columns_or_little_more(ask, arguments):
    shown = ask(*arguments)
    assert all(f"  {name} " in shown for name in COMMANDS)
    assert max(map(len, shown.splitlines())) <= 120


def test_version(ask):
    assert ask("--version") == f"{__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(capsys, command):
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: interp-arith {command}")
    assert COMMANDS[command].split(";")[0][:40] in shown


def test_help_of_a_preset_lists_its_fields_and_every_kind(capsys):
    with pytest.raises(SystemExit):
        main(["train", "add-10d-763", "--schedule.kind", "restarts", "--help"])
    shown = capsys.readouterr().out
    for option in (
        "--task.n-digits",
        "--model.d-model",
        "--schedule.period",
        "--optimizer.betas",
        "--stop.metric",
    ):
        assert option in shown
    assert "--optimizer.kind: adamw, muon, grokfast, orthograd" in shown


def test_a_reader_that_goes_away_is_no_error():
    """As in `interp-arith --help | head -1`."""
    program = "import sys; from interp_arith.cli import main; sys.exit(main(['--help']))"
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait() == 141


@pytest.mark.parametrize("name", COMMANDS)
def test_what_the_overview_says_of_a_command_is_what_its_module_says(name):
    module = importlib.import_module(f"interp_arith.commands.{MODULES[name]}")
    assert module.__doc__ == COMMANDS[name]
    assert callable(module.run)


# --- presets ---


def test_presets_lists_each_with_its_parameter_count(ask):
    rows = {line.split()[0]: line.split()[1] for line in ask("presets").splitlines() if line.strip(" ─")}
    assert rows["add-10d-763"] == "763"
    assert rows["add-10d-777"] == "777"
    assert rows["mod-add-113"] == "226,688"
    assert set(PRESETS) <= set(rows)


def test_presets_with_a_name_shows_the_config_and_every_tensor(ask):
    shown = ask("presets", "add-10d-763")
    assert "name: add-10d-763\n" in shown
    assert "\n  n_digits: 10\n" in shown
    table = [line.split() for line in shown[shown.index(" tensor ") :].splitlines()[2:] if line.strip()]
    assert ["blocks.0.mlp.W_in", "7", "×", "14", "98"] in table
    assert sum(int(row[-1]) for row in table[:-1]) == 763
    assert table[-1] == ["in", "all", "763"]


# --- train ---


def test_train_says_where_the_run_is_and_what_to_do_next(ask):
    shown = ask(*TINY, "--name", "one")
    assert "runs/one-s0: finished at step 6" in shown
    assert " evaluate runs/one-s0\n" in shown
    assert " generate runs/one-s0 '" in shown
    run = load_run("runs/one-s0")
    assert (run.status, run.steps) == ("finished", [0, 1, 2, 4, 6])
    assert (run.config.task.p, run.config.model.d_model) == (7, 8)


def test_what_train_tells_to_do_next_works(ask, capsys):
    next_lines = ask(*TINY, "--name", "one").split("Next:")[1].splitlines()
    commands = [
        shlex.split(line)[1:] for line in next_lines if " runs/one-s0" in line and "curves" not in line
    ]
    assert [main(command) for command in commands] == [0, 0]
    assert capsys.readouterr().err == ""


def test_train_several_seeds_gives_each_its_own_run_and_split(ask):
    shown = ask(*TINY, "--name", "many", "--seeds", "0..1")
    assert "runs/many-s0: finished" in shown
    assert "runs/many-s1: finished" in shown
    first, second = load_run("runs/many-s0"), load_run("runs/many-s1")
    assert (second.config.seed, second.config.task.seed) == (1, 1)
    assert first.task.split("train").tolist() != second.task.split("train").tolist()


def test_a_list_of_seeds_and_a_single_one(ask):
    ask(*TINY, "--name", "two", "--seeds", "3,1", "--budget.steps", "1")
    ask(*TINY, "--name", "two", "--seed=5", "--budget.steps", "1")
    assert [load_run(f"two-s{seed}").config.task.seed for seed in (1, 3, 5)] == [1, 3, 5]


def test_the_task_keeps_its_own_seed_if_one_is_given(ask):
    ask(*TINY, "--seed", "5", "--task.seed", "2", "--budget.steps", "1")
    config = load_run("mod-add-113-s5").config
    assert (config.seed, config.task.seed) == (5, 2)


@pytest.mark.parametrize(
    ("options", "path", "kind"),
    [
        ("--optimizer.kind muon --optimizer.momentum 0.9", "optimizer", "muon"),
        ("--optimizer.kind=grokfast", "optimizer", "grokfast"),
        ("--model.positions.kind rotary --model.positions.base 3", "model.positions", "rotary"),
        ("--schedule.kind cosine --schedule.final-fraction 0.1", "schedule", "cosine"),
        ("--schedule.kind restarts --schedule.period 3", "schedule", "restarts"),
        ("--batch-size 8 --optimizer.kind orthograd", "optimizer", "orthograd"),
    ],
)
def test_a_choice_of_another_kind(ask, options, path, kind):
    ask(*TINY, *options.split(), "--budget.steps", "2")
    choice = load_run("mod-add-113-s0").config
    for part in path.split("."):
        choice = getattr(choice, part)
    assert choice.kind == kind


def test_fields_that_both_kinds_define_alike_keep_their_values(ask):
    ask(*TINY, "--optimizer.kind", "orthograd", "--budget.steps", "1")
    old = PRESETS["mod-add-113"].config.optimizer
    assert load_run("mod-add-113-s0").config.optimizer == OrthoGrad(
        learning_rate=old.learning_rate, weight_decay=old.weight_decay
    )


def test_a_kind_with_other_defaults_starts_from_them(ask):
    ask(*TINY, "--optimizer.kind", "muon", "--budget.steps", "1")
    assert load_run("mod-add-113-s0").config.optimizer == Muon()


def test_another_kind_of_task_takes_what_it_needs_from_later_options(ask):
    small = "--task.n-digits 2 --task.test-questions 9 --model.d-model 8 --model.n-heads 2 --budget.steps 1"
    ask("train", "mod-add-113", "--task.kind", "addition", "--batch-size", "8", *small.split())
    ask("train", "mod-sub-97", "--task.kind", "s5", "--budget.steps", "1", "--model.d-model", "8")
    assert load_run("mod-add-113-s0").config.task.kind == "addition"
    assert load_run("mod-sub-97-s0").config.task.operation == "xy"


def test_a_config_file_repeats_the_run_and_overrides_change_it(ask, run, tmp_path):
    ask("train", f"{run}/config.yaml", "--budget.steps", "4")
    again = load_run("tiny-s0")
    assert again.config == load_run(run).config.replace(budget={"steps": 4})
    losses = [load_run(path).metrics["train_loss"][:5].tolist() for path in (run, "tiny-s0")]
    assert losses[0] == losses[1]


def test_resume_leaves_a_finished_run_as_it_is(ask, tmp_path):
    ask(*TINY)
    metrics = (tmp_path / "runs/mod-add-113-s0/metrics.jsonl").read_bytes()
    assert "finished at step 6" in ask(*TINY, "--resume")
    assert (tmp_path / "runs/mod-add-113-s0/metrics.jsonl").read_bytes() == metrics


def test_init_from_starts_with_the_weights_of_another_run(ask, run):
    ask(*TINY, "--init-from", f"{run}@4", "--budget.steps", "1", "--name", "second")
    theirs, ours = load_run(run).weights(4), load_run("second-s0").weights(0)
    assert all((theirs[name] == ours[name]).all() for name in theirs)


def test_train_on_data_files(ask):
    told = ask("data", "mod-add-113", "--task.p", "7", "--task.train-fraction", "0.5", "--out", "my data")
    assert "train mod-add-113 --task.p 7 --task.train-fraction 0.5 --data-dir 'my data'" in told
    ask(*TINY, "--data-dir", "my data")
    assert load_run("mod-add-113-s0").info["data_sha256"].keys() == {"train.jsonl", "val.jsonl", "test.jsonl"}


def test_tensorboard_is_told_too(ask, tmp_path):
    ask(*TINY, "--track", "tensorboard", "--budget.steps", "2")
    assert list(tmp_path.glob("runs/mod-add-113-s0/tracker/*tfevents*"))


# --- evaluate and generate ---


def test_evaluate_prints_a_row_a_set_and_keeps_the_failures(ask, trained, run):
    rows = {
        line.split()[0]: line.split()[1:] for line in ask("evaluate", run).splitlines() if line.strip(" ─")
    }
    assert rows["train"][0] == "24"
    assert rows["test"][0] == "25"
    kept = json.loads((trained / "runs/tiny-s0/evaluations/test-step-6.json").read_text(encoding="utf-8"))
    assert kept["step"] == 6
    assert len(kept["failures"]) == int(rows["train"][-1]) + int(rows["test"][-1])


@pytest.mark.parametrize("step", ["0", "4", "best", "last"])
def test_evaluate_takes_a_step(ask, run, step):
    assert "questions" in ask("evaluate", run, "--step", step, "--device", "cpu")


def test_generate_answers_each_question_in_turn(ask, run):
    lines = ask("generate", run, "2+3=", "6+6=").splitlines()
    assert [line.split("=")[0] for line in lines] == ["2+3", "6+6"]
    assert all(line.endswith("right") or "wrong, it is 5" in line for line in lines)


def test_generate_with_steps_shows_logits_and_probabilities(ask, run):
    shown = ask("generate", run, "2+3=", "--steps", "--step", "4")
    assert "logit   probability" in shown
    assert "chosen" in shown
    assert "right" in shown


def test_generate_draws_with_a_seed(ask, run):
    options = ("--temperature", "5", "--top-k", "3", "--seed", "4")
    assert ask("generate", run, "2+3=", "1+1=", *options) == ask("generate", run, "2+3=", "1+1=", *options)


def test_interactive_answers_until_an_empty_line_and_survives_a_wrong_question(ask, run, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("2+3=\n23+=\n1+1=\n\n5+5=\n"))
    shown = ask("generate", run, "--interactive")
    assert "2+3=" in shown
    assert "question '23+=' is not of the form a+b=" in shown
    assert "1+1=" in shown
    assert "5+5=" not in shown


def test_interactive_ends_with_the_input(ask, run, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("2+3=\n"))
    assert ask("generate", run, "--interactive").endswith("question> \n")


# --- data ---


def test_data_writes_every_listed_question(ask, tmp_path):
    shown = ask("data", "mod-add-113", "--task.p", "7", "--out", "files")
    assert "files/train.jsonl: 14 questions" in shown
    rows = [json.loads(line) for line in (tmp_path / "files/test.jsonl").read_text().splitlines()]
    assert len(rows) == 35
    for row in rows:
        a, b = row["question"].rstrip("=").split("+")
        assert int(row["answer"]) == (int(a) + int(b)) % 7


def test_data_draws_as_many_as_asked(ask, tmp_path):
    small = ("--task.val-questions", "3", "--task.test-questions", "4")
    ask("data", "add-10d-763", "--out", "files", "-n", "12", *small)
    sizes = [len((tmp_path / f"files/{s}.jsonl").read_text().splitlines()) for s in ("train", "val", "test")]
    assert sizes == [12, 3, 4]


def test_inspect_data_shows_tokens_positions_and_loss_mask(ask):
    shown = ask("inspect-data", "sanity-masked")
    assert [line.split()[-1] for line in shown.splitlines()[4:10]] == ["masked"] * 3 + ["yes"] * 3
    assert "position" in shown
    assert ask("inspect-data", "mod-add-113", "-n", "2", "--task.p", "7").count("position") == 2


def test_inspect_data_shows_the_rows_of_position_tables(ask):
    shown = ask("inspect-data", "add-10d-763", "-n", "1", "--model.positions.kind", "coupled")
    assert "place" in shown
    assert [line.split()[1] for line in shown.splitlines()[4:15]] == [*map(str, range(11, 0, -1))]
    assert shown.endswith("the places of each question are moved up by the same random offset, 0 to 89\n")
    shown = ask(
        "inspect-data", "add-10d-763", "--model.positions.kind", "coupled", "--model.positions.gap", "20"
    )
    *_, offset, gap = shown.splitlines()
    assert offset.endswith("by the same random offset, 0 to 89")
    assert gap == "in training those from a random place on move up by a random gap too, 0 to 20"


def test_inspect_data_draws_operands_of_the_lengths_asked_for(ask):
    shown = ask("inspect-data", "add-10d-763", "-n", "3", "--min-digits", "3", "--max-digits", "5")
    questions = [line.split("=")[0] for line in shown.splitlines() if "+" in line and "=" in line]
    assert len(questions) == 3
    assert all(len(number) <= 5 for question in questions for number in question.split("+"))


# --- runs ---


def test_runs_lists_runs_and_the_mean_over_seeds(ask, trained):
    ask(*TINY, "--name", "many", "--seeds", "0..1")
    each, over_seeds = ask("runs").split(" config ")
    assert [line.split()[0] for line in each.splitlines() if line.strip().startswith("many")] == [
        "many-s0",
        "many-s1",
    ]
    (row,) = [line for line in over_seeds.splitlines() if line.strip().startswith("many")]
    assert row.split()[:2] == ["many", "2"]
    assert " ± " in row
    assert "tiny-s0" in ask("runs", trained / "runs")


@pytest.mark.filterwarnings("default")
def test_a_damaged_run_is_left_out_by_name_and_the_others_are_listed(capsys, ask, tmp_path):
    ask(*TINY, "--budget.steps", "1")
    (tmp_path / "runs/broken").mkdir()
    (tmp_path / "runs/broken/config.yaml").write_text("name: [", encoding="utf-8")
    capsys.readouterr()
    assert main(["runs"]) == 0
    printed = capsys.readouterr()
    assert "interp-arith: runs/broken is left out: runs/broken/config.yaml: no YAML" in printed.err
    assert "mod-add-113-s0" in printed.out


def test_train_says_why_it_stopped_early(ask):
    stop = ("--stop.metric", "train_loss", "--stop.threshold", "100", "--stop.hold", "1")
    assert "finished at step 0 (train loss reached 100)" in ask(*TINY, "--name", "early", *stop)


def test_evaluate_says_which_step_and_where_it_keeps_what_it_found(ask, run):
    shown = ask("evaluate", run, "--step", "2")
    assert f"{run}, step 2\n" in shown
    assert f"in {run}/evaluations/test-step-2.json" in shown
