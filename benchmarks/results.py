"""The results table of README and the "measured" column of `interp-arith presets`, from run directories.

    python benchmarks/results.py RUNS README.md [--measured interp_arith/measured.json]

Every run in the folder counts: all seeds, not the best one. The table stands between two marks in README.
"""

import argparse
import json
import re
from collections import defaultdict
from pathlib import Path

from interp_arith.presets import PRESETS
from interp_arith.runs import Run, find_runs
from interp_arith.storage import write_atomically

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
MEASURED = Path(__file__).parent.parent / "interp_arith" / "measured.json"


def first_step(run: Run, metric: str, value: float) -> int | None:
    """The first evaluation at which a metric is at least a value."""
    metrics = run.metrics
    if metric not in metrics:
        return None
    reached = metrics.loc[metrics[metric] >= value, "step"]
    return None if reached.empty else int(reached.iloc[0])


def spread(values: list[float], form: str = ",.0f") -> str:
    """Median, and the range where there is one."""
    ordered = sorted(values)
    middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    text = f"{middle:{form}}"
    return text if ordered[0] == ordered[-1] else f"{text} ({ordered[0]:{form}}–{ordered[-1]:{form}})"


def goal(run: Run) -> tuple[str, float]:
    """What counts as reached for this kind of run."""
    if run.task.kind == "text":
        return "train_exact_match", 1.0
    if run.task.kind == "addition":
        return "test_exact_match", 0.999
    return (
        ("test_exact_match", 0.999)
        if run.config.name.startswith("mod-add-113")
        else ("test_exact_match", 0.99)
    )


def row(name: str, runs: list[Run]) -> tuple[list[str], str]:
    """A line of the table, and the short form for `interp-arith presets`."""
    metric, value = goal(runs[0])
    reached = [step for run in runs if (step := first_step(run, metric, value)) is not None]
    memorized = [step for run in runs if (step := first_step(run, "train_accuracy", 1.0)) is not None]
    final = [run.info["summary"]["last"][metric] for run in runs]
    seconds = [run.info["training_seconds"] for run in runs]
    which = "training text" if metric.startswith("train") else "test"
    cells = [
        f"`{name}`",
        str(len(runs)),
        spread(list(map(float, memorized))) if memorized else "–",
        f"{len(reached)} of {len(runs)}" + (f" at {spread(list(map(float, reached)))}" if reached else ""),
        f"{which} ≥ {value:g}",
        spread(final, ".4f"),
        spread(seconds),
    ]
    short = f"{len(reached)} of {len(runs)} seeds {which} ≥ {value:g}"
    return cells, f"{short}; {spread(seconds)} s a seed"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("readme", type=Path)
    parser.add_argument("--measured", type=Path, default=MEASURED)
    arguments = parser.parse_args()
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in find_runs(arguments.runs):
        if run.config.name in PRESETS and run.status == "finished":
            groups[run.config.name].append(run)
    header = ["preset", "seeds", "train accuracy 1 at step", "reached", "goal", "final", "seconds a seed"]
    lines = ["| " + " | ".join(header) + " |", "|---|---:|---|---|---|---|---|"]
    measured = {}
    for name in PRESETS:
        if name in groups:
            cells, measured[name] = row(name, groups[name])
            lines.append("| " + " | ".join(cells) + " |")
    text = arguments.readme.read_text(encoding="utf-8")
    block = "\n".join([BEGIN, *lines, END])
    new = re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: block, text, flags=re.DOTALL)
    write_atomically(arguments.readme, new.encode())
    write_atomically(arguments.measured, (json.dumps(measured, indent=1, ensure_ascii=False) + "\n").encode())
    print("\n".join(lines))


if __name__ == "__main__":
    main()
