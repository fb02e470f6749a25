"""A run killed at any moment, resumed in a new process, is the run that was never killed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from chaos.small_runs import differences, small_config, train_small

import interp_arith
from interp_arith import files
from interp_arith.runs import Run

TESTS = Path(__file__).parents[1]


def environment() -> dict[str, str]:
    package = Path(interp_arith.__file__).parents[1]
    path = os.pathsep.join([str(package), str(TESTS)])
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def start(*command: str | Path, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *map(str, command)], env=environment(), text=True, cwd=TESTS.parent, **options
    )


@pytest.fixture(scope="module")
def chaos(tmp_path_factory):
    """ckpt-chaos at work, beside the other tests of this module."""
    work = tmp_path_factory.mktemp("ckpt-chaos")
    options = {
        "--checkpoint-glob": "{out}/small-s0/state/step-*.pt",
        "--step-regex": r"resumed from step (\d+)",
        "--result-file": "{out}/small-s0/weights/step-00000004.safetensors",
        "--fail-on": "HARD_FAIL,SILENT_DIVERGENCE,LOST_WORK,CONTROL_FAIL",
        "--max-points": "2",
        "--work": str(work / "points"),
    }
    flat = [part for pair in options.items() for part in pair]
    script = [sys.executable, str(TESTS / "chaos" / "train_small.py"), "{out}"]
    with open(work / "report", "w+") as report:
        process = start(
            "-m", "ckpt_chaos", "run", *flat, "--", *script, stdout=report, stderr=subprocess.STDOUT
        )
        yield process, work / "report"
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def cases(chaos, tmp_path_factory) -> list[dict]:
    """What tests/chaos/kill_and_resume.py found."""
    folder = tmp_path_factory.mktemp("kills") / "all"
    process = start(
        TESTS / "chaos" / "kill_and_resume.py", folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, errors = process.communicate()
    assert process.returncode == 0, errors
    return [json.loads(line) for line in out.splitlines()]


class TestKills:
    def test_20_kills_at_random_moments_leave_no_trace(self, cases):
        kills = [case for case in cases if case["moment"].endswith("of 101 messages")]
        assert len(kills) == 20
        assert [case for case in kills if case["differences"]] == []

    def test_kills_of_an_ensemble_of_which_one_stops_early_leave_no_trace(self, cases):
        kills = [case for case in cases if case["moment"].endswith("of 255 messages")]
        assert len(kills) == 6
        assert [case for case in kills if case["differences"]] == []

    def test_kills_one_upon_the_other_leave_no_trace(self, cases):
        chains = [case for case in cases if "times in a row" in case["moment"]]
        assert len(chains) == 2
        assert [
            case for case in chains if case["differences"] or case["moment"].startswith("SIGKILL 0")
        ] == []

    def test_deaths_at_file_events_leave_no_trace(self, cases):
        deaths = [case for case in cases if case["moment"].startswith(("before ", "torn "))]
        assert len(deaths) == 8
        assert [case for case in deaths if case["differences"]] == []

    @pytest.mark.parametrize(("name", "exit_status"), [("SIGINT", 130), ("SIGTERM", 143)])
    def test_a_signal_saves_and_the_command_line_says_how_to_go_on(self, cases, name, exit_status):
        (case,) = [case for case in cases if case["moment"] == name]
        assert case["exit_status"] == exit_status
        assert case["status"] == "interrupted"
        assert case["stderr"] == (
            f"interp-arith: {name}: saved at step {case['step']}; "
            "the same command with --resume goes on from there\n"
        )
        assert case["differences"] == []

    def test_ckpt_chaos_agrees(self, chaos):
        process, report = chaos
        assert process.wait(timeout=300) == 0, report.read_text()
        verdicts = [json.loads(f.read_text()) for f in report.parent.glob("points/pt_*/result.json")]
        assert len(verdicts) == 3
        assert [v["label"] for v in verdicts if v["outcome"]["raised"] or v["outcome"]["weights_diff"]] == []


def test_a_command_killed_in_its_own_process_is_resumed_by_another(tmp_path):
    config = small_config(budget={"steps": 400}, log_every=20, evaluate_every=100)
    (expected,) = train_small(config, tmp_path / "expected")
    file = tmp_path / "config.yaml"
    file.write_text(files.dump_yaml(config.plain()))
    command = ("-m", "interp_arith.cli", "train", file, "--out", tmp_path / "runs", "--device", "cpu")
    with start(*command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as first:
        for line in first.stdout:
            if "step" in line or "%" in line:
                first.kill()
                break
    assert first.returncode == -signal.SIGKILL
    run = Run(tmp_path / "runs" / config.run_name)
    assert run.status == "stopped"
    second = start(*command, "--resume", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    _, errors = second.communicate()
    assert second.returncode == 0, errors
    assert differences(expected.path, run.path) == []
