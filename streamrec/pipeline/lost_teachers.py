"""Look at a start whether the teachers' versions that the commit names are whole, and go on without those that are lost."""

from __future__ import annotations

import logging

from streamrec.errors import Damaged
from streamrec.pipeline.parts import Parts
from streamrec.pipeline.stream_state import StreamState
from streamrec.soft_labels.scorer import Scorer

logger = logging.getLogger(__name__)

_COPY = "restore it from a copy"
_ANEW = f"{_COPY}; without one make the state anew with `python -m jobs.rebuild`"


def leave_lost(parts: Parts, state: StreamState) -> list[str]:
    """Leave versions that are lost out of a state that was just restored: their teachers have none, and are refreshed by the next decision.

    What is compared with a lost one takes its place. A stored plan is executed unchanged, and so never without a version that it names.

    Args:
        parts: The scorer, which holds the versions from here on, and the plans.
        state: The stream's own.

    Returns:
        The teachers whose version that was compared is lost: the one in use may know users whom it had forgotten.

    Raises:
        Damaged: One is damaged, or it is lost and a stored plan uses it, or waits for one that was to be made from it.
    """
    lost = {}
    for role, named in (("in use", state.teachers), ("compared", state.challengers)):
        lost[role] = {teacher for teacher, version in named.items() if _is_lost(parts, state, teacher, version)}
    for teacher in lost["in use"] & state.pending.keys():
        _check_pending(parts, state, teacher)
    for teacher in lost["compared"]:
        del state.challengers[teacher]
    for teacher in lost["in use"]:
        del state.teachers[teacher]
        if teacher in state.challengers:
            state.teachers[teacher] = state.challengers.pop(teacher)
    return sorted(lost["compared"])


def _is_lost(parts: Parts, state: StreamState, teacher: str, version: str) -> bool:
    """Return whether a version is lost and nothing needs it; False where it is whole."""
    try:
        parts.scorer.submit(Scorer.hold, teacher, version).result()
    except Damaged as error:
        is_lost, batch = bool(error.facts.get("lost")), _first_use(parts, state, teacher, version)
        what = str(error).removesuffix(f", {error.remedy}")
        if batch is not None:
            what = f"{what}, and the stored plan of batch {batch} uses it"
            raise Damaged(what, do=_ANEW) from error
        if not is_lost:
            do = f"{_COPY}, or remove the folder teachers/{teacher}/{version}: the stream goes on without it and makes a new version"
            raise Damaged(what, do=do) from error
        logger.error("%s: going on without it until a new version is made", what)
        return True
    return False


def _check_pending(parts: Parts, state: StreamState, teacher: str) -> None:
    """Look whether a version under way, which was to be made from a lost one, is there or may be made from nothing."""
    version = state.pending[teacher]
    batch = _first_use(parts, state, teacher, version)
    if batch is None:
        return
    try:
        parts.scorer.submit(Scorer.hold, teacher, version).result()
    except Damaged as error:
        what = (
            f"Refresh: {teacher} {state.teachers[teacher]} is lost, from which {version} was to be made, and the stored plan of batch {batch} uses it"
        )
        raise Damaged(what, got=str(error), do=_ANEW) from error


def _first_use(parts: Parts, state: StreamState, teacher: str, version: str) -> int | None:
    return parts.plans.first_use(teacher, version, state.batch) if parts.plans is not None else None
