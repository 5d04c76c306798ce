"""Drop events whose id was seen inside a bounded horizon."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from streamrec.state import ComponentState, digest_of


def hash_key(namespace: str, identifier: str) -> int:
    """Return a signed 64-bit hash of (namespace, id) that is the same in every process."""
    name = namespace.encode("utf-8", "surrogatepass")
    data = len(name).to_bytes(4, "little") + name + identifier.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little", signed=True)


class Dedupe:
    """Remember the hashes of the last event ids, between ``horizon / 2`` and ``horizon`` of them.

    Two generations of a set: when the young one is full it becomes the old one and the former old one is forgotten. Memory is bounded
    and each lookup is two set probes.

    **Contract.** `fresh` is idempotent only in that a second call with the same ids returns all False. Ids equal in another namespace are
    other ids. Not idempotent across a restart unless the component was restored.
    """

    name = "dedupe"

    def __init__(self, horizon: int) -> None:
        self.horizon = horizon
        self._young: set[int] = set()
        self._old: set[int] = set()
        self._unsaved: list[int] | None = None  # None asks for a snapshot.

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def fresh(self, namespaces: Sequence[str], event_ids: Sequence[str]) -> NDArray[np.bool_]:
        """Return which events are new, in order, and remember them. [num_events] bool."""
        result = np.ones(len(event_ids), bool)
        if self.horizon == 0:
            return result
        for index, (namespace, event_id) in enumerate(zip(namespaces, event_ids, strict=True)):
            key = hash_key(namespace, event_id)
            if key in self._young or key in self._old:
                result[index] = False
            else:
                self._remember(key)
                if self._unsaved is not None:
                    self._unsaved.append(key)
        return result

    def _remember(self, key: int) -> None:
        self._young.add(key)
        if len(self._young) * 2 >= self.horizon:
            self._old, self._young = self._young, set()

    def snapshot(self) -> ComponentState:
        """Return both generations, sorted."""
        self._unsaved = []
        return ComponentState({"young": _sorted(self._young), "old": _sorted(self._old)})

    def delta(self) -> ComponentState | None:
        """Return the ids remembered since the last snapshot or delta, in order; None before the first snapshot."""
        if self._unsaved is None:
            return None
        state = ComponentState({"added": np.asarray(self._unsaved, np.int64)})
        self._unsaved = []
        return state

    def restore(self, base: ComponentState, deltas: Iterable[ComponentState] = ()) -> None:
        """Replace the state; see `streamrec.state.Component`."""
        self._young = set(base.arrays["young"].tolist()) if "young" in base.arrays else set()
        self._old = set(base.arrays["old"].tolist()) if "old" in base.arrays else set()
        self._unsaved = []
        for delta in deltas:
            for key in delta.arrays["added"].tolist():
                self._remember(key)

    def delete_user(self, namespace: str, user_id: str) -> int:
        """Return 0: hashes of event ids carry no user."""
        return 0

    def forget_rows(self, rows: NDArray[np.int32]) -> int:
        """Return 0: hashes of event ids carry no items."""
        return 0

    def digest(self) -> str:
        """Return the SHA-256 of the state, in hex."""
        return digest_of(ComponentState({"young": _sorted(self._young), "old": _sorted(self._old)}))


def _sorted(keys: set[int]) -> NDArray[np.int64]:
    return np.sort(np.fromiter(keys, np.int64, len(keys)))
