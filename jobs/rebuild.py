"""Make the state anew with other settings, such as another student.dim, from the lake and the log, while the old stream goes on serving.

    python -m jobs.rebuild --config new.toml
    python -m jobs.rebuild --config streamrec.toml --set student.dim=64 && python -m jobs.stream --config streamrec.toml --set student.dim=64
    ray job submit --working-dir . -- python -m jobs.rebuild --config new.toml

Beside the lineage that the stream moves another one is made: it learns the lake from its beginning, then the log, trains the first teachers and
catches up. Then it takes over: the old stream stops at its next step and says why, the new lineage's version goes live, and
``python -m jobs.stream`` with the new settings goes on with it. Until then the old lineage is not touched. A job that was killed goes on where
it was; one with other settings than the one before begins anew, as ``--anew`` does in any case.

``--from-log`` leaves the lake out and reads the log from its beginning, which it must still have: what the old stream took for late, rejected or a
duplicate is judged once more. It is for after a wrong clock, together with ``--anew`` where the settings stay. The raw records of deleted users are
dropped as ever, by their deletions in the log and by the tombstones that are carried over.

A rebuild is refused where records have left the log before the old stream had committed them, as after a crash whose plans are lost. With
``--skip-lost`` it takes from the lake what that holds of them, and books the others as ``lost``, as ``jobs.stream --skip-lost`` does.

``--remove-old`` makes nothing: it removes the checkpoints, plans, teachers and lakes of the lineages before the current one. Receipts and
versions stay. Do so within the time in which a deletion must have reached everything: a stream deletes users in their lakes, but not in what else
they hold. ``--drop`` removes what a rebuild that was not finished has made; one that still runs stops at its next commit and says so.

SIGTERM and Ctrl-C end it at once and remove what is temporary. The last line of the output is one JSON object. The exit status is 0, also where
the current lineage was made with these settings, 1 after an error, 130 after a signal.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from jobs import cli, dry_run
from jobs.stream import describe
from streamrec.log.base import TableReader
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.lineage import current_lineage
from streamrec.pipeline.ray_workers import release
from streamrec.pipeline.rebuild import Rebuild, drop_unfinished, remove_old
from streamrec.pipeline.session import Session, open_session, state_address


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return its exit status."""
    parser = cli.parser(__doc__, "jobs.rebuild")
    parser.add_argument("--anew", action="store_true", help="begin anew, whatever an earlier run made")
    parser.add_argument("--from-log", action="store_true", help="read the log alone, from its beginning, so that what was late is judged once more")
    parser.add_argument("--skip-lost", action="store_true", help="go on where the log begins now, booking what neither it nor the lake has as lost")
    parser.add_argument("--remove-old", action="store_true", help="remove the lineages before the current one, and make nothing")
    parser.add_argument("--drop", action="store_true", help="remove what an unfinished rebuild has made, and make nothing")
    options = parser.parse_args(argv)
    return cli.run(lambda: _rebuild(options))


def _rebuild(options: argparse.Namespace) -> int:
    config = cli.resolve(options.config, options.set)
    if options.dry_run:
        return dry_run.show(dry_run.of_rebuild(config, _told(options)))
    cli.end_on_signals()
    if options.remove_old or options.drop:
        if options.drop:
            drop_unfinished(config, state_address(config), cli.say)
        if options.remove_old:
            remove_old(state_address(config), cli.say)
        _print({"lineage": current_lineage(state_address(config)).folder})
        return 0
    with open_session(config, cli.say) as session:
        made: list[Controller] = []

        def build(lineage_url: str, reader: TableReader, *, publishes: bool) -> Controller:
            made.append(_controller(session, lineage_url, reader, publishes=publishes))
            return made[-1]

        rebuild = Rebuild(
            config,
            session.state_url,
            session.reader,
            build,
            dead_letters=session.writer,
            on_step=lambda report: cli.say(describe(report)),
            say=cli.say,
        )
        try:
            controller = rebuild.run(anew=options.anew, from_log=options.from_log, skip_lost=options.skip_lost)
            summary = {"lineage": current_lineage(session.state_url).folder, **(cli.summary(controller) if controller is not None else {})}
        finally:
            for parts in (controller.parts for controller in made):
                release([*parts.learners().values(), parts.scorer, parts.linear])
    # Where both outputs are one, a local Ray has had its say by now.
    _print(summary)
    return 0


def _told(options: argparse.Namespace) -> str:
    """Return what the options ask for, in a sentence."""
    if options.remove_old or options.drop:
        removed = [*(["what an unfinished rebuild has made"] * options.drop), *(["the lineages before the current one"] * options.remove_old)]
        return f"it would remove {' and '.join(removed)}, and make nothing"
    begins = "begin anew" if options.anew else "go on with what an earlier run made with these settings, or begin anew"
    source = "the log alone" if options.from_log else "the lake from its beginning, then the log"
    return f"it would {begins}: learn {source}, train the first teachers, catch up and take over from the stream"


def _controller(session: Session, lineage_url: str, reader: TableReader, *, publishes: bool) -> Controller:
    controller = session.controller_of(lineage_url, reader)
    if not publishes:
        controller.parts.publisher = None
    return controller


def _print(summary: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(summary) + "\n")


if __name__ == "__main__":
    sys.exit(main())
