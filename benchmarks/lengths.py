"""The tables and the picture of README on numbers longer than those of training, from run directories.

    python benchmarks/lengths.py RUNS README.md docs/length-grid

RUNS holds runs of `add-2d-small` and of `sweeps/positions.yaml`, which `interp-arith evaluate --protocol length-grid
--max-digits 30` asked at their last step, with and without `--sharpen`; those of `add-2d-small` itself also at every
step (`--step all --questions 200`).
"""

import argparse
import json
import re
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import pandas as pd
from plots import photograph
from readme import replace_block
from tables import table

from interp_arith.figures.curves import write_html
from interp_arith.figures.lengths import length_curves
from interp_arith.models.digit_positions import DigitScheme
from interp_arith.run import Run, find_runs

LENGTHS = (10, 12, 15, 18, 20, 25, 30)
TRAJECTORY = (12, 15, 20, 25, 30)
GOAL = 0.99
MAIN = "add-2d-small"
_FILE = re.compile(r"length-grid(?:-sharpened-([\d.]+))?(-200-each)?-step-(\d+)\.json")
_NAMES = {
    "segment-digit": "2-D",
    "coupled": "coupled",
    "abacus": "Abacus",
    "rotary": "rotary",
    "none": "none",
}
WIDTH, HEIGHT = 1000, 460


@dataclass(frozen=True)
class Grid:
    """What a length grid found.

    Attributes:
        seed: of the run.
        step: of its trajectory.
        sharpen: what the scores were multiplied by.
        is_sample: asked 200 questions of each length, and not 1,000.
        exact_match: by length.
    """

    seed: int
    step: int
    sharpen: float
    is_sample: bool
    exact_match: dict[int, float]

    def at(self, length: int) -> float:
        """The exact match; 0 of a length that has no positions."""
        return self.exact_match.get(length, 0.0)


def positions_of(run: Run) -> str:
    """The scheme in words; of the preset itself, its name too."""
    if run.config.name == MAIN:
        return f"2-D, `{MAIN}`"
    scheme = run.config.model.positions
    gapless = isinstance(scheme, DigitScheme) and not scheme.gap
    return _NAMES[scheme.kind] + (", without gaps" if gapless else "")


def grids_of(run: Run) -> list[Grid]:
    """Every length grid that is kept in a run."""
    grids = []
    for file in sorted((run.path / "evaluations").glob("length-grid*.json")):
        found = _FILE.fullmatch(file.name)
        if found is None:
            continue
        rows = json.loads(file.read_text(encoding="utf-8"))["table"]
        by_length = {int(row["set"].removeprefix("length_")): row["exact_match"] for row in rows}
        sharpen = float(found.group(1) or 1)
        grids.append(Grid(run.config.seed, int(found.group(3)), sharpen, bool(found.group(2)), by_length))
    return grids


def scheme_rows(groups: dict[str, list[Run]]) -> list[list[str]]:
    """A line for each scheme, sharpened or not: means over the seeds, in percent."""
    rows = []
    for name, runs in groups.items():
        last = [grid for run in runs for grid in grids_of(run) if grid.step == run.steps[-1]]
        for sharpen in sorted({grid.sharpen for grid in last}):
            of = [grid for grid in last if grid.sharpen == sharpen and not grid.is_sample]
            if of:
                goal = sum(grid.at(20) >= GOAL for grid in of)
                means = [f"{100 * fmean(grid.at(length) for grid in of):.3g}" for length in LENGTHS]
                label = name if sharpen == 1 else f"{name}, sharpened {sharpen:g} ×"
                rows.append([label, str(len(of)), *means, f"{goal} of {len(of)}"])
    return rows


def trajectory_rows(runs: list[Run], sharpen: float = 1) -> list[list[str]]:
    """A line for each seed: best and last exact match along the trajectory, 200 questions of each length."""
    rows = []
    for run in runs:
        grids = [g for g in grids_of(run) if g.sharpen == sharpen and g.is_sample]
        if not grids:
            continue
        grids.sort(key=lambda grid: grid.step)
        cells = []
        for length in TRAJECTORY:
            best = max(grids, key=lambda grid: grid.at(length))
            cells.append(f"{100 * best.at(length):.4g} ({best.step:,}), {100 * grids[-1].at(length):.4g}")
        rows.append([f"`{run.name}`", *cells])
    return rows


def curves(runs: list[Run]) -> dict[str, pd.DataFrame]:
    """Sharpening in words -> exact match by seed and length at the last step."""
    last = [g for run in runs for g in grids_of(run) if g.step == run.steps[-1] and not g.is_sample]
    found = {}
    for sharpen in sorted({grid.sharpen for grid in last}):
        rows = [
            {"seed": grid.seed, "length": length, "exact_match": share}
            for grid in last
            if grid.sharpen == sharpen
            for length, share in grid.exact_match.items()
        ]
        found["as it is" if sharpen == 1 else f"attention sharpened {sharpen:g} ×"] = pd.DataFrame(rows)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("readme", type=Path)
    parser.add_argument("picture", type=Path)
    arguments = parser.parse_args()
    groups: dict[str, list[Run]] = {}
    for run in sorted(find_runs(arguments.runs), key=lambda run: run.config.seed):
        groups.setdefault(positions_of(run), []).append(run)
    order = sorted(groups, key=lambda name: (list(_NAMES.values()).index(name.split(",")[0]), name))
    groups = {name: groups[name] for name in order}
    runs = groups[f"2-D, `{MAIN}`"]
    header = ["positions", "seeds", *(f"{n} digits" for n in LENGTHS), f"≥ {GOAL:.0%} at 20"]
    replace_block(arguments.readme, "lengths", table(header, scheme_rows(groups)))
    steps = ["run", *(f"{length} digits: best (at step), last" for length in TRAJECTORY)]
    replace_block(arguments.readme, "length-trajectories", table(steps, trajectory_rows(runs)))
    page = arguments.picture.with_suffix(".html")
    title = f"{MAIN}: trained on at most 10 digits, 1,000 questions of each length"
    write_html(length_curves(curves(runs), runs[0].task.n_digits, title), page)  # type: ignore[attr-defined]
    photograph(page, page.with_suffix(".png"), WIDTH, HEIGHT)
    page.unlink()
    print("\n".join(table(header, scheme_rows(groups))))


if __name__ == "__main__":
    main()
