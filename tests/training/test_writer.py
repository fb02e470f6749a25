"""Work handed to a thread leaves the same on disk as work done at once; its failures are raised."""

import errno
import os
import threading
import time
from pathlib import Path

import pytest
import torch
from chaos.small_runs import SignalAt, differences, small_config, train_small

from interp_arith import files
from interp_arith.errors import WorkError
from interp_arith.storage import RunDirectory
from interp_arith.training import trainer
from interp_arith.training.lanes import fresh_weights
from interp_arith.training.signals import Interrupted
from interp_arith.training.writer import Inline, Log, Threaded, make_writer

CHANGING_BEST = {"every": 8, "state_every": 6, "keep_best": 2, "best_metric": "train_loss"}
EARLY_STOP = {"metric": "train_loss", "threshold": 1.84, "hold": 2}
"""Of the seeds 0, 1, 2 of the small run the last meets it, at step 14."""


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda handle: None)


@pytest.fixture
def threaded(monkeypatch):
    """From here on the trainer writes as on a GPU; given seconds between states, or every state that is due."""

    def write_as_on_a_gpu(seconds=0.0):
        monkeypatch.setattr(Threaded, "seconds_between_states", seconds)
        monkeypatch.setattr(trainer, "make_writer", lambda device: Threaded())

    return write_as_on_a_gpu


class TestThreaded:
    def test_work_is_done_in_order_and_is_done_when_drained(self):
        done = []
        writer = Threaded()
        for number in range(20):
            writer.submit(lambda number=number: done.append(number))
        writer.drain()
        assert done == list(range(20))
        writer.close()

    def test_two_wait_and_the_next_has_to(self):
        writer, gate, begun = Threaded(), threading.Event(), threading.Event()
        writer.submit(lambda: (begun.set(), gate.wait()))
        begun.wait()
        for _ in range(2):
            writer.submit(lambda: None)
        third = threading.Thread(target=writer.submit, args=(lambda: None,))
        third.start()
        third.join(0.2)
        assert third.is_alive()
        gate.set()
        third.join()
        writer.close()

    def test_a_failure_is_raised_and_nothing_later_is_done(self):
        def fail():
            raise WorkError("no room")

        done, writer = [], Threaded()
        writer.submit(fail)
        with pytest.raises(WorkError, match="no room"):
            writer.drain()
        with pytest.raises(WorkError, match="no room"):
            writer.submit(lambda: done.append(1))
        writer.close()
        assert done == []

    def test_two_lanes_are_written_side_by_side(self):
        done, writer, both = [], Threaded(), threading.Barrier(2)

        def work(lane):
            both.wait(10)  # one after the other, the first would wait in vain
            done.append(lane)

        writer.each(work, 2)
        writer.close()
        assert sorted(done) == [0, 1]

    def test_a_lane_that_cannot_be_written_is_a_failure_and_the_others_are_written(self):
        done, writer = [], Threaded()

        def work(lane):
            if lane == 1:
                raise WorkError("no room")
            done.append(lane)

        writer.submit(lambda: writer.each(work, 30))
        with pytest.raises(WorkError, match="no room"):
            writer.drain()
        writer.close()
        assert sorted(done) == [0, *range(2, 30)]

    def test_a_snapshot_is_of_its_moment(self):
        live, writer = {"w": torch.zeros(3)}, Threaded()
        taken = writer.snapshot(live)
        live["w"] += 1
        assert taken()["w"].tolist() == [0, 0, 0]
        writer.close()

    def test_states_are_ten_seconds_apart(self):
        assert (Threaded.seconds_between_states, Inline.seconds_between_states) == (10.0, 0.0)

    def test_a_cpu_writes_at_once(self):
        assert isinstance(make_writer(torch.device("cpu")), Inline)
        writer = make_writer(torch.device("cuda"))
        assert isinstance(writer, Threaded)
        writer.close()


def test_a_log_gives_every_record_once():
    log = Log()
    log.add(3, {"loss": torch.tensor([0.5, 0.25]), "norm": torch.tensor([1.0, 2.0], dtype=torch.float64)})
    log.add(4, {"loss": torch.tensor([0.1, 0.2])})
    tenth, fifth = torch.tensor([0.1, 0.2]).tolist()
    assert log.take() == [
        [{"step": 3, "loss": 0.5, "norm": 1.0}, {"step": 3, "loss": 0.25, "norm": 2.0}],
        [{"step": 4, "loss": tenth}, {"step": 4, "loss": fifth}],
    ]
    assert log.take() == []


class TestRunDirectories:
    @pytest.mark.parametrize(
        "fields",
        [
            {"checkpoints": CHANGING_BEST},
            {"checkpoints": CHANGING_BEST, "stop": EARLY_STOP},
            {"evaluate_every": 5, "checkpoints": {"every": 24, "state_every": 10, "keep_best": 0}},
        ],
        ids=["best", "early-stop", "rarely-looked-at"],
    )
    @pytest.mark.parametrize("seeds", [[2], [0, 1, 2]])
    def test_are_the_same_to_the_byte(self, fields, seeds, tmp_path, threaded):
        config = small_config(**fields)
        expected = train_small(config, tmp_path / "inline", seeds)
        threaded()
        found = train_small(config, tmp_path / "threaded", seeds)
        for one, other in zip(expected, found, strict=True):
            assert differences(one.path, other.path) == []

    @pytest.mark.parametrize(
        "name", ["step-00000012.pt", "step-00000016.safetensors", "step-00000010.safetensors"]
    )
    def test_are_the_same_after_a_failure_to_write_and_a_resume(self, name, tmp_path, threaded, monkeypatch):
        config = small_config(checkpoints=CHANGING_BEST)
        (whole,) = train_small(config, tmp_path / "whole")

        def fails(file, mode="r", *arguments, **options):
            if isinstance(file, Path) and name in file.name and mode != "r":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
            return open(file, mode, *arguments, **options)

        def train_until_full(folder) -> RunDirectory:
            with monkeypatch.context() as full:
                full.setattr(files, "open", fails, raising=False)
                with pytest.raises(WorkError, match=rf"{name} could not be written \(No space left"):
                    train_small(config, tmp_path / folder)
            return RunDirectory(tmp_path / folder / config.run_name)

        inline = train_until_full("inline")
        threaded()
        found = train_until_full("threaded")
        # Training was ahead of what was written, and run.json says how far it came.
        assert set(differences(inline.path, found.path)) <= {"run.json"}
        assert found.read_info()["status"] == "failed"
        train_small(config, tmp_path / "threaded", resume=True)
        assert differences(whole.path, found.path) == []

    @pytest.mark.parametrize("at", [8, 12, 22])
    def test_are_the_same_without_states_that_follow_too_soon(self, at, tmp_path, threaded):
        config = small_config(checkpoints=CHANGING_BEST)
        (whole,) = train_small(config, tmp_path / "whole")
        threaded(seconds=3600.0)
        with pytest.raises(Interrupted):
            train_small(config, tmp_path / "cut", sink=SignalAt(at))
        cut = RunDirectory(tmp_path / "cut" / config.run_name)
        assert cut.state_steps() == [at]  # an interrupt does not wait
        (found,) = train_small(config, tmp_path / "cut", resume=True)
        assert found.state_steps() == [at, whole.state_steps()[-1]]
        assert differences(whole.path, found.path) == []

    @pytest.mark.parametrize("passed", [False, True])
    def test_hold_a_state_once_the_seconds_have_passed(self, passed, tmp_path, threaded, monkeypatch):
        """What a crash falls back on: nothing, or the state of step 12."""
        config = small_config(checkpoints=CHANGING_BEST)
        (whole,) = train_small(config, tmp_path / "whole")
        threaded(seconds=1000.0)
        begun = time.perf_counter()

        class Crash:
            def log(self, run, record):
                if record["step"] == 8 and passed:
                    monkeypatch.setattr(time, "perf_counter", lambda: begun + 2000)
                if record["step"] == 16:
                    raise RuntimeError("crash")

            def close(self, status):
                pass

        with pytest.raises(RuntimeError, match="crash"):
            train_small(config, tmp_path / "cut", sink=Crash())
        monkeypatch.undo()
        threaded()
        cut = RunDirectory(tmp_path / "cut" / config.run_name)
        assert cut.state_steps() == ([12] if passed else [])
        (found,) = train_small(config, tmp_path / "cut", resume=True)
        assert differences(whole.path, found.path) == []

    @pytest.mark.parametrize("at", [1, 7, 12, 22])
    def test_are_the_same_after_an_interrupt_and_a_resume(self, at, tmp_path, threaded):
        config = small_config(checkpoints=CHANGING_BEST, stop=EARLY_STOP)
        whole = train_small(config, tmp_path / "whole", [0, 1, 2])
        threaded()
        with pytest.raises(Interrupted):
            train_small(config, tmp_path / "cut", [0, 1, 2], sink=SignalAt(at))
        found = train_small(config, tmp_path / "cut", [0, 1, 2], resume=True)
        for one, other in zip(whole, found, strict=True):
            assert differences(one.path, other.path) == []

    def test_of_the_others_are_the_same_where_one_is_not_finite(self, tmp_path, threaded):
        config = small_config(evaluate_every=6, checkpoints={"every": 12, "state_every": 12, "keep_best": 1})

        def poisoned(config):
            weights = fresh_weights(config)
            if config.seed == 1:
                weights["unembed.W_U"] *= 1e38
                weights["blocks.0.mlp.W_out"] *= 1e38
            return weights

        threaded()
        with pytest.raises(WorkError, match=r"^small-s1: the loss is not finite at step"):
            train_small(config, tmp_path / "three", [0, 1, 2], initial_weights=poisoned)
        for seed in (0, 2):
            (alone,) = train_small(config, tmp_path / "alone", [seed])
            assert differences(alone.path, tmp_path / "three" / f"small-s{seed}") == []
