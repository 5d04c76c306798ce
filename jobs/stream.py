"""Move the stream: read Kafka, evaluate, label, learn, publish, checkpoint, until told to stop.

    python -m jobs.stream --config streamrec.toml
    ray job submit --working-dir . -- python -m jobs.stream --config streamrec.toml

The state is in the configured folder or bucket; a job that was killed goes on from the last commit with the same bits. A new state needs
``python -m jobs.bootstrap`` first. ``--until-idle 5s`` ends when the log has been read to its end and nothing was to do for that long;
a step that fails, as of a broker that is away, begins that time anew. ``--max-events N`` ends after N records.
``--set KEY=VALUE`` overrides a setting, such as ``--set log.broker=127.0.0.1:9092``.

One job moves a state: a second one refuses and names the first, as long as that runs on this machine or tells its board of itself. ``--take-over``
goes on in its place, and the first one stops at its next step and says why. One whose process has ended is followed without a word.

Where records that come next have left the log, or the topic was made anew, the job ends with an error. ``--skip-lost`` then goes on where the log
begins now: what is lost is said, logged and booked as ``lost``. It does nothing where nothing is lost.

SIGTERM and Ctrl-C end it after the step in progress, with a commit and exit status 0; in the wait for a broker at once, while Ray and its
actors start within some seconds, twenty where a machine is busy. A second one, a second or more later, ends it within the step too, with
status 130, and so does one while actors do not come back: the next start executes again what was not committed. When it ends by itself or
by a signal it ends its actors too; ``--max-events 0`` reads nothing and ends those that a killed one has left. A line per step goes to the
error output; the last line of the output is one JSON object with the books, versions and metrics. The exit status is 0, 1 after an error, 2
when the state has no live version yet, 130 after a signal during the start or a second one.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from jobs import cli, dry_run
from streamrec.config import parse_duration_s
from streamrec.errors import ConfigError
from streamrec.evaluation.worth import say
from streamrec.pipeline.alone import Seen, check_alone, check_silent
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.driver import Driver
from streamrec.pipeline.ray_workers import HURRY_S, leave
from streamrec.pipeline.report import StepReport
from streamrec.pipeline.session import Session, check_own, has_commits, open_session
from streamrec.pipeline.skipping import skip_lost
from streamrec.pipeline.stream_numbers import StreamNumbers
from streamrec.registry.telling import STREAM
from streamrec.telemetry.logs import about


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return its exit status."""
    parser = cli.parser(__doc__, "jobs.stream")
    parser.add_argument("--until-idle", help="end when all was read and nothing came for that long")
    parser.add_argument("--max-events", type=int, help="end after so many records")
    parser.add_argument("--skip-lost", action="store_true", help="go on where the log begins now, booking what it no longer has as lost")
    parser.add_argument("--take-over", action="store_true", help="also where another job seems to move this state; that one stops at its next step")
    options = parser.parse_args(argv)
    return cli.run(lambda: _stream(options))


def _seconds(option: str, text: str) -> float:
    try:
        return parse_duration_s(text)
    except ValueError as error:
        what = f"Stream: {option} is no duration"
        raise ConfigError(what, got=repr(text), allowed="a number with a unit, such as 5s") from error


def _stream(options: argparse.Namespace) -> int:
    config = cli.resolve(options.config, options.set)
    max_events: int | None = options.max_events
    idle_s = _seconds("--until-idle", options.until_idle) if options.until_idle else float("inf")
    if options.dry_run:
        return dry_run.show(dry_run.of_stream(config, takes_over=options.take_over))
    if not has_commits(config):  # Before Ray and a broker are started, which takes a while.
        cli.say(f"Stream: {cli.not_live(config)}")
        return 2
    seen = Seen.NOBODY if options.take_over else check_alone(config)
    cli.end_on_signals()
    with open_session(config, cli.say) as session:
        stop = threading.Event()
        if seen is Seen.ELSEWHERE:
            check_silent(config, partial(session.board.told_age_s, STREAM), cli.waiter(stop))
        numbers = session.numbers()
        driver = started(session, cli.waiter(stop), numbers)
        cli.stop_on_signals(stop)  # Only now that there are steps: until here a signal ends the job at once.
        if driver.controller.state.live is None:
            cli.say(f"Stream: {cli.not_live(config)}")
            return 2
        if options.skip_lost and skip_lost(driver.controller, cli.say) is None:
            cli.say("nothing is lost: the log still has what comes next")
        lag = driver.lag()
        cli.say(f"going on after batch {driver.controller.state.batch}, {'an unknown number of' if lag is None else lag} records behind")
        read = newest = 0
        while not stop.is_set() and driver.idle_s() < idle_s and (max_events is None or read < max_events):
            tell = teller(driver.controller)
            report = driver.step()
            if report is None:
                check_own(session)
            else:  # Also one that only waited for a refresh was something to do.
                if report.plan.batch > newest:  # After a failure steps are done again.
                    read, newest = read + report.plan.num_records, report.plan.batch
                tell(report)
        numbers.ended(driver.controller, driver.controller.finish())
        summary = cli.summary(driver.controller)
        leave(actors_of(driver.controller))
    # Where both outputs are one, a local Ray has had its say by now.
    sys.stdout.write(json.dumps(summary) + "\n")
    return 0


def started(session: Session, wait: Callable[[float], bool | None], numbers: StreamNumbers) -> Driver:
    """Return the driver, recovered; where a signal ends that, the actors that this job has adopted end, too, if they answer."""
    built: list[Controller] = []

    def build() -> Controller:
        built[:] = [session.controller()]
        return built[0]

    try:
        return Driver(build, wait, cli.say, numbers)
    except KeyboardInterrupt:
        leave([actor for controller in built for actor in actors_of(controller)], HURRY_S)
        raise


def actors_of(controller: Controller) -> list[object]:
    """Return what lives in actors of its own, which are to end with the stream."""
    parts = controller.parts
    return [*parts.learners().values(), parts.scorer, parts.linear]


def teller(controller: Controller) -> Callable[[StepReport], None]:
    """Return a function that prints a line for each step, with what the books counted since the one before."""
    before = dict(controller.state.counts)

    def tell(report: StepReport) -> None:
        counts = dict(controller.state.counts)
        with about(batch=report.plan.batch, offsets={part.partition: part.end for part in report.plan.ranges}, model_version=report.published):
            cli.say(describe(report, {name: num - before.get(name, 0) for name, num in counts.items()}))
        before.update(counts)

    return tell


def describe(report: StepReport, counts: Mapping[str, int] | None = None) -> str:
    """Return a step as one line.

    Args:
        report: The step's.
        counts: The books' columns as this step added to them; those that say why a record was not applied are named.
    """
    student = report.metrics.get("student", {}).get("recall@20")
    seconds = sum(report.seconds.values())
    decision = f"{report.decision.verdict.value} {report.decision.candidate}" if report.decision else ""
    left_out = ", ".join(f"{num} {name}" for name, num in (counts or {}).items() if num and name not in {"received", "applied"})
    if report.plan.num_records and 2 * (counts or {}).get("late", 0) > report.plan.num_records:
        left_out += ": older than features.lateness_s before what came last in their partition"
    not_applied = f" ({left_out})" if left_out else ""
    parts = [
        f"batch {report.plan.batch}",
        f"{report.plan.num_records} records{not_applied} in {seconds:.2f} s",
        f"{report.deletions} deletion{'s' * (report.deletions > 1)}" if report.deletions else "",
        f"{report.lag} behind" if report.lag else "",
        f"recall@20 {student:.3f} of {report.num_queries} queries" if student is not None else "",
        f"teachers add {report.gain.mean:+.3f} ± {report.gain.error:.3f}" if report.gain is not None else "",
        f"published {report.published}" if report.published else "",
        decision,
        f"back to {report.returned.return_to}, {report.returned.num_events} events quarantined" if report.returned else "",
        *(f"{each.version} rolled back to {each.to}: {each.reason}" for each in report.guarded),
        say(report.worth),
        f"nothing goes live, {why}" if (why := next(iter(report.plan.holds.values()), "")) else "",
        ("commit handed over" if report.is_commit_under_way else "committed") if report.committed else "",
        *report.about_students(),
        *report.about_teachers(),
    ]
    return ", ".join(part for part in parts if part)


if __name__ == "__main__":
    sys.exit(main())
