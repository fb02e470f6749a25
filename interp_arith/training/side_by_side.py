"""Work on a CPU that several threads do at once, each with as many PyTorch threads; knows no model."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from threading import Barrier
from typing import TypeVar

import torch

Part = TypeVar("Part")
Result = TypeVar("Result")


def workers_on(cores: int) -> int:
    """How many threads with as many PyTorch threads as this one have room on so many cores; one at least."""
    return max(1, cores // torch.get_num_threads())


def side_by_side(do: Callable[[Part], Result], parts: Sequence[Part], workers: int) -> list[Result]:
    """What `do` makes of every part, in their order.

    PyTorch's operations let other threads run Python meanwhile. So two parts of one PyTorch thread each are quicker
    than one after the other by two, which wait for each other at every operation, all the longer where another
    process has a core.

    Args:
        do: acts on its part alone.
        parts: as many as there are.
        workers: how many at once; with one all are done in this thread.
    """
    workers = min(workers, len(parts))
    if workers < 2:
        return [do(part) for part in parts]
    begun = [_pool(workers, torch.get_num_threads()).submit(do, part) for part in parts]
    wait(begun)  # an error must not reach the caller while others still write
    return [each.result() for each in begun]


@cache
def _pool(workers: int, own_threads: int) -> ThreadPoolExecutor:
    """Threads that stay, since an update is short."""
    all_begun = Barrier(workers + 1)
    pool = ThreadPoolExecutor(workers, "side-by-side", _begin, (own_threads, all_begun))
    try:
        for _ in range(workers):
            pool.submit(int)
        all_begun.wait()
    except BaseException:
        all_begun.abort()  # or those that have begun would wait for ever
        raise
    return pool


def _begin(own_threads: int, all_begun: Barrier) -> None:
    torch.get_num_threads()  # now, or the first operation sets the default again
    torch.set_num_threads(own_threads)
    all_begun.wait()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a child has none of the threads
