"""Merge the small files of the event lake, and delete those that it has not needed for ``lake.keep_for_s``.

    python -m jobs.compact --config streamrec.toml
    ray job submit --working-dir . -- python -m jobs.compact --config streamrec.toml

A stream does so by itself every ``lake.optimize_every`` commits; this is for one that shall not (0), and for a stream that is stopped. It may run
beside a stream: the loser of a conflict tries again. It uses no Ray, and may be repeated and ended at any time. The last line of the output is
one JSON object. The exit status is 0, 1 after an error, 130 after a signal.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from jobs import cli, dry_run
from streamrec.errors import ConfigError
from streamrec.pipeline.lake_writer import open_lake
from streamrec.pipeline.lineage import current_url, known_lineage
from streamrec.pipeline.session import state_address


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return its exit status."""
    options = cli.parser(__doc__, "jobs.compact").parse_args(argv)
    return cli.run(lambda: _compact(options))


def _compact(options: argparse.Namespace) -> int:
    config = cli.resolve(options.config, options.set)
    if not config.lake.enabled:
        what = "Compact: there is no lake"
        raise ConfigError(what, got="lake.enabled = false", do="set it to true, or leave this job out")
    cli.end_on_signals()
    lineage = current_url(state_address(config))
    lake = open_lake(config, lineage, lambda: known_lineage(lineage))
    info = lake.info()
    if options.dry_run:
        keep = f"delete what was not needed for {config.lake.keep_for_s:g} s"
        return dry_run.show(dry_run.DryRun("compact", (f"it would merge small ones of {info['files']} files of {info['address']}, and {keep}",)))
    cli.say(f"{info['address']}: {info['files']} files, {info['bytes']} bytes")
    merged = lake.optimize()
    cli.say(f"merged: {merged}")
    deleted = lake.vacuum(config.lake.keep_for_s)
    sys.stdout.write(json.dumps({"address": info["address"], **merged, "files_deleted": deleted}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
