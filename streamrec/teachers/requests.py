"""Say what a refresh shall do: everything its result depends on, so that it can be done again with the same outcome."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from streamrec.config import TeachersConfig
from streamrec.state import ComponentState
from streamrec.storage import open_storage
from streamrec.teachers.batches import Sequences
from streamrec.teachers.linear import solve_version
from streamrec.teachers.store import TeacherStore
from streamrec.teachers.train_loop import train_transformer
from streamrec.teachers.training import Place


@dataclass(frozen=True)
class RefreshRequest:
    """Ask for one teacher version.

    Attributes:
        teacher: Name.
        version: Name of the version to make.
        previous: Version to start from, or None.
        seed: Of training.
        num_items: V at the time of asking.
        payload: `Sequences.state` and the ``generation`` of each row for the transformer; the statistics and the ``generation`` of each slot's row
            for the linear teacher. A ``num_items`` in its meta counts: it is that of the first time of asking.
        why: A reason by name, `streamrec.teachers.policy.Reason`; empty when a person asked.
    """

    teacher: str
    version: str
    previous: str | None
    seed: int
    num_items: int
    payload: ComponentState
    why: str = ""


class Refresher(Protocol):
    """Carry out refreshes, here or on a cluster.

    **Contract.** `start` does not wait where the work is done elsewhere, and is idempotent: a version that is there or under way is not
    started again. `finished` says which started versions are complete; `wait` returns when one is, or raises what made it fail.
    """

    def start(self, request: RefreshRequest) -> None:
        """Begin a refresh."""
        ...

    def finished(self) -> dict[str, str]:
        """Return teacher name to version for started refreshes that are complete."""
        ...

    def failed(self) -> dict[tuple[str, str], str]:
        """Return teacher and version to reason for refreshes that failed since the last call."""
        ...

    def cost_s(self, teacher: str, version: str) -> float:
        """Return the worker-seconds that a complete version took."""
        ...

    def wait(self, teacher: str, version: str) -> None:
        """Wait until the version is complete."""
        ...

    def prune(self, oldest: Mapping[str, str]) -> None:
        """Remove each named teacher's versions that are older than the given one."""
        ...


def carry_out(request: RefreshRequest, config: TeachersConfig, storage_url: str, place: Place | None = None) -> dict[str, object]:
    """Make the version and publish it (rank 0 only), unless it is there; return its facts.

    The same request gives the same version: a function of the request and the previous version alone.
    """
    store = TeacherStore(open_storage(storage_url))
    if store.exists(request.teacher, request.version):
        return store.facts(request.teacher, request.version)
    began = time.monotonic()
    facts: dict[str, object] = {}
    num_items = int(request.payload.meta.get("num_items", request.num_items))
    if request.teacher == "linear":
        state = solve_version(request.payload, config.linear)
    else:
        previous = store.load(request.teacher, request.previous) if request.previous else None
        sequences = Sequences.of_state(request.payload)
        generations = request.payload.arrays.get("generation", np.zeros(num_items, np.int32))
        state, losses = train_transformer(sequences, generations, previous, config.transformer, request.seed, place)
        facts |= {"loss_first": losses[0], "loss_last": losses[-1], "num_steps": len(losses), "num_sequences": len(sequences.rows)}
    facts |= {
        "seconds": time.monotonic() - began,
        "previous": request.previous,
        "num_items": num_items,
        "num_workers": place.world if place else 1,
        "why": request.why,
    }
    if place is None or place.rank == 0:
        store.publish(request.teacher, request.version, state, facts)
    return facts


class LocalRefresher:
    """Refresh in this process, at once."""

    def __init__(self, config: TeachersConfig, storage_url: str) -> None:
        self._config = config
        self._storage_url = storage_url
        self._finished: dict[str, str] = {}

    def start(self, request: RefreshRequest) -> None:
        """Refresh now; an exception is raised here."""
        carry_out(request, self._config, self._storage_url)
        self._finished[request.teacher] = request.version

    def finished(self) -> dict[str, str]:
        """Return the newest version made of each teacher."""
        return dict(self._finished)

    def failed(self) -> dict[tuple[str, str], str]:
        """Return nothing: a failure has been raised."""
        return {}

    def cost_s(self, teacher: str, version: str) -> float:
        """Return the worker-seconds that a complete version took."""
        return TeacherStore(open_storage(self._storage_url)).cost_s(teacher, version)

    def prune(self, oldest: Mapping[str, str]) -> None:
        """Remove versions; see `Refresher`."""
        TeacherStore(open_storage(self._storage_url)).prune(oldest)

    def wait(self, teacher: str, version: str) -> None:
        """Return at once."""
