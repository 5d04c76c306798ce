"""Carry what changed from one version to the next to whoever has the one before, and keep the last changes for those who missed some.

A version is named by the digest of its resolved arrays and meta. So whoever holds a version, from wherever, can take a delta that follows it,
and nobody can take one that does not.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from streamrec.errors import Damaged
from streamrec.registry.version import ROWS, VALUES, apply_delta, digest_arrays, make_delta
from streamrec.state import Arrays, ComponentState, num_bytes

# A delta that is not this much smaller than the whole saves nothing: it is made, checked and applied.
_WORTH_IT = 0.5

Held = TypeVar("Held")


class NotFollowing(Damaged):
    """A delta follows another version than the one at hand, or is not what its maker made: the whole is needed."""


@dataclass(frozen=True)
class Delta:
    """Turn the version ``base`` into the version ``digest``.

    The digest of a version is over all its bytes, and takes as long as they are many. Whoever applies a delta trusts the seal instead: what it
    holds has the digest ``base``, and the delta's bytes are those that its maker sealed together with both digests, so what comes out has the
    digest ``digest``.

    Attributes:
        base: Digest of the version that this follows.
        digest: Digest of the version that it gives.
        change: What `streamrec.registry.version.make_delta` says of it.
        seal: SHA-256 over all that.
    """

    base: str
    digest: str
    change: ComponentState
    seal: str

    @classmethod
    def between(cls, base: str, old: Arrays, digest: str, new: Arrays, meta: Mapping[str, Any]) -> Delta | None:
        """Return what turns one version into the next; None where the whole is hardly larger, or one of both has no digest."""
        if not base or not digest:
            return None
        change = make_delta(old, new, meta)
        if num_bytes(change) > _WORTH_IT * num_bytes(ComponentState(new)):
            return None
        return cls(base, digest, change, _seal(base, digest, change))

    @property
    def num_bytes(self) -> int:
        """Return how many bytes its arrays take."""
        return num_bytes(self.change)

    def check(self) -> None:
        """Raise unless this is what its maker made.

        Raises:
            NotFollowing: It is not.
        """
        if _seal(self.base, self.digest, self.change) != self.seal:
            what = "Registry: a delta is not the one that was sealed"
            raise NotFollowing(what, got=f"other bytes from {self.base[:12]} to {self.digest[:12]}", do="ask for the whole version")


def _seal(base: str, digest: str, change: ComponentState) -> str:
    return digest_arrays(change.arrays, {"base": base, "digest": digest, **change.meta})


def join(base: str, deltas: Sequence[Delta], digest: str) -> ComponentState:
    """Return deltas that follow each other, checked, as one change from the version ``base`` to the version ``digest``.

    Raises:
        NotFollowing: They don't lead from the one to the other, or one is not as it was made.
    """
    change = ComponentState()
    at = base
    for number, delta in enumerate(deltas):
        delta.check()
        if delta.base != at:
            break
        change = delta.change if not number else _joined(change, delta.change)
        at = delta.digest
    if at != digest or not deltas:
        what = "Registry: the deltas do not lead to the version"
        raise NotFollowing(what, got=f"{len(deltas)} up to {at[:12]}", allowed=f"{base[:12]} to {digest[:12]}", do="ask for the whole version")
    return change


def apply(arrays: Arrays, base: str, deltas: Sequence[Delta], digest: str) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, Any]]:
    """Return the arrays and meta of the version ``digest``, from those of ``base``; see `join`."""
    return apply_delta(arrays, join(base, deltas, digest))


def _joined(first: ComponentState, second: ComponentState) -> ComponentState:
    """Return both changes as one: of each row the later values."""
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for name in second.meta["names"]:
        if name in second.arrays:
            arrays[name] = second.arrays[name]
        elif name in first.arrays:
            later = ComponentState({name + part: second.arrays[name + part] for part in (ROWS, VALUES)}, {"names": [name], "meta": {}})
            arrays |= apply_delta(first.arrays, later)[0]
        else:
            rows = np.concatenate([one.arrays[name + ROWS] for one in (second, first)])
            values = np.concatenate([one.arrays[name + VALUES] for one in (second, first)])
            arrays[name + ROWS], newest = np.unique(rows, return_index=True)
            arrays[name + VALUES] = values[newest]
    return ComponentState(arrays, second.meta)


class _Link(NamedTuple, Generic[Held]):
    base: str
    digest: str
    delta: Held
    num_bytes: int


class _Root(NamedTuple, Generic[Held]):
    digest: str
    whole: Held
    num_bytes: int


class Chain(Generic[Held]):
    """Keep one version whole and the deltas that lead from it to the newest, and some before it for those who are behind.

    What is held, a whole version or a delta, is the caller's; here it is only kept. Bounded: there are no more than ``max_links`` deltas, and they
    take no more than half of what the whole takes.

    Args:
        max_links: Bounds what is joined for one who is far behind.

    **Contract.** One thread. A version that comes back, as after a rollback, may be in it twice.
    """

    def __init__(self, max_links: int = 64) -> None:
        self._max_links = max_links
        self._links: list[_Link[Held]] = []
        self._root: _Root[Held] | None = None
        # How many links lie before the root.
        self._num_before = 0

    @property
    def tip(self) -> str:
        """Return the newest version's digest, "" while there is none."""
        return self._nodes()[-1] if self._root is not None else ""

    @property
    def root(self) -> _Root[Held] | None:
        """Return the version that is held whole."""
        return self._root

    @property
    def num_bytes(self) -> int:
        """Return what the deltas take."""
        return sum(link.num_bytes for link in self._links)

    def __len__(self) -> int:
        return len(self._links)

    def __contains__(self, digest: str) -> bool:
        return self.from_root(digest) is not None

    def begin(self, digest: str, whole: Held, num_bytes: int) -> None:
        """Hold a version that follows no other."""
        self._links, self._root, self._num_before = [], _Root(digest, whole, num_bytes), 0

    def extend(self, base: str, digest: str, delta: Held, num_bytes: int) -> bool:
        """Hold a delta that follows the newest version; False where it follows another, or has no room before the next `renew`."""
        if self._root is None or base != self.tip or not self._has_room(self._links[self._num_before :], num_bytes):
            return False
        while not self._has_room(self._links, num_bytes):
            del self._links[0]
            self._num_before -= 1
        self._links.append(_Link(base, digest, delta, num_bytes))
        return True

    def is_long(self) -> bool:
        """Return whether it is time to `renew` the root: half of the room is taken by what leads from it to the newest version."""
        taken = self._links[self._num_before :]
        size = sum(link.num_bytes for link in taken)
        return self._root is not None and (2 * len(taken) >= self._max_links or 4 * size >= self._root.num_bytes)

    def renew(self, digest: str, whole: Held, num_bytes: int) -> bool:
        """Hold a later version whole instead of the root; False where it is not in the chain any more."""
        way = self.from_root(digest)
        if way is None:
            return False
        self._num_before += len(way)
        self._root = _Root(digest, whole, num_bytes)
        return True

    def from_root(self, digest: str) -> list[Held] | None:
        """Return the deltas that lead from the root to a version; None where they don't."""
        return None if self._root is None else self._way(self._num_before, digest)

    def from_any(self, held: Collection[str], digest: str) -> list[Held] | None:
        """Return the fewest deltas that lead from one of some versions to another; None where none do."""
        nodes = self._nodes() if self._root is not None else []
        ways = [self._way(at, digest) for at, node in enumerate(nodes) if node in held]
        return min((way for way in ways if way is not None), key=len, default=None)

    def _way(self, at: int, digest: str) -> list[Held] | None:
        nodes = self._nodes()
        end = next((end for end in range(at, len(nodes)) if nodes[end] == digest), None)
        return None if end is None else [link.delta for link in self._links[at:end]]

    def _nodes(self) -> list[str]:
        assert self._root is not None
        return [link.base for link in self._links] + [self._links[-1].digest] if self._links else [self._root.digest]

    def _has_room(self, links: Sequence[_Link[Held]], num_bytes: int) -> bool:
        assert self._root is not None
        return len(links) < self._max_links and 2 * (sum(link.num_bytes for link in links) + num_bytes) <= self._root.num_bytes
