"""Tell of the newest versions what each was made of and what the gate said of it, and of the newest moves who made them."""

from __future__ import annotations

from typing import Any

from streamrec.errors import Damaged, RegistryError
from streamrec.registry.alias import Move
from streamrec.registry.gate import Decision, Verdict
from streamrec.registry.registry import Registry


class NewestVersions:
    """Read the newest versions from a registry, those that can't change any more once.

    Blocks while the storage answers; one thread at a time is enough.
    """

    def __init__(self) -> None:
        self._final: dict[str, dict[str, Any]] = {}

    def newest(self, registry: Registry, last: int) -> dict[str, Any]:
        """Return the newest versions and moves, newest first.

        Args:
            registry: Of the student that is served.
            last: How many of each at most.

        Raises:
            StorageError: The storage refused, or what it holds is damaged.
        """
        alias, pinned = registry.alias(), registry.pinned()
        live = None if alias is None else alias.version
        told = [found for version in registry.versions()[: -last - 1 : -1] if (found := self._told(registry, version)) is not None]
        self._final = {one["version"]: one for one in told if _is_final(one)}
        versions = [{**one, "is_live": one["version"] == live, "is_pinned": one["version"] in pinned} for one in told]
        return {"versions": versions, "moves": [_shown(move) for move in reversed(registry.history(last))]}

    def _told(self, registry: Registry, version: str) -> dict[str, Any] | None:
        found = self._final.get(version)
        if found is not None:
            return found
        try:
            manifest = registry.manifest(version)
        except (RegistryError, Damaged):  # Pruned since it was listed, or torn, which `streamrec doctor` tells.
            return None
        facts = manifest.model_dump(mode="json", include={"version", "created_ms", "parent", "digest", "offsets", "teachers", "metrics"})
        return {**facts, "bytes": sum(blob.bytes for blob in manifest.blobs), "decision": _numbers(registry.last_decision(version))}


def _is_final(told: dict[str, Any]) -> bool:
    return told["decision"] is not None and told["decision"]["verdict"] != Verdict.WAIT


def _numbers(decision: Decision | None) -> dict[str, Any] | None:
    return None if decision is None else decision.model_dump(mode="json")


def _shown(move: Move) -> dict[str, Any]:
    facts = move.model_dump(mode="json", include={"number", "action", "version", "reason", "at_ms"})
    return {**facts, "by_gate": move.decision is not None}
