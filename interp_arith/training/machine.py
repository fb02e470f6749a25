"""The machine that trains: its device, threads and memory; knows no task and no loop."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

from interp_arith.errors import RequestError, unknown
from interp_arith.training.config import RunConfig

WORTH_A_THREAD = 2e9
"""Floating-point operations of a step; below, threads cost more than they save."""
_KEPT = {-1: 1 << 30, -2: 1 << 27, -3: 1 << 30}
"""Bytes, of glibc's M_TRIM_THRESHOLD, M_TOP_PAD and M_MMAP_THRESHOLD.

The second is for threads: glibc gives back the last of their heaps, of 64 MB each, when it is empty and more than
that is free in the heap before.
"""


def pick_device(name: str, precision: str = "fp32") -> torch.device:
    """The device of that name; "auto" is a GPU where there is one.

    Raises:
        RequestError: no such device here, or one that cannot do the precision.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise unknown("device", name, ("auto", "cpu", "cuda"))
    if name == "cuda" and not torch.cuda.is_available():
        raise RequestError("device cuda: this machine has none that torch can use; take --device cpu")
    chosen = torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
    if precision in ("fp16", "tf32") and chosen.type != "cuda":
        raise RequestError(f"precision {precision} needs a GPU; on a CPU take bf16 or fp32")
    return chosen


@cache
def multiplies_bfloat16() -> bool:
    """Whether this CPU has units for products of bfloat16 matrices (AMX).

    Without, PyTorch took twice as long as for float32 on an Intel Xeon that has AVX512-BF16, and 11 times on an EPYC
    with AVX2.
    """
    return torch.cpu._is_amx_tile_supported()


def products_of(precision: str, device: torch.device) -> str:
    """What the factors of matrix products are, in words, and in what they are multiplied where that is another."""
    if precision == "bf16" and device.type == "cpu" and not multiplies_bfloat16():
        return "bfloat16, multiplied in float32"
    return {"fp32": "float32", "tf32": "TF32", "bf16": "bfloat16", "fp16": "float16"}[precision]


@contextmanager
def prepared(device: torch.device, threads: int) -> Iterator[None]:
    """Threads, memory and matrix products set for much work; threads and products set back afterwards.

    Products of float32 are those of IEEE float32, on a GPU too: TF32, which keeps 10 bits of 23, is off unless a
    run's precision asks for it.
    """
    before, products = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("highest")
    if device.type == "cpu":
        keep_memory()
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.set_float32_matmul_precision(products)


def threads_for(operations: float, seeds: int = 1) -> int:
    """How many threads a step of so many floating-point operations is worth, and has where seeds share the cores.

    Those of a small step wait for each other longer than they compute, and where another process has a core
    they wait for it too. A number that somebody chose (OMP_NUM_THREADS, `torch.set_num_threads`) stays.
    """
    chosen = torch.get_num_threads()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if "OMP_NUM_THREADS" in os.environ or chosen < cores:
        return max(1, chosen // seeds)
    return max(1, min(chosen // seeds, int(operations // WORTH_A_THREAD)))


def operations_of(config: RunConfig, parameters: int, questions: int) -> float:
    """Floating-point operations of one step, to within a factor: six for each parameter and answer token."""
    return 6.0 * parameters * questions * len(config.task.answer_positions)


@cache
def keep_memory() -> bool:
    """Let the C library keep freed memory; whether it could be told.

    A step of training, or a checkpoint that is measured, frees and takes the same large blocks each time. Handed back
    to the system and taken anew, every page of them is zeroed again, which can cost more than the arithmetic.
    """
    mallopt = _of_glibc("mallopt")
    if mallopt is None:
        return False
    told = [mallopt(what, size) == 1 for what, size in _KEPT.items()]
    return all(told)


def give_memory_back() -> None:
    """Let the C library hand what is free to the system.

    Small results that outlive a checkpoint come to lie between its freed blocks, into which the next one's no longer
    fit: 13 MB more each time, if they are kept.
    """
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(0)


def _of_glibc(name: str) -> Any | None:
    """A function of glibc; None where another library takes its place."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None
