"""Keep a version of a student whatever the registry's policy says, with or without holding it live."""

from __future__ import annotations

from streamrec.errors import RegistryError
from streamrec.pipeline.receipts import check_deletions_noted
from streamrec.pipeline.switches import Flip, SwitchBoard
from streamrec.registry.registry import Registry
from streamrec.storage import Storage


def pin(state: Storage, registry: Registry, student: str, turn: Flip, *, live: bool) -> None:
    """Pin ``turn.version``; with ``live`` also make it live and hold it so.

    Raises:
        RegistryError: There is no such version, or it may not go live.
    """
    check_deletions_noted(state, registry)
    registry.pin(turn.version)
    if live:  # Held first: a stream that plans in between then promotes nothing over it.
        SwitchBoard(state).turn("hold", turn, student)
        registry.promote(turn.version, f"pinned live by {turn.by}{f': {turn.reason}' if turn.reason else ''}")


def unpin(state: Storage, registry: Registry, student: str, turn: Flip) -> None:
    """Let the registry's policy decide on ``turn.version`` again; what was held live is held no more.

    Raises:
        RegistryError: It is not pinned.
    """
    if turn.version not in (pinned := registry.pinned()):
        what = "Registry: the version is not pinned"
        raise RegistryError(what, got=repr(turn.version), allowed=", ".join(sorted(pinned)) or "none is", do="name one that is")
    registry.unpin(turn.version)
    board = SwitchBoard(state)
    held = board.now().held.get(student)
    if held is not None and held.version == turn.version:
        board.turn("release", turn, student)
