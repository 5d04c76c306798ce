"""Keep a version of the student whatever the registry's policy says, or let the policy decide again."""

from __future__ import annotations

import sys

from streamrec.cli.options import Pin
from streamrec.cli.show_config import resolve
from streamrec.cli.switches import flip
from streamrec.config import check_student
from streamrec.errors import RegistryError
from streamrec.pipeline.forgetting import check_deletions_noted
from streamrec.pipeline.layout import registry_url
from streamrec.pipeline.switches import SwitchBoard
from streamrec.registry.registry import Registry
from streamrec.storage import open_storage


def run(options: Pin) -> int:
    """Pin or unpin the version, with ``live`` also hold it live, and print all that are pinned then, one a line."""
    config = resolve(options.settings)
    state = config.state
    registry = Registry(open_storage(registry_url(state)), check_student(config, options.student))
    board, turn = SwitchBoard(open_storage(state)), flip(options.by, options.reason, options.version)
    if options.pins:
        check_deletions_noted(open_storage(state), registry)
        registry.pin(options.version)
        if options.live:  # Held first: a stream that plans in between then promotes nothing over it.
            board.turn("hold", turn, options.student)
            registry.promote(options.version, f"pinned live by {turn.by}{f': {turn.reason}' if turn.reason else ''}")
    elif options.version in (pinned := registry.pinned()):
        registry.unpin(options.version)
        held = board.now().held.get(options.student)
        if held is not None and held.version == options.version:
            board.turn("release", turn, options.student)
    else:
        what = "Registry: the version is not pinned"
        raise RegistryError(what, got=repr(options.version), allowed=", ".join(sorted(pinned)) or "none is", do="name one that is")
    remaining = sorted(registry.pinned())
    sys.stdout.writelines(f"{version}\n" for version in remaining)
    if not remaining:
        sys.stderr.write("no version is pinned\n")
    return 0
