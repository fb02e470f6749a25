"""Steps and seconds until a modular model groks, and how much of the gain is recipe and how much is step."""

import json
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from rounds import Plan, Timing, compare, with_adamw
from tables import NAMES, table

from interp_arith.presets import preset
from interp_arith.runs import train
from interp_arith.training.config import StopRule

FAST, CANONICAL = "mod-add-113-fast", "mod-add-113-canonical"
METRIC, GROKKED = "test_accuracy", 0.999
OURS = ("ours fp32", "ours bf16")
COMPETITORS = ("plain", "handwritten", "jax", *OURS)


def first_grokked(run_directory: Path) -> int:
    """The first step whose test accuracy reaches 0.999, from metrics.jsonl.

    Raises:
        SystemExit: there is none.
    """
    for line in (run_directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        if not line.endswith("}"):
            continue  # a torn last line
        record = json.loads(line)
        if record.get(METRIC, 0.0) >= GROKKED:
            return record["step"]
    raise SystemExit(f"{run_directory}: {METRIC} never reached {GROKKED}")


def given_steps(entries: list[Any]) -> list[int]:
    """Steps, or run directories to read them from."""
    return [entry if isinstance(entry, int) else first_grokked(Path(entry)) for entry in entries]


def trained_steps(plan: Plan, name: str) -> list[int]:
    """From one run of ours, in fp32."""
    config = preset(name, stop=StopRule(metric=METRIC, threshold=GROKKED))
    with tempfile.TemporaryDirectory() as folder:
        run = train(config, seed=0, out=folder, device=plan.device)
        return [first_grokked(run.path)]


def timed(plan: Plan, name: str) -> dict[str, Timing]:
    """Every competitor's step of that preset: ours with its optimizer, the others with AdamW if it has another."""
    config = preset(name)
    if with_adamw(config) == config:
        return compare(plan, config, COMPETITORS)
    others = [who for who in COMPETITORS if who not in OURS]
    return compare(plan, with_adamw(config), others) | compare(plan, config, OURS)


def table_lines(plan: Plan, file: Path | None) -> list[str]:
    """The table: both recipes, every competitor; then the factors."""
    given = {} if file is None else json.loads(file.read_text(encoding="utf-8"))
    steps = {
        name: given_steps(given[name]) if name in given else trained_steps(plan, name)
        for name in (CANONICAL, FAST)
    }
    timings = {name: timed(plan, name) for name in steps}
    middle = {name: median(found) for name, found in steps.items()}
    rows = [
        [NAMES[who], *(cell for name in steps for cell in _cells(timings[name][who], middle[name]))]
        for who in COMPETITORS
    ]
    header = [
        "to test accuracy 0.999",
        *(f"{name}: {what}" for name in steps for what in ("step, ms", "seconds")),
    ]
    counts = "; ".join(
        f"`{name}` {middle[name]:,.0f} steps (median of {len(found)})" for name, found in steps.items()
    )
    return [
        *table(header, rows),
        "",
        f"{counts}, counted in runs of ours. Seconds are steps × the time of a step measured here. With the "
        "canonical recipe every competitor is taken to need the same steps, since it computes the same updates (bf16 "
        f"up to rounding). Where `{FAST}` has another optimizer than AdamW, (a), (b) and (c) are timed with AdamW, "
        "in turns of their own and not held to our losses: they would need the other one to need those steps.",
        "",
        *(line for who in OURS if (line := _factors(timings, middle, who)) is not None),
    ]


def _factors(timings: dict[str, dict[str, Timing]], middle: dict[str, float], who: str) -> str | None:
    """Seconds of (a) with the canonical recipe over those of this one with the fast recipe, and the factors."""
    plain, small, this = timings[CANONICAL]["plain"], timings[FAST]["plain"], timings[FAST][who]
    if not (plain.seconds and small.seconds and this.seconds):
        return None
    fewer, smaller = middle[CANONICAL] / middle[FAST], plain.step / small.step
    faster = small.step / this.step
    return (
        f"{NAMES[who]}: {fewer * smaller * faster:,.0f} × less than (a) with the canonical recipe: "
        f"{fewer * smaller:,.1f} × from the recipe ({fewer:,.1f} × fewer steps, each {smaller:.2f} × less work for "
        f"(a) with AdamW), {faster:.2f} × from the step.  "
    )


def _cells(timing: Timing, steps: float) -> list[str]:
    if not timing.seconds:
        return [(timing.problem or "–").replace("|", "/"), "–"]
    return [f"{timing.step * 1000:.1f}", f"{timing.step * steps:,.1f}"]
