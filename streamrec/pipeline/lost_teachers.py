"""Look at a start whether the teachers' versions that the commit names are whole, and go on without those that are lost."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

from streamrec.errors import Damaged
from streamrec.pipeline.parts import Parts
from streamrec.pipeline.plan_store import PlanStore
from streamrec.pipeline.stream_state import StreamState
from streamrec.soft_labels.scorer import Scorer

logger = logging.getLogger(__name__)

Hold = Callable[[str, str], object]
"""Loads a teacher's version; raises as `streamrec.teachers.store.TeacherStore.load`."""

_COPY = "restore it from a copy"
_ANEW = f"{_COPY}; without one make the state anew with `python -m jobs.rebuild --anew`"


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
    hold, lost = _hold_of(parts), {}
    for role, named in (("in use", state.teachers), ("compared", state.challengers)):
        lost[role] = {teacher for teacher, version in named.items() if _is_lost(hold, parts.plans, state, teacher, version)}
    for teacher in lost["in use"] & state.pending.keys():
        _check_pending(hold, parts.plans, state, teacher)
    for teacher in lost["compared"]:
        del state.challengers[teacher]
    for teacher in lost["in use"]:
        del state.teachers[teacher]
        if teacher in state.challengers:
            state.teachers[teacher] = state.challengers.pop(teacher)
    return sorted(lost["compared"])


def look_at_teachers(hold: Hold, plans: PlanStore, state: StreamState) -> Iterator[Damaged]:
    """Give what is wrong with the versions that a state names; where the stream would go on without one, the fact ``lost`` is true."""
    for teacher, version in [*state.teachers.items(), *state.challengers.items()]:
        try:
            damage = _lost(hold, plans, state, teacher, version)
            if damage is not None:
                if teacher in state.pending and state.teachers.get(teacher) == version:
                    _check_pending(hold, plans, state, teacher)
                yield damage
        except Damaged as error:
            yield error


def _hold_of(parts: Parts) -> Hold:
    return lambda teacher, version: parts.scorer.submit(Scorer.hold, teacher, version).result()


def _is_lost(hold: Hold, plans: PlanStore | None, state: StreamState, teacher: str, version: str) -> bool:
    """Return whether a version is lost and nothing needs it; False where it is whole."""
    damage = _lost(hold, plans, state, teacher, version)
    if damage is not None:
        logger.error("%s: going on without it until a new version is made", str(damage).removesuffix(f", {damage.remedy}"))
    return damage is not None


def _lost(hold: Hold, plans: PlanStore | None, state: StreamState, teacher: str, version: str) -> Damaged | None:
    """Return the error of a version that is lost and that nothing needs; None where it is whole."""
    try:
        hold(teacher, version)
    except Damaged as error:
        batch = _first_use(plans, state, teacher, version)
        what = str(error).removesuffix(f", {error.remedy}")
        if batch is not None:
            what = f"{what}, and the stored plan of batch {batch} uses it"
            raise Damaged(what, do=_ANEW) from error
        if not error.facts.get("lost"):
            do = f"{_COPY}, or remove the folder {error.facts['folder']}: the stream goes on without it and makes a new version"
            raise Damaged(what, do=do) from error
        return error
    return None


def _check_pending(hold: Hold, plans: PlanStore | None, state: StreamState, teacher: str) -> None:
    """Look whether a version under way, which was to be made from a lost one, is there or may be made from nothing."""
    version = state.pending[teacher]
    batch = _first_use(plans, state, teacher, version)
    if batch is None:
        return
    try:
        hold(teacher, version)
    except Damaged as error:
        what = (
            f"Refresh: {teacher} {state.teachers[teacher]} is lost, from which {version} was to be made, and the stored plan of batch {batch} uses it"
        )
        raise Damaged(what, got=str(error), do=_ANEW) from error


def _first_use(plans: PlanStore | None, state: StreamState, teacher: str, version: str) -> int | None:
    return plans.first_use(teacher, version, state.batch) if plans is not None else None
