"""List what the gate, the guard and people decided on a student's versions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from streamrec.errors import Damaged, RegistryError
from streamrec.registry.alias import Move
from streamrec.registry.gate import Decision
from streamrec.registry.registry import Registry
from streamrec.registry.version import batch_of
from streamrec.report.facts import Decided


def decisions_of(student: str, registry: Registry) -> list[Decided]:
    """Return each move of what is live, and the last decision on each version that never went live, oldest first, as far as they are kept."""
    moves = registry.history()
    others = sorted(_not_moved(registry, {move.version for move in moves}), key=lambda decision: decision.batch)
    result: list[Decided] = []
    for move in moves:
        batch = batch_of(move.version) if move.decision is None else move.decision.batch
        while others and others[0].batch < batch:
            result.append(_of_decision(student, others.pop(0)))
        result.append(_of_move(student, move))
    return result + [_of_decision(student, decision) for decision in others]


def _of_move(student: str, move: Move) -> Decided:
    decision = move.decision
    if decision is None:
        return Decided(student, move.version, move.action, "", move.reason, move.previous, move.at_ms, {})
    return Decided(student, move.version, move.action, decision.code.value, decision.reason, decision.live, move.at_ms, dict(decision.numbers))


def _of_decision(student: str, decision: Decision) -> Decided:
    return Decided(
        student, decision.candidate, decision.verdict.value, decision.code.value, decision.reason, decision.live, None, dict(decision.numbers)
    )


def _not_moved(registry: Registry, moved: set[str]) -> Iterator[Decision]:
    for version in registry.decided():
        if version not in moved:
            with suppress(Damaged, RegistryError):
                if decisions := registry.decisions(version):
                    yield decisions[-1]


def promotion_waits(registry: Registry) -> list[float]:
    """Return how many seconds each version that the gate promoted had waited since it was made; of those that the registry keeps."""
    waits = []
    for move in registry.history():
        if move.action == "promote" and move.decision is not None:
            with suppress(Damaged, RegistryError):
                waits.append(max(0, move.at_ms - registry.manifest(move.version).created_ms) / 1000)
    return waits
