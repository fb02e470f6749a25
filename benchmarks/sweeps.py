"""The sweeps of README, from their folders: a table and a picture of each, and every run in sweeps/results/.

    python benchmarks/sweeps.py RUNS README.md [--results sweeps/results] [--pictures docs]

RUNS holds sweeps' folders, as `interp-arith sweep` leaves them. Each sweep of sweeps/*.yaml has its own block in
README; what has no folder stays as it is.
"""

import argparse
import sys
from pathlib import Path

import pandas as pd
from plots import photograph
from readme import replace_block
from tables import table

from interp_arith.grid import Sweep, read_sweep
from interp_arith.storage import write_atomically
from interp_arith.sweep_results import SweepFolder, results_table, summary_table

SHIPPED = Path(__file__).parent.parent / "sweeps"
COLUMNS = {
    "train_loss": "train loss",
    "train_accuracy": "train accuracy",
    "test_accuracy": "test accuracy",
    "steps_to_train_accuracy_1": "steps to 100 % train",
    "steps_to_test_accuracy_0.95": "steps to 95 % test",
    "step": "stopped at step",
}
WIDTH, HEIGHT = 1000, 560


def question_of(file: Path) -> list[str]:
    """What a sweep file says of itself: the comment at its top."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return [line.removeprefix("# ") for line in lines if line.startswith("# ")]


def means_lines(sweep: Sweep, results: pd.DataFrame) -> list[str]:
    """A row for each point: mean ± std over its seeds, and how many got there where not all did."""
    means = summary_table(sweep, sweep.runs(), results)
    axes = [axis.name for axis in sweep.axes()]
    shown = [name for name in COLUMNS if name in means]
    header = [*axes, "runs", *(COLUMNS[name] for name in shown)]
    return table(
        header, [[str(row[name]) for name in (*axes, "runs", *shown)] for _, row in means.iterrows()]
    )


def seeds_lines(sweep: Sweep, results: pd.DataFrame) -> list[str]:
    """A row for each run."""
    axes = [axis.name for axis in sweep.axes()]
    shown = [name for name in COLUMNS if name in results]
    rows = [
        [*(str(row[axis]) for axis in axes), str(row["seed"]), *(_number(row[name]) for name in shown)]
        for row in results.to_dict("records")
    ]
    return table([*axes, "seed", *(COLUMNS[name] for name in shown)], rows)


def _number(value: float) -> str:
    if pd.isna(value):
        return "–"
    return f"{value:,.0f}" if value == int(value) and abs(value) > 1 else f"{value:.4g}"


def block(file: Path, folder: SweepFolder, pictures: Path, kept: Path) -> list[str]:
    """One sweep of README; its picture and its results are written beside."""
    sweep = folder.read_sweep()
    results = results_table(sweep, sweep.runs(), folder.runs)
    finished = list(results["status"]).count("finished")
    if finished < len(results):
        raise SystemExit(
            f"{folder.path}: {finished} of {len(results)} runs are finished; finish the sweep first"
        )
    picture = pictures / f"sweep-{sweep.name}.png"
    photograph(folder.path / "results.html", picture, WIDTH, HEIGHT)
    write_atomically(
        kept / f"{sweep.name}.csv", results.drop(columns=["status", "seconds"]).to_csv(index=False).encode()
    )
    return [
        f"**`sweeps/{file.name}`.** {' '.join(question_of(file))}",
        "",
        *means_lines(sweep, results),
        "",
        f"<details><summary>each run of {sweep.name}, and a picture</summary>",
        "",
        *seeds_lines(sweep, results),
        "",
        f"![{sweep.name}: steps to the milestones and final accuracies]({picture})",
        "",
        "</details>",
        "",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("readme", type=Path)
    parser.add_argument("--pictures", type=Path, default=Path("docs"))
    parser.add_argument("--results", type=Path, default=SHIPPED / "results")
    arguments = parser.parse_args()
    arguments.results.mkdir(exist_ok=True)
    for file in sorted(SHIPPED.glob("*.yaml")):
        folder = SweepFolder(arguments.runs / read_sweep(file).name)
        if folder.table.is_file():
            lines = block(file, folder, arguments.pictures, arguments.results)
            replace_block(arguments.readme, f"sweep {folder.path.name}", lines)
            print("\n".join(lines))
        else:
            print(f"{file.name} stays as it is: no {folder.table}", file=sys.stderr)


if __name__ == "__main__":
    main()
