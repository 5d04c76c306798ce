"""Make a version live by order of whoever calls."""

from __future__ import annotations

import sys

from streamrec.cli.options import Promote
from streamrec.cli.output import write_json
from streamrec.cli.show_config import resolve
from streamrec.cli.switches import flip
from streamrec.config import check_student
from streamrec.errors import ConfigError
from streamrec.pipeline.layout import registry_url
from streamrec.pipeline.moving import promote
from streamrec.registry.registry import Registry
from streamrec.storage import open_storage


def run(options: Promote) -> int:
    """Move the registry's alias and print from which version to which; the history says who did it and why."""
    if not options.reason.strip():
        what = "Promotion: the reason is empty"
        raise ConfigError(what, got=repr(options.reason), allowed="words", do="say why, for the registry's history, or leave --reason out")
    config = resolve(options.settings)
    registry = Registry(open_storage(registry_url(config.state)), check_student(config, options.student))
    before, turn = registry.live(), flip(options.by, options.reason, options.version)
    promote(open_storage(config.state), registry, options.version, f"{turn.reason} (by {turn.by})")
    if before == options.version:
        sys.stderr.write(f"nothing to promote: {before} is live already\n")
    if options.json:
        write_json(student=options.student, before=before, live=options.version)
    else:
        sys.stdout.write(f"{before or 'nothing'} → {options.version}\n")
    return 0
