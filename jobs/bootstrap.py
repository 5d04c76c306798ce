"""Learn what is in the log, or in a file, train the first teachers with Ray Train, and bring the first version live.

    python -m jobs.bootstrap --config streamrec.toml
    python -m jobs.bootstrap --config streamrec.toml --data ratings.csv --max-events 50000
    ray job submit --working-dir . -- python -m jobs.bootstrap --config streamrec.toml

``--data`` sends a file's events to the log first; a later ``python -m jobs.replay`` of the same file goes on behind them. A job that was
killed goes on where it was; a state that has a live version is left alone, and one that another job moves is refused. SIGTERM and Ctrl-C end it
at once and remove what is temporary. The last line of the output is one JSON object. The exit status is 0, 1 after an error, 130 after a signal.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from functools import partial

from jobs import cli, dry_run
from jobs.stream import teller
from streamrec.clock import SystemClock
from streamrec.errors import OperatorError
from streamrec.events.datasets import Dataset, load_dataset, parse_mapping
from streamrec.events.replay import Pace
from streamrec.pipeline.alone import Seen, check_alone, check_silent
from streamrec.pipeline.bootstrap import bootstrap
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.replay import replay_dataset
from streamrec.pipeline.session import Session, open_session
from streamrec.registry.telling import STREAM

_ATTEMPTS = 3
"""One that fails ends at its next look, so a second attempt is the last that another one disturbs."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return its exit status."""
    parser = cli.parser(__doc__, "jobs.bootstrap")
    parser.add_argument("--data", help="send this file's events first")
    parser.add_argument("--map", metavar="FIELD=COLUMN,…", help="the columns of a file of another format")
    parser.add_argument("--max-events", type=int, help="send only the file's first N events")
    options = parser.parse_args(argv)
    if options.max_events is not None and options.max_events < 1:
        parser.error(f"argument --max-events: got {options.max_events}, allowed 1 or more")
    if options.data is None and (options.map or options.max_events):
        parser.error("--map and --max-events say what of --data is sent; without it the bootstrap learns what is in the log")
    return cli.run(lambda: _bootstrap(options))


def _bootstrap(options: argparse.Namespace) -> int:
    config = cli.resolve(options.config, options.set)
    dataset = load_dataset(options.data, parse_mapping(options.map) if options.map else None) if options.data is not None else None
    if options.dry_run:
        return dry_run.show(dry_run.of_bootstrap(config, dataset, options.max_events))
    seen = check_alone(config, may_take_over=False)
    cli.end_on_signals()
    with open_session(config, cli.say) as session:
        if seen is Seen.ELSEWHERE:
            check_silent(config, partial(session.board.told_age_s, STREAM), time.sleep, may_take_over=False)
        if dataset is not None:
            _send(session, dataset, options.max_events)
        summary = cli.summary(_learned(session))
    # Where both outputs are one, a local Ray has had its say by now.
    sys.stdout.write(json.dumps(summary) + "\n")
    return 0


def _learned(session: Session) -> Controller:
    """Bootstrap, and again where one that began at the same moment has taken actors over and left the state to this one.

    Raises:
        Fenced: The state is that one's.
    """
    for left in reversed(range(_ATTEMPTS)):
        controller = session.controller()
        try:
            controller.recover()
            bootstrap(controller, session.reader.latest(session.config.log.events_topic), teller(controller))
            break
        except OperatorError as error:
            if not left or not error.facts.get("refused") or controller.parts.checkpoints is None:
                raise
            controller.parts.checkpoints.check_owner()
    return controller


def _send(session: Session, dataset: Dataset, max_events: int | None) -> None:
    """Send a file's events, or the first of them, to the log, unless an earlier run did."""
    replay_dataset(
        session.config,
        dataset,
        session.address,
        pace=Pace.parse("max"),
        clock=SystemClock(),
        sleep=time.sleep,
        max_events=max_events,
        with_items=True,
    )


if __name__ == "__main__":
    sys.exit(main())
