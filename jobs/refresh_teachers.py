"""Refresh the teachers now, from the window in the checkpoint, with Ray Train.

    python -m jobs.refresh_teachers --config streamrec.toml
    ray job submit --working-dir . -- python -m jobs.refresh_teachers --config streamrec.toml --teacher transformer

A stream that runs refreshes its teachers by itself, and owns the state: this job takes the state over, so that the stream stops at its next
step and says why. Run it while no stream runs, for example after a long pause. The next stream uses the new versions from its first step.
``--teacher NAME`` refreshes only that one. SIGTERM and Ctrl-C end it at once and remove what is temporary. The last line of the output is one
JSON object. The exit status is 0, 1 after an error, 2 when the state has no live version, 130 after a signal.
"""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Sequence

from jobs import cli, dry_run
from jobs.stream import teller
from streamrec.errors import ConfigError
from streamrec.pipeline.bootstrap import refresh
from streamrec.pipeline.session import has_commits, open_session


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return its exit status."""
    parser = cli.parser(__doc__, "jobs.refresh_teachers")
    parser.add_argument("--teacher", action="append", help="refresh only this one; may be repeated")
    options = parser.parse_args(argv)
    return cli.run(lambda: _refresh(options.config, options.set, options.teacher, is_dry=options.dry_run))


def _refresh(path: str | None, overrides: list[str], chosen: list[str] | None, *, is_dry: bool) -> int:
    config = cli.resolve(path, overrides)
    teachers = tuple(chosen or config.teachers.refreshed)
    unknown = set(teachers) - set(config.teachers.refreshed)
    if unknown:
        near = difflib.get_close_matches(min(unknown), config.teachers.refreshed, n=1)
        do = f"did you mean {near[0]!r}?" if near else "enable it in teachers.enabled"
        what = "Refresh: unknown teacher"
        raise ConfigError(what, got=", ".join(sorted(unknown)), allowed=", ".join(config.teachers.refreshed), do=do)
    if is_dry:
        return dry_run.show(dry_run.of_refresh(config, teachers))
    if not has_commits(config):  # Before Ray and a broker are started, which takes a while.
        cli.say(f"Refresh: {cli.not_live(config)}")
        return 2
    cli.end_on_signals()
    with open_session(config, cli.say) as session:
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
