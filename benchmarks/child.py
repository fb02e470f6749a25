"""One competitor in a process of its own: it answers requests, a JSON object a line, and sleeps in between.

{"do": "build", "competitor": …, "config": …, "seeds": …, "device": …}    {"do": "losses"}
{"do": "time", "steps": n}    {"do": "rate", "shape": [rows, inner, columns], "precision": …}    {"do": "memory"}
"""

import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

RATE_SECONDS = 0.5
LONG = 2.0
"""Seconds: a block that takes longer needs no call before it that wakes threads and caches."""


def resident_bytes(field: str) -> int:
    """VmRSS or VmHWM (its peak) of this process; 0 where the system does not say."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), 0)


def forget_peak() -> None:
    """From here on VmHWM is the peak since now (Linux)."""
    if Path("/proc/self/clear_refs").is_file():
        Path("/proc/self/clear_refs").write_text("5")


class Stage:
    """What requests act on."""

    block_seconds = 0.0
    """What the last block took."""

    def build(self, competitor: str, config: dict[str, Any], seeds: int, device: str) -> dict[str, Any]:
        """Import the competitor and set it up at the initial weights."""
        from competitors import COMPETITORS

        module = importlib.import_module(COMPETITORS[competitor])
        from competitors.base import Impossible, Setting

        from interp_arith.training.config import RunConfig

        forget_peak()
        self.after_imports = resident_bytes("VmRSS")
        try:
            self.competitor = module.make(
                Setting(RunConfig.model_validate(config), seeds, device), competitor
            )
        except Impossible as reason:
            return {"impossible": str(reason)}  # the parent asks no more
        import torch

        return {"stride": self.competitor.stride, "torch_threads": torch.get_num_threads()}

    def losses(self) -> dict[str, Any]:
        """The first losses, [step][seed]; compiles."""
        losses = self.competitor.losses().tolist()
        self.competitor.run(self.competitor.stride)
        forget_peak()
        return {"losses": losses}

    def time(self, steps: int) -> dict[str, Any]:
        """Seconds a step, over a block; a call before it that is not clocked wakes threads and caches."""
        if self.block_seconds < LONG:
            self.competitor.run(self.competitor.stride)
        start, cpu = time.perf_counter(), time.process_time()
        self.competitor.run(steps)
        wall = self.block_seconds = time.perf_counter() - start
        return {"seconds": wall / steps, "cores": (time.process_time() - cpu) / wall}

    def rate(self, shape: list[int], precision: str) -> dict[str, Any]:
        """Floating-point operations a second of one matrix product: the best of several."""
        rows, inner, columns = shape
        self.competitor.multiply(rows, inner, columns, precision)
        best, until = float("inf"), time.perf_counter() + RATE_SECONDS
        while time.perf_counter() < until:
            start = time.perf_counter()
            self.competitor.multiply(rows, inner, columns, precision)
            best = min(best, time.perf_counter() - start)
        return {"rate": 2 * rows * inner * columns / best}

    def memory(self) -> dict[str, Any]:
        """Peak bytes of the steps: on the device, or on a CPU resident beyond what the imports took."""
        device = self.competitor.device_bytes()
        return {"bytes": resident_bytes("VmHWM") - self.after_imports if device is None else device}


def main() -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to stderr
    threads, device = int(sys.argv[1]), sys.argv[2]
    # XLA makes as many threads as there are processors that it may use, whatever OMP_NUM_THREADS says.
    if device == "cpu" and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    import torch

    torch.set_num_threads(threads)
    stage, slept_from, awake_before = Stage(), time.perf_counter(), time.process_time()
    for line in sys.stdin:
        request = json.loads(line)
        idle = {
            "idle_seconds": time.perf_counter() - slept_from,
            "idle_cpu": time.process_time() - awake_before,
        }
        reply = getattr(stage, request.pop("do"))(**request)
        slept_from, awake_before = time.perf_counter(), time.process_time()
        print(json.dumps(reply | idle), file=replies, flush=True)


if __name__ == "__main__":
    main()
