"""Say what a refresh shall do: everything its result depends on, so that it can be done again with the same outcome."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from streamrec.config import TeachersConfig
from streamrec.state import ComponentState
from streamrec.storage import open_storage
from streamrec.teachers.kinds import kind_of
from streamrec.teachers.protocol import Kind
from streamrec.teachers.store import TeacherStore
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
        payload: What `streamrec.teachers.protocol.Kind.request` put together. A ``num_items`` in its meta counts: it is that of the first time of
            asking.
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


def carry_out(
    request: RefreshRequest, config: TeachersConfig, storage_url: str, place: Place | None = None, kind: Kind | None = None
) -> dict[str, object]:
    """Make the version and publish it (rank 0 only), unless it is there; return its facts.

    The same request gives the same version: a function of the request and the previous version alone.

    Args:
        request: What to make.
        config: Settings of all teachers.
        storage_url: Where versions are.
        place: Where this worker stands among Ray Train's; None works alone.
        kind: None takes what goes by the teacher's name.
    """
    store = TeacherStore(open_storage(storage_url))
    if store.exists(request.teacher, request.version):
        return store.facts(request.teacher, request.version)
    began = time.monotonic()
    payload = ComponentState(request.payload.arrays, {"num_items": request.num_items, **request.payload.meta})
    previous = store.load(request.teacher, request.previous) if request.previous else None
    state, facts = (kind or kind_of(request.teacher)).refresh(payload, previous, config, request.seed, place)
    facts |= {
        "seconds": time.monotonic() - began,
        "previous": request.previous,
        "num_items": int(payload.meta["num_items"]),
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
