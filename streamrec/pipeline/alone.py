"""Look whether another driver moves a state before this one takes it over: a job that is submitted twice shall refuse, not stop the first.

Whoever becomes the writer fences the one before (`streamrec.pipeline.checkpoint`), so nothing is ever written twice; but the first job would end
with an error at its next step, and a supervisor that starts it again would have the two end each other for ever.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from enum import Enum
from pathlib import PurePath

import psutil

from streamrec.config import Config
from streamrec.errors import Damaged, OperatorError
from streamrec.pipeline.checkpoint import read_head
from streamrec.pipeline.commit import Head
from streamrec.pipeline.layout import checkpoint_url
from streamrec.pipeline.lineage import current_url
from streamrec.pipeline.session import state_address
from streamrec.storage import open_storage

RECENT_S = 10.0
"""A stream tells its board once a second; one that is silent for longer is not looked at."""
PATIENCE_S = 4.0
"""How long a stream that may run elsewhere is listened for: longer than all but the longest steps."""
_LOOK_EVERY_S = 0.5


class Seen(Enum):
    """Say what is known of the process that moved a state last."""

    NOBODY = "there was none"
    ENDED = "it has ended"
    RUNS = "it runs"
    ELSEWHERE = "it is of another machine"


def check_alone(config: Config, *, may_take_over: bool = True, instead: str = "") -> Seen:
    """Return what is known of the state's last driver, unless it is a process of this machine that still runs.

    Args:
        config: The resolved configuration.
        may_take_over: Whether the job has an option for it.
        instead: What may be done beside the other one.

    Raises:
        OperatorError: It runs; it is named.
        Damaged: A pointer is torn or lost.
    """
    head, seen = _last_driver(config)
    if seen is Seen.RUNS:
        raise _taken(head, may_take_over=may_take_over, instead=instead)
    return seen


def look(config: Config) -> Seen:
    """Return what is known of the state's last driver.

    Raises:
        Damaged: A pointer is torn or lost.
    """
    return _last_driver(config)[1]


def _last_driver(config: Config) -> tuple[Head | None, Seen]:
    head, _ = read_head(open_storage(checkpoint_url(current_url(state_address(config)))))
    return head, Seen.NOBODY if head is None else _look(head)


def check_has_run(config: Config) -> None:
    """Return if a driver has ever moved the state: what holds a stream would lie in a folder where none will look for it.

    Raises:
        OperatorError: None has.
    """
    state = state_address(config)
    try:
        head, _ = read_head(open_storage(checkpoint_url(current_url(state))))
    except Damaged:  # Of a driver, so there was one.
        return
    if head is None:
        what = "Stream: none has ever run on this state"
        raise OperatorError(what, got=state, do="name the state with --config or --set state=ADDRESS, or run python -m jobs.bootstrap first")


def check_silent(
    config: Config, told_age_s: Callable[[], float | None], wait: Callable[[float], bool | None], *, may_take_over: bool = True, instead: str = ""
) -> None:
    """Return unless a stream that this machine can't see tells its board of itself while this listens: at once where none has told lately.

    Args:
        config: The resolved configuration.
        told_age_s: Says how long ago a stream has told the state's board its numbers; None where none has.
        wait: Waits so many seconds.
        may_take_over: Whether the job has an option for it.
        instead: What may be done beside the other one.

    Raises:
        OperatorError: One does; the last driver is named.
    """
    age_s, listened_s = told_age_s(), 0.0
    while age_s is not None and age_s < RECENT_S and listened_s < PATIENCE_S:
        wait(_LOOK_EVERY_S)
        listened_s += _LOOK_EVERY_S
        now_s = told_age_s()
        if now_s is not None and now_s < age_s:
            head, _ = read_head(open_storage(checkpoint_url(current_url(state_address(config)))))
            raise _taken(head, may_take_over=may_take_over, instead=instead)
        age_s = now_s


def _look(head: Head) -> Seen:
    owner = head.owner
    if owner.host != socket.gethostname():
        return Seen.ELSEWHERE
    try:
        process = psutil.Process(owner.pid)
        is_ours = process.pid != psutil.Process().pid and process.status() != psutil.STATUS_ZOMBIE and _is_driver(process.cmdline())
    except psutil.Error:  # There is none, or it is not this user's.
        return Seen.ENDED
    return Seen.RUNS if is_ours else Seen.ENDED


def _is_driver(words: list[str]) -> bool:
    """Return whether a command line is one of ours: a process's number is given to others after its end."""
    return any(word.startswith("jobs.") or PurePath(word).name == "streamrec" for word in words)


def _taken(head: Head | None, *, may_take_over: bool, instead: str) -> OperatorError:
    what = "Stream: another job moves this state already"
    owner = head.owner if head is not None else None
    got = "one that has not committed yet" if owner is None or head is None else f"process {owner.pid} on {owner.host}, epoch {head.epoch}"
    do = f"{instead}, leave it to that one, or end it first" if instead else "leave it to that one, or end it first"
    if may_take_over:
        do += "; --take-over goes on in its place, and it stops at its next step"
    return OperatorError(what, got=got, allowed="one at a time", do=do)
