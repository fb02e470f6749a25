"""Wrong requests: one line that says what was given, what is allowed and the next step; status 2; nothing written."""

import fcntl
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from interp_arith.cli import main
from interp_arith.storage import RunDirectory

TINY = shlex.split(
    "train mod-add-113 --task.p 7 --task.train-fraction 0.5 --model.d-model 8 --model.n-heads 2 --model.d-mlp 8 "
    "--budget.steps 3 --checkpoints.every 3 --checkpoints.state-every 3 --name tiny"
)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run, tiny-s0."""
    folder = tmp_path_factory.mktemp("runs")
    assert main([*TINY, "--out", str(folder)]) == 0
    return folder / "tiny-s0"


@pytest.fixture
def refused(capsys):
    """Run a command that must be refused with one line and leave every file as it was; the line."""

    def refused(*arguments):
        before = files()
        assert main([str(a) for a in arguments]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert files() == before
        assert printed.err.startswith("interp-arith: ")
        assert printed.err.count("\n") == 1
        assert "Traceback" not in printed.err
        return printed.err

    return refused


def files():
    """Every path under the current folder, hidden ones too, and when it was changed."""
    return {
        os.path.join(folder, name): os.stat(os.path.join(folder, name)).st_mtime_ns
        for folder, folders, names in os.walk(".")
        for name in (*folders, *names)
    }


SHIPPED = sorted(folder.name for folder in (Path(__file__).parent.parent / "checkpoints").iterdir())


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("tain mod-add-113", "no command is called 'tain'; did you mean train"),
        ("presets mod-ad-113", "no preset is called 'mod-ad-113'; did you mean mod-add-113"),
        ("train mod-ad-113", "no preset is called 'mod-ad-113'; did you mean mod-add-113"),
        ("train", "train: no preset given; for example interp-arith train mod-add-113"),
        (
            "train --seed 3",
            "train: the preset comes first; for example interp-arith train mod-add-113 --seed",
        ),
        ("train nowhere.yaml", "nowhere.yaml: no such file"),
        ("data nowhere --out d", "no preset is called 'nowhere'"),
        (
            "evaluate nowhere",
            f"no run is called 'nowhere'; there are: {', '.join(SHIPPED)}",
        ),
        ("generate nowhere 2+3=", "no run is called 'nowhere'"),
        ("runs nowhere", "no runs in nowhere; train one with"),
        ("measure nowhere", "no run is called 'nowhere'"),
        ("measure mod-113-canonical-s0 restrictd_loss", "did you mean restricted_loss"),
        ("measure add-5d-msb-s1 restricted_loss", "restricted_loss does not apply"),
        ("report nowhere", "no run is called 'nowhere'"),
        ("inspect-data mod-add-113 -n 0", "-n 0"),
        ("inspect-data mod-add-113 --split tets", "no split is called 'tets'; did you mean test"),
        ("inspect-data mod-add-113 --task.p 2", "p = 2"),
        ("inspect-data add-10d-763 --max-digits 50", "allowed: 1 to 10"),
        ("inspect-data mod-add-113 --model.positions.kind abacus", "the modular task has no digits"),
        ("train mod-add-113 --model.positions.kind coupled", "choose positions learned, rotary or none"),
        (
            "train add-10d-763 --model.positions.kind abacus --model.positions.max-place 8",
            "task.n_digits to 7",
        ),
        ("data mod-add-113 --out d -n 5", "the modular task lists its questions"),
        ("data add-10d-763 --out d -n 0", "-n 0"),
        ("data mod-add-113 --out d --task.p 4 --task.operation divide", "p = 4 is not prime"),
    ],
)
def test_a_wrong_command_preset_or_run(refused, arguments, complaint):
    assert complaint in refused(*arguments.split())


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ("--task.operation addd", "no operation is called 'addd'; did you mean add?"),
        ("--task.format numbrs", "no format is called 'numbrs'; did you mean numbers"),
        ("--task.kind moduler", "no task is called 'moduler'; did you mean modular?"),
        ("--optimizer.kind mun", "no optimizer is called 'mun'; did you mean muon?"),
        ("--schedule.kind cosin", "no schedule is called 'cosin'; did you mean cosine"),
        ("--curriculum.kind phase", "no curriculum is called 'phase'; did you mean phases?"),
        ("--model.positions.kind rotry", "no position scheme is called 'rotry'; did you mean rotary?"),
        ("--loss sotfmax", "no loss is called 'sotfmax'; did you mean softmax"),
        (
            "--task.operation divide --task.p 8",
            "p = 8 is not prime, and divide needs inverses; try p = 97 or 113",
        ),
        ("--task.p 2", "p = 2"),
        ("--task.train-fraction 0", "train_fraction = 0.0"),
        ("--task.train-fraction 1.5", "train_fraction = 1.5"),
        ("--task.train-fraction 0.001", "train_fraction = 0.001 of 49 questions is none; give at least 0.02"),
        ("--task.val-fraction 0.6", "exceed 1 together"),
        ("--task.mask-first-n 1", "mask_first_n = 1 leaves no loss"),
        ("--model.d-model 9", "d_model = 9 is not divisible by n_heads = 2; try d_model = 8, or give d_head"),
        ("--model.d-head 3 --model.positions.kind rotary", "d_head = 3 is odd"),
        ("--model.n-ctx 2", "model.n_ctx = 2, and the modular task needs 3 positions"),
        ("--model.tied True", "tied embeddings need as many output tokens as input tokens"),
        ("--budget.steps 0", "steps = 0"),
        ("--budget.epochs 3", "give either budget.steps or budget.epochs"),
        ("--budget.steps None", "give either budget.steps or budget.epochs"),
        ("--optimizer.learning-rate -1", "learning_rate = -1.0"),
        ("--accumulation 3 --batch-size 2", "accumulation = 3 parts of a batch of 2"),
        ("--curriculum.kind phases", "curriculum 'phases' limits what is drawn"),
        (
            "--stop.metric test_acc",
            "stop.metric = 'test_acc' is not measured in this run; there are: train_loss",
        ),
        ("--checkpoints.best-metric val_loss", "checkpoints.best_metric = 'val_loss' is not measured"),
        ("--seeds nonsense", "--seeds 'nonsense'; allowed: a range such as 0..7, or a list such as 0,3,5"),
        ("--seeds 3..1", "--seeds '3..1'; allowed"),
        ("--seeds 0 1", "--seeds 0 1: seeds are one word; write --seeds 0,1"),
        ("--seeds 0, 1", "--seeds 0, 1: seeds are one word; write --seeds 0,1"),
        ("--seeds=-1", "--seeds '-1'; allowed"),
        ("--seeds 1,1", "seeds: given [1, 1]; allowed: one or more different whole numbers"),
        ("--seeds 0..1 --seed 3", "--seeds and --seed are both given"),
        ("--seed -1", "seed = -1"),
        ("--name a/b", "name = 'a/b'"),
        ("--device tpu", "no device is called 'tpu'; did you mean cpu?"),
        ("--track wnb", "no tracker is called 'wnb'; did you mean wandb?"),
        ("--data-dir nowhere", "data folder nowhere: no train.jsonl; write one with `interp-arith data"),
        ("--init-from nowhere", "no run is called 'nowhere'"),
        ("--task.kind addition", "batch_size: the addition task draws its questions; say how many a step"),
    ],
)
def test_a_wrong_field_of_the_config(refused, options, complaint):
    if "--task.kind addition" in options:
        assert complaint in refused("train", "mod-add-113", *options.split())
    else:
        assert complaint in refused(*TINY, *options.split())


def test_a_layout_and_a_position_scheme_that_do_not_go_together(refused):
    layout = ["--task.padded", "False", "--task.end-token", "True", "--task.answer-order", "units-last"]
    for kind in ("segment-digit", "abacus", "coupled"):
        told = refused("train", "add-10d-4k", *layout, "--model.positions.kind", kind)
        assert "set answer_order to units-first, or padded to True" in told


def test_cuda_without_a_gpu(refused, run, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "this machine has none that torch can use; take --device cpu" in refused(*TINY, "--device", "cuda")
    assert "device cuda" in refused("evaluate", run, "--device", "cuda")
    assert "precision fp16 needs a GPU; on a CPU take bf16 or fp32" in refused(*TINY, "--precision", "fp16")


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        ("train mod-add-113 --modle.d-model 3", "--model.d-model"),
        ("train mod-add-113 --model.d-modle 3", "--model.d-model"),
        ("train mod-add-113 --optimiser.kind muon", "--optimizer.kind"),
        ("train mod-add-113 --task.p abc", "--task.p"),
        ("train mod-add-113 --schedule.kind restarts", "--schedule.period"),
        ("data mod-add-113", "--out"),
        ("evaluate", "RUN"),
        ("generate some-run 2+3= --temprature 1", "--temperature"),
        ("presets mod-add-113 extra", "extra"),
    ],
)
def test_options_that_there_are_not_are_answered_with_near_ones(capsys, arguments, near):
    before = files()
    with pytest.raises(SystemExit) as left:
        main(arguments.split())
    assert left.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert near in printed.err
    assert "Traceback" not in printed.err
    assert files() == before


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("name: [a", "no YAML in line 1 (expected"),
        ("- a\n- b\n", "no YAML mapping; a config is lines such as"),
        ("", "no YAML mapping"),
        ("name: q\ntask: {kind: modular}\nbudget: {steps: 0}\n", "steps = 0"),
        (
            "name: q\ntask: {kind: modular}\nbudget: {step: 1}\n",
            "no field of Budget is called 'step'; did you mean steps?",
        ),
        ("name: q\ntask: {kind: modular, p: eleven}\nbudget: {steps: 1}\n", "p = 'eleven'"),
        ("name: q\ntask: {kind: moduler}\nbudget: {steps: 1}\n", "did you mean modular?"),
        ("name: q\ntask: {p: 7}\nbudget: {steps: 1}\n", "task: no kind given; there are: modular, s5"),
        ("name: q\nbudget: {steps: 1}\n", "task: Field required"),
    ],
)
def test_a_config_file_that_is_none(refused, tmp_path, text, complaint):
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    assert complaint in refused("train", "mine.yaml")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            "generate RUN 23+=",
            "question '23+=' is not of the form a+b= with two whole numbers; for example '6+6='",
        ),
        ("generate RUN 23+4a=", "question '23+4a=' is not of the form a+b="),
        ("generate RUN 2-3=", "question '2-3=' is not of the form a+b="),
        ("generate RUN 7+1=", "question 7+1=: numbers must be from 0 to 6; for example '6+6='"),
        ("generate RUN 2+3= 7+1=", "question 7+1=: numbers must be from 0 to 6"),
        ("generate RUN", "no question given; for example '"),
        ("generate RUN 2+3= --temperature -1", "temperature = -1.0; allowed: 0 (greedy) or more"),
        ("generate RUN --interactive --temperature -1", "temperature = -1.0; allowed"),
        ("generate RUN 2+3= --top-k 0", "top_k = 0; allowed: 1 to 7"),
        ("generate RUN 2+3= --seed 99999999999999999999", "seed 99999999999999999999; allowed"),
        ("generate RUN 2+3= --step 9", "has no checkpoint at step 9; the nearest are at 3, 2, 1, 0"),
        ("evaluate RUN --step soon", "step 'soon'; allowed: a whole number, 'last' or 'best'"),
        ("evaluate RUN --step -1", "step '-1'; allowed"),
        ("evaluate RUN --protocol tset", "no protocol is called 'tset'; did you mean test?"),
        (
            "evaluate RUN --protocol million",
            "protocol million asks for sums of whole numbers, and the run's task is modular; take test",
        ),
        ("evaluate RUN/..", "is no run: it has no config.yaml"),
    ],
)
def test_a_wrong_question_or_step(refused, run, arguments, complaint):
    before = sorted(run.rglob("*"))
    assert complaint in refused(*arguments.replace("RUN", str(run)).split())
    assert sorted(run.rglob("*")) == before


def test_a_run_that_exists_is_not_touched_without_resume(refused, run):
    message = refused(*TINY, "--out", run.parent)
    assert "exists already; add --resume to go on with it" in message
    assert "another --name" in message


@pytest.mark.parametrize("more", [[], ["--resume"]])
def test_a_run_with_another_config_says_how_to_resume_or_rename(refused, run, more):
    message = refused(*TINY, "--out", run.parent, "--task.p", "11", *more)
    assert "exists with another config (task.p: there 7, here 11); give another --name, or resume" in message
    assert f"interp-arith train {run}/config.yaml --resume" in message


def test_one_seed_that_exists_refuses_all_and_makes_no_others(refused, run):
    before = sorted(run.parent.rglob("*"))
    assert "tiny-s0 exists already" in refused(*TINY, "--out", run.parent, "--seeds", "0..2")
    assert sorted(run.parent.rglob("*")) == before


def test_a_folder_with_other_things_is_not_taken(refused, tmp_path):
    (tmp_path / "runs/tiny-s0").mkdir(parents=True)
    (tmp_path / "runs/tiny-s0/thesis.tex").write_text("years of work", encoding="utf-8")
    assert "exists and is no run; give another --name or --out" in refused(*TINY)


def test_a_file_where_a_folder_should_be(refused, tmp_path):
    (tmp_path / "taken").write_text("", encoding="utf-8")
    assert "--out taken is a file; give a folder" in refused(*TINY, "--out", "taken")
    assert "--out taken is a file" in refused("data", "mod-add-113", "--task.p", "7", "--out", "taken")


def test_a_second_writer_is_refused(capsys, run):
    with RunDirectory(run).lock():
        assert main([*TINY, "--out", str(run.parent), "--resume"]) == 2
    message = capsys.readouterr().err
    assert f"{run} is being written by process {os.getpid()}; wait for it, or give another --name" in message


def test_a_lock_whose_process_was_killed_holds_nobody_back(run):
    with open(run / ".lock", "a+", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write("12345")
    assert main([*TINY, "--out", str(run.parent), "--resume"]) == 0


def test_a_loss_that_is_not_finite_fails_and_keeps_what_there_was(capsys):
    assert main([*TINY, "--optimizer.learning-rate", "1e30"]) == 1
    assert "tiny-s0: the loss is not finite at step 1; the last good checkpoint" in capsys.readouterr().err
    assert main(["evaluate", "tiny-s0"]) == 0


def test_a_damaged_checkpoint_is_named(capsys, tmp_path):
    assert main(TINY) == 0
    weights = tmp_path / "runs/tiny-s0/weights/step-00000001.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    capsys.readouterr()
    assert main(["evaluate", "tiny-s0", "--step", "1"]) == 1
    assert "step-00000001.safetensors is damaged" in capsys.readouterr().err


@pytest.mark.filterwarnings("default")
def test_a_damaged_last_checkpoint_is_named_and_the_one_before_is_used(capsys, tmp_path):
    assert main(TINY) == 0
    (tmp_path / "runs/tiny-s0/weights/step-00000003.safetensors").unlink()
    capsys.readouterr()
    assert main(["evaluate", "tiny-s0"]) == 0
    assert "step-00000003.safetensors is missing; the checkpoint before it is used" in capsys.readouterr().err
    assert (tmp_path / "runs/tiny-s0/evaluations/test-step-2.json").is_file()


def test_a_folder_that_cannot_be_made_is_one_line(capsys, tmp_path):
    (tmp_path / "taken").write_text("", encoding="utf-8")
    assert main([*TINY, "--out", "taken/deeper"]) == 1
    assert main(["data", "sanity", "--out", "taken/deeper"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("interp-arith: taken/deeper") and "Not a directory" in line for line in lines)


def test_a_process_exits_with_the_status_and_no_traceback():
    done = subprocess.run(
        [sys.executable, "-m", "interp_arith.cli", "tain"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "interp-arith: no command is called 'tain'; did you mean train or data?\n"


def test_a_run_given_as_a_preset_is_answered_with_its_config(refused, run):
    assert f"its config is {run}/config.yaml, which can be trained" in refused("train", run)
