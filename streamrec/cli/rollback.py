"""Make the version live again that was live before, or one that is named."""

from __future__ import annotations

import sys

from streamrec.cli.options import Rollback
from streamrec.cli.output import write_json
from streamrec.cli.show_config import resolve
from streamrec.config import check_student
from streamrec.errors import ConfigError, RegistryError
from streamrec.pipeline.layout import registry_url
from streamrec.pipeline.moving import promote
from streamrec.pipeline.receipts import check_deletions_noted
from streamrec.pipeline.switches import check_may_move
from streamrec.registry.registry import Registry
from streamrec.storage import open_storage


def run(options: Rollback) -> int:
    """Move the registry's alias back and print from which version to which."""
    if not options.reason.strip():
        what = "Rollback: the reason is empty"
        raise ConfigError(what, got=repr(options.reason), allowed="words", do="say why, for the registry's history, or leave --reason out")
    config = resolve(options.settings)
    registry = Registry(open_storage(registry_url(config.state)), check_student(config, options.student))
    check_deletions_noted(open_storage(config.state), registry)
    live = registry.live()
    if options.to is not None:
        promote(open_storage(config.state), registry, options.to, options.reason)
        _tell(options, live, options.to)
        return 0
    check_may_move(open_storage(config.state), options.student, None)
    move = registry.rollback(options.reason, live)
    if move.action != "rollback":
        what = "Registry: another version went live meanwhile"
        raise RegistryError(what, got=move.version, allowed=live, do="look at it and repeat the rollback if it should go")
    _tell(options, live, move.version)
    return 0


def _tell(options: Rollback, live: str | None, version: str) -> None:
    if options.json:
        write_json(student=options.student, before=live, live=version)
    else:
        sys.stdout.write(f"{live} → {version}\n")
    sys.stderr.write(f"a running stream promotes its next version when the gate lets it; to keep this one: streamrec pin {version} --live\n")
