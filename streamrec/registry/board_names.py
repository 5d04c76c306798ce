"""Name what a cluster has once for each student of each registry."""

from __future__ import annotations

import hashlib

BOARD_NAME = "streamrec-board"
"""Of a board without a registry; others add a digest of theirs, so that two states on one cluster have two."""
BOARD_NAMESPACE = "streamrec"


def name_of(kind: str, registry_url: str | None, student: str = "default") -> str:
    """Return the name of what a cluster has once for each student of each registry: ``kind``, and a digest of both."""
    if registry_url is None:
        return kind
    address = registry_url.rstrip("/")
    return f"{kind}-{hashlib.sha256(f'{address} {student}'.encode()).hexdigest()[:10]}"


def board_name(registry_url: str | None, student: str = "default") -> str:
    """Return the name of the actor that has the board of a student's registry."""
    return name_of(BOARD_NAME, registry_url, student)
