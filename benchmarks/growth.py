"""How the cost of a step grows with seeds, width and sequence length: a CSV file, a page and a picture of each."""

from pathlib import Path

import pandas as pd
import plots
from rounds import Plan, Timing, compare, compare_together

from interp_arith.presets import preset
from interp_arith.training.config import RunConfig

WIDTHS = (32, 64, 128, 256, 512)
DIGITS = (2, 5, 10, 18)
COMPETITORS = ("plain", "jax", "ours fp32", "ours bf16")
TOGETHER = ("jax", "ours fp32", "ours bf16")


def wide(width: int) -> RunConfig:
    """mod-add-113-canonical with another width, four neurons to a coordinate."""
    return preset("mod-add-113-canonical", model={"d_model": width, "d_mlp": 4 * width})


def long(n_digits: int) -> RunConfig:
    """add-10d-4k with other numbers of digits."""
    held_out = {"val_questions": 0, "test_questions": 0}
    return preset("add-10d-4k", task={"n_digits": n_digits} | held_out)


def measure(plan: Plan, folder: Path, seeds: list[int], quick: bool) -> None:
    """Measure all three, and write them into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    widths, digits = (WIDTHS[:2], DIGITS[:2]) if quick else (WIDTHS, DIGITS)
    few = preset("mod-add-113-canonical")
    alone = compare(plan, few, COMPETITORS)
    tables = {
        "seeds": with_plain(_rows("seeds", compare_together(plan, few, TOGETHER, alone, seeds))),
        "d_model": _rows("d_model", {w: compare(plan, wide(w), COMPETITORS) for w in widths}),
        "positions": _rows(
            "positions", {long(n).task.n_ctx: compare(plan, long(n), COMPETITORS) for n in digits}
        ),
    }
    titles = {
        "seeds": "mod-add-113-canonical: one step of several seeds; of (a) one run after the other",
        "d_model": "mod-add-113-canonical at other widths (4 neurons a coordinate), one seed",
        "positions": "add-10d-4k with other numbers of digits, one seed",
    }
    for what, frame in tables.items():
        frame.to_csv(folder / f"{what}.csv", index=False)
        plots.draw(frame, what, titles[what], folder / f"{what}.html")


def _rows(what: str, cases: dict[int, dict[str, Timing]]) -> pd.DataFrame:
    """One row for each case and competitor: milliseconds a step."""
    rows = [
        {what: value, "competitor": name, "step_ms": timing.step * 1000, "rounds": len(timing.seconds)}
        for value, timings in cases.items()
        for name, timing in timings.items()
        if timing.seconds
    ]
    return pd.DataFrame(rows)


def with_plain(seeds: pd.DataFrame) -> pd.DataFrame:
    """Also the plain loop, which trains several seeds one after the other: not timed, so of no rounds."""
    one = seeds[(seeds["competitor"] == "plain") & (seeds["seeds"] == 1)]
    counts = sorted(set(seeds["seeds"]) - {1})
    more = [one.assign(seeds=n, step_ms=one["step_ms"] * n, rounds=0) for n in counts]
    return pd.concat([seeds, *more], ignore_index=True)
