"""Know whether the Ray cluster that this process has started for itself is still there, without asking it: one that has ended answers nobody."""

from __future__ import annotations

from contextlib import suppress

import psutil

from streamrec.errors import OperatorError

_NEEDED = ("raylet", "gcs_server")

_processes: dict[str, psutil.Process] = {}
"""By name; empty where this process has not started a cluster."""


def began() -> None:
    """Remember the processes without which the cluster that this process has just started is none."""
    _processes.update({name: child for child in psutil.Process().children() if (name := name_of(child)) in _NEEDED})


def ends() -> None:
    """Forget them: the cluster is ended on purpose."""
    _processes.clear()


def check() -> None:
    """Raise where one of them has ended: its workers may answer on, but nobody starts another one.

    Raises:
        OperatorError: It has.
    """
    for name, process in tuple(_processes.items()):  # A thread asks, too.
        if not _is_there(process):
            what = f"Ray: {name} of this process's own cluster has ended"
            raise OperatorError(what, got=f"no process {process.pid}", do="start again: it goes on from the last commit")


def is_there() -> bool:
    """Return whether they all run, or there are none."""
    return all(_is_there(process) for process in _processes.values())


def name_of(process: psutil.Process) -> str:
    """Return a process's name; "" once it has ended."""
    with suppress(psutil.NoSuchProcess):
        return str(process.name())
    return ""


def _is_there(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False
