"""Move what is live by order of a person, by whichever way the order comes: a route, a verb."""

from __future__ import annotations

from streamrec.pipeline.receipts import check_deletions_noted
from streamrec.pipeline.switches import check_may_move
from streamrec.registry.alias import Move
from streamrec.registry.registry import Registry
from streamrec.storage import Storage


def promote(state: Storage | None, registry: Registry, version: str, reason: str) -> Move:
    """Make a version live; nothing happens when it is.

    Args:
        state: The pipeline's state, which has deletions and switches; None where only a registry is known.
        registry: Of the student.
        version: The one.
        reason: Why, a sentence, with who ordered it.

    Raises:
        RegistryError: There is no such version, it was made before a deletion, or another one is pinned live.
        Damaged: The record of deletions is gone.
    """
    if state is not None:
        check_deletions_noted(state, registry)
        check_may_move(state, registry.student, version)
    return registry.promote(version, reason)
