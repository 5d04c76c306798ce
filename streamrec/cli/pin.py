"""Keep a version of the student whatever the registry's policy says, or let the policy decide again."""

from __future__ import annotations

import sys

from streamrec.cli.options import Pin
from streamrec.cli.output import write_json
from streamrec.cli.show_config import resolve
from streamrec.cli.switches import flip
from streamrec.config import check_student
from streamrec.pipeline.layout import registry_url
from streamrec.pipeline.pinning import pin, unpin
from streamrec.registry.registry import Registry
from streamrec.storage import open_storage


def run(options: Pin) -> int:
    """Pin or unpin the version, with ``live`` also hold it live, and print all that are pinned then, one a line."""
    config = resolve(options.settings)
    state = config.state
    registry = Registry(open_storage(registry_url(state)), check_student(config, options.student))
    turn = flip(options.by, options.reason, options.version)
    if options.pins:
        pin(open_storage(state), registry, options.student, turn, live=options.live)
    else:
        unpin(open_storage(state), registry, options.student, turn)
    remaining = sorted(registry.pinned())
    if options.json:
        write_json(student=options.student, pinned=remaining)
    else:
        sys.stdout.writelines(f"{version}\n" for version in remaining)
    if options.pins and not options.live:
        sys.stderr.write(f"{options.version} is kept; others still go live: streamrec pin {options.version} --live holds it\n")
    if not remaining:
        sys.stderr.write("no version is pinned\n")
    return 0
