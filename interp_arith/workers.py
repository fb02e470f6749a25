"""Jobs for other processes: local workers, or a Ray cluster; retries, and an orderly stop. Knows no sweep."""

import importlib
import logging
import os
import pickle
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from interp_arith.errors import RequestError, WorkError
from interp_arith.runs import train_configs
from interp_arith.training.config import RunConfig
from interp_arith.training.signals import Interrupted, StopRequest

ROOT = Path(__file__).parent.parent
SECONDS_BETWEEN_LOOKS = 0.2
SECONDS_FOR_RAY_TO_ANSWER = 8
WORKER = "from interp_arith.workers import serve; serve()"


@dataclass(frozen=True)
class Job:
    """Runs that train together in one process.

    Attributes:
        configs: of one stack_key.
        out: the folder of runs; absolute.
        folder: where paths in the configs start from; absolute.
        device: "cpu" or "cuda".
        threads: of a worker; None leaves them as they are.
    """

    configs: tuple[RunConfig, ...]
    out: Path
    folder: Path
    device: str = "cpu"
    threads: int | None = 1


@dataclass(frozen=True)
class Outcome:
    """How one attempt at a job ended.

    Attributes:
        index: of the job.
        error: what went wrong, in one line; None if nothing did.
        again: whether another attempt could end otherwise.
        stopped: whether a signal ended it, everything saved.
        notes: what the user should know.
    """

    index: int
    error: str | None = None
    again: bool = True
    stopped: bool = False
    notes: tuple[str, ...] = ()


Report = Callable[[str, Outcome], None]
"""Told of a job: "started", "retried", "ended"."""


def work(index: int, job: Job) -> Outcome:
    """Train a job's runs, or go on with them, in this process."""
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            os.chdir(job.folder)
            train_configs(job.configs, out=job.out, device=job.device, resume=True, progress=False)
            outcome = Outcome(index)
        except Interrupted as error:
            outcome = Outcome(index, f"stopped: saved at step {error.step}", stopped=True)
        except RequestError as error:
            outcome = Outcome(index, str(error), again=False)
        except WorkError as error:
            outcome = Outcome(index, str(error))
        except Exception as error:  # noqa: BLE001  # a bug must reach the user by the run's name
            outcome = Outcome(index, f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
    notes = tuple(str(w.message) for w in caught if issubclass(w.category, UserWarning))
    return Outcome(outcome.index, outcome.error, outcome.again, outcome.stopped, notes)


# --- local processes ---


def run_locally(
    jobs: Sequence[Job], workers: int, retries: int, request: StopRequest, report: Report
) -> list[Outcome]:
    """Every job's last outcome; `workers` processes share them.

    A process that dies is replaced and its job tried again. When a stop is requested every process is asked to
    save and stop; jobs that were not begun have no outcome.
    """
    waiting: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
    for index in range(len(jobs)):
        waiting.put((index, 0))
    events: queue.SimpleQueue[tuple[str, Outcome]] = queue.SimpleQueue()
    staff = [_Worker() for _ in range(min(workers, len(jobs)))]
    ended: dict[int, Outcome] = {}

    def drive(worker: _Worker) -> None:
        with suppress(queue.Empty):
            while request.signal is None:
                index, attempt = waiting.get_nowait()
                events.put(("started", Outcome(index)))
                outcome = worker.do(index, jobs[index])
                again = outcome.error is not None and outcome.again and request.signal is None
                while again and attempt < retries:
                    attempt += 1
                    events.put(("retried", outcome))
                    outcome = worker.do(index, jobs[index])
                    again = outcome.error is not None and outcome.again and request.signal is None
                events.put(("ended", outcome))
        worker.close()

    threads = [threading.Thread(target=drive, args=(worker,), daemon=True) for worker in staff]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads) or not events.empty():
        with suppress(queue.Empty):
            what, outcome = events.get(timeout=SECONDS_BETWEEN_LOOKS)
            if what == "ended":
                ended[outcome.index] = outcome
            report(what, outcome)
        if request.signal is not None:
            for worker in staff:  # until they have gone: one that is only starting may miss the first
                worker.ask_to_stop()
    return [ended[index] for index in sorted(ended)]


class _Worker:
    """A process that does one job after another; it saves and stops when this process ends, however it ends."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._asked = False

    def do(self, index: int, job: Job) -> Outcome:
        """Do a job; an outcome that says so if the process died."""
        if self._process is None:
            path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", WORKER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,  # Ctrl-C reaches this process alone, which passes it on
            )
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            pickle.dump((index, job), process.stdin)
            process.stdin.flush()
            return pickle.load(process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            self.close()
            if self._asked and process.returncode == -signal.SIGTERM:  # it had not come to note signals
                return _not_begun(index)
            return Outcome(index, f"its process died ({_cause(process.returncode)})")

    def ask_to_stop(self) -> None:
        """Save and stop."""
        process = self._process
        if process is not None and process.poll() is None:
            self._asked = True
            process.terminate()

    def close(self) -> None:
        """Let the process end."""
        if self._process is None:
            return
        for stream in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                if stream is not None:
                    stream.close()
        self._process.wait()
        self._process = None


def _not_begun(index: int) -> Outcome:
    return Outcome(index, "stopped: not begun", stopped=True)


def _cause(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    return "killed" if -status == signal.SIGKILL else signal.Signals(-status).name


def serve() -> None:
    """What a worker process does: read jobs from standard input, answer with outcomes, end with the input."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    stop = StopRequest()
    signal.signal(signal.SIGTERM, stop.note)
    jobs: queue.SimpleQueue[tuple[int, Job] | None] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, jobs), daemon=True).start()
    while (item := jobs.get()) is not None:
        index, job = item
        outcome = work(index, job) if stop.signal is None else _not_begun(index)
        with suppress(BrokenPipeError):
            pickle.dump(outcome, answers)
            answers.flush()


def _listen(source: BinaryIO, jobs: "queue.SimpleQueue[tuple[int, Job] | None]") -> None:
    """Pass jobs on; when the input ends, have the job at hand saved and stopped."""
    with suppress(EOFError):
        while True:
            jobs.put(pickle.load(source))
    jobs.put(None)
    while True:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)


# --- Ray ---


@contextmanager
def ray_cluster(address: str) -> Iterator[Any]:
    """The ray module, connected to a cluster; meanwhile nothing reaches the screen by `print`.

    Raises:
        RequestError: Ray is not installed, or nothing answers at the address.
    """
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0")
    try:
        ray = importlib.import_module("ray")
    except ImportError as error:
        raise RequestError('ray is not installed; run `pip install "interp-arith[ray]"`') from error
    _check_that_it_answers(address)
    with _only_our_own_words():
        ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
        try:
            yield ray
        finally:
            ray.shutdown()


@contextmanager
def _only_our_own_words() -> Iterator[None]:
    """Keep Ray's threads, and its compiled parts, from writing to the screen: they heed no setting."""
    error, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        with open(os.devnull, "w", encoding="utf-8") as words, redirect_stdout(words):
            yield
    finally:
        os.dup2(error, 2)
        os.close(error)
        os.close(nowhere)


def cluster_size(ray: Any, device: str, gpus_per_worker: float) -> tuple[str, int]:
    """The device of a cluster ("auto" is a GPU where there is one), and how many jobs it can do at once.

    Raises:
        RequestError: it has no GPU, or no CPU, for a job.
    """
    there = ray.cluster_resources()
    gpus, cpus = there.get("GPU", 0.0), there.get("CPU", 0.0)
    on_gpus = device == "cuda" or (device == "auto" and gpus > 0)
    count = int(min(cpus, gpus / gpus_per_worker) if on_gpus else cpus)
    if count < 1:
        raise RequestError(
            f"the Ray cluster has {cpus:g} CPUs and {gpus:g} GPUs, too few for a job; "
            "add a node, or give --device cpu"
        )
    return ("cuda" if on_gpus else "cpu"), count


def run_on_ray(
    ray: Any,
    jobs: Sequence[Job],
    workers: int,
    gpus_per_worker: float,
    retries: int,
    request: StopRequest,
    report: Report,
) -> list[Outcome]:
    """Every job's last outcome, as run_locally gives them: one Ray task an attempt, begun again here if it dies.

    Raises:
        WorkError: the cluster no longer answers.
    """
    gpus = gpus_per_worker if jobs[0].device == "cuda" else 0
    task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0)(work)
    host, port = ray.get_runtime_context().gcs_address.rsplit(":", 1)
    waiting = [(index, 0) for index in reversed(range(len(jobs)))]
    running: dict[Any, tuple[int, int]] = {}
    ended: dict[int, Outcome] = {}
    cancelled: set[Any] = set()
    while running or (waiting and request.signal is None):
        while waiting and len(running) < workers and request.signal is None:
            index, attempt = waiting.pop()
            running[task.remote(index, jobs[index])] = index, attempt
            report("started" if not attempt else "retried", ended.pop(index, Outcome(index)))
        done, _ = ray.wait(list(running), timeout=SECONDS_BETWEEN_LOOKS)
        if not done and not _is_open(host, int(port)):
            raise WorkError(
                "the Ray cluster no longer answers; what was saved stands, and the same sweep again goes on"
            )
        for reference in done:
            index, attempt = running.pop(reference)
            outcome = _outcome_of(ray, reference, index)
            ended[index] = outcome
            if outcome.error is not None and outcome.again and attempt < retries and request.signal is None:
                waiting.append((index, attempt + 1))
            else:
                report("ended", outcome)
        if request.signal is not None:
            for reference in running.keys() - cancelled:
                cancelled.add(reference)
                ray.cancel(reference)  # a SIGINT in the worker, which saves and stops
    return [ended[index] for index in sorted(ended)]


def _outcome_of(ray: Any, reference: Any, index: int) -> Outcome:
    try:
        return ray.get(reference)
    except ray.exceptions.TaskCancelledError:
        return Outcome(index, "stopped: what it saved stands", stopped=True)
    except ray.exceptions.RayError as error:
        return Outcome(index, f"its worker died ({type(error).__name__})")


def _check_that_it_answers(address: str) -> None:
    """Connect from another process: Ray's own way out of an address without a cluster takes minutes."""
    refusal = f"no Ray cluster answers at {address}; start one with `ray start --head`, or give its HOST:PORT"
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if address != "auto" and not (colon and host and port.isdecimal()):
        raise RequestError(f"--ray {address!r}; allowed: HOST:PORT, ray://HOST:PORT or auto")
    if address != "auto" and not _is_open(host, int(port)):
        raise RequestError(refusal)
    code = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False); ray.cluster_resources()"
    try:
        subprocess.run(
            [sys.executable, "-P", "-c", code, address],
            timeout=SECONDS_FOR_RAY_TO_ANSWER,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
    except subprocess.TimeoutExpired:
        raise RequestError(refusal) from None
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines()
        raise RequestError(f"{refusal} ({lines[-1] if lines else 'no reason given'})") from None


def _is_open(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=3):
            return True
    except OSError:
        return False
