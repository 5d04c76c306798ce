"""Refresh the teachers now, from the window in the checkpoint, with Ray Train.

    python -m jobs.refresh_teachers --config streamrec.toml
    ray job submit --working-dir . -- python -m jobs.refresh_teachers --config streamrec.toml --teacher transformer

A stream that runs refreshes its teachers by itself, and owns the state: run this while none runs, for example after a long pause, and ask one that
does by ``streamrec refresh``. Where one runs, this is refused and the stream named, as ``jobs.stream`` does; ``--take-over`` refreshes all the same,
and the stream, with ``dev`` what serves, stops at its next step and says why. The next stream uses the new versions from its first step.
``--teacher NAME`` refreshes only that one.

SIGTERM and Ctrl-C end it at once and remove what is temporary. The last line of the output is one JSON object. The exit status is 0, 1 after an
error, 2 when the state has no live version, 130 after a signal.
"""

from __future__ import annotations

import argparse
import difflib
import json
import sys
import time
from collections.abc import Sequence
from functools import partial

from jobs import cli, dry_run
from jobs.stream import teller
from streamrec.errors import ConfigError
from streamrec.pipeline.alone import Seen, check_alone, check_silent
from streamrec.pipeline.bootstrap import refresh
from streamrec.pipeline.session import has_commits, open_session
from streamrec.registry.telling import STREAM

INSTEAD = "ask it for new teachers by `streamrec refresh`"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return its exit status."""
    parser = cli.parser(__doc__, "jobs.refresh_teachers")
    parser.add_argument("--teacher", action="append", help="refresh only this one; may be repeated")
    parser.add_argument("--take-over", action="store_true", help="also where another job seems to move this state; that one stops at its next step")
    options = parser.parse_args(argv)
    return cli.run(lambda: _refresh(options))


def _refresh(options: argparse.Namespace) -> int:
    config = cli.resolve(options.config, options.set)
    teachers = tuple(options.teacher or config.teachers.refreshed)
    unknown = set(teachers) - set(config.teachers.refreshed)
    if unknown:
        near = difflib.get_close_matches(min(unknown), config.teachers.refreshed, n=1)
        do = f"did you mean {near[0]!r}?" if near else "enable it in teachers.enabled"
        what = "Refresh: unknown teacher"
        raise ConfigError(what, got=", ".join(sorted(unknown)), allowed=", ".join(config.teachers.refreshed), do=do)
    if options.dry_run:
        return dry_run.show(dry_run.of_refresh(config, teachers, takes_over=options.take_over))
    if not has_commits(config):  # Before Ray and a broker are started, which takes a while.
        cli.say(f"Refresh: {cli.not_live(config)}")
        return 2
    seen = Seen.NOBODY if options.take_over else check_alone(config, instead=INSTEAD)
    cli.end_on_signals()
    with open_session(config, cli.say) as session:
        if seen is Seen.ELSEWHERE:
            check_silent(config, partial(session.board.told_age_s, STREAM), time.sleep, instead=INSTEAD)
        controller = session.controller()
        if not controller.recover() or controller.state.live is None:
            cli.say(f"Refresh: {cli.not_live(config)}")
            return 2
        refresh(controller, teachers, teller(controller))
        summary = cli.summary(controller)
    # Where both outputs are one, a local Ray has had its say by now.
    sys.stdout.write(json.dumps(summary) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
