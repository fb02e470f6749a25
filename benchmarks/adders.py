"""The tables of README on adders, from run directories: what the protocols found, every seed and each preset's seeds.

    python benchmarks/adders.py RUNS README.md

RUNS holds runs that `interp-arith evaluate --protocol` asked ten-digit and million, all seeds of a preset: they
replace the preset's rows, those of each seed too. Other presets keep theirs. A run that cannot be counted is named.
"""

import argparse
import json
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from readme import replace_rows, rows_of
from tables import table

from interp_arith.errors import RequestError
from interp_arith.presets import PRESETS
from interp_arith.run import Run, find_runs
from interp_arith.tasks.addition import Addition

_GOAL = 0.999
_CLASSES = ("S0", "S1", "S2", "S3", "S4", "S5")
_TEN_DIGIT, _MILLION = 10_010, 1_000_000
SUMMARY = [
    "preset",
    "parameters",
    "seeds",
    "≥ 99.9 % of ten-digit and of million",
    "no error in a million",
    "errors in a million, median (range)",
    "seconds of training, median (range)",
]
SEEDS = [
    "run",
    "steps",
    "seconds",
    "ten-digit: right of 10,010",
    "cascades: wrong",
    "million: wrong",
    *_CLASSES,
]


@dataclass(frozen=True)
class Scores:
    """What the protocols found of one run at its last step.

    Attributes:
        name: of the run.
        parameters: trained values, tied ones once.
        steps: updates.
        seconds: of training.
        ten_digit: right and asked, edge cases and random pairs together.
        cascades: wrong and asked, all lengths together.
        million: wrong and asked, in all ("all") and of each class.
    """

    name: str
    parameters: int
    steps: int
    seconds: float
    ten_digit: tuple[int, int]
    cascades: tuple[int, int]
    million: dict[str, tuple[int, int]]

    @property
    def is_good(self) -> bool:
        """Whether both protocols were answered to 99.9 %."""
        right, asked = self.ten_digit
        wrong, of = self.million["all"]
        return right / asked >= _GOAL and 1 - wrong / of >= _GOAL


def scores_of(run: Run) -> Scores:
    """The scores of a run.

    Raises:
        RequestError: it is not finished, or was not asked both protocols, whole, at its last step.
    """
    if run.status != "finished":
        raise RequestError(f"{run.name} is {run.status}, not finished")
    step = run.steps[-1]
    files = {name: run.path / "evaluations" / f"{name}-step-{step}.json" for name in ("ten-digit", "million")}
    for name, file in files.items():
        if not file.is_file():
            raise RequestError(
                f"{run.name} was not asked {name} at its last step, {step:,}: "
                f"`interp-arith evaluate {run.path} --protocol {name}`"
            )
    found = {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items()}
    sets = {name: {row["set"]: row for row in each["table"]} for name, each in found.items()}
    ten, cascades = (
        sets["ten-digit"]["ten_digit"],
        [r for name, r in sets["ten-digit"].items() if name.startswith("cascade_")],
    )
    for name, asked, whole in (
        ("ten-digit", ten["questions"], _TEN_DIGIT),
        ("million", sets["million"]["all"]["questions"], _MILLION),
    ):
        if asked != whole:
            raise RequestError(
                f"{run.name} was asked {asked:,} questions by {name}; the table is of {whole:,}"
            )
    return Scores(
        run.name,
        found["million"]["parameters"],
        step,
        run.info["training_seconds"],
        (ten["right"], ten["questions"]),
        (sum(row["wrong"] for row in cascades), sum(row["questions"] for row in cascades)),
        {name: (row["wrong"], row["questions"]) for name, row in sets["million"].items()},
    )


def seed_row(scores: Scores) -> list[str]:
    """A line of the table of seeds."""
    by_class = (scores.million.get(name) for name in _CLASSES)
    return [
        f"`{scores.name}`",
        f"{scores.steps:,}",
        f"{scores.seconds:,.0f}",
        f"{scores.ten_digit[0]:,}",
        f"{scores.cascades[0]:,} of {scores.cascades[1]:,}",
        f"{scores.million['all'][0]:,}",
        *("–" if found is None else f"{found[0]:,} of {found[1]:,}" for found in by_class),
    ]


def summary_row(name: str, seeds: list[Scores]) -> list[str]:
    """A line of the table of presets."""
    errors = [each.million["all"][0] for each in seeds]
    seconds = [each.seconds for each in seeds]
    return [
        f"`{name}`",
        f"{seeds[0].parameters:,}",
        str(len(seeds)),
        f"{sum(each.is_good for each in seeds)} of {len(seeds)}",
        f"{errors.count(0)} of {len(seeds)}",
        f"{f'{median(errors):,.1f}'.removesuffix('.0')} ({min(errors):,}–{max(errors):,})",
        f"{median(seconds):,.0f} ({min(seconds):,.0f}–{max(seconds):,.0f})",
    ]


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
    """Both tables; presets that are not among the groups keep their rows, and their seeds' rows."""
    summary = table(SUMMARY, [summary_row(name, seeds) for name, seeds in groups.items()])
    every = table(SEEDS, [seed_row(scores) for seeds in groups.values() for scores in seeds])
    kept = rows_of(readme, "adder-seeds")
    names = {name: [each.name for each in seeds] for name, seeds in groups.items()}
    order = [
        run
        for preset in PRESETS
        for run in names.get(preset, [run for run in kept if run.rpartition("-s")[0] == preset])
    ]
    return [
        *replace_rows(readme, "adders", summary, PRESETS),
        *replace_rows(readme, "adder-seeds", every, order),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("readme", type=Path)
    arguments = parser.parse_args()
    print("\n".join(write_tables(arguments.readme, scores_in(arguments.runs))))


if __name__ == "__main__":
    main()
