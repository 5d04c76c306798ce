"""Commit components to a checkpoint store, as deltas where they have a cheaper form than the whole."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from streamrec.config import Config
from streamrec.errors import ConfigError, StorageError
from streamrec.migrations import NEEDS_REBUILD
from streamrec.pipeline.checkpoint import AddedDelta, Change, CheckpointStore
from streamrec.pipeline.commit import CommitId, Compacted, Entry
from streamrec.pipeline.compaction import CompactionProcess, Compactor
from streamrec.pipeline.components import WorkerComponent, change_of
from streamrec.state import Component, ComponentState, is_row_delta, num_bytes
from streamrec.workers import Done, Pending

logger = logging.getLogger(__name__)

MAX_DELTAS = 32
"""After so many deltas, or when they are larger than their base, they are joined with it: a restart must not read them for ever."""

LARGE_BYTES = 8 * 2**20
"""What is larger is done beside the stream: a commit is written there, and a component's deltas are joined there with their base. What is
smaller takes milliseconds."""


UNJOINED = "unjoined"
"""Fact of a commit: components whose blobs still hold users who have left them."""

Answer = tuple[bool, ComponentState]
"""Whether it is a delta, and the state."""

SHAPING = (
    "student.dim",
    "features.history_length",
    "features.words_per_item",
    "features.word_buckets",
    "soft_labels.top_k",
    "student.replay_capacity",
    "teachers.window_events",
    "teachers.linear.history_decay",
    "teachers.transitions.max_partners",
    "teachers.neighbours.max_sessions",
    "teachers.neighbours.session_length",
    "teachers.neighbours.sessions_per_item",
)
"""Settings whose values are built into the state's arrays; with others the state can't be read."""


def shape_of(config: Config) -> dict[str, Any]:
    """Return the values of `SHAPING`."""
    values: dict[str, Any] = {}
    for dotted in SHAPING:
        node: Any = config
        for part in dotted.split("."):
            node = getattr(node, part)
        values[dotted] = node
    return values | {f"students.{name}.dim": further.completed(config.student).dim for name, further in config.students.items()}


def check_shape(shape: Mapping[str, Any], held: Mapping[str, Any]) -> None:
    """Compare a configuration's `shape_of` with the one that a state was made with.

    Raises:
        ConfigError: They differ.
    """
    for name, mine in shape.items():
        if held.get(name, mine) != mine:
            what = f"Config: {name} does not fit the state"
            do = "give it that value, or make the state anew with this one beside the running stream: python -m jobs.rebuild"
            raise ConfigError(what, got=mine, allowed=held[name], do=do, key=name)


class Saver:
    """Bring components into a store and back.

    Args:
        store: Where to; None saves nothing.
        components: By name.
        shape: See `shape_of`; kept with each commit.
        compactor: Joins a large component's deltas with their base beside the stream; by default in a process of its own.

    **Contract.** `commit` returns when the state is copied, or its copy asked of the worker that has it; if that is small when it is durable.
    A large one is by the time of the next `commit` or `wait`, which raise what kept it from that, a worker's error too. Then the store still
    has the commit before, and the next `commit` hands over all since that one. Whatever a fallback needs is told by commits that are durable.
    """

    def __init__(
        self,
        store: CheckpointStore | None,
        components: Mapping[str, Component],
        shape: Mapping[str, Any] | None = None,
        compactor: Compactor | None = None,
    ) -> None:
        self._store = store
        self._components = components
        self._shape = dict(shape or {})
        address = store.address if store is not None else ""
        self._compactor = compactor or Compactor(lambda blobs: CompactionProcess(address, blobs))
        self._compacted: dict[str, Compacted] = {}
        self._previous: CommitId | None = None
        self._entries: Mapping[str, Entry] = {}
        self._kept: list[Mapping[str, Any]] = []
        self._writer = ThreadPoolExecutor(1, "commit")
        self._writing: Future[None] | None = None
        self._by_rows: set[str] = set()
        # What a failed commit was given: deltas are given again, of what was given whole the whole is asked for again.
        self._unsaved: dict[str, tuple[ComponentState, ...]] = {}
        self._unsaved_wholes: set[str] = set()
        # Components to rewrite: since the last commit was asked for, since the last one that is durable, and how many of its first blobs to join.
        self._asked_anew: set[str] = set()
        self._anew: set[str] = set()
        self._unjoined: dict[str, int] = {}

    def restore(self) -> bool:
        """Restore all components from the newest whole commit; return False when there is none.

        A component that the commit does not know starts empty.

        Raises:
            ConfigError: The state was made with another shape.
        """
        if self._store is None:
            return False
        self._store.acquire()
        loaded = self._store.load_newest()
        if loaded is None:
            return False
        check_shape(self._shape, loaded.facts.get("shape", {}))
        if loaded.facts.get(NEEDS_REBUILD):
            what = "Checkpoint: the state is of before the first release, and its arrays can't be told from those of today"
            raise StorageError(what, do="make it anew from its lake and log: python -m jobs.rebuild", address=self._store.address)
        for name, component in self._components.items():
            base, *deltas = loaded.components.get(name, (ComponentState(),))
            component.restore(base, deltas)
            if all(map(is_row_delta, deltas)):
                self._by_rows.add(name)
        self._previous, self._entries, self._kept = loaded.id, self._store.entries(loaded.id), self._store.kept_facts()
        unjoined = {name: len(self._entries[name].blobs) for name in loaded.facts.get(UNJOINED, ()) if name in self._entries}
        self._unjoined = {name: num for name, num in unjoined.items() if num > 1 and name in self._components}
        return True

    def rewrite(self) -> None:
        """Have all that commits hold written anew, because users have left it: else a base keeps for long what a delta takes back.

        What is small the next commit holds whole. What is large is joined with its deltas beside the stream, one component after another.
        """
        self._asked_anew = set(self._components)

    def holds_older(self, batch: int) -> bool:
        """Return whether a commit that is kept is of before a micro-batch, or holds what components held before the last `rewrite`."""
        return bool(self._unjoined) or any(int(kept["batch"]) < batch or kept.get(UNJOINED) for kept in self._kept)

    def commit(self, batch: int, facts: Mapping[str, Any]) -> int:
        """Commit the state after ``batch`` and return the oldest batch whose plan a fallback could still need.

        Raises:
            StorageError: The storage refused this commit or the one before; the last one that is durable stays valid.
            Fenced: Another writer owns the state.
        """
        self.wait()
        self._anew, self._asked_anew = self._anew | self._asked_anew, set()
        asked = self._ask()
        self._compacted |= self._compactor.take()
        left = sorted(name for name in self._anew | self._unjoined.keys() if self._wants_delta(name) and self._num_left(name) > 1)
        # The stream goes on and changes its facts; what is written must stand still.
        facts = copy.deepcopy({"batch": batch, "shape": self._shape, **({UNJOINED: left} if left else {}), **facts})
        if not all(self._is_awaited(name, pending) for name, pending in asked.items()):
            self._writing = self._writer.submit(lambda: self._write(self._collect(asked), facts))
        else:
            changes = self._collect(asked)
            if sum(map(_change_bytes, changes.values())) < LARGE_BYTES:
                self._write(changes, facts)
            else:
                self._writing = self._writer.submit(self._write, changes, facts)
        return min((int(kept["batch"]) + 1 for kept in self._kept), default=0)

    @property
    def is_under_way(self) -> bool:
        """Whether a commit that was handed over is still being written."""
        return self._writing is not None and (not self._writing.done() or self._writing.exception() is not None)

    @property
    def durable(self) -> Mapping[str, Any]:
        """The facts of the newest commit that is durable; nothing while there is none."""
        return self._kept[0] if self._kept else {}

    def wait(self) -> None:
        """Wait until what was handed over is durable.

        Raises:
            StorageError: As `commit`.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _write(self, changes: Mapping[str, Change], facts: Mapping[str, Any]) -> None:
        assert self._store is not None
        try:
            self._previous = self._store.commit(changes, facts, self._previous, self._compacted, sweep=not self._compactor.is_busy)
        except StorageError as error:
            logger.warning("the state after batch %s is not committed: %s", facts["batch"], error)
            self._keep_unsaved(changes, changes)
            raise
        self._entries, self._kept = self._store.entries(self._previous), self._store.kept_facts()
        # One that was gone or did not fit was not used.
        self._compacted = {name: joined for name, joined in self._compacted.items() if self._entries[name].base == joined.base}
        left = {name: min(self._num_left(name), len(self._entries[name].blobs)) for name in self._anew | self._unjoined.keys()}
        self._unjoined = {name: num for name, num in left.items() if num > 1}
        self._unsaved, self._unsaved_wholes, self._compacted, self._anew = {}, set(), {}, set()
        self._start_compaction()

    def oldest_kept(self, fact: str) -> dict[str, str]:
        """Return the smallest value per name of a fact that is {name: text}, over the commits that a fallback could go to.

        A name that one of them lacks is left out: that commit may need any value.
        """
        kept = [facts.get(fact, {}) for facts in self._kept] or [{}]
        names = set(kept[0]).intersection(*kept)
        return {name: min(values[name] for values in kept) for name in sorted(names)}

    def all_kept(self, fact: str, name: str) -> set[str]:
        """Return what a fact that is {name: texts} holds under a name in any of the commits that a fallback could go to."""
        return {value for facts in self._kept for value in facts.get(fact, {}).get(name, [])}

    def names_kept(self, fact: str) -> set[str]:
        """Return the names that such a fact has in any of the commits that a fallback could go to."""
        return {name for facts in self._kept for name in facts.get(fact, {})}

    def _ask(self) -> dict[str, Pending[Answer]]:
        """Ask for what changed, the workers first, so that they copy side by side. They take calls in order: what is asked next comes after."""
        workers = {name: component for name, component in self._components.items() if isinstance(component, WorkerComponent)}
        asked: dict[str, Pending[Answer]] = {name: worker.begin_change(by_delta=self._wants_delta(name)) for name, worker in workers.items()}
        own = {name: component for name, component in self._components.items() if name not in workers}
        asked |= {name: Done(change_of(component, by_delta=self._wants_delta(name))) for name, component in own.items()}
        return asked

    def _collect(self, asked: Mapping[str, Pending[Answer]]) -> dict[str, Change]:
        """Wait for the answers. After an error those that came are kept for the next commit, and the others asked for whole."""
        changes: dict[str, Change] = {}
        try:
            for name, pending in asked.items():
                is_delta, state = pending.result()
                if is_delta:
                    self._by_rows = self._by_rows | {name} if is_row_delta(state) else self._by_rows - {name}
                changes[name] = AddedDelta(*self._unsaved.get(name, ()), state) if is_delta else state
        finally:
            if len(changes) < len(asked):
                self._keep_unsaved(changes, asked)
        return changes

    def _keep_unsaved(self, changes: Mapping[str, Change], names: Iterable[str]) -> None:
        """Remember what the next commit must give: deltas again, and whole what was given whole or did not come."""
        self._unsaved = {name: change.states for name, change in changes.items() if isinstance(change, AddedDelta)}
        self._unsaved_wholes = set(names) - self._unsaved.keys()

    def _is_awaited(self, name: str, pending: Pending[Answer]) -> bool:
        """Tell whether a commit waits for an answer in the step: what is small makes a commit that is durable when it returns."""
        return isinstance(pending, Done) or name not in self._entries or _entry_bytes(self._entries[name]) < LARGE_BYTES

    def _wants_delta(self, name: str) -> bool:
        if name not in self._entries or name in self._unsaved_wholes:
            return False
        return not self._is_due(name) or self._is_large(name)

    def _num_left(self, name: str) -> int:
        """Return how many of a component's first blobs are to be joined once those are that have been joined by now."""
        if name in self._anew:
            return len(self._entries[name].blobs) + 1  # With the delta that takes back.
        joined = self._compacted.get(name)
        return self._unjoined[name] - (len(joined.blobs) - 1 if joined is not None else 0)

    def _is_large(self, name: str) -> bool:
        return name in self._by_rows and _entry_bytes(self._entries[name]) >= LARGE_BYTES

    def _is_due(self, name: str) -> bool:
        return name in self._anew or name in self._unjoined or _has_many_deltas(self._entries[name])

    def _start_compaction(self) -> None:
        due = [name for name in self._components if self._is_due(name) and self._is_large(name)]
        # One at a time, so that each gets its turn; first what somebody has left.
        for name in sorted(due, key=lambda name: (name not in self._unjoined, -len(self._entries[name].deltas))):
            self._compactor.start(name, self._entries[name].blobs)


def _change_bytes(change: Change) -> int:
    if isinstance(change, AddedDelta):
        return sum(map(num_bytes, change.states))
    return num_bytes(change) if isinstance(change, ComponentState) else 0


def _has_many_deltas(entry: Entry) -> bool:
    return len(entry.deltas) >= MAX_DELTAS or sum(delta.bytes for delta in entry.deltas) > entry.base.bytes


def _entry_bytes(entry: Entry) -> int:
    return sum(blob.bytes for blob in entry.blobs)
