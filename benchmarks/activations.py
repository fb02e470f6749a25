"""What a large request for activations costs: seconds to take it, ask again, and go through it; the most memory.

    python benchmarks/activations.py                    # 2 GB of the neurons of mod-113-canonical-s0
    python benchmarks/activations.py --gigabytes 0.2 --run NAME

The run is copied to a temporary folder, so nothing is kept. The most memory is that of the whole process, Python,
torch and TransformerLens among it; how much of it was there before the request is shown beside.
"""

import json
import resource
import shutil
import sys
import tempfile
import time
from argparse import ArgumentParser
from math import ceil
from pathlib import Path

import interp_arith as ia
from interp_arith.tasks.pairs import PairTask

HOOK = "blocks.*.mlp.hook_post"


def stream(run: ia.Run, gigabytes: float) -> dict[str, float]:
    """Take that much, ask again, and go through it a step at a time.

    Returns:
        seconds, gigabytes asked for, and the most megabytes that the process held before and after.
    """
    task = run.task
    questions = task.all_questions() if isinstance(task, PairTask) else task.split("test")
    one = run.activations(questions[:1], HOOK, steps="last").nbytes * len(questions)
    steps = run.steps[: max(1, ceil(gigabytes * 1e9 / one))]
    before = _most_megabytes()
    begun = time.perf_counter()
    activations = run.activations(questions, HOOK, steps=steps, in_memory=0)
    taken, at_most = time.perf_counter(), _most_megabytes()
    run.activations(questions, HOOK, steps=steps, in_memory=0)
    again = time.perf_counter()
    for step in steps:
        activations.sel(step=step).mean("question", skipna=False).load()
    return {
        "gigabytes": activations.nbytes / 1e9,
        "seconds to take": taken - begun,
        "seconds to ask again": again - taken,
        "seconds to go through": time.perf_counter() - again,
        "megabytes before": before,
        "megabytes at most, taking": at_most,
        "megabytes at most, with going through": _most_megabytes(),
    }


def _most_megabytes() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def main() -> None:
    """Print one JSON object."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--run", default="mod-113-canonical-s0")
    parser.add_argument("--gigabytes", type=float, default=2.0)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "run"
        shutil.copytree(ia.load_run(chosen.run).path, copy)
        found = stream(ia.load_run(copy), chosen.gigabytes)
    print(json.dumps({name: round(value, 3) for name, value in found.items()}, indent=1))


if __name__ == "__main__":
    main()
