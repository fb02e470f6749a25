"""The results table of README and the "measured" column of `interp-arith presets`, from run directories.

    python benchmarks/results.py RUNS README.md [--timed TIMED] [--measured interp_arith/measured.json]

Every run in RUNS counts: all seeds, not the best one. Presets that have none there keep their row. Seconds are taken
from TIMED alone: runs that were trained one at a time, with nothing else on the machine.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from readme import replace_rows

from interp_arith.files import write_atomically
from interp_arith.presets import PRESETS
from interp_arith.runs import Run, find_runs
from interp_arith.training.config import is_lower_better

MEASURED = Path(__file__).parent.parent / "interp_arith" / "measured.json"


def reaching(run: Run, metric: str, value: float) -> tuple[int | None, int | None]:
    """The first evaluation at which a metric reaches a value, and the one from which it always does.

    At most the value for a loss, at least the value for anything else.
    """
    lower = is_lower_better(metric)
    first = for_good = None
    for record in run.directory.read_metrics():
        if metric in record:
            met = record[metric] <= value if lower else record[metric] >= value
            step = int(record["step"])
            first = step if met and first is None else first
            for_good = (step if for_good is None else for_good) if met else None
    return first, for_good


def spread(values: list[float], form: str = ",.0f") -> str:
    """Median, and the range where there is one."""
    ordered = sorted(values)
    middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    text = f"{middle:{form}}"
    return text if ordered[0] == ordered[-1] else f"{text} ({ordered[0]:{form}}–{ordered[-1]:{form}})"


def goal(run: Run) -> tuple[str, float]:
    """What counts as reached for this kind of run."""
    if run.task.kind == "text":
        return "train_loss", 1e-4
    if run.task.kind == "addition":
        return "test_exact_match", 0.999
    return (
        ("test_exact_match", 0.999)
        if run.config.name.startswith("mod-add-113")
        else ("test_exact_match", 0.99)
    )


def finished(folder: Path) -> dict[str, list[Run]]:
    """Preset -> its finished runs."""
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in find_runs(folder):
        if run.config.name in PRESETS and run.status == "finished":
            groups[run.config.name].append(run)
    return groups


def row(name: str, runs: list[Run], timed: list[Run]) -> tuple[list[str], str]:
    """A line of the table, and the short form for `interp-arith presets`."""
    metric, value = goal(runs[0])
    lower = is_lower_better(metric)
    aim = f"{metric.replace('_', ' ')} {'≤' if lower else '≥'} {value:g}"
    first, for_good = (
        _there(steps) for steps in zip(*(reaching(r, metric, value) for r in runs), strict=True)
    )
    memorized = _there(reaching(r, "train_accuracy", 1.0)[0] for r in runs)
    final = [run.info["summary"]["last"][metric] for run in runs]
    seconds = [run.info["training_seconds"] for run in timed]
    cells = [
        f"`{name}`",
        str(len(runs)),
        spread(memorized) if memorized else "–",
        aim,
        f"{len(first)} of {len(runs)}",
        spread(first) if first else "–",
        f"{len(for_good)} of {len(runs)}: {spread(for_good)}" if for_good else "–",
        spread(final, ".1e" if lower else ".4f"),
        spread(seconds) if seconds else "–",
    ]
    short = f"{len(first)} of {len(runs)} seeds: {aim}"
    return cells, f"{short}; {spread(seconds)} s" if seconds else short


def _there(steps: Iterable[int | None]) -> list[float]:
    return [float(step) for step in steps if step is not None]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("readme", type=Path)
    parser.add_argument("--timed", type=Path)
    parser.add_argument("--measured", type=Path, default=MEASURED)
    arguments = parser.parse_args()
    groups = finished(arguments.runs)
    timed = finished(arguments.timed) if arguments.timed else {}
    header = [
        "preset",
        "seeds",
        "memorized at step",
        "goal",
        "reached",
        "at step",
        "for good from step",
        "final",
        "seconds alone",
    ]
    lines = ["| " + " | ".join(header) + " |", "|---|---:|---|---|---|---|---|---|---|"]
    measured = json.loads(arguments.measured.read_text(encoding="utf-8"))
    for name in PRESETS:
        if name in groups:
            cells, measured[name] = row(name, groups[name], timed.get(name, []))
            lines.append("| " + " | ".join(cells) + " |")
    measured = {name: measured[name] for name in PRESETS if name in measured}
    write_atomically(arguments.measured, (json.dumps(measured, indent=1, ensure_ascii=False) + "\n").encode())
    print("\n".join(replace_rows(arguments.readme, "results", lines, PRESETS)))


if __name__ == "__main__":
    main()
