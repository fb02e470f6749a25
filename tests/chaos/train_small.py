"""What ckpt-chaos kills and resumes: a small run of four steps; it says from which step it goes on."""

import sys
import warnings

import torch
from chaos.small_runs import small_config

from interp_arith.runs import Run, train

STEPS = 4
CONFIG = small_config(
    budget={"steps": STEPS}, checkpoints={"every": 2, "state_every": 2}, schedule={"kind": "constant"}
)


def main(out: str) -> None:
    """Train, or go on; a finished run is where it should be."""
    torch.set_num_threads(1)
    warnings.showwarning = lambda message, *_: print(message, flush=True)
    path = f"{out}/{CONFIG.run_name}"
    try:
        was_finished = Run(path).status == "finished"
    except Exception:  # noqa: BLE001  # no run yet; training says what is wrong if anything is
        was_finished = False
    train(CONFIG, out=out, device="cpu", resume=True, progress=False)
    if was_finished:
        print(f"resumed from step {STEPS}")


if __name__ == "__main__":
    main(sys.argv[1])
