"""Train, die at chosen moments, resume in a new process until done; a warm parent forks, so that a life is short.

Prints one JSON object a case: what happened, and which files differ from those of an uninterrupted run.
"""

import contextlib
import json
import os
import random
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from chaos.small_runs import differences, small_config
from ckpt_chaos import inject

from interp_arith import cli, runs, storage
from interp_arith.training import step

CONFIG = small_config(
    checkpoints={"every": 8, "state_every": 6, "keep_best": 2, "best_metric": "train_loss"},
    stop={"metric": "train_loss", "threshold": 1.84, "hold": 2},
)
"""Of the seeds 0, 1, 2 the last meets the stop rule, at step 14."""
INJECTED = 137
"""Exit status of a process that the injector ended."""

Work = Callable[[], int]
Watch = Callable[[int, int], int]


def life(work: Work, watch: Watch) -> tuple[int, int]:
    """One process: its exit status, negative for a signal, and what the watching parent saw."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reader)
        status = 1
        try:
            report_to(writer)
            status = work()
        except BaseException:  # noqa: BLE001
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writer)
    seen = watch(reader, pid)
    os.close(reader)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), seen


def report_to(writer: int) -> None:
    """A byte for every update and every write that would wait for the disk; nobody pulls the plug here."""
    update = step.update

    def reporting_update(*arguments: object, **options: object) -> object:
        tell()
        return update(*arguments, **options)  # type: ignore[arg-type]

    def tell(*_: object) -> None:
        with contextlib.suppress(BrokenPipeError):
            os.write(writer, b".")

    step.update = reporting_update  # type: ignore[assignment]
    storage.os.fsync = tell  # type: ignore[assignment]


def listen(reader: int, pid: int) -> int:
    """Count the messages of a whole life."""
    count = 0
    while chunk := os.read(reader, 4096):
        count += len(chunk)
    return count


def signal_after(messages: int, number: int) -> Watch:
    """Send a signal when so many messages have come, wherever the process is by then."""

    def watch(reader: int, pid: int) -> int:
        for _ in range(messages):
            if not os.read(reader, 1):
                return 0
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        return listen(reader, pid)

    return watch


def training(folder: Path, seeds: list[int], prepare: Callable[[], object] = lambda: None) -> Work:
    """Train, or go on."""

    def work() -> int:
        prepare()
        runs.train_seeds(CONFIG, seeds, out=folder, device="cpu", resume=True, progress=False)
        return 0

    return work


def command(folder: Path, *options: str) -> Work:
    """The same run by the command line, its messages in a file."""

    def work() -> int:
        folder.mkdir(exist_ok=True)
        os.dup2(os.open(folder / "stderr", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        (folder / "config.yaml").write_text(storage.dump_yaml(CONFIG.plain()))
        return cli.main(["train", f"{folder}/config.yaml", "--out", str(folder), "--device", "cpu", *options])

    return work


def tell_case(reference: Path, folder: Path, moment: str, **more: object) -> None:
    """One case's outcome."""
    odd = [
        f"{run.name}/{name}"
        for run in sorted(reference.iterdir())
        for name in differences(run, folder / run.name)
    ]
    print(json.dumps({"moment": moment, "differences": odd, **more}), flush=True)


def sweep(root: Path, seeds: list[int], kills: int, injections: int) -> None:
    """Deaths at random moments, deaths one upon the other, and deaths at file events."""
    rng = random.Random(0)
    root.mkdir(parents=True)
    reference, log = root / "reference", root / "events.log"
    counting = training(
        reference, seeds, lambda: inject.arm(str(reference), None, "before", str(log), torn_python=True)
    )
    status, messages = life(counting, listen)
    assert status == 0
    events = [line.split("\t") for line in log.read_text().splitlines()]
    for number in range(kills):
        folder, moment = root / f"kill-{number}", rng.randint(1, messages - 1)
        status, _ = life(training(folder, seeds), signal_after(moment, signal.SIGKILL))
        assert status == -signal.SIGKILL, status
        assert life(training(folder, seeds), listen)[0] == 0
        tell_case(reference, folder, f"SIGKILL after {moment} of {messages} messages")
    folder, deaths = root / "chain", 0
    while life(training(folder, seeds), signal_after(rng.randint(5, messages // 2), signal.SIGKILL))[0]:
        deaths += 1
    tell_case(reference, folder, f"SIGKILL {deaths} times in a row")
    # The injector tears a file as a whole; of a file that grows, only the last line can be torn.
    tearable = [event for event in events if event[3] == "1" and not event[2].endswith((".jsonl", ".log"))]
    for number in range(injections):
        mode, choice = ("torn", tearable) if number % 2 else ("before", events)
        event = rng.choice(choice)
        folder = root / f"event-{number}"
        armed = (str(folder), int(event[0]), mode, str(root / "armed.log"))
        work = training(folder, seeds, lambda armed=armed: inject.arm(*armed, torn_python=True))
        assert life(work, listen)[0] == INJECTED
        assert life(training(folder, seeds), listen)[0] == 0
        tell_case(reference, folder, f"{mode} {event[1]} {event[2]}")


def interrupt(root: Path, number: int) -> None:
    """A signal that asks to stop, on the command line; then --resume."""
    folder = root / signal.Signals(number).name
    moment = random.Random(number).randint(20, 60)
    status, _ = life(command(folder), signal_after(moment, number))
    said = (folder / "stderr").read_text()
    run = runs.load_run(folder / CONFIG.run_name)
    state = {"exit_status": status, "stderr": said, "status": run.status, "step": run.info["step"]}
    assert life(command(folder, "--resume"), listen)[0] == 0
    tell_case(root / "one" / "reference", folder, signal.Signals(number).name, **state)


def main(root: Path) -> None:
    """One seed, three seeds of which one stops early, and both signals."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    runs.training_curves = lambda *_: None  # type: ignore[assignment]
    runs.write_html = lambda _: ""  # type: ignore[assignment]
    sweep(root / "one", [0], kills=20, injections=6)
    sweep(root / "three", [0, 1, 2], kills=6, injections=2)
    interrupt(root, signal.SIGINT)
    interrupt(root, signal.SIGTERM)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
