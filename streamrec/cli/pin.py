"""Keep a version of the student whatever the registry's policy says, or let the policy decide again."""

from __future__ import annotations

import sys

from streamrec.cli.options import Pin
from streamrec.cli.show_config import resolve
from streamrec.config import check_student
from streamrec.errors import RegistryError
from streamrec.pipeline.forgetting import check_deletions_noted
from streamrec.pipeline.layout import registry_url
from streamrec.registry.registry import Registry
from streamrec.storage import open_storage


def run(options: Pin) -> int:
    """Pin or unpin the version, and print all that are pinned then, one a line."""
    config = resolve(options.settings)
    state = config.state
    registry = Registry(open_storage(registry_url(state)), check_student(config, options.student))
    if options.pins:
        check_deletions_noted(open_storage(state), registry)
        registry.pin(options.version)
    elif options.version in (pinned := registry.pinned()):
        registry.unpin(options.version)
    else:
        what = "Registry: the version is not pinned"
        raise RegistryError(what, got=repr(options.version), allowed=", ".join(sorted(pinned)) or "none is", do="name one that is")
    remaining = sorted(registry.pinned())
    sys.stdout.writelines(f"{version}\n" for version in remaining)
    if not remaining:
        sys.stderr.write("no version is pinned\n")
    return 0
