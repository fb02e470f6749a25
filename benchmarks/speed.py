"""What training costs: ours beside a plain loop, a hand-written one and JAX, in one run on one machine.

    python benchmarks/speed.py [PRESET …] [--device cpu|cuda] [--threads N] [--rounds 15] [--quick]
                               [--seeds 1,4,16,64,256 [--seed-rounds 5] [--longest-step SECONDS]]
                               [--out DIR [--no-tables]]
                               [--readme README.md] [--grok [--grok-steps FILE.json]]

`--out` also measures how cost grows with seeds, width and sequence length, as pictures and CSV files; `--no-tables`
that alone. `--grok` adds steps and seconds to grok.
"""

import argparse
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import grok
import growth
import torch
from children import Child
from flops import mlp_shape, step_flops
from readme import replace_block
from rounds import Plan, Timing, compare, compare_counts, compare_together, launch, wait_for, with_adamw
from tables import NOTES, growth_table, seeds_table, step_table

from interp_arith.errors import RequestError
from interp_arith.presets import preset
from interp_arith.tasks.base import SampledTask
from interp_arith.training.config import RunConfig

PRESETS = ("mod-add-113-canonical", "add-10d-763", "add-10d-4k")
ALONE = {
    "cpu": ("plain", "handwritten", "jax", "ours fp32", "ours bf16"),
    "cuda": ("plain", "handwritten", "jax", "jax tf32", "ours fp32", "ours tf32", "ours bf16"),
}
TOGETHER = {
    "cpu": ("jax", "ours fp32", "ours bf16"),
    "cuda": ("jax", "jax tf32", "ours fp32", "ours tf32", "ours bf16"),
}
LOAD_BEFORE = os.getloadavg()[0]
SEEDS = {"cpu": "1,4,16,64,256", "cuda": "1,16,64,128"}


def alone(plan: Plan, config: RunConfig) -> tuple[str, ...]:
    """Who trains one seed."""
    drawing = ("ours fp32 + drawing",) if isinstance(config.task, SampledTask) else ()
    return (*ALONE[plan.device], *drawing)


def launch_all(plan: Plan, config: RunConfig, counts: list[int]) -> dict[int, dict[str, Child]]:
    """Number of seeds -> who trains them, all compiled: on a GPU, whose host has processors enough."""
    if plan.device == "cpu":
        return {}
    launched = {
        n: launch(plan, config, alone(plan, config) if n == 1 else TOGETHER[plan.device], n)
        for n in sorted({1, *counts})
    }
    wait_for(child for children in launched.values() for child in children.values())
    return launched


def batch_size(config: RunConfig) -> int:
    """Questions a step."""
    return config.batch_size or len(config.task.split("train"))


def circumstances(plan: Plan) -> str:
    """Where and with what this was measured."""
    on_cpu = plan.device == "cpu"
    where = f"{_processor()}, {plan.threads} threads" if on_cpu else torch.cuda.get_device_name()
    versions = ", ".join(f"{name} {_version(name)}" for name in ("torch", "jax", "optax", "transformer-lens"))
    return (
        f"{where}; {versions}; Python {platform.python_version()}; {plan.rounds} rounds of one seed and "
        f"of ours in turn, {plan.seed_rounds} of several. Load of other programs before the start: "
        f"{LOAD_BEFORE:.1f} processors."
    )


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _processors() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def warnings(timings: dict[str, Timing], threads: int) -> list[str]:
    """Competitors that disturbed the others, or took more processors than they were given."""
    return [
        f"{name}: used {timing.spinning:.0%} of a processor while others were timed, "
        f"and {timing.cores:.1f} in its blocks"
        for name, timing in timings.items()
        if timing.spinning > 0.05 or timing.cores > threads + 0.2
    ]


def positive(text: str) -> int:
    """A whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: give a whole number from 1 on")
    return int(text)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("presets", nargs="*", default=PRESETS)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--threads", type=int, help="of every competitor; all processors, on a GPU's host two"
    )
    parser.add_argument("--rounds", type=positive, default=15, help="blocks of steps of each competitor (15)")
    parser.add_argument(
        "--seed-rounds", type=positive, help="the same, where several seeds train (5, or fewer as --rounds)"
    )
    parser.add_argument(
        "--seeds", help=f"numbers of seeds trained at once; {SEEDS['cpu']}, on a GPU {SEEDS['cuda']}"
    )
    parser.add_argument(
        "--longest-step", type=float, default=15.0, help="who would take more seconds a step is left out (15)"
    )
    parser.add_argument("--out", type=Path, help="a folder for the pictures of how cost grows")
    parser.add_argument("--no-tables", action="store_true", help="with --out: the pictures alone")
    parser.add_argument("--readme", type=Path, help="put the tables between its benchmark marks")
    parser.add_argument("--quick", action="store_true", help="short blocks, 3 rounds, 1 and 4 seeds")
    parser.add_argument("--grok", action="store_true", help="steps and seconds to grok")
    parser.add_argument("--grok-steps", type=Path, help='{"PRESET": [STEPS or RUN DIRECTORY, …]}')
    arguments = parser.parse_args()
    if arguments.no_tables and arguments.out is None:
        parser.error("--no-tables leaves nothing to do without --out DIR")
    if arguments.no_tables and (arguments.readme or arguments.grok):
        parser.error("--readme and --grok are of tables: leave out --no-tables")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: this machine has none that torch can use; take --device cpu")
    try:
        arguments.presets = [preset(name).name for name in arguments.presets]
    except RequestError as unknown:
        parser.error(str(unknown))
    if arguments.seeds is None:
        arguments.seeds = "1,4" if arguments.quick else SEEDS[arguments.device]
    if arguments.seed_rounds is None:
        arguments.seed_rounds = min(5, arguments.rounds)
    counts = arguments.seeds.split(",")
    if not all(count.strip().isdecimal() and int(count) > 0 for count in counts):
        parser.error(f"--seeds {arguments.seeds}: give whole numbers from 1 on, separated by commas: 1,4,16")
    arguments.seeds = sorted({int(count) for count in counts})
    return arguments


def growing(
    plan: Plan, config: RunConfig, together: dict[int, dict[str, Timing]]
) -> dict[str, dict[int, Timing]]:
    """Ours -> number of seeds -> timings in the same rounds, of the numbers that were timed before."""
    timed = {
        who: [n for n, timings in together.items() if timings[who].seconds]
        for who in TOGETHER[plan.device]
        if who.startswith("ours")
    }
    return {who: compare_counts(plan, config, who, counts) for who, counts in timed.items()}


def all_tables(plan: Plan, arguments: argparse.Namespace) -> list[str]:
    """All tables and the notes, as lines; printed as they come."""
    lines: list[str] = []

    def tell(block: list[str]) -> None:
        print("\n".join(block), flush=True)
        lines.extend(block)

    for name in arguments.presets:
        config, counts = with_adamw(preset(name)), sorted({1, *arguments.seeds})
        launched = launch_all(plan, config, counts)
        shape = mlp_shape(config, batch_size(config))
        timings = compare(plan, config, alone(plan, config), shape=shape, launched=launched.get(1))
        tell([*step_table(name, timings, step_flops(config, batch_size(config), plan.device)), ""])
        together = compare_together(plan, config, TOGETHER[plan.device], timings, counts, launched)
        tell([*seeds_table(name, together), ""])
        if len(counts) > 1 and plan.device == "cpu":  # on a GPU all would compile once more
            tell([*growth_table(name, counts, growing(plan, config, together)), ""])
        print(*warnings(timings, plan.threads), sep="\n", file=sys.stderr)
    if arguments.grok:
        tell([*grok.table_lines(plan, arguments.grok_steps), ""])
    ending = [*NOTES, circumstances(plan)]
    print("\n\n".join(ending))
    return lines + "\n\n".join(ending).splitlines()


def main() -> None:
    arguments = read_arguments()
    on_cpu, quick = arguments.device == "cpu", arguments.quick
    plan = Plan(
        device=arguments.device,
        threads=arguments.threads or (_processors() if on_cpu else 2),
        rounds=3 if quick else arguments.rounds,
        seed_rounds=3 if quick else arguments.seed_rounds,
        block_seconds=0.1 if quick else 0.5,
        square=512 if quick else (2048 if on_cpu else 8192),
        longest_step=arguments.longest_step,
    )
    if not arguments.no_tables:
        lines = all_tables(plan, arguments)
        if arguments.readme is not None:
            replace_block(arguments.readme, "benchmark", lines)
    if arguments.out is not None:
        growth.measure(plan, arguments.out, arguments.seeds, quick)


if __name__ == "__main__":
    main()
