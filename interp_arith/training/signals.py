"""SIGINT and SIGTERM ask the training to save and stop; they do not cut it short."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from interp_arith.errors import WorkError


class Interrupted(WorkError):
    """A signal asked the training to stop, and everything is saved; the exit status is 128 + the signal's number.

    Attributes:
        step: of what is saved.
    """

    def __init__(self, number: int, step: int) -> None:
        name = signal.Signals(number).name
        super().__init__(f"{name}: saved at step {step}; the same command with --resume goes on from there")
        self.exit_status, self.step = 128 + number, step


class StopRequest:
    """Whether a signal has come, and which."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def note(self, number: int, frame: FrameType | None) -> None:
        """A signal handler."""
        self.signal = number


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Note SIGINT and SIGTERM instead of dying of them; outside the main thread nothing is changed."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request.note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
