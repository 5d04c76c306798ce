"""Start `streamrec dev` as a user does and measure from outside: how soon it answers, how much memory it all takes, what is left after Ctrl-C.

    python -m benchmarks.dev [--quick]

The embedded broker, the default configuration, MovieLens 100K posted to ``/v1/events``. ``listens_s`` lasts from the command, on an empty state,
until the API answers; ``first_answer_s`` from the first event posted until an answer by a student; ``again_s`` from the command on a state with a
live version until an answer by it. ``pss_gib`` is the largest sum over everything that dev has started, itself included, of the proportional set
size (proc(5), ``smaps_rollup``), looked at each second while events arrive and teachers are refreshed; ``refreshes`` counts those that ended
meanwhile. ``orphans`` are processes of it that are there after it has ended by SIGINT.

``--quick`` starts it once and ends it when it waits for events; the full run posts 40,000 events, 500 a second. The last line is one flat JSON
object; what was not measured is null.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import psutil

from benchmarks._common import arguments, facts, finish
from benchmarks._processes import descendants
from jobs.dev import WAITING
from serve.haproxy import free_port
from streamrec.environment import cache_folder
from streamrec.events.codec import encode_table
from streamrec.events.datasets import load_dataset
from streamrec.events.demo import demo_dataset

NUM_EVENTS = 40_000
FIRST_EVENTS = 2_000
LOT = 250
RATE = 500.0
PATIENCE_S = 300.0
LOOK_S = 0.05
BARS = {"again_s": "< 45", "pss_gib": "<= 7", "orphans": "0"}
KEYS = ("listens_s", "first_answer_s", "again_s", "pss_gib", "pss_gib_idle", "refreshes", "stop_s", "orphans", "applied")


def pss_gib(root: int) -> float:
    """Return the sum of the proportional set sizes of a process and all that it has started."""
    total_kb = 0
    for pid in descendants(root):
        with suppress(OSError):  # It has just ended.
            found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
            total_kb += int(found.group(1)) if found else 0
    return total_kb / 2**20


class Dev:
    """Run `streamrec dev` on a state and watch its memory."""

    def __init__(self, folder: Path, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        words = [sys.executable, "-m", "jobs.dev", "--state", str(folder / "state"), "--set", f"serving.port={port}"]
        self._errors = (folder / "errors").open("a")
        self.began_s = time.monotonic()
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=self._errors, text=True)
        self.largest_gib = 0.0
        self._stop = threading.Event()
        self._watching = threading.Thread(target=self._watch, daemon=True)
        self._watching.start()

    def _watch(self) -> None:
        while not self._stop.wait(1.0):
            self.largest_gib = max(self.largest_gib, self.pss_gib())

    def pss_gib(self) -> float:
        """Return what it takes now."""
        return pss_gib(self._process.pid)

    def ask(self, path: str, body: bytes | None = None) -> bytes | None:
        """Return an answer, or None where there is no good one."""
        try:
            with urllib.request.urlopen(urllib.request.Request(f"{self.url}{path}", body), timeout=20) as answer:
                found: bytes = answer.read()
        except OSError:
            return None
        return found

    def wait(self, is_there: Callable[[], Any]) -> float:
        """Return the moment at which something was there."""
        until_s = time.monotonic() + PATIENCE_S
        while not is_there():
            if self._process.poll() is not None or time.monotonic() > until_s:
                self._fail(f"not there after {PATIENCE_S:.0f} s, or ended")
            time.sleep(LOOK_S)
        return time.monotonic()

    def _fail(self, what: str) -> None:
        msg = f"streamrec dev: {what}; its error output: {Path(self._errors.name).read_text()[-3000:]}"
        raise SystemExit(msg)

    def answers(self, user: str) -> bool:
        """Return whether a student answers for a user."""
        found = self.ask("/v1/recommend", orjson.dumps({"user_id": user, "n": 10}))
        return found is not None and orjson.loads(found)["source"] == "student"

    def number(self, pattern: str) -> int:
        """Return the sum of the lines of the metrics that match."""
        text = (self.ask("/metrics") or b"").decode()
        return sum(int(float(value)) for value in re.findall(rf"^{pattern} (\S+)$", text, re.MULTILINE))

    def end(self) -> tuple[dict[str, Any], float, int]:
        """End it as Ctrl-C does; return what it says last, how long it took, and how many of its processes are left."""
        self._stop.set()
        self._watching.join()
        children = [psutil.Process(pid) for pid in descendants(self._process.pid)[1:] if psutil.pid_exists(pid)]
        began_s = time.monotonic()
        self._process.send_signal(signal.SIGINT)
        output = self._process.communicate(timeout=PATIENCE_S)[0]
        took_s = time.monotonic() - began_s
        self._errors.close()
        if self._process.returncode:
            self._fail(f"ended with {self._process.returncode}")
        left = [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
        return json.loads(output.splitlines()[-1]), took_s, len(left)


def post(dev: Dev, values: list[bytes]) -> None:
    """Post events, so many a second."""
    due_s = time.monotonic()
    for start in range(0, len(values), LOT):
        time.sleep(max(0.0, due_s - time.monotonic()))
        lot = b"[" + b",".join(values[start : start + LOT]) + b"]"
        dev.wait(partial(dev.ask, "/v1/events", lot))
        due_s += LOT / RATE


def measure(folder: Path, result: dict[str, Any], *, quick: bool) -> None:
    """Start, feed, stop, start again, stop."""
    dataset = load_dataset(demo_dataset(cache_folder()))
    values = encode_table(dataset.events.slice(0, NUM_EVENTS))[1]
    user = str(dataset.events["user_id"][0].as_py())
    port = free_port()
    dev = Dev(folder, port)
    result["listens_s"] = dev.wait(lambda: dev.ask("/healthz")) - dev.began_s
    dev.wait(lambda: WAITING in Path(folder / "errors").read_text())  # Before that a signal breaks the start off.
    result["pss_gib_idle"] = dev.pss_gib()
    if not quick:
        began_s = time.monotonic()
        post(dev, values[:FIRST_EVENTS])
        result["first_answer_s"] = dev.wait(lambda: dev.answers(user)) - began_s
        post(dev, values[FIRST_EVENTS:])
        dev.wait(lambda: dev.number(r'streamrec_books_records\{column="applied"\}') >= NUM_EVENTS)
        result["refreshes"] = dev.number(r"streamrec_refreshes_total\{.*\}")
    summary, result["stop_s"], result["orphans"] = dev.end()
    result["applied"] = summary["books"]["applied"]
    result["pss_gib"] = dev.largest_gib
    if not quick:
        dev = Dev(folder, port)
        result["again_s"] = dev.wait(lambda: dev.answers(user)) - dev.began_s
        dev.wait(
            lambda: dev.number(r'streamrec_books_records\{column="applied"\}') >= NUM_EVENTS
        )  # Before its stream goes on a signal breaks it off.
        result["orphans"] += dev.end()[2]


def main() -> None:
    """Run the benchmark."""
    options = arguments(__doc__ or "")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    result: dict[str, Any] = dict.fromkeys(KEYS)
    with tempfile.TemporaryDirectory(prefix="sr-", dir="/tmp") as folder:
        measure(Path(folder), result, quick=options.quick)
    finish(result, facts(events=NUM_EVENTS, rate=RATE), {} if options.quick else BARS)


if __name__ == "__main__":
    main()
