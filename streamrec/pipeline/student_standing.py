"""Say which version of a student is live, what it was made of, what waits behind it, and what the gate decided last."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from streamrec.config import Config
from streamrec.errors import Damaged
from streamrec.evaluation.worth import Worth
from streamrec.pipeline.layout import registry_url
from streamrec.pipeline.plan import STUDENT
from streamrec.pipeline.receipts import check_deletions_noted
from streamrec.pipeline.session import state_address
from streamrec.pipeline.stream_state import Line, StreamState
from streamrec.pipeline.worth_view import worth_facts
from streamrec.registry.gate import Decision, Verdict
from streamrec.registry.registry import Registry
from streamrec.storage import Storage, open_storage

NEWEST_DECISIONS = 3
"""How many of the gate's decisions are told."""

# Versions whose decisions are looked for: of the newest ones some have none yet.
_LOOKED_AT = 5


@dataclass(frozen=True)
class Live:
    """Describe the version that serves.

    Attributes:
        version: Its id.
        created_ms: When it was made.
        since_ms: When it went live.
        because: Why it did.
        parent: Version that it continues.
        previous: Where a rollback goes; None where it would be refused.
        offsets: What it has learned of each topic: next offset by partition.
        teachers: Version of each teacher whose labels it learned from.
        metrics: Its numbers.
        worth: What came of its logged answers.
    """

    version: str
    created_ms: int
    since_ms: int
    because: str
    parent: str | None
    previous: str | None
    offsets: Mapping[str, Mapping[int, int]]
    teachers: Mapping[str, str]
    metrics: Mapping[str, float | None]
    worth: Mapping[str, Any] | None


@dataclass(frozen=True)
class StudentStanding:
    """Say how a student stands.

    Attributes:
        name: The student.
        live: What serves; None while nothing does.
        candidate: Version that waits for the gate: as of the newest commit, unless the gate has decided since.
        counts: How many were published, promoted and rejected, as of the newest commit.
        newest: Version that was published last.
        num_versions: How many are there.
        pinned: Those that stay whatever the policy says.
        decisions: The gate's newest ones, newest first.
        is_readable: Whether its versions could be read; of those that can't nothing else is known.
    """

    name: str
    live: Live | None = None
    candidate: str | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    newest: str | None = None
    num_versions: int = 0
    pinned: tuple[str, ...] = ()
    decisions: tuple[Mapping[str, Any], ...] = ()
    is_readable: bool = True


def stand_of(config: Config, name: str, state: StreamState, worth: Worth | None) -> StudentStanding:
    """Look at a student's versions.

    Args:
        config: The resolved configuration.
        name: The student.
        state: The stream's own, of the newest commit.
        worth: What came of logged answers.

    Raises:
        Damaged: What says which version is live, or the live one's manifest, can't be read.
        StorageError: The storage refused.
    """
    registry = Registry(open_storage(registry_url(state_address(config))), name)
    versions = registry.versions()
    line: StreamState | Line = state if name == STUDENT else state.lines.get(name, Line())
    decisions = tuple(decision.model_dump(mode="json") for decision in newest_decisions(registry, NEWEST_DECISIONS))
    newest, pinned = versions[-1] if versions else None, tuple(sorted(registry.pinned()))
    return StudentStanding(
        name,
        _live(registry, worth, open_storage(state_address(config))),
        _waiting(registry, line),
        line.versions,
        newest,
        len(versions),
        pinned,
        decisions,
    )


def _waiting(registry: Registry, line: StreamState | Line) -> str | None:
    decided = registry.decisions(line.candidate) if line.candidate is not None else []
    return None if decided and decided[-1].verdict is not Verdict.WAIT else line.candidate


def _previous(registry: Registry, state: Storage) -> str | None:
    """Return where a rollback goes, None where it would be refused."""
    try:
        check_deletions_noted(state, registry)
        return registry.previous()
    except Damaged:  # Which `streamrec doctor` tells.
        return None


def _live(registry: Registry, worth: Worth | None, state: Storage) -> Live | None:
    move = registry.alias()
    if move is None or registry.is_withdrawn(move.version):
        return None
    manifest = registry.manifest(move.version)
    return Live(
        move.version,
        manifest.created_ms,
        move.at_ms,
        move.reason,
        manifest.parent,
        _previous(registry, state),
        manifest.offsets,
        manifest.teachers,
        manifest.metrics,
        None if worth is None else worth_facts(worth, registry.student, move.version)["live"],
    )


def newest_decisions(registry: Registry, num: int) -> list[Decision]:
    """Return the gate's newest decisions on the newest versions, newest first; of each version the last one."""
    found = (registry.decisions(version) for version in registry.versions()[: -_LOOKED_AT - 1 : -1])
    return [decisions[-1] for decisions in found if decisions][:num]
