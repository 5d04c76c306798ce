"""Describe a commit and the pointer to it, as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NewType

from streamrec.errors import Damaged
from streamrec.migrations import number_of, read_json
from streamrec.storage import BlobRef

CommitId = NewType("CommitId", int)
"""Number of a commit; a later one is higher, and numbers may be left out."""


@dataclass(frozen=True)
class Entry:
    """Say where a component's state lies: a base and the deltas that follow, in order."""

    base: BlobRef
    deltas: tuple[BlobRef, ...] = ()

    @property
    def blobs(self) -> tuple[BlobRef, ...]:
        """Return the base and the deltas."""
        return (self.base, *self.deltas)

    def rebased(self, compacted: Compacted) -> Entry:
        """Return this entry with the new base instead of what that joins; unchanged when it does not begin with that (any more)."""
        num = len(compacted.blobs)
        return Entry(compacted.base, self.blobs[num:]) if self.blobs[:num] == compacted.blobs else self


@dataclass(frozen=True)
class Compacted:
    """Say that one blob holds what a base and its deltas hold.

    Attributes:
        blobs: The base and the deltas, in order.
        base: The one blob.
    """

    blobs: tuple[BlobRef, ...]
    base: BlobRef


@dataclass(frozen=True)
class Commit:
    """Hold what one commit consists of.

    Attributes:
        number: Its id.
        epoch: Epoch of the writer.
        previous: The commit that it continues, None for the first.
        facts: What the caller says about it (batch, offsets, books).
        components: Where each component's state lies.
    """

    number: CommitId
    epoch: int
    previous: CommitId | None
    facts: Mapping[str, Any]
    components: Mapping[str, Entry]

    def to_json(self) -> bytes:
        """Return the commit's JSON, keys sorted."""
        return _to_json(self)

    @classmethod
    def from_json(cls, data: bytes) -> Commit:
        """Parse what `to_json` wrote.

        Raises:
            Damaged: It is not a commit.
            StorageError: It was written by a newer streamrec.
        """
        values = _from_json(data, cls.__name__)
        try:
            components = {name: Entry(_ref(entry["base"]), tuple(map(_ref, entry["deltas"]))) for name, entry in values["components"].items()}
            return cls(values["number"], values["epoch"], values["previous"], values["facts"], components)
        except (KeyError, TypeError, AttributeError) as error:
            raise _unreadable(cls.__name__, data) from error


@dataclass(frozen=True)
class CommitRef:
    """Point to a commit: its number, the digest of its JSON, and the epoch that wrote it."""

    number: CommitId
    sha256: str
    epoch: int


@dataclass(frozen=True)
class Owner:
    """Say who may commit: host, process id and why it took over for people, an id of its own for the comparison."""

    host: str
    pid: int
    writer: str
    why: str = ""


@dataclass(frozen=True)
class Head:
    """Hold the pointer: who may commit, and the commits that are valid, newest first."""

    epoch: int
    owner: Owner
    commits: tuple[CommitRef, ...] = field(default=())

    def to_json(self) -> bytes:
        """Return the pointer's JSON, keys sorted."""
        return _to_json(self)

    @classmethod
    def from_json(cls, data: bytes) -> Head:
        """Parse what `to_json` wrote.

        Raises:
            Damaged: It is not a pointer.
            StorageError: It was written by a newer streamrec.
        """
        values = _from_json(data, cls.__name__)
        try:
            return cls(values["epoch"], Owner(**values["owner"]), tuple(CommitRef(**commit) for commit in values["commits"]))
        except (KeyError, TypeError) as error:
            raise _unreadable(cls.__name__, data) from error


def _ref(values: Mapping[str, Any]) -> BlobRef:
    return BlobRef(**values)


def _to_json(record: Commit | Head) -> bytes:
    return json.dumps({"format": number_of(type(record).__name__.lower()), **asdict(record)}, sort_keys=True, indent=1).encode()


def _from_json(data: bytes, noun: str) -> dict[str, Any]:
    try:
        return read_json(noun.lower(), data)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(noun, data) from error


def _unreadable(noun: str, data: bytes) -> Damaged:
    return Damaged(f"Checkpoint: a {noun.lower()} can't be read", got=repr(data[:80]), do="restore it from a copy")
