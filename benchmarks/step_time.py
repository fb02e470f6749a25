"""What one training step costs: ours beside a plain HookedTransformer loop, in one process, step about.

    python benchmarks/step_time.py [PRESET …] [--rounds 15] [--readme README.md]

A round times one block of steps of each, so that a machine whose speed drifts treats both alike. The ratio is the
median over the rounds of (plain / ours) within a round.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from readme import replace_block
from torch.nn import functional

from interp_arith.models import build_model
from interp_arith.presets import preset
from interp_arith.tasks.base import SampledTask
from interp_arith.tasks.sources import Source, make_source
from interp_arith.training import ensemble, step
from interp_arith.training.config import RunConfig
from interp_arith.training.lanes import fresh_weights

PRESETS = ("mod-add-113", "char-add-97-1l", "add-10d-4k", "add-10d-763")


def ours(config: RunConfig, source: Source) -> Callable[[int], None]:
    """The trainer's step: lean forward, stacked parameters, our AdamW."""
    parameters = ensemble.stack([fresh_weights(config)])
    state = step.initial_state(config, parameters)
    limits = config.task.limits if isinstance(config.task, SampledTask) else None

    def update(index: int) -> None:
        batch = ensemble.stack_examples([source.batch(index, limits)], torch.device("cpu"))
        positions = config.task.answer_positions
        step.update(config, parameters, state, batch, positions, step=index + 1, multiplier=1.0)

    return update


def plain(config: RunConfig, source: Source) -> Callable[[int], None]:
    """What one would write by hand: the hooked model, torch's cross-entropy and torch's AdamW."""
    model = build_model(config.model, config.task)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=config.optimizer.learning_rate,
        betas=config.optimizer.betas,
        weight_decay=config.optimizer.weight_decay,
    )
    limits = config.task.limits if isinstance(config.task, SampledTask) else None
    positions = list(config.task.answer_positions)

    def update(index: int) -> None:
        batch = source.batch(index, limits)
        logits = model(batch.tokens)[:, positions]
        loss = functional.cross_entropy(logits.flatten(0, 1).double(), batch.targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        if config.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()

    return update


def milliseconds(update: Callable[[int], None], first: int, n: int) -> float:
    """Time of one step, over a block of n."""
    start = time.perf_counter()
    for index in range(first, first + n):
        update(index)
    return (time.perf_counter() - start) / n * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("presets", nargs="*", default=PRESETS)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--readme", type=Path)
    arguments = parser.parse_args()
    lines = ["| preset | ours, ms | plain loop, ms | plain / ours |", "|---|---:|---:|---:|"]
    for name in arguments.presets:
        config = preset(name)
        source = make_source(config.task, config.batch_size, config.seed)
        both = ours(config, source), plain(config, source)
        n = max(1, round(100 / milliseconds(both[1], 0, 2)))
        rounds = [[milliseconds(update, r * n, n) for update in both] for r in range(arguments.rounds + 1)][
            1:
        ]
        columns = [median(column) for column in zip(*rounds, strict=True)]
        ratio = median(b / a for a, b in rounds)
        lines.append(f"| `{name}` | {columns[0]:.2f} | {columns[1]:.2f} | {ratio:.2f} |")
    lines += [
        "",
        f"torch {torch.__version__}, {torch.get_num_threads()} threads; medians of {arguments.rounds} rounds.",
    ]
    print("\n".join(lines))
    if arguments.readme is not None:
        replace_block(arguments.readme, "benchmark", lines)


if __name__ == "__main__":
    main()
