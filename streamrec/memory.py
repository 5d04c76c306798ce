"""Keep a process from holding on to memory that it has freed.

glibc gives threads heaps of their own, up to eight a core, and what is freed in one serves the threads of that one alone. A step's arrays are
made by whichever thread is at it: with sixteen such heaps the loop's process held as much free memory as used memory and went on growing for
hundreds of steps (docs/experiments.md, 2026-11-26). pyarrow's own pool is worse: what a thread has freed in it only that thread can give back,
and the system is asked to back the pool with huge pages, free ones in their midst included. So pyarrow takes its memory from those few heaps, too.
With another C library than glibc nothing is done about it.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable

import pyarrow as pa

from streamrec.clock import Clock

NUM_HEAPS = 2
"""The main thread's and one for all others: they rarely allocate at the same moment, and small sizes come from a cache of each thread."""

FOR_CHILDREN = {"MALLOC_ARENA_MAX": str(NUM_HEAPS), "ARROW_DEFAULT_MEMORY_POOL": "system"}
"""Environment of processes that shall be bounded from their start: in one that has many threads already it is too late."""

EVERY_S = 10.0
"""Giving back takes some milliseconds, and as many again until the pages are there once more."""

_M_ARENA_MAX = -8  # malloc.h


def bound_heaps() -> bool:
    """Let the threads of this process, and pyarrow, share `NUM_HEAPS` heaps and return whether the C library took it.

    Call it early: heaps that are there stay, and what pyarrow holds by then stays in its own pool.
    """
    mallopt = _of_glibc("mallopt")
    if mallopt is None or mallopt(_M_ARENA_MAX, NUM_HEAPS) != 1:
        return False
    pa.set_memory_pool(pa.system_memory_pool())
    return True


def give_back() -> None:
    """Give the pages that nobody uses back to the system, those in the middle of heaps too."""
    pa.default_memory_pool().release_unused()
    malloc_trim = _of_glibc("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


class GivesBack:
    """Give back at most every `EVERY_S`.

    **Contract.** Changes no result; without it a process holds the most that it ever needed at a time, and more.

    Args:
        clock: Tells processing time.
        act: Gives back.
    """

    def __init__(self, clock: Clock, act: Callable[[], None] = give_back) -> None:
        self._clock, self._act = clock, act
        self._due_s = clock.monotonic_s() + EVERY_S

    def after_work(self) -> None:
        """Give back if it is time; whoever has worked calls it when its arrays are let go of."""
        now_s = self._clock.monotonic_s()
        if now_s >= self._due_s:
            self._due_s = now_s + EVERY_S
            self._act()


def _of_glibc(name: str) -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
