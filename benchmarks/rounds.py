"""Times competitors in alternation, block by block, and holds them to the same losses; knows no table."""

import math
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import median
from typing import TypeVar

from children import Child, Failed

from interp_arith.training.config import RunConfig
from interp_arith.training.optimizers import AdamW

Key = TypeVar("Key", str, int)
SETTLE_SECONDS = 0.02  # threads of the last child may spin for some milliseconds after its block
TOLERANCES = {"fp32": (1e-4, 2e-3), "tf32": (1e-3, 5e-3), "bf16": (2e-2, 5e-2)}
"""Relative, of the first loss and of the later ones, for each precision."""


@dataclass
class Timing:
    """What was seen of one competitor.

    Attributes:
        seconds: a step, round by round.
        problem: why there is no timing, in words; None where there is one.
        memory: peak bytes.
        rates: operations a second of matrix products, by "square" and "mlp".
        cores: processors kept busy.
        spinning: share of a processor used while others were timed.
    """

    seconds: list[float] = field(default_factory=list)
    problem: str | None = None
    memory: int = 0
    rates: dict[str, float] = field(default_factory=dict)
    cores: float = 0.0
    spinning: float = 0.0

    @property
    def step(self) -> float:
        """Seconds a step: the median of the rounds."""
        return median(self.seconds)

    def ratio(self, other: "Timing") -> float:
        """How many times longer the other takes: the median over the rounds of the ratio within a round."""
        return median(b / a for a, b in zip(self.seconds, other.seconds, strict=True))


@dataclass(frozen=True)
class Plan:
    """How to time.

    Attributes:
        device: "cpu" or "cuda".
        threads: of every competitor.
        rounds: blocks of each, of one seed, and of one competitor's numbers of seeds in turn.
        seed_rounds: the same, where competitors train several seeds.
        block_seconds: how long a block should take.
        square: side of the large matrices whose product gives the device's rate.
        longest_step: seconds; who would take more for a step of several seeds is left out.
    """

    device: str
    threads: int
    rounds: int
    seed_rounds: int
    block_seconds: float
    square: int
    longest_step: float


def with_adamw(config: RunConfig) -> RunConfig:
    """The config with AdamW, which every competitor has; another optimizer gives way to the default rates."""
    return config if isinstance(config.optimizer, AdamW) else config.replace(optimizer=AdamW())


def launch(plan: Plan, config: RunConfig, names: Sequence[str], seeds: int = 1) -> dict[str, Child]:
    """The competitors' processes, which build and compile from now on."""
    return {name: Child(name, config.plain(), seeds, plan.device, plan.threads) for name in names}


def wait_for(children: Iterable[Child]) -> None:
    """Until all have compiled, or failed: `compare` says why."""
    for child in children:
        with suppress(Failed):
            child.first_losses()


def compare(
    plan: Plan,
    config: RunConfig,
    names: Sequence[str],
    seeds: int = 1,
    shape: tuple[int, int, int] | None = None,
    launched: dict[str, Child] | None = None,
) -> dict[str, Timing]:
    """Name -> timing of every competitor on one config; with matrix rates if the MLP's shape is given.

    Those that were launched before compile while others do; else they are launched now.

    Raises:
        SystemExit: the losses differ, so they do not compute the same thing.
    """
    timings = {name: Timing() for name in names}
    print(f"timing {config.name}, seeds: {seeds}: {', '.join(names)}", file=sys.stderr, flush=True)
    children = _ready(config, timings, launched or launch(plan, config, names, seeds))
    try:
        _take_turns(plan, plan.rounds if seeds == 1 else plan.seed_rounds, children, timings)
        for name, child in children.items():
            timing, precision = timings[name], precision_of(name)
            timing.memory = child.ask("memory")["bytes"]
            timing.cores, timing.spinning = child.cores, child.spinning
            if shape is not None:
                sizes = {"square": (plan.square,) * 3, "mlp": shape}
                for what, size in sizes.items():
                    timing.rates[what] = child.ask("rate", shape=list(size), precision=precision)["rate"]
    finally:
        for child in children.values():
            child.close()
    return timings


def compare_together(
    plan: Plan,
    config: RunConfig,
    names: Sequence[str],
    of_one: dict[str, Timing],
    counts: Sequence[int],
    launched: dict[int, dict[str, Child]] | None = None,
) -> dict[int, dict[str, Timing]]:
    """Number of seeds -> timings of those that train so many together, from the timings of one seed on.

    Raises:
        SystemExit: as `compare`.
    """
    timings = {1: of_one}
    for n in (n for n in counts if n > 1):
        children = (launched or {}).get(n, {})
        expected = {name: expected_step(timings, name, n) for name in names}
        slow = {name: step for name, step in expected.items() if step > plan.longest_step}
        for name in slow.keys() & children.keys():
            children.pop(name).close()
        quick = [name for name in names if name not in slow]
        timings[n] = compare(plan, config, quick, n, launched=children or None) if quick else {}
        timings[n] |= {
            name: Timing(problem=f"left out: about {step:.0f} s a step") for name, step in slow.items()
        }
    return timings


def compare_counts(plan: Plan, config: RunConfig, name: str, counts: Sequence[int]) -> dict[int, Timing]:
    """Number of seeds -> timings of one competitor that trains so many together, all in the same rounds.

    Then how the time grows with seeds is no matter of when each was timed.
    """
    several = ", ".join(map(str, counts))
    print(f"timing {config.name}: {name} with {several} seeds", file=sys.stderr, flush=True)
    timings = {n: Timing() for n in counts}
    children = {n: Child(name, config.plain(), n, plan.device, plan.threads) for n in counts}
    try:
        wait_for(children.values())
        _take_turns(plan, plan.rounds, children, timings)
    finally:
        for child in children.values():
            child.close()
    return timings


def _take_turns(plan: Plan, rounds: int, children: dict[Key, Child], timings: dict[Key, Timing]) -> None:
    """A block of steps each, in rotating order, for every round; who fails is ended, and its timing says why."""
    blocks: dict[Key, int] = {}
    for r in range(rounds):
        turn = r % max(1, len(children))
        for key in [*children][turn:] + [*children][:turn]:
            time.sleep(SETTLE_SECONDS)
            try:
                blocks[key] = blocks.get(key) or _block(children[key], plan.block_seconds)
                timings[key].seconds.append(children[key].ask("time", steps=blocks[key])["seconds"])
            except Failed as failure:
                timings[key].problem, timings[key].seconds = str(failure), []
                children.pop(key).close()


def expected_step(timings: dict[int, dict[str, Timing]], name: str, seeds: int) -> float:
    """Seconds that a step of so many seeds would take at the rate of the most that were timed; 0 if none were."""
    timed = [n for n, competitors in timings.items() if name in competitors and competitors[name].seconds]
    return timings[max(timed)][name].step * seeds / max(timed) if timed else 0.0


def precision_of(name: str) -> str:
    """Of the matrix products."""
    return next((precision for precision in ("bf16", "tf32") if precision in name), "fp32")


def _ready(config: RunConfig, timings: dict[str, Timing], children: dict[str, Child]) -> dict[str, Child]:
    """The competitors that can run here, all compiled and in agreement; why not, for the others."""
    losses: dict[str, list[list[float]]] = {}
    for name, child in list(children.items()):
        try:
            losses[name] = child.first_losses()
        except Failed as failure:
            timings[name].problem = str(failure)
            children.pop(name).close()
    if problem := disagreement(losses):
        for child in children.values():
            child.close()
        raise SystemExit(f"{config.name}: no table, the competitors do not compute the same: {problem}")
    if not children:
        problems = "; ".join(f"{name}: {timing.problem}" for name, timing in timings.items())
        raise SystemExit(f"{config.name}: nothing can be timed here: {problems}")
    return children


def disagreement(losses: dict[str, list[list[float]]]) -> str | None:
    """The first loss, [step][seed], that differs from the first competitor's, in words; None where all agree."""
    names = list(losses)
    for name in names[1:]:
        first, later = TOLERANCES[precision_of(name)]
        pairs = zip(losses[names[0]], losses[name], strict=False)  # a scan reports more steps than the others
        for step, (wanted, found) in enumerate(pairs):
            for seed, (a, b) in enumerate(zip(wanted, found, strict=True)):
                if not math.isclose(a, b, rel_tol=later if step else first):
                    return f"step {step}, seed {seed}: {a:.6g} ({names[0]}) and {b:.6g} ({name})"
    return None


def _block(child: Child, seconds: float) -> int:
    """Steps that take about so long, in whole strides."""
    once = child.ask("time", steps=child.stride)["seconds"]
    return child.stride * max(1, round(seconds / (once * child.stride)))
