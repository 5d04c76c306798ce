"""Turn the switches that hold a stream, or show them and who turned them when."""

from __future__ import annotations

import getpass
import socket
import sys
from typing import cast

from streamrec.cli.options import ShowSwitches, Turn
from streamrec.cli.output import write_json
from streamrec.cli.show_config import resolve
from streamrec.clock import SystemClock
from streamrec.config import Config
from streamrec.errors import OperatorError
from streamrec.pipeline.alone import Seen, check_has_run, look
from streamrec.pipeline.switches import ALL, Action, Flip, SwitchBoard, Switches
from streamrec.storage import open_storage


def flip(by: str | None, reason: str, version: str = "") -> Flip:
    """Return who does it, when and why."""
    return Flip(by=by or f"{_user()}@{socket.gethostname()}", reason=reason.strip(), at_ms=SystemClock().now_ms(), version=version)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # A container's user without a name.
        return "somebody"


def run(options: Turn | ShowSwitches) -> int:
    """Turn a switch and print what is in force then; or print the history, and what is in force."""
    config = resolve(options.settings)
    board = SwitchBoard(open_storage(config.state))
    if isinstance(options, ShowSwitches):
        for entry in board.history():
            sys.stdout.write((entry.model_dump_json() if options.json else _line(entry)) + "\n")
        if not options.json:
            _print_in_force(board.now())
        return 0
    check_has_run(config)
    if options.action == "refresh":
        return _ask(board, options, config)
    now, is_new = board.turn(cast("Action", options.action), flip(options.by, options.reason))
    if not is_new:
        sys.stderr.write(f"nothing to {options.action}: it is so already\n")
    if options.json:
        sys.stdout.write(f"{now.model_dump_json()}\n")
    else:
        _print_in_force(now)
    return 0


def _ask(board: SwitchBoard, options: Turn, config: Config) -> int:
    """Ask for new versions of teachers, and say of which."""
    refreshed = config.teachers.refreshed
    if unknown := [name for name in options.teachers if name not in refreshed]:
        what = "Refresh: this configuration has no such teacher that comes in versions"
        allowed = ", ".join(refreshed) or "none: teachers.enabled has none"
        raise OperatorError(what, got=", ".join(unknown), allowed=allowed, do="name one of these, or none for all of them")
    for name in dict.fromkeys(options.teachers) or (ALL,):
        board.turn("refresh", flip(options.by, options.reason), name)
    asked = list(dict.fromkeys(options.teachers or refreshed))
    if options.json:
        write_json(teachers=asked)
    else:
        sys.stdout.write(f"asked for new versions of {', '.join(asked)}: `streamrec status` says when they are under way\n")
    if look(config) is Seen.ENDED:
        sys.stderr.write("no stream runs on this state: the next one that does will make them\n")
    return 0


def _line(entry: Switches) -> str:
    what = " ".join(filter(None, (entry.action, entry.student, entry.turn.version if entry.turn else "")))
    return f"{entry.number:>4}  {what:<12}  {entry.turn.told() if entry.turn else ''}"


def _print_in_force(now: Switches) -> None:
    sys.stdout.writelines(f"{line}\n" for line in now.in_force() or ["nothing is held: the stream runs and promotes"])
