"""Carry refreshes out in a process of their own that gives way. Without Ray Train, which most teachers never need."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import ray
import torch

from streamrec.clock import SystemClock
from streamrec.config import ActorPlacement, RefreshPlacement, TeachersConfig
from streamrec.memory import GivesBack
from streamrec.state import from_bytes
from streamrec.storage import open_storage
from streamrec.teachers.requests import RefreshRequest, carry_out
from streamrec.telemetry.logs import set_up

ANYWHERE = RefreshPlacement()


def give_way() -> None:
    """Lower this process's priority: where training shares a machine with the stream and serving, these go first."""
    os.nice(10)


class BackgroundRefresh:
    """Carry out one teacher's refreshes, one after the other, in a process that has given way.

    The process stays: to begin another costs seconds of a core, a closed-form refresh often less than one.

    Args:
        log_format: Of this process' lines.
    """

    def __init__(self, log_format: str = "plain") -> None:
        set_up(log_format, "refresh")
        torch.set_num_threads(1)
        give_way()
        self._memory = GivesBack(SystemClock())

    def carry_out(self, request: RefreshRequest, config: TeachersConfig, storage_url: str, payload_key: str | None) -> None:
        """Make the version; what it is made from is read from storage where a key says so."""
        if payload_key is not None:
            request = replace(request, payload=from_bytes(open_storage(storage_url).read(payload_key)))
        carry_out(request, config, storage_url)
        self._memory.after_work()


def background_refresh(log_format: str = "plain", place: ActorPlacement = ANYWHERE) -> ray.actor.ActorHandle[Any]:
    """Make an actor that ends with this driver; one that dies fails the refresh in progress, and is there again for the next."""
    make: Any = ray.remote(BackgroundRefresh)  # Ray's types lose the class through options()
    options = {"num_cpus": place.cpus, "resources": place.resources, "max_restarts": -1, "max_task_retries": 0}
    handle: ray.actor.ActorHandle[Any] = make.options(**options).remote(log_format)
    return handle
