"""What is asked of glibc; with another C library `streamrec.memory` does nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import streamrec
from streamrec.clock import ManualClock
from streamrec.memory import EVERY_S, FOR_CHILDREN, NUM_HEAPS, GivesBack
from streamrec.student.actor import Host

COUNT_HEAPS = """
import ctypes, tempfile, threading
from pathlib import Path
import streamrec.memory as memory

def num_heaps():
    libc, path = ctypes.CDLL(None), Path(tempfile.mkdtemp()) / "heaps"
    libc.fopen.restype, libc.fclose.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    libc.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
    file = libc.fopen(str(path).encode(), b"w")
    libc.malloc_info(0, file)
    libc.fclose(file)
    return path.read_text().count("<heap nr")

def work(barrier):
    barrier.wait()
    held = [bytes(5000) for _ in range(100)]
    barrier.wait()

barrier = threading.Barrier(12)
before = num_heaps()
taken = {call}
threads = [threading.Thread(target=work, args=[barrier]) for _ in range(12)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(int(taken), before, num_heaps())
"""

FREE_MOST = """
import os
from pathlib import Path
from streamrec.memory import give_back

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

held = [bytes(3000) for _ in range(20_000)]
full = resident()
held = held[::100]
before = resident()
give_back()
print(full, before, resident())
"""

FREE_IN_THREADS = """
import os, threading
from pathlib import Path
import pyarrow as pa
from streamrec.memory import bound_heaps, give_back

def resident():
    give_back()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def work(done, end):
    held = [pa.allocate_buffer(3000) for _ in range(10_000)]
    held = held[::100]
    done.wait()
    end.wait()

{call}
before, done, end = resident(), threading.Barrier(5), threading.Event()
for _ in range(4):
    threading.Thread(target=work, args=[done, end]).start()
done.wait()
after = resident()
end.set()
print(before, after)
"""


def numbers(code: str, **environment: str) -> list[int]:
    root = Path(streamrec.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, env={**os.environ, **environment}, capture_output=True, text=True, check=True)
    return [int(word) for word in done.stdout.split()]


def test_threads_share_few_heaps_once_they_are_bounded() -> None:
    taken, before, after = numbers(COUNT_HEAPS.format(call="memory.bound_heaps()"))
    assert taken == 1
    assert after <= max(before, NUM_HEAPS)


def test_a_job_bounds_its_heaps_before_it_has_threads() -> None:
    _, before, after = numbers("import jobs.cli\n" + COUNT_HEAPS.format(call="jobs.cli.run(lambda: 1)"), MALLOC_ARENA_MAX="")
    assert after <= max(before, NUM_HEAPS)


def test_a_process_that_is_started_bounded_stays_so() -> None:
    unbounded, bounded = (numbers(COUNT_HEAPS.format(call="False"), **environment)[2] for environment in ({"MALLOC_ARENA_MAX": ""}, FOR_CHILDREN))
    assert bounded <= NUM_HEAPS < unbounded


def test_what_is_free_in_the_middle_of_a_heap_is_given_back() -> None:
    full, _, after = numbers(FREE_MOST)
    assert after < full - 40_000_000


@pytest.mark.parametrize(("call", "environment"), [("bound_heaps()", {}), ("", FOR_CHILDREN)])
def test_what_pyarrow_freed_in_threads_that_live_on_is_given_back(call: str, environment: dict[str, str]) -> None:
    before, after = numbers(FREE_IN_THREADS.format(call=call), **environment)
    assert after - before < 20_000_000  # Of 120 MB.


def test_memory_is_given_back_now_and_then_and_not_after_each_piece_of_work() -> None:
    clock, calls = ManualClock(), []
    memory = GivesBack(clock, lambda: calls.append(clock.monotonic_s()))
    for _ in range(35):
        memory.after_work()
        clock.advance(1.0)
    assert calls == [EVERY_S, 2 * EVERY_S, 3 * EVERY_S]


def test_an_actor_gives_memory_back_after_a_call_and_answers_as_it_would() -> None:
    clock, calls, host = ManualClock(), [], Host[list[int]]()
    host._memory = GivesBack(clock, lambda: calls.append(1))
    host.adopt(7, list, [1, 2])
    clock.advance(EVERY_S)
    assert [host.call(7, list.copy) for _ in range(2)] == [[1, 2], [1, 2]]
    assert calls == [1]
