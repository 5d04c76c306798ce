"""Run everything on this machine, in one command: broker, Ray, stream, teachers, serving and dashboard, until Ctrl-C.

    streamrec dev                                    state in runs/default, an embedded Kafka, the API at http://127.0.0.1:8000
    streamrec dev --state runs/shop --config streamrec.toml
    python -m jobs.dev --set log.broker=127.0.0.1:9092

It waits for events: post them to ``/v1/events``, or send them to the topic, as ``streamrec replay`` does. When the first have come and no more do
for a moment it learns them, trains the first teachers and answers; from then on it learns while it serves. The address is the only line of the
output before the last, which is one JSON object where the output is no terminal. A terminal shows a live picture, the error output elsewhere plain
lines.

Ctrl-C and SIGTERM end it after the step in progress, with a commit and exit status 0, and everything that it has started with it; a second
one, a second or more later, one during the start or the first learning and one while actors do not come back end it at once, with status
130. The next start goes on where it was. Another job that moves the state is named and left alone; ``--take-over`` goes on in its place.
The exit status is 1 after an error.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from jobs import cli
from jobs.demo_view import happenings
from jobs.live_reader import LiveReader
from jobs.live_view import LiveView, Situation
from jobs.stream import actors_of, started
from jobs.together import serving
from serve.launch import check_port
from streamrec.clock import Clock, SystemClock
from streamrec.config import Config
from streamrec.environment import api_key
from streamrec.errors import DataError
from streamrec.pipeline.alone import Seen, check_alone, check_silent
from streamrec.pipeline.bootstrap import bootstrap
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.driver import Driver
from streamrec.pipeline.ray_workers import leave
from streamrec.pipeline.report import StepReport
from streamrec.pipeline.session import Session, check_own, open_session
from streamrec.pipeline.stream_numbers import StreamNumbers
from streamrec.registry.telling import STREAM

QUIET_S = 2.0
"""The first events are learned when none has come for so long …"""
LONGEST_S = 15.0
"""… or so long after the first one, whatever still comes."""
LOOK_EVERY_S = 0.5
WAITING = "waiting for events: post them to /v1/events, or send them to the topic"


@dataclass
class Gathering:
    """Say when the first events are enough to begin with; pure.

    Args:
        clock: Processing time.
    """

    clock: Clock
    _num: int = 0
    _began_s: float = 0.0
    _changed_s: float = 0.0

    def is_done(self, num: int) -> bool:
        """Return whether to begin, ``num`` records being in the log that were not read."""
        now_s = self.clock.monotonic_s()
        if num != self._num:
            self._began_s = self._began_s if self._num else now_s
            self._num, self._changed_s = num, now_s
        return num > 0 and (now_s - self._changed_s >= QUIET_S or now_s - self._began_s >= LONGEST_S)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return its exit status."""
    parser = cli.parser(__doc__, "jobs.dev", has_dry_run=False)
    parser.add_argument("--state", metavar="ADDRESS", help="where everything is kept; default: state of the configuration")
    parser.add_argument("--take-over", action="store_true", help="also where another job seems to move this state; that one stops at its next step")
    options = parser.parse_args(argv)
    return cli.run(lambda: _dev(options))


def _dev(options: argparse.Namespace) -> int:
    given = [*options.set, *([f"state={json.dumps(options.state)}"] if options.state else [])]
    config = cli.resolve(options.config, given)
    seen = Seen.NOBODY if options.take_over else check_alone(config)
    check_port(config)
    cli.end_on_signals()
    clock = SystemClock()
    began_s = clock.monotonic_s()
    with open_session(config, cli.say, num_replicas=config.serving.num_replicas) as session:
        stop = threading.Event()
        if seen is Seen.ELSEWHERE:
            check_silent(config, partial(session.board.told_age_s, STREAM), cli.waiter(stop))
        numbers = session.numbers()
        with serving(session, config) as url:
            cli.say(f"serving: {url}/ and its dashboard, after {clock.monotonic_s() - began_s:.0f} s")
            sys.stdout.write(f"{url}\n")
            sys.stdout.flush()
            driver = started(session, cli.waiter(stop), numbers)
            with LiveReader(url, api_key()) as reader, LiveView(reader.facts, _situation(config, session, url)) as view:
                _first(session, driver, view, stop, numbers)
                _follow(session, driver, view, reader, stop)
            numbers.ended(driver.controller, driver.controller.finish())
            summary = cli.summary(driver.controller)
            leave(actors_of(driver.controller))
    ended(summary)
    return 0


def ended(summary: Mapping[str, Any]) -> None:
    """Say how it stands at the end; in a pipe the summary is the output besides."""
    learned, live = summary["books"]["applied"], summary["live"] or "nothing"
    cli.say(f"stopped: {learned} events are learned, {live} is live; the next start goes on from here")
    if not sys.stdout.isatty():
        sys.stdout.write(json.dumps(summary) + "\n")


def _situation(config: Config, session: Session, url: str) -> Situation:
    places = {"API, dashboard": f"{url}/", "events": f"{config.log.events_topic} at {session.address}"}
    return Situation("dev", places)


def _first(session: Session, driver: Driver, view: LiveView, stop: threading.Event, numbers: StreamNumbers) -> None:
    """Bring the first version live, as soon as there is something to learn from; returns at once where there is one. Tells the boards meanwhile."""
    gathering = Gathering(driver.controller.parts.clock)
    cli.stop_on_signals(stop)
    while driver.controller.state.live is None and not stop.is_set():
        check_own(session)
        num = driver.lag() or 0
        numbers(driver.controller, None, driver.lag)
        view.situation.phase = f"{num} events are here, more may come" if num else WAITING
        view.tick()
        if not gathering.is_done(num):
            stop.wait(LOOK_EVERY_S)
            continue
        view.enter(f"learning the first {num} events, training the first teachers")
        cli.end_on_signals()  # What is learned before the first version is learned again at the next start.
        try:
            driver.begin(partial(_learn, session, driver, view, numbers))
        except DataError as error:
            cli.say(f"{error}; waiting for more")
        cli.stop_on_signals(stop)
    view.situation.phase = ""


def _learn(session: Session, driver: Driver, view: LiveView, numbers: StreamNumbers, controller: Controller) -> None:
    def on_step(report: StepReport) -> None:
        _tell(view, report)
        numbers(controller, report, driver.lag)

    bootstrap(controller, session.reader.latest(controller.config.log.events_topic), on_step)


def _follow(session: Session, driver: Driver, view: LiveView, reader: LiveReader, stop: threading.Event) -> None:
    """Learn while others serve, until told to stop."""
    while not stop.is_set():
        report = driver.step()
        if report is None:
            check_own(session)
        else:
            _tell(view, report)
        view.situation.trouble = reader.trouble
        view.tick()


def _tell(view: LiveView, report: StepReport) -> None:
    for line in happenings(report):
        view.happened(line)


if __name__ == "__main__":
    sys.exit(main())
