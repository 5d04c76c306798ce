"""Look at the machine that a replica is on, and at its Ray cluster: resources, processes with their memory, versions of packages.

Nothing of a process is told but a short name: its whole command line may hold addresses and worse.
"""

from __future__ import annotations

import importlib.metadata
import platform
import re
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any

import psutil
import ray

import streamrec
from streamrec.clock import Clock, SystemClock

EVERY_S = 5.0
"""A look takes some milliseconds for each process, in which the system walks through its pages; who asks sooner is told the same."""
MOST_PROCESSES, MOST_NODES, MOST_CHARS = 100, 100, 60

_RAYS = {"raylet": "Ray: raylet", "gcs_server": "Ray: control (GCS)", "java": "Kafka", "haproxy": "Proxy"}
_OF_RAY = re.compile(r"/ray/(?:dashboard|_private|autoscaler)/(?:.*/)?(\w+)\.py")
_OURS = re.compile(r"^(?:jobs|serve|streamrec|benchmarks)(?:\.\w+)*$")
_VERB = re.compile(r"^[a-z-]+$")


class System:
    """Look at most every `EVERY_S`.

    Blocks while the system answers; one thread at a time looks, and others get what it has seen.

    Args:
        replica: Who tells.
        cluster: Returns the Ray cluster's resources and nodes.
        clock: Times.
    """

    def __init__(self, replica: str, cluster: Callable[[], dict[str, Any]] | None = None, clock: Clock | None = None) -> None:
        self._replica, self._cluster, self._clock = replica, cluster or cluster_facts, clock or SystemClock()
        self._busy = threading.Lock()
        self._seen: tuple[float, dict[str, Any]] | None = None
        self._packages: list[dict[str, str]] | None = None

    def facts(self) -> dict[str, Any]:
        """Return what there is."""
        with self._busy:
            now_s = self._clock.monotonic_s()
            if self._seen is None or now_s - self._seen[0] >= EVERY_S:
                self._seen = now_s, self._look()
            return self._seen[1]

    def _look(self) -> dict[str, Any]:
        memory = psutil.virtual_memory()
        host = {"name": socket.gethostname(), "cpus": psutil.cpu_count() or 1, "load": psutil.getloadavg()[0]}
        if self._packages is None:
            self._packages = packages()
        return {
            "at_ms": self._clock.now_ms(),
            "replica": self._replica,
            "host": {**host, "memory_bytes": memory.total, "available_bytes": memory.available},
            **self._cluster(),
            "processes": processes(),
            "packages": self._packages,
        }


def cluster_facts() -> dict[str, Any]:
    """Return the resources of the Ray cluster that this process is part of, in all and free, and its nodes; none without Ray."""
    if not ray.is_initialized():
        return {"resources": [], "nodes": []}
    # Ray ships them untyped.
    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    # What begins with an address or a colon names one node or one accelerator, not something that there is more or less of.
    names = sorted(name for name in total if ":" not in name)
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return {
        "resources": [{"name": name, "total": float(total[name]), "free": float(free.get(name, 0.0))} for name in names],
        "nodes": [_node(node) for node in nodes[:MOST_NODES]],
    }


def _node(node: Mapping[str, Any]) -> dict[str, Any]:
    held = node.get("Resources", {})
    sizes = {"cpus": "CPU", "gpus": "GPU", "memory_bytes": "memory", "store_bytes": "object_store_memory"}
    is_head = "node:__internal_head__" in held
    return {"name": str(node["NodeManagerHostname"]), "is_alive": bool(node["Alive"]), "is_head": is_head} | {
        name: float(held.get(resource, 0.0)) for name, resource in sizes.items()
    }


def processes() -> list[dict[str, Any]]:
    """Return the processes of streamrec, of Ray and of an embedded Kafka on this machine that this user runs, the largest first."""
    own, found = psutil.Process(), []
    user = own.uids().real
    for process in psutil.process_iter():
        try:
            if process.uids().real != user:
                continue
            name = "Server" if process.pid == own.pid and not _title(process).startswith("ray::") else name_of(process.cmdline())
            if name is not None:
                found.append({"name": name, "pid": process.pid, **_memory(process)})
        except psutil.Error:  # It has ended, or is not ours to look at.
            continue
    return sorted(found, key=lambda one: -int(one["bytes"]))[:MOST_PROCESSES]


def name_of(command: list[str]) -> str | None:
    """Return a short name of what a process runs; None where it is nothing of streamrec's.

    Example:
        >>> name_of(["ray::RayReads.read"]), name_of(["python", "-m", "jobs.stream", "--state", "s3://..."]), name_of(["vim", "notes"])
        ('RayReads', 'jobs.stream', None)
    """
    words = " ".join(command).split()
    if not words:
        return None
    if words[0].startswith("ray::"):  # Its class; what it does at the moment follows a dot.
        return words[0].removeprefix("ray::").partition(".")[0][:MOST_CHARS]
    program = PurePath(words[0]).name
    if program in _RAYS:
        return None if program == "java" and not any(word.startswith("kafka.") for word in words) else _RAYS[program]
    if program.startswith("python"):
        program, words = _script(words)
    if program == "streamrec":
        return " ".join([program, *filter(_VERB.match, words[1:2])])[:MOST_CHARS]
    return program[:MOST_CHARS] if program.startswith("Ray: ") or _OURS.match(program) else None


def _script(words: list[str]) -> tuple[str, list[str]]:
    """Return the name of what Python runs, and the words from there on."""
    for place, word in enumerate(words[1:], 1):
        if (script := _OF_RAY.search(word)) is not None:
            return f"Ray: {script[1]}", words[place:]
        if word == "-m" and words[place + 1 :]:
            return words[place + 1], words[place + 1 :]
        if not word.startswith("-"):
            return PurePath(word).name, words[place:]
    return "", words


def packages() -> list[dict[str, str]]:
    """Return the versions of Python, streamrec and what it needs, as they are installed."""
    found = [{"name": "streamrec", "version": streamrec.__version__}, {"name": "python", "version": platform.python_version()}]
    try:
        needed = importlib.metadata.requires("streamrec") or []
    except importlib.metadata.PackageNotFoundError:  # A checkout that nobody has installed.
        needed = []
    names = sorted({re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in needed if "extra ==" not in line})
    for name in names:
        try:
            found.append({"name": name, "version": importlib.metadata.version(name)})
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _title(process: psutil.Process) -> str:
    return next(iter(process.cmdline()), "")


def _memory(process: psutil.Process) -> dict[str, Any]:
    """Return a process's memory: its share of what several use (PSS) where the system tells it, else all that it sees (RSS)."""
    try:
        return {"bytes": int(process.memory_full_info().pss), "kind": "pss"}
    except (psutil.AccessDenied, AttributeError):
        return {"bytes": int(process.memory_info().rss), "kind": "rss"}
