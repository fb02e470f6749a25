"""Where metrics go besides metrics.jsonl: a live table, Weights & Biases, TensorBoard.

Knows no trainer and no run directory: it is handed names, records and folders.
"""

import importlib
import math
import re
import statistics
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import progress
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table, box
from rich.text import Text

from interp_arith.errors import RequestError, unknown

SECONDS_BETWEEN_REFRESHES = 0.25
LARGEST_SHARE_SPENT_DRAWING = 0.02
MOST_ROWS = 20
LINES_PER_RUN = 40
LINES_IN_ALL = 800
FITTED = 0.99

_SET_KEY = re.compile(r"(?P<set>.+)_(?P<score>loss|accuracy|exact_match)")
_FIRST_SETS = ("train", "val", "test", "grid", "val_current")
_RUN_COLUMNS = ("step", "train_accuracy", "train_loss", "test_accuracy", "test_exact_match", "test_loss")
_GRID_COLUMNS = ("step", "val_current_exact_match", "grid_exact_match", *_RUN_COLUMNS[3:])
_LINE_OF_TRAIN = (("  train loss", "train_loss"), (" acc", "train_accuracy"))
_LINE_OF_TEST = (("  test loss", "test_loss"), (" acc", "test_accuracy"), (" exact", "test_exact_match"))
_LINE_OF_VAL = (("  val loss", "val_loss"), (" acc", "val_accuracy"), (" exact", "val_exact_match"))
_LINE_OF_GRID = (("  grid exact", "grid_exact_match"), (" to digits", "curriculum_digits"))
_GREEN, _YELLOW, _RED = ("finished", "generalised"), ("interrupted", "fits train"), ("failed", "diverged")
_STYLES = dict.fromkeys(_GREEN, "green") | dict.fromkeys(_YELLOW, "yellow") | dict.fromkeys(_RED, "red")


class Sink(ABC):
    """A place that metrics go to while runs train."""

    @abstractmethod
    def log(self, run: str, record: Mapping[str, float]) -> None:
        """Takes one record of one run; `record["step"]` is the number of updates made so far."""

    @abstractmethod
    def close(self, status: str) -> None:
        """Says how training ended, "finished", "interrupted" or "failed", and lets go of everything held."""


def evaluated_sets(keys: Iterable[str]) -> list[str]:
    """The sets that have a score among these keys: train, val, test, the whole grid, then the others as they come."""
    found = dict.fromkeys(match["set"] for key in keys if (match := _SET_KEY.fullmatch(key)))
    others = [name for name in found if name not in {*_FIRST_SETS, "batch"}]
    return [name for name in _FIRST_SETS if name in found] + others


def learning_state(latest: Mapping[str, float]) -> str:
    """How far a run has come: "waiting", "diverged", "learning", "fits train" or "generalised".

    A set is fitted when at least 0.99 of its questions (of its answer tokens, where questions are not scored)
    are right; "generalised" asks that of the test set, or of the validation set where there is no test set.
    """
    if not latest:
        return "waiting"
    if not all(math.isfinite(latest.get(key, 0.0)) for key in ("batch_loss", "train_loss")):
        return "diverged"

    def share_right(name: str) -> float | None:
        return latest.get(f"{name}_exact_match", latest.get(f"{name}_accuracy"))

    unseen = share_right("test")
    unseen = share_right("val") if unseen is None else unseen
    if (unseen or 0.0) >= FITTED:
        return "generalised"
    return "fits train" if (share_right("train") or 0.0) >= FITTED else "learning"


class LiveTable(Sink):
    """A progress bar and a table of the latest metrics, redrawn in place; plain lines if there is no terminal.

    Args:
        runs: the names of the runs that train together.
        total_steps: the number of updates at which training ends.
        title: what is trained.
        console: where to draw; standard output by default.
    """

    def __init__(self, runs: Sequence[str], total_steps: int, title: str, console: Console | None = None):
        self.total_steps, self.title, self.status = total_steps, title, "training"
        self._console = console or Console()
        self._latest: dict[str, dict[str, float]] = {run: {} for run in runs}
        self._step, self._next_refresh = 0.0, 0.0
        count, speed = progress.MofNCompleteColumn(), progress.TextColumn("steps  {task.fields[speed]}")
        elapsed, left = progress.TimeElapsedColumn(), progress.TimeRemainingColumn()
        columns = (progress.BarColumn(bar_width=24), count, speed, elapsed, progress.TextColumn("left"), left)
        self._progress = progress.Progress(*columns, auto_refresh=False, console=self._console)
        self._bar = self._progress.add_task("", total=total_steps, speed="")
        self._live = Live(get_renderable=self.render, auto_refresh=False, console=self._console)
        lines = max(4, min(LINES_PER_RUN, LINES_IN_ALL // max(1, len(runs))))
        self._steps_between_lines = total_steps / (lines - 2)
        self._next_line = dict.fromkeys(runs, 0.0)
        self._unprinted: dict[str, str] = {}

    def log(self, run: str, record: Mapping[str, float]) -> None:
        """Shows the record: in the table at most four times a second, or as a line now and then."""
        self._latest[run].update(record)
        self._step = max(self._step, record["step"])
        if self._console.is_terminal:
            self._refresh()
        elif any(f"{name}_loss" in record for name in _FIRST_SETS):
            self._print_line(run, record)

    def close(self, status: str) -> None:
        """Leaves the last state on the screen."""
        self.status = status
        if self._console.is_terminal:
            self._live.start(refresh=True)
            self._live.stop()
            return
        for line in self._unprinted.values():
            self._console.out(line, highlight=False)
        if status != "finished":
            line = f"{self.title}: {status} at step {self._step:.0f}/{self.total_steps}"
            self._console.out(line, highlight=False)

    def render(self) -> RenderableType:
        """What stands on the screen now: a bar over one row a set (one run) or one row a run (several)."""
        self._progress.update(self._bar, completed=self._step)
        if speed := self._progress.tasks[0].speed:
            self._progress.update(self._bar, speed=f"{speed:,.{0 if speed >= 10 else 1}f}/s")
        heading = Text.assemble((self.title, "bold"), "  ", (self.status, _STYLES.get(self.status, "cyan")))
        table, last_line = self._sets() if len(self._latest) == 1 else self._runs()
        footer = Columns((Text(word, style="dim") for word in last_line), padding=(0, 3))
        return Group(heading, self._progress.get_renderable(), Text(), table, Text(), footer)

    def _sets(self) -> tuple[Table, list[str]]:
        (latest,) = self._latest.values()
        table = _table("set", "token accuracy", "exact match", "loss (nats/token)")
        sets = evaluated_sets(latest)
        most = max(5, min(MOST_ROWS, self._console.height - 9))
        shown = sets if len(sets) <= most else sets[: most - 1]
        for name in shown:
            keys = (f"{name}_{score}" for score in ("accuracy", "exact_match", "loss"))
            table.add_row(name, *(_show(key, latest.get(key)) for key in keys))
        if len(shown) < len(sets) or not sets:
            table.add_row(f"and {len(sets) - len(shown)} more" if sets else "not evaluated yet", style="dim")
        others = [key for key in latest if key not in ("step", "seconds") and not _SET_KEY.fullmatch(key)]
        return table, [f"{key.replace('_', ' ')} {_show(key, latest[key])}" for key in others]

    def _runs(self) -> tuple[Table, list[str]]:
        has_grid = any("grid_exact_match" in latest for latest in self._latest.values())
        columns = _GRID_COLUMNS if has_grid else _RUN_COLUMNS
        headings = (key.replace("_", "\n", 1).replace("_match", "") for key in columns)
        table = _table("run", *(heading.replace("accuracy", "acc") for heading in headings), "state")
        states = {run: learning_state(latest) for run, latest in self._latest.items()}
        most = max(5, min(MOST_ROWS, self._console.height - 9))
        shown = list(self._latest)[: most if len(self._latest) <= most else most - 4]
        for run in shown:
            cells = (_show(key, self._latest[run].get(key)) for key in columns)
            table.add_row(run, *cells, Text(states[run], style=_STYLES.get(states[run], "")))
        if len(shown) < len(self._latest):
            table.add_row(f"and {len(self._latest) - len(shown)} more", style="dim", end_section=True)
            for name, summary in (("min", min), ("median", statistics.median), ("max", max)):
                table.add_row(name, *(self._over_runs(summary, key) for key in columns))
        return table, [f"{count} {state}" for state, count in Counter(states.values()).most_common()]

    def _over_runs(self, summary: Callable[[list[float]], float], key: str) -> str:
        values = [latest[key] for latest in self._latest.values() if key in latest]
        values = [value for value in values if not math.isnan(value)]
        return _show(key, summary(values)) if values else ""

    def _refresh(self) -> None:
        if (began := time.monotonic()) < self._next_refresh:
            return
        self._live.start()
        self._live.refresh()
        spent = time.monotonic() - began
        self._next_refresh = began + max(SECONDS_BETWEEN_REFRESHES, spent / LARGEST_SHARE_SPENT_DRAWING)

    def _print_line(self, run: str, record: Mapping[str, float]) -> None:
        name = f"{run:<{max(map(len, self._latest))}}  " if len(self._latest) > 1 else ""
        line = f"{name}step {record['step']:>{len(str(self.total_steps))}.0f}/{self.total_steps}"
        held_out = _LINE_OF_TEST if "test_loss" in record else _LINE_OF_VAL
        for words, key in (*_LINE_OF_TRAIN, *held_out, *_LINE_OF_GRID):
            line += f"{words} {_show(key, record[key])}" if key in record else ""
        self._unprinted[run] = line
        if record["step"] >= min(self._next_line[run], self.total_steps):
            self._console.out(self._unprinted.pop(run), highlight=False)
            self._next_line[run] = record["step"] + self._steps_between_lines


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column(first, no_wrap=True, overflow="ellipsis", style="bold")
    for heading in others:
        table.add_column(heading, justify="left" if heading == "state" else "right", no_wrap=True)
    return table


def _show(key: str, value: float | None) -> str:
    """A score as text; only a whole share reads 1.000."""
    if value is None:
        return ""
    if key.endswith(("accuracy", "exact_match")):
        return f"{value if value >= 1 else min(value, 0.999):.3f}"
    if key == "step":
        return f"{value:.0f}"
    return f"{value:7.1e}" if key.endswith(("loss", "rate")) else f"{value:.4g}"


class WandbSink(Sink):
    """One Weights & Biases run for each training run, in the project "interp-arith".

    Args:
        configs: run name -> what is trained, as plain values.
        directories: run name -> the folder that keeps its local files.
        group: what the runs have in common, on their page.

    Raises:
        RequestError: wandb is not installed, or refuses to start.
    """

    def __init__(self, configs: Mapping[str, dict], directories: Mapping[str, Path], group: str) -> None:
        wandb = _import("wandb", extra="wandb")
        settings = wandb.Settings(console="off")  # the live table already redirects standard output
        self._runs: dict[str, Any] = {}
        for run, config in configs.items():
            directories[run].mkdir(parents=True, exist_ok=True)
            place = {"project": "interp-arith", "group": group, "name": run, "dir": directories[run]}
            try:
                self._runs[run] = wandb.init(**place, config=config, reinit="create_new", settings=settings)
            except wandb.Error as error:
                self.close("failed")
                hint = "log in with `wandb login`, or set WANDB_MODE=offline"
                reason = str(error).rstrip(".")
                raise RequestError(f"Weights & Biases did not start: {reason}; {hint}") from error

    def log(self, run: str, record: Mapping[str, float]) -> None:
        """Sends the record, under the names that it has in metrics.jsonl."""
        scores = {key: value for key, value in record.items() if key != "step"}
        self._runs[run].log(scores, step=int(record["step"]))

    def close(self, status: str) -> None:
        """Ends every run; all but "finished" count as failed there."""
        for run in self._runs.values():
            run.summary["status"] = status
            run.finish(exit_code=0 if status == "finished" else 1)
        self._runs.clear()


class TensorBoardSink(Sink):
    """One folder of TensorBoard events for each training run.

    Args:
        directories: run name -> the folder that its event file goes to.

    Raises:
        RequestError: tensorboard is not installed.
    """

    def __init__(self, directories: Mapping[str, Path]) -> None:
        self._open = _import("torch.utils.tensorboard", extra="tensorboard").SummaryWriter
        self._directories = directories
        self._writers: dict[str, Any] = {}

    def log(self, run: str, record: Mapping[str, float]) -> None:
        """Writes the record, under the names that it has in metrics.jsonl."""
        step = int(record["step"])
        if run not in self._writers:
            # A resumed run hides what an earlier event file in this folder says of the steps made again.
            self._writers[run] = self._open(str(self._directories[run]), purge_step=step)
        for key, value in record.items():
            if key != "step":
                self._writers[run].add_scalar(key, value, global_step=step)

    def close(self, status: str) -> None:
        """Writes the status and flushes the files to disk."""
        for writer in self._writers.values():
            writer.add_text("status", status)
            writer.close()
        self._writers.clear()


TRACKERS = ("wandb", "tensorboard")


def make_tracker(name: str, configs: Mapping[str, dict], directories: Mapping[str, Path], group: str) -> Sink:
    """The tracker of that name, one of TRACKERS, with a run or a folder for each training run."""
    if name == "wandb":
        return WandbSink(configs, directories, group)
    if name == "tensorboard":
        return TensorBoardSink(directories)
    raise unknown("tracker", name, TRACKERS)


def _import(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise RequestError(f'{extra} is not installed; run `pip install "interp-arith[{extra}]"`') from error
