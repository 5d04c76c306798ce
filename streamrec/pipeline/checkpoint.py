"""Commit the streaming state atomically: content-addressed blobs, a commit that names them, and one pointer moved last.

    blobs/<sha256>          a component's base or delta
    commits/00000012.json   which blobs make up the state, and the caller's facts
    HEAD                    who may commit, and the commits that are valid

A crash at any point leaves the pointer where it was or where it was going. A second writer raises the epoch in the pointer, after which the
first one's commits are refused. Who becomes the first writer sets the pointer before anything else is there, so commits without one have lost
it: that is damage, and never a new state.
"""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import uuid
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from streamrec.errors import Damaged, Fenced, StorageError
from streamrec.pipeline.commit import Commit, CommitId, CommitRef, Compacted, Entry, Head, Owner
from streamrec.pipeline.lineage import LINEAGE
from streamrec.state import ComponentState, from_bytes, num_bytes, to_bytes
from streamrec.storage import BlobRef, Blobs, Storage, Token

logger = logging.getLogger(__name__)

_HEAD = "HEAD"
# Each failed attempt had another process succeed, so this many in a row means that something is wrong.
_ATTEMPTS = 100
_WRITERS = 4
_ALONE_BYTES = 64 * 2**20


class AddedDelta:
    """Say that a component's state is that of the previous commit plus these deltas, in order."""

    def __init__(self, *states: ComponentState) -> None:
        self.states = states


Change = ComponentState | Sequence[ComponentState] | AddedDelta | None
"""A component in a commit: its whole state, a base with its deltas, more deltas, or None for 'as in the previous commit'."""


@dataclass(frozen=True)
class Checkpoint:
    """Hold a loaded commit.

    Attributes:
        id: Its number.
        facts: What the writer said about it.
        components: Per component the base and the deltas to apply, in order.
        skipped: One sentence per newer commit that is damaged; empty when this is the newest.
    """

    id: CommitId
    facts: Mapping[str, Any]
    components: Mapping[str, tuple[ComponentState, ...]]
    skipped: tuple[str, ...] = ()


class CheckpointStore:
    """Commit and load the streaming state.

    **Contract.** `commit` returns when the state outlives a crash of the machine; when it raises, the commit before stays valid, and the next
    attempt gives all that changed since that one, what was handed over included. `load_newest` gives one commit's
    components, never a mix of two. One thread uses a store.

    Args:
        storage: Where to keep everything; what else is under ``blobs`` and ``commits`` gets removed.
        keep: How many commits stay loadable.
    """

    def __init__(self, storage: Storage, keep: int = 3) -> None:
        if keep < 1:
            msg = f"CheckpointStore: keep is out of bounds, got {keep}, allowed >= 1"
            raise ValueError(msg)
        self._storage = storage
        self._keep = keep
        self._blobs = Blobs(storage)
        self._commits: dict[CommitRef, Commit] = {}
        self._owner: Owner | None = None

    def acquire(self, why: str = "") -> int:
        """Become the writer: raise the epoch, so that whoever wrote before is refused, and told why. Return the epoch.

        Raises:
            Damaged: The pointer is torn or lost.
        """
        owner = Owner(socket.gethostname(), os.getpid(), uuid.uuid4().hex, why)
        for _ in range(_ATTEMPTS):
            head, token = read_head(self._storage)
            taken = Head(head.epoch + 1, owner, head.commits) if head is not None else Head(1, owner)
            if self._storage.swap(_HEAD, taken.to_json(), token) is not None:
                self._owner = owner
                # What the writer in between removed is not known here.
                self._blobs = Blobs(self._storage)
                return taken.epoch
        what = "Checkpoint: others keep becoming the writer"
        raise StorageError(what, got=f"{_ATTEMPTS} attempts", do="stop the other pipelines on this state")

    def check_owner(self) -> None:
        """Return if this store may still commit.

        Raises:
            Fenced: Another writer has taken over.
        """
        self._own_head()

    @property
    def address(self) -> str:
        """Return what `streamrec.storage.open_storage` opens the storage with."""
        return self._storage.address

    def entries(self, number: CommitId) -> Mapping[str, Entry]:
        """Return where each component of a commit lies that this store made or loaded."""
        return next((commit.components for commit in self._commits.values() if commit.number == number), {})

    def commit(
        self,
        components: Mapping[str, Change],
        facts: Mapping[str, Any],
        previous: CommitId | None,
        compacted: Mapping[str, Compacted] | None = None,
        *,
        sweep: bool = True,
    ) -> CommitId:
        """Commit the state of all components.

        Args:
            components: Every component by name. What a whole state was serialised to is not written again if it is there.
            facts: JSON-serialisable facts, such as batch number, offsets and books.
            previous: The commit that was loaded or made last; None only for the first one.
            compacted: New bases, by component, for what the previous commit names; one that is gone or does not fit is not used.
            sweep: Remove blobs that no commit names; False while somebody makes a new base.

        Returns:
            The commit's number.

        Raises:
            Fenced: Another writer has taken over.
            StorageError: The storage refused, or ``previous`` is not a commit that this one can follow.
        """
        head, token = self._own_head()
        older = _from(head, previous)
        try:
            before = self._commit_at(older[0]).components if older else {}
            before = {name: self._rebased(entry, (compacted or {}).get(name)) for name, entry in before.items()}
            entries = self._put_all(components, before)
            # A number is used once, also by a writer that died before it moved the pointer.
            first = max((ref.number for ref in head.commits), default=0) + 1
            ref = self._write_commit(Commit(CommitId(first), head.epoch, previous, facts, entries))
            moved = Head(head.epoch, head.owner, (ref, *older)[: self._keep])
            if self._storage.swap(_HEAD, moved.to_json(), token) is None:
                self._own_head()
                what = "Checkpoint: the pointer moved though nobody took over"
                raise StorageError(what, do="let one thread use a store")
        except Fenced:
            raise
        except StorageError as error:
            stays = f"commit {previous} stays valid" if previous is not None else "nothing was committed before"
            what = f"Checkpoint: not committed, {stays} ({error})"
            raise type(error)(what, **error.facts) from error
        self._prune(moved, sweep=sweep)
        return ref.number

    def load_newest(self, only: Collection[str] | None = None, *, looks_at_all: bool = False) -> Checkpoint | None:
        """Load the newest commit whose every digest is right; None when nothing was ever committed. Needs no `acquire`.

        Args:
            only: Names of the components to load; all when None.
            looks_at_all: Read the others against their digests, too, one blob after another, and keep none of them.

        Raises:
            Damaged: Commits are there, and none is whole, or the pointer to them is lost.
            StorageError: The storage refused; that is no reason to fall back to an older state.
        """
        for _ in range(_ATTEMPTS):
            head, token = read_head(self._storage)
            if head is None or not head.commits:
                return None
            skipped: list[str] = []
            for ref in head.commits:
                try:
                    loaded = self._load(ref, only, looks_at_all=looks_at_all)
                except Damaged as error:
                    skipped.append(f"commit {ref.number}: {error}")
                    continue
                # A writer that is busy may have pruned what this reader was about to read; then there is a newer commit.
                if skipped and read_head(self._storage)[1] != token:
                    break
                for sentence in skipped:
                    logger.error("fell back to commit %d, because a newer one is damaged: %s", ref.number, sentence)
                return replace(loaded, skipped=tuple(skipped))
            if read_head(self._storage)[1] == token:
                what = f"Checkpoint: none of the {len(skipped)} commits at {self._storage.address} is whole"
                raise Damaged(what, got="; ".join(skipped), do="restore the folder from a copy, or start with an empty one")
        what = "Checkpoint: commits are pruned faster than they can be read"
        raise StorageError(what, got=f"{_ATTEMPTS} attempts", do="keep more of them")

    def kept_facts(self) -> list[Mapping[str, Any]]:
        """Return the facts of every commit that a fallback could go to, newest first; what they need, such as plans, must stay."""
        head, _ = read_head(self._storage)
        facts: list[Mapping[str, Any]] = []
        for ref in head.commits if head is not None else ():
            with suppress(Damaged):
                facts.append(self._commit_at(ref).facts)
        return facts

    def _put_all(self, components: Mapping[str, Change], before: Mapping[str, Entry]) -> dict[str, Entry]:
        """Write small changes side by side, because each waits for the disk, and large ones alone, because each needs its size in memory."""
        alone = [name for name, change in components.items() if isinstance(change, ComponentState) and num_bytes(change) > _ALONE_BYTES]
        entries = {name: self._entry(name, components[name], before) for name in alone}
        others = [name for name in components if name not in entries]
        with ThreadPoolExecutor(_WRITERS) as pool:
            entries |= zip(others, pool.map(lambda name: self._entry(name, components[name], before), others), strict=True)
        return entries

    def _entry(self, name: str, change: Change, before: Mapping[str, Entry]) -> Entry:
        if isinstance(change, ComponentState):
            return Entry(self._blobs.put(to_bytes(change)))
        if isinstance(change, Sequence):
            if not change:
                what = f"Checkpoint: component {name!r} has no base"
                raise StorageError(what, do="give a base, or None for an unchanged component")
            base, *deltas = (self._blobs.put(to_bytes(state)) for state in change)
            return Entry(base, tuple(deltas))
        if name not in before:
            what = f"Checkpoint: component {name!r} is not in the previous commit"
            raise StorageError(what, got="nothing or a delta", allowed=", ".join(sorted(before)) or "none", do="give its whole state")
        if change is None:
            return before[name]
        return Entry(before[name].base, (*before[name].deltas, *(self._blobs.put(to_bytes(state)) for state in change.states)))

    def _rebased(self, entry: Entry, compacted: Compacted | None) -> Entry:
        return entry if compacted is None or not self._blobs.has(compacted.base) else entry.rebased(compacted)

    def _write_commit(self, commit: Commit) -> CommitRef:
        for _ in range(_ATTEMPTS):
            data = commit.to_json()
            key = _commit_key(commit.number)
            if self._storage.write_new(key, data) or self._storage.read(key) == data:
                ref = CommitRef(commit.number, hashlib.sha256(data).hexdigest(), commit.epoch)
                self._commits[ref] = Commit.from_json(data)  # as a restart will see it
                return ref
            commit = replace(commit, number=CommitId(commit.number + 1))
        what = "Checkpoint: the next numbers are all taken by commits that were never finished"
        raise StorageError(what, got=_commit_key(commit.number), do="stop the other pipelines on this state")

    def _commit_at(self, ref: CommitRef) -> Commit:
        found = self._commits.get(ref)
        if found is None:
            try:
                data = self._storage.read(_commit_key(ref.number))
            except StorageError as error:
                if not error.facts.get("missing"):
                    raise
                what = f"Checkpoint: commit {ref.number} is gone"
                raise Damaged(what, got=str(error), do="use an older one") from error
            if hashlib.sha256(data).hexdigest() != ref.sha256:
                what = f"Checkpoint: commit {ref.number} does not match its digest"
                raise Damaged(what, got=f"{len(data)} bytes in {self._storage.address}/{_commit_key(ref.number)}", do="use an older one")
            found = self._commits[ref] = Commit.from_json(data)
        return found

    def _load(self, ref: CommitRef, only: Collection[str] | None, *, looks_at_all: bool) -> Checkpoint:
        commit = self._commit_at(ref)
        wanted = {name: entry for name, entry in commit.components.items() if only is None or name in only}
        components = {name: tuple(from_bytes(self._blobs.get(blob)) for blob in entry.blobs) for name, entry in wanted.items()}
        if looks_at_all:
            for blob in (blob for name, entry in commit.components.items() if name not in wanted for blob in entry.blobs):
                self._blobs.get(blob)
        return Checkpoint(ref.number, commit.facts, components)

    def _prune(self, head: Head, *, sweep: bool) -> None:
        try:
            # Listed before the look at the pointer: whatever a writer that takes over later puts here is not in these lists.
            commits, blobs = self._storage.list("commits"), self._blobs.names()
            self._own_head()
            self._commits = {ref: commit for ref, commit in self._commits.items() if ref in head.commits}
            kept_keys = {_commit_key(ref.number) for ref in head.commits}
            needed = {blob.sha256 for ref in head.commits for blob in self._blobs_of(ref)}
            for key in commits:
                if key not in kept_keys:
                    self._storage.delete(key)
            if sweep:
                self._blobs.remove(sha256 for sha256 in blobs if sha256 not in needed)
        except StorageError as error:
            logger.warning("commit %d is safe, but what it replaces could not be removed: %s", head.commits[0].number, error)

    def _blobs_of(self, ref: CommitRef) -> list[BlobRef]:
        try:
            return [blob for entry in self._commit_at(ref).components.values() for blob in entry.blobs]
        except Damaged:
            return []  # it can't be loaded, so it needs nothing

    def _own_head(self) -> tuple[Head, Token]:
        head, token = read_head(self._storage)
        if self._owner is None:
            what = "Checkpoint: this process is not the writer"
            raise StorageError(what, do="call acquire() first")
        if head is None or token is None:
            what = f"Checkpoint: the state is gone, {self._storage.address}"
            do = "bring it back, such as a volume that is no longer mounted, and start again: what was committed goes on from there"
            raise StorageError(what, got="nothing there, where this process is the writer", do=do)
        if head.owner.writer != self._owner.writer:
            owner = head.owner
            what = "Checkpoint: another writer has taken over the state"
            got = f"process {owner.pid} on {owner.host}, epoch {head.epoch}{owner.why and f': {owner.why}'}"
            do = "start the stream with the configuration of that lineage once jobs.rebuild has ended, and run that again if it was killed"
            do = do if owner.why else "let that one run, or stop it and start again"
            raise Fenced(what, got=got, do=do, host=owner.host, pid=owner.pid, epoch=head.epoch)
        return head, token


def read_head(storage: Storage) -> tuple[Head | None, Token | None]:
    """Return the pointer of a checkpoint's folder and its token; None of both where nobody has ever become the writer.

    Raises:
        Damaged: It is torn, or lost: what only its writer could have made is there.
        StorageError: It was written by a newer streamrec.
    """
    found = storage.read_with_token(_HEAD)
    if found is None and (left := _left_without_head(storage)):
        found = storage.read_with_token(_HEAD)  # Once more: the first writer may have begun since.
        if found is None:
            what = f"Checkpoint: the pointer is lost, {storage.address}/{_HEAD}"
            do = "restore that file from a copy; to begin anew rename the state's folder, or run python -m jobs.rebuild --anew where that made it"
            raise Damaged(what, got=f"no such file beside {left}", do=do)
    if found is None:
        return None, None
    try:
        return Head.from_json(found[0]), found[1]
    except Damaged as error:
        what = f"Checkpoint: the pointer is damaged, {storage.address}/{_HEAD}"
        raise Damaged(what, got=repr(found[0][:80]), do="restore that file from a copy; the commits are untouched") from error


def _left_without_head(storage: Storage) -> str:
    commits = storage.list("commits")
    name = f"the lineage's name, {LINEAGE}" if storage.exists(LINEAGE) else ""
    return " and ".join(filter(None, (f"{len(commits)} commits up to {commits[-1]}" if commits else "", name)))


def has_commit(storage: Storage) -> bool:
    """Return whether the folder of a checkpoint has a commit; changes nothing, and needs no writer. Raises as `read_head`."""
    head, _ = read_head(storage)
    return head is not None and bool(head.commits)


def _from(head: Head, previous: CommitId | None) -> tuple[CommitRef, ...]:
    """Return the valid commits from ``previous`` on, newest first; what came after it was damaged, or its writer never heard of its success."""
    if previous is None:
        if any(ref.epoch != head.epoch for ref in head.commits):
            what = "Checkpoint: commits are there already"
            raise StorageError(what, got="no previous commit", allowed=[ref.number for ref in head.commits], do="load the newest one first")
        return ()
    older = tuple(ref for ref in head.commits if ref.number <= previous)
    if not older or older[0].number != previous:
        what = "Checkpoint: there is no such previous commit"
        raise StorageError(what, got=previous, allowed=[ref.number for ref in head.commits], do="load the newest one first")
    return older


def _commit_key(number: CommitId) -> str:
    return f"commits/{number:08d}.json"
