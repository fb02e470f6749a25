"""Timings as lines of Markdown; measures nothing."""

from collections.abc import Sequence
from itertools import pairwise

from rounds import Timing

NAMES = {
    "plain": "(a) plain HookedTransformer loop",
    "handwritten": "(b) hand-written PyTorch, `torch.compile`",
    "jax": "(c) JAX, jitted, optax",
    "jax tf32": "(c) with TF32 products",
    "ours fp32": "(d) ours, fp32",
    "ours tf32": "(d) with TF32 products",
    "ours bf16": "(e) ours, bf16",
    "ours fp32 + drawing": "(d) with its drawing of questions",
}
NOTES = [
    "A step is forward, backward, clipping where the preset clips, and AdamW (which stands in for another optimizer "
    "of the preset, but for ours in seconds to grok), on the preset's whole batch, from the same initial weights. "
    "All compute in float32 but (e), whose matrix products are of bfloat16 numbers (on a CPU"
    " without units for them multiplied in float32, and so is its matrix rate), and rows that name TF32; the loss "
    "is float64 in (a), (d) and (e), on a GPU of float32 exponentials in (d) and (e), and float32 in (b) and (c). "
    "(b) and (c) pass every position through the blocks, and unembed the answers only. (d) and (e) keep freed "
    "memory, as the trainer does. Where questions are drawn, 8 batches were drawn beforehand; the row “with its "
    "drawing” draws them within the step, as training does. The losses of all that have one optimizer "
    "agreed on the first 3 steps.",
    "Each competitor has a process of its own; they are timed in turn, a block of steps each, in rotating order. "
    "Times are medians of the rounds, ratios (but those of grokking) medians of the ratio within a round. "
    "Memory is the peak during steps: "
    "on a CPU, what is resident beyond the imports (a compiler's leavings included). Matrix share: the operations "
    "that the step needs (those of ours, benchmarks/flops.py) a second, over the rate of one large square product, "
    "and over that of the MLP's product, each in the competitor's own process (JAX multiplies by other code). Cores "
    "busy: processor time over time, in the busiest block, as coarsely as the system counts it.",
]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Markdown: the first column left, the others right."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return ["| " + " | ".join(row) + " |" for row in (header, rule, *rows)]


def number(value: float) -> str:
    """Three digits that count, and no fewer than the whole part has."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def step_table(preset: str, timings: dict[str, Timing], flops: int) -> list[str]:
    """What one step of one seed costs."""
    header = [
        f"`{preset}`",
        "step, ms",
        "(a) / this",
        "memory, MiB",
        "matrix share: square / MLP shape",
        "cores busy",
    ]
    rows = []
    for name, timing in timings.items():
        if timing.problem is not None:
            rows.append([NAMES[name], timing.problem.replace("|", "/"), "–", "–", "–", "–"])
            continue
        plain = timings.get("plain")
        ratio = "–" if plain is None or not plain.seconds else f"{timing.ratio(plain):.2f}"
        shares = " / ".join(f"{flops / timing.step / rate:.1%}" for rate in timing.rates.values())
        cells = [
            f"{timing.step * 1000:.2f}",
            ratio,
            f"{timing.memory / 2**20:,.0f}",
            shares,
            f"{timing.cores:.1f}",
        ]
        rows.append([NAMES[name], *cells])
    return [*table(header, rows), "", f"{flops / 1e6:,.1f} million operations a step. {_rates(timings)}"]


def _rates(timings: dict[str, Timing]) -> str:
    """The matrix rates as ours saw them."""
    seen = [
        f"{name.removeprefix('ours ')} {timing.rates['square'] / 1e9:,.0f} (square) and "
        f"{timing.rates['mlp'] / 1e9:,.0f} (MLP shape)"
        for name, timing in timings.items()
        if name.startswith("ours") and "+" not in name and timing.rates
    ]
    return f"Matrix rate in our processes, GFLOP/s: {'; '.join(seen)}." if seen else ""


def seeds_table(preset: str, timings: dict[int, dict[str, Timing]]) -> list[str]:
    """Seeds × steps per second, for several seeds trained at once."""
    counts = sorted(timings)
    alone = timings[counts[0]].get("plain")
    rows = [[NAMES["plain"], *[_rate(alone, 1)] * len(counts)]] if alone is not None else []
    for name in ("jax", "jax tf32", "ours fp32", "ours tf32", "ours bf16"):
        if any(name in timings[n] for n in counts):
            rows.append([NAMES[name], *(_rate(timings[n].get(name), n) for n in counts)])
    lines = table(
        [f"`{preset}`: seeds × steps / s", *(f"{n} seeds" if n > 1 else "1 seed" for n in counts)], rows
    )
    return [*lines, "", "Of (a), N seeds are N runs, one after the other: its rate is that of one."]


def growth_table(preset: str, counts: Sequence[int], timings: dict[str, dict[int, Timing]]) -> list[str]:
    """How many times as long a step takes with more seeds as with fewer, for each competitor."""
    pairs = list(pairwise(counts))
    rows = [
        [NAMES[name], *(_growth(found.get(fewer), found.get(more)) for fewer, more in pairs)]
        for name, found in timings.items()
    ]
    return [
        *table([f"`{preset}`: a step takes … times as long", *(f"{a} → {b} seeds" for a, b in pairs)], rows),
        "",
        "Here a competitor's numbers of seeds were timed in turn, in the same rounds; "
        "in the table above minutes apart.",
    ]


def _growth(fewer: Timing | None, more: Timing | None) -> str:
    if fewer is None or more is None:
        return "–"
    problem = fewer.problem or more.problem
    return f"{fewer.ratio(more):.2f}" if problem is None else problem.replace("|", "/")


def _rate(timing: Timing | None, seeds: int) -> str:
    if timing is None or not timing.seconds:
        return "–" if timing is None or timing.problem is None else timing.problem.replace("|", "/")
    return number(seeds / timing.step)
