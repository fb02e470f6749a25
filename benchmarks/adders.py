"""The tables of README on adders, from run directories: what the protocols found, every seed and each preset's seeds.

    python benchmarks/adders.py RUNS README.md

RUNS holds runs that `interp-arith evaluate --protocol` asked million, and ten-digit where they add ten digits, all
seeds of a preset: they replace the preset's rows, those of each seed too. Those that were asked complexity replace
its row of the table by class. Other presets keep theirs. A run that cannot be counted is named.
"""

import argparse
import json
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from readme import replace_rows, rows_of
from tables import table

from interp_arith.errors import RequestError
from interp_arith.presets import PRESETS
from interp_arith.run import Run, find_runs
from interp_arith.tasks.addition import Addition
from interp_arith.tasks.columns import classes

_GOAL = 0.999
_CLASSES = tuple(classes(10, "mixed"))
_TEN_DIGIT, _MILLION = 10_010, 1_000_000
SUMMARY = [
    "preset",
    "parameters",
    "seeds",
    "≥ 99.9 % right",
    "≤ 10 wrong in a million",
    "none wrong",
    "wrong in a million, median (range)",
    "seconds of training, median (range)",
]
SEEDS = [
    "run",
    "steps",
    "seconds",
    "ten-digit: right of 10,010",
    "cascades: wrong",
    "million: wrong",
    "million: wrong by class",
]
BY_CLASS = ["preset", "seeds", *_CLASSES]


@dataclass(frozen=True)
class Scores:
    """What the protocols found of one run at its last step.

    Attributes:
        name: of the run.
        parameters: trained values, tied ones once.
        steps: updates.
        seconds: of training.
        ten_digit: right and asked, edge cases and random pairs together; None of a task without ten-digit sums.
        cascades: wrong and asked, all lengths together; likewise.
        million: wrong and asked, in all ("all") and of each class.
        exact_match: of each class, as complexity asks them; empty where it did not.
    """

    name: str
    parameters: int
    steps: int
    seconds: float
    ten_digit: tuple[int, int] | None
    cascades: tuple[int, int] | None
    million: dict[str, tuple[int, int]]
    exact_match: dict[str, float]

    @property
    def is_good(self) -> bool:
        """Whether both protocols, as far as they apply, give 99.9 % or more."""
        wrong, asked = self.million["all"]
        right, of = self.ten_digit or (1, 1)
        return right / of >= _GOAL and 1 - wrong / asked >= _GOAL


def scores_of(run: Run) -> Scores:
    """The scores of a run.

    Raises:
        RequestError: it is not finished, or was not asked the protocols, whole, at its last step.
    """
    if run.status != "finished":
        raise RequestError(f"{run.name} is {run.status}, not finished")
    task, step = run.task, run.steps[-1]
    assert isinstance(task, Addition)
    has_ten = task.n_digits >= 10 and task.operation != "subtract" and task.operands == 2
    million = _table(run, "million")
    if million["all"]["questions"] != _MILLION:
        raise RequestError(
            f"{run.name} was asked {million['all']['questions']:,} questions by million; the table is of {_MILLION:,}"
        )
    ten_digit = cascades = None
    if has_ten:
        found = _table(run, "ten-digit")
        if found["ten_digit"]["questions"] != _TEN_DIGIT:
            raise RequestError(
                f"{run.name} was asked {found['ten_digit']['questions']:,} questions by ten-digit; the table is of "
                f"{_TEN_DIGIT:,}"
            )
        ten_digit = found["ten_digit"]["right"], found["ten_digit"]["questions"]
        rows = [row for name, row in found.items() if name.startswith("cascade_")]
        cascades = sum(row["wrong"] for row in rows), sum(row["questions"] for row in rows)
    has_classes = _file(run, "complexity").is_file()
    return Scores(
        run.name,
        json.loads(_file(run, "million").read_text(encoding="utf-8"))["parameters"],
        step,
        run.info["training_seconds"],
        ten_digit,
        cascades,
        {name: (row["wrong"], row["questions"]) for name, row in million.items()},
        {name: row["exact_match"] for name, row in _table(run, "complexity").items()} if has_classes else {},
    )


def _file(run: Run, protocol: str) -> Path:
    return run.path / "evaluations" / f"{protocol}-step-{run.steps[-1]}.json"


def _table(run: Run, protocol: str) -> dict[str, dict[str, Any]]:
    """Set -> row of what a protocol found at the last step."""
    file = _file(run, protocol)
    if not file.is_file():
        raise RequestError(
            f"{run.name} was not asked {protocol} at its last step, {run.steps[-1]:,}: "
            f"`interp-arith evaluate {run.path} --protocol {protocol}`"
        )
    return {row["set"]: row for row in json.loads(file.read_text(encoding="utf-8"))["table"]}


def seed_row(scores: Scores) -> list[str]:
    """A line of the table of seeds."""
    wrong = [
        f"{name}: {found[0]:,} of {found[1]:,}"
        for name in _CLASSES
        if (found := scores.million.get(name, (0, 0)))[0]
    ]
    return [
        f"`{scores.name}`",
        f"{scores.steps:,}",
        f"{scores.seconds:,.0f}",
        "–" if scores.ten_digit is None else f"{scores.ten_digit[0]:,}",
        "–" if scores.cascades is None else f"{scores.cascades[0]:,} of {scores.cascades[1]:,}",
        f"{scores.million['all'][0]:,}",
        "; ".join(wrong) or "none",
    ]


def summary_row(name: str, seeds: list[Scores]) -> list[str]:
    """A line of the table of presets."""
    errors = [each.million["all"][0] for each in seeds]
    seconds = [each.seconds for each in seeds]
    return [
        f"`{name}`",
        f"{seeds[0].parameters:,}",
        str(len(seeds)),
        str(sum(each.is_good for each in seeds)),
        str(sum(wrong <= 10 for wrong in errors)),
        str(errors.count(0)),
        f"{f'{median(errors):,.1f}'.removesuffix('.0')} ({min(errors):,}–{max(errors):,})",
        f"{median(seconds):,.0f} ({min(seconds):,.0f}–{max(seconds):,.0f})",
    ]


def class_row(name: str, seeds: list[Scores]) -> list[str]:
    """A line of the table by class: the mean over the seeds, in percent."""
    cells = []
    for each in _CLASSES:
        found = [s.exact_match[each] for s in seeds if s.exact_match.get(each) is not None]
        cells.append(f"{100 * fmean(found):.4g}" if found else "–")
    return [f"`{name}`", str(len(seeds)), *cells]


def scores_in(folder: Path) -> dict[str, list[Scores]]:
    """Preset -> its seeds in order; which adders are left out, and why, is said on stderr."""
    groups: dict[str, list[Scores]] = defaultdict(list)
    for run in sorted(find_runs(folder), key=lambda run: run.config.seed):
        if run.config.name in PRESETS and isinstance(run.task, Addition):
            try:
                scores = scores_of(run)
            except RequestError as error:
                print(f"left out: {error}", file=sys.stderr)
            else:
                groups[run.config.name].append(scores)
    return groups


def write_tables(readme: Path, groups: dict[str, list[Scores]]) -> list[str]:
    """The three tables; presets that are not among the groups keep their rows, and their seeds' rows."""
    summary = table(SUMMARY, [summary_row(name, seeds) for name, seeds in groups.items()])
    every = table(SEEDS, [seed_row(scores) for seeds in groups.values() for scores in seeds])
    kept = rows_of(readme, "adder-seeds")
    by_class = {name: [each for each in seeds if each.exact_match] for name, seeds in groups.items()}
    of_class = table(BY_CLASS, [class_row(name, seeds) for name, seeds in by_class.items() if seeds])
    names = {name: [each.name for each in seeds] for name, seeds in groups.items()}
    order = [
        run
        for preset in PRESETS
        for run in names.get(preset, [run for run in kept if run.rpartition("-s")[0] == preset])
    ]
    return [
        *replace_rows(readme, "adders", summary, PRESETS),
        *replace_rows(readme, "adder-seeds", every, order),
        *replace_rows(readme, "adder-classes", of_class, PRESETS),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("readme", type=Path)
    arguments = parser.parse_args()
    print("\n".join(write_tables(arguments.readme, scores_in(arguments.runs))))


if __name__ == "__main__":
    main()
