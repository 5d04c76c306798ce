"""Commit components to a checkpoint store, as deltas where they have a cheaper form than the whole."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from streamrec.config import Config
from streamrec.errors import ConfigError, StorageError
from streamrec.pipeline.checkpoint import AddedDelta, Change, CheckpointStore
from streamrec.pipeline.commit import CommitId
from streamrec.pipeline.components import WorkerComponent
from streamrec.state import Component, ComponentState

logger = logging.getLogger(__name__)

MAX_DELTAS = 32
"""A restore applies at most so many deltas to a component before it is whole."""


SHAPING = (
    "student.dim",
    "features.history_length",
    "features.words_per_item",
    "features.word_buckets",
    "soft_labels.top_k",
    "teachers.linear.max_items",
    "teachers.linear.history_decay",
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
    return values


class Saver:
    """Bring components into a store and back.

    Args:
        store: Where to; None saves nothing.
        components: By name.
        shape: See `shape_of`; kept with each commit.

    **Contract.** When `commit` raises, the store still has the commit before, and the next `commit` hands over whole states.
    """

    def __init__(self, store: CheckpointStore | None, components: Mapping[str, Component], shape: Mapping[str, Any] | None = None) -> None:
        self._store = store
        self._components = components
        self._shape = dict(shape or {})
        self._previous: CommitId | None = None
        self._base_bytes: dict[str, int] = {}
        self._deltas: dict[str, list[int]] = {}

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
        self._check_shape(loaded.facts.get("shape", {}))
        for name, component in self._components.items():
            base, *deltas = loaded.components.get(name, (ComponentState(),))
            component.restore(base, deltas)
            if name in loaded.components:  # Else there is no base that a delta could follow.
                self._base_bytes[name] = _num_bytes(base)
                self._deltas[name] = [_num_bytes(delta) for delta in deltas]
        self._previous = loaded.id
        return True

    def commit(self, batch: int, facts: Mapping[str, Any]) -> int:
        """Commit the state after ``batch`` and return the oldest batch whose plan a fallback could still need.

        Raises:
            StorageError: The storage refused; the commit before stays valid.
            Fenced: Another writer owns the state.
        """
        assert self._store is not None
        changes = self._collect()
        try:
            self._previous = self._store.commit(changes, {"batch": batch, "shape": self._shape, **facts}, self._previous)
        except StorageError:
            # The deltas handed over are lost with the attempt.
            self._base_bytes.clear()
            raise
        return min(int(kept["batch"]) for kept in self._store.kept_facts()) + 1

    def oldest_kept(self, fact: str) -> dict[str, str]:
        """Return the smallest value per name of a fact that is {name: text}, over the commits that a fallback could go to.

        A name that one of them lacks is left out: that commit may need any value.
        """
        assert self._store is not None
        kept = [facts.get(fact, {}) for facts in self._store.kept_facts()]
        names = set(kept[0]).intersection(*kept)
        return {name: min(values[name] for values in kept) for name in sorted(names)}

    def _check_shape(self, held: Mapping[str, Any]) -> None:
        for name, mine in self._shape.items():
            if held.get(name, mine) != mine:
                what = f"Config: {name} does not fit the state"
                raise ConfigError(what, got=mine, allowed=held[name], do="give it that value, or start anew with another `state`", key=name)

    def _collect(self) -> dict[str, Change]:
        """Ask all workers first, then wait, so that they serialise side by side."""
        asked: dict[str, Any] = {}
        for name, component in self._components.items():
            by_delta = self._wants_delta(name)
            if isinstance(component, WorkerComponent):
                asked[name] = (by_delta, component.begin_delta() if by_delta else component.begin_snapshot())
        changes: dict[str, Change] = {}
        for name, component in self._components.items():
            by_delta, pending = asked.get(name, (self._wants_delta(name), None))
            state = pending.result() if pending is not None else (component.delta() if by_delta else component.snapshot())
            if by_delta and state is not None:
                self._deltas[name].append(_num_bytes(state))
                changes[name] = AddedDelta(state)
                continue
            whole = state if state is not None else component.snapshot()
            self._base_bytes[name], self._deltas[name] = _num_bytes(whole), []
            changes[name] = whole
        return changes

    def _wants_delta(self, name: str) -> bool:
        deltas = self._deltas.get(name, [])
        return name in self._base_bytes and len(deltas) < MAX_DELTAS and sum(deltas) <= self._base_bytes[name]


def _num_bytes(state: ComponentState) -> int:
    return sum(array.nbytes for array in state.arrays.values())
