"""The tables of README on how adders carry, from run directories: every seed, means with 95 % bootstrap intervals.

    python benchmarks/carries.py RUNS README.md

RUNS holds runs of the presets below; measures are kept in them, and taken where they are not (minutes a run).
Presets without a run there keep their rows. Of the run that comes along, docs/circuit.png is drawn.
"""

import argparse
from pathlib import Path

import numpy as np
import xarray as xr
from plots import photograph
from readme import replace_rows
from tables import table

from interp_arith.figures.circuits import circuit_diagram
from interp_arith.figures.curves import write_html
from interp_arith.interp.ablation import USEFUL
from interp_arith.interp.bootstrap import mean_over_seeds
from interp_arith.interp.carry_use import DECODABLE, USED, first_steps
from interp_arith.run import Run, find_runs
from interp_arith.tasks import Addition

PRESETS = ("add-5d-msb", "add-5d-msb-1l", "mixed-6d", "add-10d-763")
DRAWN, WIDTH = "add-5d-msb-s1", 1000
"""The run whose circuits are drawn, and pixels."""
LEARNT = 0.99
"""Exact match from which on a class counts as learnt."""
MARKS = [
    "preset: into column",
    "seeds",
    "decodable from step",
    "used from step",
    "decodable, last step",
    "used along its direction",
    "used as a whole",
]
CLASSES = ["preset", "seeds", "S0", "S1", "S2", "S3", "S4", "S5"]
CIRCUITS = [
    "preset",
    "seeds",
    "nodes that a digit needs",
    "nodes of all digits",
    "useful alone",
    "all nodes",
    "exact match, least class",
    "random nodes, best class",
    "a node dropped costs at least",
]


def with_interval(values: list[float], form: str = "{:,.0f}") -> str:
    """The mean and its interval over seeds; how many reached it, where not all did."""
    there = [value for value in values if not np.isnan(value)]
    if not there:
        return "not reached"
    found = mean_over_seeds(xr.DataArray(there, dims="seed", coords={"seed": range(len(there))}))
    mean, low, high = (float(found.sel(statistic=name)) for name in ("mean", "low", "high"))
    said = form.format(mean)
    if len(there) > 1:
        said += f" [{form.format(low)}, {form.format(high)}]"
    return said if len(there) == len(values) else f"{said} ({len(there)} of {len(values)})"


def mark_rows(name: str, runs: list[Run]) -> list[list[str]]:
    """A line a column: from which step on its carry is decodable, and used, and how well at the last step."""
    found = [run.measure(["carry_decodable", "carry_used"], steps_of(run), "cpu") for run in runs]
    best = [each.max("hook") for each in found]
    rows = []
    for column in found[0]["column"].to_numpy().tolist():
        of = [each.sel(column=column) for each in best]
        read = [float(first_steps(each["carry_decodable"], DECODABLE)) for each in of]
        used = [float(first_steps(each["carry_used"].max("way"), USED)) for each in of]
        last = [each.isel(step=-1) for each in of]
        shares = [
            [float(each["carry_decodable"]) for each in last],
            *([float(each["carry_used"].sel(way=way)) for each in last] for way in ("direction", "whole")),
        ]
        seeds = str(len(runs))
        marks = [with_interval(read), with_interval(used)] if len(found[0]["step"]) > 1 else ["–", "–"]
        rows.append([f"`{name}: {column}`", seeds, *marks, *(with_interval(s, "{:.2f}") for s in shares)])
    return rows


def class_row(name: str, runs: list[Run]) -> list[str]:
    """From which step on each class of sums is learnt."""
    found = [run.measure(["class_exact_match"], steps_of(run), "cpu")["class_exact_match"] for run in runs]
    marks = [first_steps(each, LEARNT) for each in found]
    return [
        f"`{name}`",
        str(len(runs)),
        *(with_interval([float(mark.sel(complexity=one)) for mark in marks]) for one in CLASSES[2:]),
    ]


def circuit_row(name: str, runs: list[Run]) -> list[str]:
    """How many nodes its digits need, and how faithful they are."""
    kept = [run.kept(["circuit_nodes", "circuit_node_loss", "circuit_exact_match"]) for run in runs]
    pairs = [(run, found) for run, found in zip(runs, kept, strict=True) if len(found) == 3]
    last = [({n: x.isel(step=-1) for n, x in found.items()}, run) for run, found in pairs]
    useful = [
        int(
            (run.measure(["ablation_effect"], [run.steps[-1]], "cpu")["ablation_effect"] > USEFUL)
            .any("complexity")
            .sum()
        )
        for run, _ in pairs
    ]
    sizes = [at["circuit_nodes"].sum(["block", "part", "pos"]) for at, _ in last]
    named = [float(at["circuit_exact_match"].sel(circuit="named").min()) for at, _ in last]
    chance = [float(at["circuit_exact_match"].sel(circuit="random").max()) for at, _ in last]
    return [
        f"`{name}`",
        str(len(last)),
        f"{min(int(each.min()) for each in sizes)}–{max(int(each.max()) for each in sizes)}",
        with_interval([float((at["circuit_nodes"] > 0).any("answer").sum()) for at, _ in last]),
        with_interval([float(n) for n in useful]),
        str(last[0][0]["circuit_nodes"].isel(answer=0).size),
        with_interval(named, "{:.3f}"),
        with_interval(chance, "{:.3f}"),
        with_interval([float(at["circuit_node_loss"].min()) for at, _ in last], "{:.3f}"),
    ]


def draw_circuits(run: Run, picture: Path) -> None:
    """What each digit needs, as a picture."""
    last = {name: x.isel(step=-1) for name, x in run.kept(["circuit_nodes", "circuit_node_loss"]).items()}
    task = run.task
    assert isinstance(task, Addition)
    figure = circuit_diagram(
        last["circuit_nodes"],
        last["circuit_node_loss"],
        task.position_names,
        task.answer_names,
        f"{run.name}: the nodes that each token of the answer needs",
    )
    figure.update_layout(width=WIDTH)
    page = picture.with_suffix(".html")
    write_html(figure, page)
    photograph(page, picture, WIDTH + 16, figure.to_dict()["layout"]["height"] + 16)
    page.unlink()


def steps_of(run: Run) -> list[int]:
    """Those at which something is kept; all of the trajectory where nothing is."""
    kept = run.kept(["carry_used"]).get("carry_used")
    return run.steps if kept is None else kept["step"].to_numpy().tolist()


def main() -> None:
    """Read the arguments, take what is missing, and write the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("readme", type=Path)
    arguments = parser.parse_args()
    all_runs = [run for run in find_runs(arguments.runs) if run.status == "finished"]
    grouped = {name: [run for run in all_runs if run.config.name == name] for name in PRESETS}
    by_preset = {name: runs for name, runs in grouped.items() if runs}
    marks = [row for name, runs in by_preset.items() for row in mark_rows(name, runs)]
    every = [f"{name}: {column}" for name in PRESETS for column in range(1, 20)]
    replace_rows(arguments.readme, "carry-marks", table(MARKS, marks), every)
    rows = [class_row(name, runs) for name, runs in by_preset.items() if len(steps_of(runs[0])) > 1]
    replace_rows(arguments.readme, "carry-classes", table(CLASSES, rows), PRESETS)
    rows = [
        circuit_row(name, runs)
        for name, runs in by_preset.items()
        if any(r.kept(["circuit_nodes"]) for r in runs)
    ]
    for run in all_runs:
        if run.name == DRAWN:
            draw_circuits(run, arguments.readme.parent / "docs" / "circuit.png")
    print("\n".join(replace_rows(arguments.readme, "carry-circuits", table(CIRCUITS, rows), PRESETS)))


if __name__ == "__main__":
    main()
