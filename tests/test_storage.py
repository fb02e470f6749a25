"""The files of a run: never half-written, damage named, one writer."""

import errno
import os
import re
import resource
from contextlib import contextmanager
from types import MappingProxyType

import numpy as np
import pytest
import torch

from interp_arith.errors import RequestError, WorkError
from interp_arith.files import DamagedFileError, read_yaml, sha256_of_folder, write_atomically
from interp_arith.storage import Checkpoint, RunDirectory

WEIGHTS = {"embed.W_E": torch.arange(12.0).reshape(3, 4), "blocks.0.mlp.b_in": torch.tensor([1.5, -2.0])}


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    directory = RunDirectory(tmp_path / "mine")
    directory.write_config({"task": {"kind": "modular"}})
    return directory


def flip_bit(file) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def truncate(file) -> None:
    file.write_bytes(file.read_bytes()[:-7])


def zero_tail(file) -> None:
    data = file.read_bytes()
    file.write_bytes(data[:-8] + bytes(8))


DAMAGE = [flip_bit, truncate, zero_tail, lambda file: file.write_bytes(b"")]
DAMAGE_NAMES = ["flipped-bit", "truncated", "zeroed-tail", "empty"]


@contextmanager
def largest_file(n_bytes: int):
    """A disk that is full: no file may grow beyond n_bytes (Python ignores the signal, and the write fails)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class TestAtomicWrites:
    def test_a_file_is_written_whole_and_no_other_is_left(self, tmp_path):
        write_atomically(tmp_path / "new" / "file", b"one")
        write_atomically(tmp_path / "new" / "file", b"two")
        assert [f.name for f in (tmp_path / "new").iterdir()] == ["file"]
        assert (tmp_path / "new" / "file").read_bytes() == b"two"

    def test_a_full_disk_leaves_the_old_file(self, tmp_path):
        file = tmp_path / "file"
        write_atomically(file, b"old")
        with largest_file(1000), pytest.raises(WorkError, match="could not be written") as caught:
            write_atomically(file, bytes(5000))
        assert str(file) in str(caught.value)
        assert "make room, then run the same command with --resume" in str(caught.value)
        assert file.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [file]

    @pytest.mark.parametrize("call", ["fsync", "replace"])
    def test_a_failure_at_any_later_moment_leaves_the_old_file(self, call, tmp_path, monkeypatch):
        file = tmp_path / "file"
        write_atomically(file, b"old")

        def fail(*arguments):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, call, fail)
        with pytest.raises(WorkError, match="No space left on device"):
            write_atomically(file, b"new")
        assert file.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [file]

    def test_the_data_is_on_disk_before_the_name_is(self, tmp_path, monkeypatch):
        calls = []
        fsync, replace = os.fsync, os.replace
        monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("fsync"), fsync(fd)))
        monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), replace(a, b)))
        write_atomically(tmp_path / "file", b"data")
        assert calls == ["fsync", "replace", "fsync"]  # file, name, folder

    def test_a_folder_that_cannot_be_made_is_named(self, tmp_path):
        (tmp_path / "taken").write_text("a file")
        with pytest.raises(WorkError, match=r"taken/file could not be written"):
            write_atomically(tmp_path / "taken" / "file", b"data")


class TestConfig:
    def test_a_config_round_trips(self, run):
        config = {
            "task": {"kind": "modular", "p": 113, "val_fraction": 0.15},
            "steps": None,
            "phases": [1, 2.5e-3, "gleich drei π"],
            "on": True,
        }
        run.write_config(config)
        assert run.read_config() == config
        assert list(run.read_config()) == list(config)
        assert run.exists
        assert not RunDirectory(run.path / "other").exists
        assert run.name == "mine"

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"b: 2\na: [1, 2\nc: 3", r"no YAML in line 3 \(expected ',' or ']', but got ':'\)$"),
            (b"\xff\xfe", "no YAML"),
            (b"- 1\n- 2", "no YAML mapping; a config is lines such as"),
            (b"", "no YAML mapping"),
        ],
    )
    def test_a_file_that_is_no_config_is_refused(self, content, message, tmp_path):
        (tmp_path / "c.yaml").write_bytes(content)
        with pytest.raises(RequestError, match=rf"c\.yaml: {message}"):
            read_yaml(tmp_path / "c.yaml")

    def test_a_missing_config_and_a_folder_are_refused(self, tmp_path):
        with pytest.raises(RequestError, match=r"c\.yaml: no such file"):
            read_yaml(tmp_path / "c.yaml")
        with pytest.raises(RequestError, match="cannot be read"):
            read_yaml(tmp_path)

    def test_yaml_makes_no_objects(self, tmp_path):
        (tmp_path / "c.yaml").write_text("!!python/object/apply:os.getcwd []")
        with pytest.raises(RequestError, match="no YAML"):
            read_yaml(tmp_path / "c.yaml")

    def test_run_information_round_trips_with_its_format(self, run):
        assert run.read_info() == {}
        run.write_info({"status": "done", "wall": 1.5})
        assert run.read_info() == {"format": 1, "status": "done", "wall": 1.5}

    def test_damaged_or_foreign_run_information_is_named(self, run):
        (run.path / "run.json").write_text("{")
        with pytest.raises(DamagedFileError, match=r"run\.json is damaged"):
            run.read_info()
        (run.path / "run.json").write_text('{"format": 99}')
        with pytest.raises(RequestError, match="format 99; this version reads format 1, install"):
            run.read_info()

    def test_a_split_round_trips_and_a_damaged_one_is_named(self, run):
        assert run.read_split() is None
        mask = np.random.default_rng(0).random((7, 7)) < 0.3
        run.write_split(mask)
        assert np.array_equal(run.read_split(), mask)
        assert run.read_split().dtype == bool
        for damage in (truncate, DAMAGE[-1]):
            damage(run.path / "split.npy")
            with pytest.raises(DamagedFileError, match=r"split\.npy is damaged"):
                run.read_split()

    def test_evaluations_and_curves_have_their_places(self, run):
        assert run.write_evaluation("test", 40, {"exact_match": 1.0}).relative_to(run.path).as_posix() == (
            "evaluations/test-step-40.json"
        )
        assert run.write_curves("<p>π</p>").read_text(encoding="utf-8") == "<p>π</p>"

    def test_log_lines_follow_each_other(self, run):
        run.append_log("one\n")
        run.append_log("two")
        assert (run.path / "train.log").read_text() == "one\ntwo\n"


class TestMetrics:
    RECORDS = tuple({"step": step, "train_loss": 1 / (step + 1)} for step in range(5))

    def test_records_round_trip_in_order(self, run):
        assert run.read_metrics() == []
        run.append_metrics(self.RECORDS[:2])
        run.append_metrics(self.RECORDS[2:])
        run.append_metrics([])
        assert run.read_metrics() == list(self.RECORDS)

    @pytest.mark.parametrize("kept", range(1, 12))
    def test_a_torn_last_line_is_left_out(self, run, kept):
        run.append_metrics(self.RECORDS)
        file = run.path / "metrics.jsonl"
        lines = file.read_text().splitlines(keepends=True)
        file.write_text("".join(lines[:-1]) + lines[-1][:kept])
        assert run.read_metrics() == list(self.RECORDS[:-1])

    def test_a_zeroed_tail_is_left_out(self, run):
        run.append_metrics(self.RECORDS)
        with open(run.path / "metrics.jsonl", "ab") as file:
            file.write(bytes(40))
        assert run.read_metrics() == list(self.RECORDS)

    @pytest.mark.parametrize("number", [1, 3, 5])
    def test_a_damaged_whole_line_is_named(self, run, number):
        run.append_metrics(self.RECORDS)
        file = run.path / "metrics.jsonl"
        lines = file.read_text().splitlines(keepends=True)
        lines[number - 1] = lines[number - 1].replace("{", "\x00")
        file.write_text("".join(lines))
        with pytest.raises(DamagedFileError, match=rf"metrics\.jsonl, line {number} is damaged"):
            run.read_metrics()

    @pytest.mark.parametrize(("inclusive", "left"), [(True, [0, 1, 2]), (False, [0, 1])])
    def test_a_cut_forgets_the_records_after_a_step(self, run, inclusive, left):
        run.append_metrics(self.RECORDS)
        run.cut_metrics(2, inclusive)
        assert [row["step"] for row in run.read_metrics()] == left

    def test_a_cut_mends_a_torn_line_so_that_more_can_follow(self, run):
        run.append_metrics(self.RECORDS)
        with open(run.path / "metrics.jsonl", "a") as file:
            file.write('{"step": 5, "tra')
        run.cut_metrics(3, inclusive=True)
        run.append_metrics([{"step": 4}])
        assert [row["step"] for row in run.read_metrics()] == [0, 1, 2, 3, 4]

    def test_cutting_where_nothing_was_logged_makes_no_file(self, run):
        run.cut_metrics(3, inclusive=True)
        assert not (run.path / "metrics.jsonl").exists()

    def test_a_full_disk_leaves_the_records_that_were_there(self, run):
        run.append_metrics(self.RECORDS)
        size = (run.path / "metrics.jsonl").stat().st_size
        with largest_file(size + 20), pytest.raises(WorkError, match=r"metrics\.jsonl could not be written"):
            run.append_metrics([{"step": 5, "train_loss": 0.123456789}])
        assert (run.path / "metrics.jsonl").stat().st_size == size
        run.append_metrics([{"step": 5}])
        assert len(run.read_metrics()) == 6

    def test_numbers_that_json_lacks_survive(self, run):
        run.append_metrics([{"step": 1, "loss": float("inf"), "accuracy": float("nan")}])
        (row,) = run.read_metrics()
        assert row["loss"] == float("inf")
        assert row["accuracy"] != row["accuracy"]


class TestCheckpoints:
    def test_weights_round_trip_bit_by_bit(self, run):
        run.write_checkpoint(10, WEIGHTS, {"train_loss": 0.5})
        (checkpoint,) = run.checkpoints()
        assert (checkpoint.step, checkpoint.metrics) == (10, {"train_loss": 0.5})
        read = run.read_weights(checkpoint)
        assert read.keys() == WEIGHTS.keys()
        assert all(torch.equal(read[name], WEIGHTS[name]) for name in WEIGHTS)

    @pytest.mark.parametrize("damage", DAMAGE, ids=DAMAGE_NAMES)
    @pytest.mark.parametrize("kind", ["trajectory", "best"])
    def test_a_damaged_file_is_named(self, run, damage, kind):
        run.write_checkpoint(10, WEIGHTS, {})
        checkpoint = run.checkpoints()[0] if kind == "trajectory" else run.write_best(10, WEIGHTS, {})
        damage(run.path / checkpoint.file)
        with pytest.raises(DamagedFileError, match=re.escape(f"{run.path / checkpoint.file} is damaged")):
            run.read_weights(checkpoint)

    def test_a_missing_file_is_named(self, run):
        run.write_checkpoint(10, WEIGHTS, {})
        (checkpoint,) = run.checkpoints()
        (run.path / checkpoint.file).unlink()
        with pytest.raises(DamagedFileError, match=r"step-00000010\.safetensors is missing"):
            run.read_weights(checkpoint)

    def test_a_checkpoint_exists_when_its_line_does(self, run):
        run.write_checkpoint(10, WEIGHTS, {})
        with largest_file((run.path / "checkpoints.jsonl").stat().st_size + 5), pytest.raises(WorkError):
            run.write_checkpoint(20, WEIGHTS, {})
        assert [checkpoint.step for checkpoint in run.checkpoints()] == [10]
        run.read_weights(run.checkpoints()[0])

    def test_a_cut_forgets_the_checkpoints_after_a_step(self, run):
        for step in (0, 10, 20):
            run.write_checkpoint(step, WEIGHTS, {})
        run.cut_checkpoints(10, inclusive=True)
        assert [checkpoint.step for checkpoint in run.checkpoints()] == [0, 10]
        run.cut_checkpoints(10, inclusive=False)
        assert [checkpoint.step for checkpoint in run.checkpoints()] == [0]

    def test_the_best_are_listed_in_order_and_the_others_pruned(self, run):
        assert run.best() == []
        first, second, third = (run.write_best(step, WEIGHTS, {"loss": 1.0 / step}) for step in (1, 2, 3))
        run.write_best_list([third, second])
        run.prune_best()
        assert run.best() == [third, second]
        assert not (run.path / first.file).exists()
        assert all(torch.equal(run.read_weights(third)[name], WEIGHTS[name]) for name in WEIGHTS)

    def test_a_damaged_list_of_the_best_is_named(self, run):
        run.write_best_list([Checkpoint(1, "best/x", "0", {})])
        truncate(run.path / "best" / "best.json")
        with pytest.raises(DamagedFileError, match=r"best\.json is damaged"):
            run.best()


class TestStates:
    STATE = MappingProxyType({"weights": WEIGHTS, "step": 7, "generators": [1, 2], "note": "ä"})

    def test_a_state_round_trips_without_unpickling_code(self, run):
        run.write_state(7, self.STATE)
        read = run.read_state(7)
        assert torch.equal(read["weights"]["embed.W_E"], WEIGHTS["embed.W_E"])
        assert {key: read[key] for key in ("step", "generators", "note")} == {
            key: self.STATE[key] for key in ("step", "generators", "note")
        }

    def test_the_two_newest_are_kept(self, run):
        for step in (5, 100, 20, 1000):
            run.write_state(step, {"step": step})
        assert run.state_steps() == [100, 1000]
        assert len(list((run.path / "state").iterdir())) == 2

    @pytest.mark.parametrize("damage", DAMAGE, ids=DAMAGE_NAMES)
    def test_a_damaged_state_is_passed_over(self, run, damage):
        run.write_state(5, {"step": 5})
        run.write_state(9, {"step": 9})
        newest = max((run.path / "state").iterdir())
        damage(newest)
        assert run.state_steps() == [5]
        assert run.damaged_states() == [newest]
        assert run.read_state(5) == {"step": 5}

    def test_a_cut_deletes_later_and_damaged_states(self, run):
        for step in (5, 9, 12):
            run.write_state(step, {"step": step}, keep=3)
        flip_bit(min((run.path / "state").iterdir()))
        run.cut_states(9)
        assert run.state_steps() == [9]
        assert run.damaged_states() == []

    def test_a_full_disk_leaves_the_previous_states(self, run):
        run.write_state(5, {"step": 5})
        run.write_state(9, {"step": 9})
        with largest_file(2000), pytest.raises(WorkError, match="could not be written"):
            run.write_state(12, {"weights": torch.zeros(10_000)})
        assert run.state_steps() == [5, 9]
        assert len(list((run.path / "state").iterdir())) == 2

    def test_without_a_folder_there_are_no_states(self, run):
        assert run.state_steps() == run.damaged_states() == []


def test_hashes_of_a_folder_are_sha256(tmp_path):
    (tmp_path / "train.jsonl").write_bytes(b"abc")
    (tmp_path / "other.txt").write_bytes(b"")
    # The published test vector of FIPS 180.
    assert sha256_of_folder(tmp_path, "*.jsonl") == {
        "train.jsonl": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    }
