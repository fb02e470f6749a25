"""A run stopped in any way goes on as if it never had been; damage and full disks are named and lose nothing."""

import errno
import os
import signal
from pathlib import Path

import pytest
import torch
from chaos.small_runs import SignalAt, differences, same_weights, small_config, train_small

from interp_arith import files
from interp_arith.errors import RequestError, WorkError
from interp_arith.runs import Run
from interp_arith.storage import RunDirectory
from interp_arith.tasks import Addition
from interp_arith.training import step
from interp_arith.training.optimizers import OPTIMIZERS
from interp_arith.training.schedules import SCHEDULES
from interp_arith.training.signals import Interrupted

CHANGING_BEST = {"every": 8, "state_every": 6, "keep_best": 2, "best_metric": "train_loss"}
"""Every state has another best list."""


@pytest.fixture
def quick_disk(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda handle: None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> RunDirectory:
    """An uninterrupted run whose best change with every state."""
    (run,) = train_small(small_config(checkpoints=CHANGING_BEST), tmp_path_factory.mktemp("whole"))
    return run


def interrupted(out: Path, at: int, **fields) -> RunDirectory:
    """The same run, stopped at a step."""
    config = small_config(**{"checkpoints": CHANGING_BEST} | fields)
    with pytest.raises(Interrupted):
        train_small(config, out, sink=SignalAt(at))
    return RunDirectory(out / config.run_name)


def resume(run: RunDirectory, **options) -> list[str]:
    """Resume a run of the small config; what it said."""
    said: list[str] = []
    config = small_config(checkpoints=CHANGING_BEST)
    train_small(config, run.path.parent, resume=True, notify=said.append, **options)
    return said


@pytest.mark.usefixtures("quick_disk")
class TestInterruptions:
    @pytest.mark.parametrize("at", [0, 1, 6, 7, 8, 17, 23])
    def test_a_run_stopped_at_any_step_goes_on_bitwise(self, at, tmp_path, whole):
        run = interrupted(tmp_path, at)
        assert run.read_info()["status"] == "interrupted"
        assert run.state_steps()[-1] == at
        assert f"resumed from step {at}" in resume(run)
        assert differences(whole.path, run.path) == []

    def test_a_stop_rule_goes_on_counting(self, tmp_path):
        rule = {"metric": "train_loss", "threshold": 1.84, "hold": 2}
        config = small_config(stop=rule).with_seed(2)
        (expected,) = train_small(config, tmp_path / "whole")
        assert expected.checkpoints()[-1].step == 14  # reached at 12, and still at 14
        with pytest.raises(Interrupted):
            train_small(config, tmp_path / "cut", sink=SignalAt(13))
        (found,) = train_small(config, tmp_path / "cut", resume=True)
        assert differences(expected.path, found.path) == []

    def test_a_signal_at_the_last_step_comes_too_late(self, tmp_path, whole):
        (run,) = train_small(small_config(checkpoints=CHANGING_BEST), tmp_path, sink=SignalAt(24))
        assert run.read_info()["status"] == "finished"
        assert differences(whole.path, run.path) == []

    def test_handlers_are_put_back(self, tmp_path):
        before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        interrupted(tmp_path, 3)
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before

    def test_the_message_names_signal_and_step(self, tmp_path):
        with pytest.raises(Interrupted, match="SIGINT: saved at step 5; the same command with --resume"):
            train_small(small_config(), tmp_path, sink=SignalAt(5, signal.SIGINT))

    @pytest.mark.parametrize("optimizer", OPTIMIZERS)
    @pytest.mark.parametrize("schedule", SCHEDULES)
    def test_every_optimizer_and_schedule_goes_on_bitwise(self, optimizer, schedule, tmp_path):
        period = {"period": 5} if schedule == "restarts" else {}
        fields = {
            "optimizer": {"kind": optimizer},
            "schedule": {"kind": schedule, "warmup_steps": 3, **period},
            "budget": {"steps": 12},
        }
        config = small_config(**fields)
        (expected,) = train_small(config, tmp_path / "whole")
        with pytest.raises(Interrupted):
            train_small(config, tmp_path / "cut", sink=SignalAt(7))
        (found,) = train_small(config, tmp_path / "cut", resume=True)
        assert differences(expected.path, found.path) == []

    @pytest.mark.parametrize("at", [6, 13])
    def test_a_growing_adder_with_a_grid_of_lengths_goes_on_bitwise(self, at, tmp_path):
        config = small_config(
            task=Addition(n_digits=5, carry_share=0.5, val_step=2, val_max_digits=6, val_grid_questions=20),
            model={"d_model": 8, "n_heads": 2, "d_mlp": 12, "positions": {"kind": "segment-digit"}},
            curriculum={"kind": "grow-digits", "carries_end": 0.5},
            budget={"steps": 24, "steps_per_epoch": 4},
            checkpoints=CHANGING_BEST | {"best_metric": "grid_loss"},
        )
        (expected,) = train_small(config, tmp_path / "whole")
        with pytest.raises(Interrupted):
            train_small(config, tmp_path / "cut", sink=SignalAt(at))
        (found,) = train_small(config, tmp_path / "cut", resume=True)
        assert differences(expected.path, found.path) == []

    def test_a_state_written_again_at_its_step_takes_its_place(self, tmp_path):
        run = interrupted(tmp_path, 6)
        with pytest.raises(Interrupted):
            resume(run, sink=SignalAt(7))
        assert run.state_steps() == [6, 7]
        assert [file.name for file in sorted((run.path / "state").iterdir())] == [
            "step-00000006.pt",
            "step-00000007.pt",
        ]

    def test_a_finished_run_is_left_as_it_is(self, tmp_path):
        (run,) = train_small(small_config(), tmp_path)
        before = {p: p.stat().st_mtime_ns for p in run.path.rglob("*") if p.name != ".lock"}
        train_small(small_config(), tmp_path, resume=True)
        assert {p: p.stat().st_mtime_ns for p in run.path.rglob("*") if p.name != ".lock"} == before


@pytest.mark.usefixtures("quick_disk")
class TestEnsembles:
    def test_runs_at_different_steps_are_not_thrown_away(self, tmp_path):
        far = interrupted(tmp_path, 20)
        with pytest.raises(RequestError) as caught:
            train_small(small_config(checkpoints=CHANGING_BEST), tmp_path, [0, 1], resume=True)
        assert str(caught.value) == (
            "these runs cannot go on together: small-s0 at step 20, small-s1 at step 0; "
            "resume each by itself, with --seed"
        )
        assert far.state_steps() == [18, 20]
        assert not RunDirectory(tmp_path / "small-s1").exists

    def test_finished_seeds_are_left_and_new_ones_trained(self, tmp_path):
        (first,) = train_small(small_config(), tmp_path, [0])
        before = (first.path / "run.json").read_bytes()
        runs = train_small(small_config(), tmp_path, [0, 1], resume=True)
        assert (first.path / "run.json").read_bytes() == before
        assert [run.read_info()["status"] for run in runs] == ["finished", "finished"]

    @pytest.fixture
    def one_fails(self, monkeypatch):
        """The weights of the second of three seeds become NaN at step 7."""
        original = step.update

        def update(config, parameters, *arguments, **options):
            report = original(config, parameters, *arguments, **options)
            if options["step"] == 7 and len(parameters["unembed.W_U"]) == 3:
                parameters["unembed.W_U"][1] = torch.nan
            return report

        monkeypatch.setattr(step, "update", update)

    def test_seeds_that_go_on_are_not_held_back_by_one_that_failed(self, tmp_path, one_fails):
        config = small_config()
        with pytest.raises(Interrupted):
            train_small(config, tmp_path / "three", [0, 1, 2], sink=SignalAt(20))
        runs = [RunDirectory(tmp_path / "three" / f"small-s{seed}") for seed in range(3)]
        assert [run.read_info()["status"] for run in runs] == ["interrupted", "failed", "interrupted"]
        assert runs[1].checkpoints()[-1].step == 4
        assert runs[1].read_weights(runs[1].checkpoints()[-1])
        said: list[str] = []
        with pytest.raises(WorkError, match=r"^small-s1: the loss is not finite at step [78]; the last good"):
            train_small(config, tmp_path / "three", [0, 1, 2], resume=True, notify=said.append)
        assert said == ["resumed from step 20"]
        for seed in (0, 2):
            (alone,) = train_small(config, tmp_path / "alone", [seed])
            assert differences(alone.path, runs[seed].path) == []
        (again,) = train_small(config, tmp_path / "three", [1], resume=True)
        assert again.read_info()["status"] == "finished"


def flip_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def zero_tail(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-64] + bytes(64))


@pytest.mark.usefixtures("quick_disk")
class TestDamage:
    @pytest.mark.parametrize("damage", [flip_bit, truncate, zero_tail])
    def test_a_damaged_newest_state_is_named_and_the_one_before_resumes_bitwise(
        self, damage, tmp_path, whole
    ):
        run = interrupted(tmp_path, 15)
        newest = run.path / "state" / "step-00000015.pt"
        damage(newest)
        assert resume(run) == [f"{newest} is damaged; it is passed over", "resumed from step 12"]
        assert differences(whole.path, run.path) == []

    def test_the_best_of_the_state_before_are_still_there(self, tmp_path):
        run = interrupted(tmp_path, 15)
        (run.path / "state" / "step-00000015.pt").unlink()
        with pytest.raises(Interrupted):
            resume(run, sink=SignalAt(13))
        assert [c.step for c in run.best()] == [12, 10]
        for checkpoint in run.best():
            assert run.read_weights(checkpoint)

    def test_without_a_whole_state_the_run_starts_over_and_ends_the_same(self, tmp_path, whole):
        run = interrupted(tmp_path, 15)
        for file in (run.path / "state").iterdir():
            flip_bit(file)
        assert len(resume(run)) == 2
        assert differences(whole.path, run.path) == []

    def test_a_damaged_last_checkpoint_is_named_and_the_one_before_used(self, tmp_path, whole):
        run = Run(copy_of(whole, tmp_path).path)
        last = run.path / run.checkpoint("last").file
        flip_bit(last)
        with pytest.warns(
            UserWarning, match=r"step-00000024\.safetensors is damaged.*the checkpoint before it"
        ):
            checkpoint, weights = run.whole_checkpoint("last")
        assert checkpoint.step == 16
        assert same_weights(weights, whole.read_weights(whole.checkpoints()[-2]))
        with pytest.raises(WorkError, match=r"step-00000024\.safetensors is damaged"):
            run.model(24)
        last.unlink()
        with pytest.raises(WorkError, match=r"step-00000024\.safetensors is missing"):
            run.model(24)

    def test_when_every_checkpoint_is_damaged_it_is_said(self, tmp_path, whole):
        run = Run(copy_of(whole, tmp_path).path)
        for file in (run.path / "weights").iterdir():
            truncate(file)
        with (
            pytest.warns(UserWarning, match="is damaged"),
            pytest.raises(WorkError, match="every checkpoint is damaged"),
        ):
            run.model("last")

    def test_a_damaged_best_checkpoint_is_named(self, tmp_path, whole):
        run = Run(copy_of(whole, tmp_path).path)
        flip_bit(run.path / run.checkpoint("best").file)
        with pytest.raises(WorkError, match=r"best/step-00000024\.safetensors is damaged"):
            run.model("best")


def copy_of(run: RunDirectory, folder: Path) -> RunDirectory:
    for file in run.path.rglob("*"):
        if file.is_file():
            target = folder / "copy" / file.relative_to(run.path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    return RunDirectory(folder / "copy")


@pytest.mark.usefixtures("quick_disk")
class TestFullDisk:
    @pytest.fixture
    def fills(self, monkeypatch):
        """The disk is full from the first write of a file of that name on."""

        def fill(name: str) -> None:
            state = {"full": False}
            original = open

            def guarded(file, mode="r", *arguments, **options):
                if isinstance(file, Path) and any(c in mode for c in "wa"):
                    state["full"] |= name in file.name
                    if state["full"]:
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
                return original(file, mode, *arguments, **options)

            monkeypatch.setattr(files, "open", guarded, raising=False)

        return fill

    @pytest.mark.parametrize(
        "name",
        [
            "step-00000012.pt",
            "step-00000016.safetensors",
            "step-00000010.safetensors",
            "best.json",
            "metrics.jsonl",
        ],
    )
    def test_what_was_saved_stands_and_resume_goes_on_bitwise(
        self, name, fills, tmp_path, whole, monkeypatch
    ):
        fills(name)
        with pytest.raises(WorkError, match=r"could not be written \(No space left on device\)") as caught:
            train_small(small_config(checkpoints=CHANGING_BEST), tmp_path)
        assert caught.value.exit_status == 1
        assert name in str(caught.value)
        monkeypatch.setattr(files, "open", open, raising=False)
        run = RunDirectory(tmp_path / "small-s0")
        for checkpoint in run.checkpoints():
            assert run.read_weights(checkpoint)
        resume(run)
        assert differences(whole.path, run.path) == []

    def test_a_disk_that_is_full_at_once_leaves_no_run_and_the_next_try_works(
        self, fills, tmp_path, monkeypatch
    ):
        fills("config.yaml")
        with pytest.raises(WorkError, match=r"config\.yaml could not be written"):
            train_small(small_config(), tmp_path)
        monkeypatch.setattr(files, "open", open, raising=False)
        train_small(small_config(), tmp_path)


@pytest.mark.usefixtures("quick_disk")
class TestRefusals:
    def test_a_second_writer_is_refused_and_the_first_unharmed(self, tmp_path, whole):
        refused = []

        class SecondWriter(SignalAt):
            def log(self, run, record):
                if record["step"] == 9:
                    with pytest.raises(RequestError, match="is being written by process") as caught:
                        resume(RunDirectory(tmp_path / "small-s0"))
                    refused.append(str(caught.value))

        (run,) = train_small(small_config(checkpoints=CHANGING_BEST), tmp_path, sink=SecondWriter(9))
        assert f"process {os.getpid()}; wait for it, or give another --name" in refused[0]
        assert differences(whole.path, run.path) == []

    def test_a_run_that_exists_is_not_begun_again(self, tmp_path):
        (run,) = train_small(small_config(budget={"steps": 2}), tmp_path)
        before = (run.path / "metrics.jsonl").read_bytes()
        with pytest.raises(RequestError, match="small-s0 exists already; add --resume to go on with it"):
            train_small(small_config(budget={"steps": 2}), tmp_path)
        assert (run.path / "metrics.jsonl").read_bytes() == before

    @pytest.mark.parametrize("go_on", [False, True])
    def test_a_directory_with_another_config_is_refused_with_what_differs(self, go_on, tmp_path):
        train_small(small_config(budget={"steps": 2}), tmp_path)
        with pytest.raises(RequestError) as caught:
            train_small(small_config(budget={"steps": 3}, batch_size=None), tmp_path, resume=go_on)
        message = str(caught.value)
        assert "small-s0 exists with another config" in message
        assert "(budget.steps: there 2, here 3, batch_size: there 8, here None)" in message
        assert "give another --name, or resume that run: interp-arith train" in message

    def test_a_folder_that_is_no_run_is_refused(self, tmp_path):
        (tmp_path / "small-s0").mkdir()
        (tmp_path / "small-s0" / "thesis.tex").write_text("precious")
        with pytest.raises(RequestError, match="small-s0 exists and is no run; give another --name or --out"):
            train_small(small_config(), tmp_path)
        assert [p.name for p in (tmp_path / "small-s0").iterdir() if p.name != ".lock"] == ["thesis.tex"]
