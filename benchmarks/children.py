"""The parent's side of the processes that are timed; knows nothing of models."""

import json
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

CHILD = Path(__file__).with_name("child.py")


class Failed(RuntimeError):
    """A competitor cannot be timed; the message says why, in words for its row."""


class Child:
    """A competitor in its own process.

    It starts to build and compile at once; `first_losses` waits for it.

    Attributes:
        stride: its blocks of steps are multiples of it.
        spinning: share of one processor that it used while it should have slept, at worst.
        cores: processors that it kept busy in the blocks, at most.
    """

    def __init__(self, name: str, config: dict[str, Any], seeds: int, device: str, threads: int) -> None:
        self.stride, self.spinning, self.cores = 1, 0.0, 0.0
        self._ready: list[list[float]] | Failed | None = None
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed with the child)
        count = str(threads)
        self._process = subprocess.Popen(
            [sys.executable, str(CHILD), count, device],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count},
        )
        self._send("build", competitor=name, config=config, seeds=seeds, device=device)
        self._send("losses")  # compiles, while the others do

    def first_losses(self) -> list[list[float]]:
        """Wait until it is ready; the losses of its first steps, [step][seed].

        Raises:
            Failed: it cannot be built or compiled here.
        """
        ready = self._ready = self._ready or self._wait()
        if isinstance(ready, Failed):
            raise ready
        return ready

    def _wait(self) -> "list[list[float]] | Failed":
        try:
            self.stride = self._receive()["stride"]
            return self._receive()["losses"]
        except Failed as failure:
            return failure

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """Have one request done.

        Raises:
            Failed: the process died.
        """
        self._send(do, **request)
        return self._receive()

    def _send(self, do: str, **request: Any) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it died; there will be no reply
            print(json.dumps({"do": do} | request), file=self._process.stdin, flush=True)

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Failed(self._last_words())
        reply = json.loads(line)
        if "impossible" in reply:
            raise Failed(reply["impossible"])
        if reply["idle_seconds"] > 0.5:
            self.spinning = max(self.spinning, reply["idle_cpu"] / reply["idle_seconds"])
        self.cores = max(self.cores, reply.get("cores", 0.0))
        return reply

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._log.close()

    def _last_words(self) -> str:
        """The error that ended it."""
        code = self._process.wait()
        self._log.seek(0)
        lines = [line.strip() for line in self._log.read().splitlines() if line.strip()]
        errors = [line for line in lines if "Error" in line.split(" ")[0]]
        words = (errors or lines or [f"exit status {code}"])[-1][:160]
        return f"failed: {words}{'; `make bench` installs it' if words.startswith('ModuleNotFoundError') else ''}"
