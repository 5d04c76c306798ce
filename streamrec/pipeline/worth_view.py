"""Read what the newest commit says of answers' worth, for those who show it: a replica, the command line."""

from __future__ import annotations

from typing import Any

from streamrec.evaluation.worth import Worth
from streamrec.pipeline.checkpoint import CheckpointStore
from streamrec.pipeline.layout import checkpoint_url
from streamrec.pipeline.lineage import current_url
from streamrec.state import ComponentState
from streamrec.storage import open_storage

NEWEST = 10
"""Rows of single versions that `worth_facts` shows."""


def load_worth(state_url: str) -> Worth:
    """Return what answers of the current lineage came to as of the newest commit; nothing where there is none.

    Raises:
        Damaged: No commit is whole.
        StorageError: The storage refused.
    """
    worth = Worth()
    loaded = CheckpointStore(open_storage(checkpoint_url(current_url(state_url)))).load_newest(only=(worth.name,))
    if loaded is not None:
        base, *deltas = loaded.components.get(worth.name, (ComponentState(),))
        worth.restore(base, deltas)
    return worth


def worth_facts(worth: Worth, student: str, live: str | None) -> dict[str, Any]:
    """Return what a student's answers came to: those of the live version, all by source, and those of the newest versions.

    A live version shows nothing before its first answers' time is over: where versions follow each other quickly, look at all.
    """
    rows = [row for row in worth.facts() if row["student"] == student]
    by_source = {source: worth.of(student, source=source).facts() for source in sorted({row["source"] for row in rows})}
    return {"live": worth.of(student, live or "").facts(), "by_source": by_source, "versions": rows[:NEWEST]}
