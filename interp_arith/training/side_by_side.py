"""Work on a CPU that several threads do at once, each with PyTorch threads of its own; knows no model."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Barrier
from typing import TypeVar

import torch

Part = TypeVar("Part")
Result = TypeVar("Result")


def side_by_side(
    do: Callable[[Part], Result], parts: Sequence[Part], workers: int, own_threads: int
) -> list[Result]:
    """What `do` makes of every part, in their order.

    PyTorch's operations let other threads run Python meanwhile. So two parts of one thread each are quicker than one
    after the other by two threads, which wait for each other at every operation, all the longer where another process
    has a core.

    Args:
        do: acts on its part alone.
        parts: as many as there are.
        workers: how many at once; one is this thread, as it is.
        own_threads: PyTorch's, of each worker where there are several.
    """
    if workers < 2:
        return [do(part) for part in parts]
    return list(_pool(workers, own_threads).map(do, parts))


@cache
def _pool(workers: int, own_threads: int) -> ThreadPoolExecutor:
    """Threads that stay, since an update is short."""
    before, all_begun = torch.get_num_threads(), Barrier(workers + 1)
    pool = ThreadPoolExecutor(workers, "side-by-side", _begin, (own_threads, all_begun))
    for _ in range(workers):
        pool.submit(int)
    all_begun.wait()
    torch.set_num_threads(before)  # what a thread sets is the default of those that have not computed yet
    return pool


def _begin(own_threads: int, all_begun: Barrier) -> None:
    torch.get_num_threads()  # now, or the first operation sets the default again
    torch.set_num_threads(own_threads)
    all_begun.wait()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a child has none of the threads
