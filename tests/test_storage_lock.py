"""One writer on one run, and a killed one leaves no lock."""

import os
import signal
import subprocess
import sys

import pytest

from interp_arith.errors import RequestError
from interp_arith.storage import RunDirectory

HOLDER = """
import sys
from pathlib import Path
from interp_arith.storage import RunDirectory
with RunDirectory(Path(sys.argv[1])).lock():
    print("locked", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    directory = RunDirectory(tmp_path / "mine")
    directory.write_config({"task": {"kind": "modular"}})
    return directory


class TestLock:
    def test_a_second_process_is_refused_and_a_killed_one_leaves_no_lock(self, run):
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(run.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        with holder:
            try:
                assert holder.stdout is not None
                assert holder.stdout.readline() == "locked\n"
                assert run.is_locked
                with (
                    pytest.raises(
                        RequestError, match=f"is being written by process {holder.pid}; wait for it"
                    ),
                    run.lock(),
                ):
                    pass
            finally:
                holder.send_signal(signal.SIGKILL)
                holder.wait()
        assert not run.is_locked
        with run.lock():
            assert run.is_locked

    def test_the_same_process_cannot_write_a_run_twice(self, run):
        with (
            run.lock(),
            pytest.raises(RequestError, match=f"by process {os.getpid()}; .* or give another --name"),
            RunDirectory(run.path).lock(),
        ):
            pass
        assert not run.is_locked

    def test_a_lock_is_given_back_after_a_failure(self, run):
        with pytest.raises(ZeroDivisionError), run.lock():
            raise ZeroDivisionError
        with run.lock():
            pass

    def test_a_folder_without_a_run_is_not_locked(self, tmp_path):
        assert not RunDirectory(tmp_path / "none").is_locked

    def test_runs_are_locked_one_by_one(self, run, tmp_path):
        with run.lock(), RunDirectory(tmp_path / "other").lock():
            assert run.is_locked
