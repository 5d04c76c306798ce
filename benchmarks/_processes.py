"""Watch the memory of this process and everything that it has started, and the size of folders. Linux only."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

SUMS = ("all processes", "shared memory")

NUM_BLOCKS = 12
"""A slope is fitted to the means of so many stretches of time: memory rises and falls by the second, and neighbours are not independent."""


_KNOWN = {"java": "broker", "gcs_server": "GCS", "haproxy": "proxy", "raylet": "raylet"}


def descendants(root: int) -> list[int]:
    """Return the process and all that it or they have started and that still run."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            text = _read(entry / "stat")
            if text:
                children.setdefault(int(text.rpartition(")")[2].split()[1]), []).append(int(entry.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def memory_mb(pid: int) -> tuple[float, float]:
    """Return (memory of the process's own, its share of shared memory) in MB; zeros once it has ended.

    Its own is what it has allocated. Pages of files are left out: the system takes them back when it likes, and a process's share of a library
    falls whenever another process starts that uses it, too.
    """
    fields = {line.split(":")[0]: int(line.split()[1]) for line in _read(Path(f"/proc/{pid}/smaps_rollup")).splitlines()[1:]}
    return fields.get("Pss_Anon", 0) * 1024 / 1e6, fields.get("Pss_Shmem", 0) * 1024 / 1e6


def command(pid: int) -> str:
    """Return a short name of what a process runs."""
    words = _read(Path(f"/proc/{pid}/cmdline")).replace("\0", " ").split()
    if not words:
        return "ended"
    if words[0].startswith("ray::"):  # Its class; what it does at the moment follows a dot.
        return words[0].removeprefix("ray::").partition(".")[0]
    if Path(words[0]).name in _KNOWN:
        return _KNOWN[Path(words[0]).name]
    scripts = [word for word in words[1:] if word.endswith(".py") or word.startswith(("streamrec.", "kafka."))]
    return Path(scripts[0] if scripts and "python" in words[0] else words[0]).name


def folder_mb(folder: Path) -> float:
    """Return the size of the files below a folder in MB; what goes while it is looked at does not count."""
    total = 0
    for base, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(base) / name).lstat().st_size
            except FileNotFoundError:
                continue
    return total / 1e6


def slope(times: list[float], values: list[float]) -> tuple[float, float]:
    """Return the slope of a least-squares line per unit of time, and its standard error, over the means of `NUM_BLOCKS` stretches."""
    cuts = [part for part in np.array_split(np.arange(len(times)), NUM_BLOCKS) if len(part)]
    t, y = (np.array([np.mean(np.asarray(series)[part]) for part in cuts]) for series in (times, values))
    if len(t) < 4:
        return float("nan"), float("nan")
    coefficients, covariance = np.polyfit(t, y, 1, cov=True)
    return float(coefficients[0]), float(np.sqrt(covariance[0, 0]))


@dataclass
class Series:
    """Hold a quantity over time: seconds since the start, and values."""

    times: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, second: float, value: float) -> None:
        """Add a point."""
        self.times.append(second)
        self.values.append(value)

    def since(self, second: float) -> Series:
        """Return the points from a moment on."""
        kept = [number for number, at in enumerate(self.times) if at >= second]
        return Series([self.times[number] for number in kept], [self.values[number] for number in kept])


class Watch:
    """Look at all processes and some folders every few seconds, in a thread.

    Args:
        every_s: So often.
        names: Names of processes that are known; the others are called by their command.
        folders: By name.
        more: Further quantities by name, asked at each look.
    """

    def __init__(self, every_s: float, names: Mapping[int, str], folders: Mapping[str, Path], more: Mapping[str, Callable[[], float | None]]) -> None:
        self._every_s, self._names, self._folders, self._more = every_s, dict(names), dict(folders), dict(more)
        self.processes: dict[int, Series] = {}
        self.titles: dict[int, str] = {}
        self.others: dict[str, Series] = {name: Series() for name in (*SUMS, *folders, *more)}
        self.num_looks = 0
        self._began_s = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._began_s = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        """End after a last look."""
        self._stop.set()
        self._thread.join()
        self._look()

    def second(self) -> float:
        """Return how long it has watched."""
        return time.monotonic() - self._began_s

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            self._look()

    def _look(self) -> None:
        second = self.second()
        private = shared = 0.0
        for pid in descendants(os.getpid()):
            own, of_store = memory_mb(pid)
            if own == 0:
                continue
            private, shared = private + own, shared + of_store
            title = self._names.get(pid) or command(pid)
            if title != "ended":  # A worker that waits for work has another name later.
                self.titles[pid] = title
            self.processes.setdefault(pid, Series()).add(second, own)
        self.others[SUMS[0]].add(second, private)
        self.others[SUMS[1]].add(second, shared)
        for name, folder in self._folders.items():
            self.others[name].add(second, folder_mb(folder))
        for name, ask in self._more.items():
            value = ask()
            if value is not None:
                self.others[name].add(second, value)
        self.num_looks += 1


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
