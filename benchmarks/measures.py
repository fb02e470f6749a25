"""What measures cost: each one, and what they share, at one checkpoint; and all of them at many, which must be flat.

    python benchmarks/measures.py                  # random weights of mod-add-113, 25, 50 and 100 checkpoints
    python benchmarks/measures.py runs/NAME        # the checkpoints of a run, over and over

Parts are timed one checkpoint after the other, many checkpoints as `run.measure()` takes them: side by side.

Random weights have no key frequencies, so five are given; nor have they clusters of neurons, whose ablation costs
nothing then: a run that has grokked is measured with what it has.
"""

import resource
import time
from argparse import ArgumentParser
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from itertools import cycle, islice
from statistics import median
from typing import TypeVar

import torch
from torch import Tensor

import interp_arith as ia
from interp_arith.interp.base import Measure, Subject
from interp_arith.interp.measures import MEASURES
from interp_arith.interp.trajectory import fixed_keys, measure_steps
from interp_arith.models.transformer import ArithmeticTransformer, build_model
from interp_arith.tasks import ModularArithmetic
from interp_arith.tasks.base import Task
from interp_arith.training import machine

T = TypeVar("T")
Weights = Mapping[str, Tensor]
KEYS = (4, 17, 30, 43, 56)
WARM_UP = 2
APART = 10
"""Checkpoints whose parts are timed."""


class TimedSubject(Subject):
    """A subject that tells what making each part took, less the parts that it asked for itself."""

    def __init__(self, model: ArithmeticTransformer, task: Task, keys: tuple[int, ...]) -> None:
        super().__init__(model, task, keys)
        self.seconds: dict[str, float] = defaultdict(float)
        self._inside = [0.0]

    def get(self, part: Callable[[Subject], T]) -> T:
        """The part, timed when it is made."""
        return self.timed(f"· {part.__name__}", lambda: super(TimedSubject, self).get(part))

    def timed(self, name: str, work: Callable[[], T]) -> T:
        """What the work gives; its own time is added to the name."""
        self._inside.append(0.0)
        begun = time.perf_counter()
        found = work()
        whole = time.perf_counter() - begun
        self.seconds[name] += whole - self._inside.pop()
        self._inside[-1] += whole
        return found


def random_weights(model: ArithmeticTransformer) -> Iterator[Weights]:
    """Other weights every time."""
    generator = torch.Generator().manual_seed(0)
    while True:
        model.initialize(generator)
        yield {name: tensor.clone() for name, tensor in model.state_dict().items()}


def parts_of(
    weights: Iterator[Weights],
    model: ArithmeticTransformer,
    task: Task,
    measures: list[Measure],
    keys: tuple[int, ...],
    n: int,
) -> list[dict[str, float]]:
    """Seconds of each measure and part, for each of n checkpoints."""
    rows = []
    for each in islice(weights, n):
        model.load_state_dict(each)
        subject = TimedSubject(model, task, keys)
        for measure in measures:
            subject.timed(measure.name, lambda measure=measure, subject=subject: measure(subject))
        rows.append(dict(subject.seconds))
    return rows


def main() -> None:
    """Measure and print."""
    parser = ArgumentParser(description="What measures cost.")
    parser.add_argument("run", nargs="?", help="a run directory; random weights unless given")
    parser.add_argument("--checkpoints", type=int, nargs="+", default=[25, 50, 100])
    parser.add_argument("--p", type=int, default=113, help="the modulus, where weights are random")
    arguments = parser.parse_args()
    if arguments.run:
        run = ia.load_run(arguments.run)
        task, model = run.task, run.model()
        weights = (run.weights(step) for step in cycle(run.steps))
        keys = fixed_keys(model, task) or ()
    else:
        task, keys = ModularArithmetic(p=arguments.p), tuple(k for k in KEYS if k <= arguments.p // 2)
        model = build_model(ia.ModelConfig(), task).eval()
        weights = random_weights(build_model(ia.ModelConfig(), task))
    machine.keep_memory()  # as measuring a trajectory does
    chosen = MEASURES.chosen(None, task, model.config)
    parts_of(weights, model, task, chosen, keys, WARM_UP)
    rows = parts_of(weights, model, task, chosen, keys, min(APART, max(arguments.checkpoints)))
    print(f"{len(chosen)} measures, {torch.get_num_threads()} threads, key frequencies {list(keys)}")
    print("ms at one checkpoint (median), what is shared marked with ·:")
    costs = {name: median(row.get(name, 0.0) for row in rows) for name in rows[-1]}
    for name, seconds in sorted(costs.items(), key=lambda item: -item[1]):
        if seconds >= 5e-4:
            print(f"{1000 * seconds:8.1f}  {name}")
    print(f"one after the other: {median(sum(row.values()) for row in rows):.3f} s each")
    for n in arguments.checkpoints:
        begun, processor = time.perf_counter(), time.process_time()
        measure_steps(islice(enumerate(weights), n), model, task, chosen, keys, [])
        total, processor = time.perf_counter() - begun, time.process_time() - processor
        print(
            f"{n} checkpoints: {total:.1f} s, {total / n:.3f} s each; "
            f"processor time of all threads {processor / n:.3f} s each"
        )
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
