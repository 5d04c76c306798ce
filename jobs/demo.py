"""Show the whole flow, alive, on real input: broker, stream, teachers, student, serving, measured from outside.

    python -m jobs.demo                              MovieLens 100K through an embedded Apache Kafka
    python -m jobs.demo --data online-retail.csv.gz  any of the known formats
    python -m jobs.demo --broker local               files instead of Kafka, for machines without Java

The first part of the file bootstraps the student and its teachers. The rest is produced at a fixed rate of at most half of what the loop was
measured to take, while requests are answered, teachers are refreshed by Ray Train and each better student is swapped in. ``--max-events``
bounds the events of the file, ``--seconds`` the time for which it produces, ``--forever`` keeps everything up until Ctrl-C.

With ``--set serving.keys_file=FILE`` the demo's own requests carry the key in STREAMREC_API_KEY.

``runs/NAME/summary.json`` holds the figures that are printed at the end. The exit status is 0, or 1 when events are missing, a request
failed, or the student does not beat the popular items.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pyarrow.compute as pc

from jobs import cli, demo_report
from jobs.demo_view import View
from jobs.together import serving
from serve.launch import check_port
from streamrec.clock import SystemClock
from streamrec.config import Config, parse_config, parse_overrides
from streamrec.config.keys import check_own_key
from streamrec.environment import api_key, cache_folder
from streamrec.errors import ConfigError, OperatorError
from streamrec.events.datasets import Dataset, load_dataset, parse_mapping
from streamrec.events.demo import demo_dataset
from streamrec.events.progress import load_progress
from streamrec.events.replay import Pace
from streamrec.pipeline.bootstrap import bootstrap
from streamrec.pipeline.driver import Driver
from streamrec.pipeline.layout import registry_url
from streamrec.pipeline.places import check_places
from streamrec.pipeline.replay import default_progress_path, replay_dataset
from streamrec.pipeline.session import Session, check_own, open_session
from streamrec.registry.registry import Registry
from streamrec.storage import open_storage

TOTAL_S = 330.0
"""The demo plans to end within this time, a margin below six minutes."""

CLOSING_S = 30.0

SHARE_OF_CAPACITY = 0.3
"""Below half: refreshes, replicas and the client want the same cores, and freshness shall not measure a backlog."""

STREAM_EVENTS_PER_CORE = 50_000
"""A longer file is not played to its end: two cores have broker, stream, students, teachers, Ray Train, replicas and the client to carry."""

LEAST_EVENTS = 2000
"""Fewer make no teacher and no figure."""

REQUEST_RATE = 20.0
MARKER = "demo.json"


@dataclass
class Run:
    """Hold what the demo learns on its way to the summary.

    Attributes:
        dataset: The input.
        folder: Everything of this run.
        source: Options that name the input to a job.
        broker: Address of the event log.
        bootstrapped: How many of the file's events the bootstrap took.
        produced: How many of the file's events have been sent, the bootstrap's included.
        books_before: The books after the bootstrap.
        capacity: Events a second that the loop took when there was a backlog.
        rate: Events a second that are produced.
        planned: Up to which event of the file is produced.
        measured: What was measured from outside.
        began: When the demo began, on the monotonic clock.
    """

    dataset: Dataset
    folder: Path
    source: list[str]
    broker: str = ""
    bootstrapped: int = 0
    produced: int = 0
    books_before: dict[str, int] = field(default_factory=dict)
    capacity: float = 0.0
    rate: float = 0.0
    planned: int = 0
    measured: dict[str, Any] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the demo began."""
        return time.monotonic() - self.began


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m jobs.demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="file or folder; default: MovieLens 100K")
    parser.add_argument("--map", help="columns of a file of another format: user=COLUMN,item=COLUMN,…")
    parser.add_argument("--broker", default="auto", help="auto, embedded, local or HOST:PORT")
    parser.add_argument("--max-events", type=int, help=f"use only the file's first N events, {LEAST_EVENTS} or more")
    parser.add_argument("--seconds", type=float, default=150.0, help="produce for so long at most")
    parser.add_argument("--name", default="demo", help="the run's folder is runs/NAME; it is emptied first")
    parser.add_argument("--forever", action="store_true", help="stay up until Ctrl-C")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting")
    return cli.run(lambda: _demo(parser.parse_args(argv)))


def _demo(options: argparse.Namespace) -> int:
    _check(options)
    folder = (Path("runs") / options.name).absolute()
    first = _config(folder, options, 0)
    check_places(first)  # Before a data set is fetched.
    check_own_key(first, api_key(), "the demo")
    check_port(first)
    path = Path(options.data) if options.data else demo_dataset(cache_folder())
    source = ["--data", str(path), *(["--map", options.map] if options.map else [])]
    run = Run(load_dataset(path, parse_mapping(options.map) if options.map else None), folder, source)
    total = min(options.max_events or run.dataset.events.num_rows, run.dataset.events.num_rows)
    run.bootstrapped = total // 2
    config = _config(folder, options, min(total - run.bootstrapped, _most_stream_events()))
    _empty(folder)  # Only now: a typo shall not cost the run before.
    (folder / "config.yaml").write_text(config.model_dump_json(indent=1), encoding="utf-8")
    facts = run.dataset.facts
    cli.say(f"input: {run.dataset.name}, {total} of {facts['events']} events, {facts['users']} users, {facts['items']} items")
    cli.end_on_signals()
    with open_session(config, cli.say, num_replicas=config.serving.num_replicas) as session:
        stop = threading.Event()
        run.broker = str(session.address)
        _send(run, session, run.bootstrapped, with_items=True)
        cli.say(f"bootstrap: the first {run.bootstrapped} events, then the first teachers by Ray Train")
        numbers = session.numbers()
        driver = Driver(session.controller, cli.waiter(stop), cli.say, numbers)
        bootstrap(driver.controller, session.reader.latest(config.log.events_topic))
        run.books_before = driver.controller.books()
        with serving(session, config) as url:
            cli.say(f"serving: {url}, {config.serving.num_replicas} replicas, {driver.controller.state.live} is live after {run.elapsed_s:.0f} s")
            _calibrate(run, session, driver, total)
            _plan_stream(run, total, options.seconds)
            cli.stop_on_signals(stop)
            with (
                View(run.dataset.name, run.rate, url, run.broker, api_key()) as view,
                _measuring(run, url) as measuring,
                _producing(run, default_progress_path(session.config, run.dataset)) as producer,
            ):
                _stream(run, session, driver, view, (producer, measuring), stop, options.forever)
            numbers.ended(driver.controller, driver.controller.finish())
            run.produced = _sent(session, run)
            registry = Registry(open_storage(registry_url(session.state_url)))
            summary = demo_report.summarise(run, session.board, registry, driver.controller)
    (folder / "summary.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
    problems = demo_report.problems(summary)
    demo_report.show(summary, folder / "summary.json", problems)
    return 1 if problems else 0


def _most_stream_events() -> int:
    return STREAM_EVENTS_PER_CORE * (os.cpu_count() or 1)


def _check(options: argparse.Namespace) -> None:
    """Refuse options that can't make a demo."""
    wrong = [
        ("--name", options.name, "letters, digits, dots, dashes and underscores", not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", options.name)),
        ("--max-events", options.max_events, f"{LEAST_EVENTS} or more", options.max_events is not None and options.max_events < LEAST_EVENTS),
        ("--seconds", options.seconds, "more than 0", not options.seconds > 0),
    ]
    for name, got, allowed, is_wrong in wrong:
        if is_wrong:
            what = f"Demo: {name} is out of bounds"
            raise ConfigError(what, got=got, allowed=allowed)


def _empty(folder: Path) -> None:
    """Make an empty run folder; what an earlier demo left in it goes, what is not a demo's stays."""
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARKER).exists():
            what = f"Demo: {folder} holds another run"
            raise OperatorError(what, do="choose another --name")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).write_text("{}", encoding="utf-8")


def _config(folder: Path, options: argparse.Namespace, stream_events: int) -> Config:
    """Return defaults that make several refreshes fall into the stream."""
    usual: dict[str, Any] = {
        "state": str(folder),
        "log": {"broker": options.broker},
        "serving": {"port": 0},
        # A file's events span months and are played in minutes, and the freshness probes carry one event time.
        "features": {"lateness_s": "10000d"},
        "teachers": {
            "transformer_refresh_events": max(500, stream_events // 4),
            "linear_refresh_events": max(500, stream_events // 4),
            "transformer": {"first_steps": 200, "refresh_steps": 80},
        },
    }
    for dotted, value in parse_overrides(options.set).items():
        node = usual
        *parents, leaf = dotted.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return parse_config(usual)


def _send(run: Run, session: Session, until: int, *, with_items: bool = False) -> None:
    """Send the file's events up to ``until`` as fast as the log takes them; what was sent before is not sent again."""
    pace, clock = Pace.parse("max"), SystemClock()
    replay_dataset(session.config, run.dataset, session.address, pace=pace, clock=clock, sleep=time.sleep, max_events=until, with_items=with_items)
    run.produced = until


def _sent(session: Session, run: Run) -> int:
    """Return how many of the file's events are in the log: fewer than planned when the demo was stopped."""
    progress = load_progress(default_progress_path(session.config, run.dataset))
    return run.produced if progress is None else progress.position


def _calibrate(run: Run, session: Session, driver: Driver, total: int) -> None:
    """Measure how many events a second the whole loop takes, on two bursts; the first one warms up."""
    left = total - run.produced
    for burst in (left // 50, min(4000, left // 10)):
        before = driver.controller.state.counts["received"]
        _send(run, session, run.produced + burst)
        began = time.monotonic()
        while not driver.is_caught_up():
            if driver.step() is None:
                check_own(session)
        run.capacity = (driver.controller.state.counts["received"] - before) / (time.monotonic() - began)
    cli.say(f"capacity: {run.capacity:.0f} events/s through the whole loop")


def _plan_stream(run: Run, total: int, seconds: float) -> None:
    """Choose the rate, a share of the capacity, and up to which event of the file to produce."""
    left, left_s = total - run.produced, max(20.0, min(seconds, TOTAL_S - CLOSING_S - run.elapsed_s))
    run.rate = max(1.0, min(run.capacity * SHARE_OF_CAPACITY, min(left, _most_stream_events()) / left_s))
    run.planned = run.produced + min(left, int(run.rate * left_s))
    cli.say(f"stream: {run.planned - run.produced} of the {left} events that are left, {run.rate:.0f} a second")


@contextlib.contextmanager
def _measuring(run: Run, url: str) -> Iterator[subprocess.Popen[str]]:
    """Measure through HTTP from a process of its own; its result is there after the block."""
    events = run.dataset.events
    users = run.folder / "users.json"
    users.write_text(json.dumps(pc.unique(events["user_id"]).to_pylist()[:2000]), encoding="utf-8")
    event_type, event_time = (events[name][run.bootstrapped].as_py() for name in ("event_type", "event_time"))
    out = run.folder / "measured.json"
    command = [sys.executable, "-m", "streamrec.testing.measure", "--url", url, "--users", str(users), "--rate", str(REQUEST_RATE)]
    command += ["--event-type", event_type, "--event-time", str(event_time), "--out", str(out)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603 (our own module)
    try:
        yield process
    finally:
        if process.stdin is not None:
            process.stdin.close()
        process.wait(timeout=30)
    run.measured = json.loads(out.read_text(encoding="utf-8"))


@contextlib.contextmanager
def _producing(run: Run, progress: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Replay the rest of the file at the chosen rate from a process of its own."""
    command = [sys.executable, "-m", "jobs.replay", "--config", str(run.folder / "config.yaml"), "--broker", run.broker, *run.source]
    command += ["--progress", str(progress)]  # What was sent so far was sent from this process, which knows the broker by another name.
    command += ["--rate", f"{run.rate:.3f}", "--max-events", str(run.planned), "--until-input-ends"]
    with (run.folder / "replay.log").open("wb") as output:
        # Its input is ours: it ends with this process, also when that is killed.
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output)  # noqa: S603 (our own module)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(timeout=30)


def _stream(
    run: Run,
    session: Session,
    driver: Driver,
    view: View,
    processes: tuple[subprocess.Popen[bytes], subprocess.Popen[str]],
    stop: threading.Event,
    forever: bool,
) -> None:
    """Step until all is produced and read and the last version is decided on."""
    producer, measuring = processes
    newest: dict[str, Any] = {}
    threading.Thread(target=_keep_newest, args=(measuring.stdout, newest), daemon=True).start()
    while not stop.is_set():
        report = driver.step()
        if report is None:
            check_own(session)
        view.update(driver, report, newest)
        is_done = producer.poll() is not None and driver.is_caught_up() and driver.controller.state.candidate is None
        if is_done and not forever:
            break
    if producer.poll() not in {None, 0} and not stop.is_set():
        what = "Demo: the producer failed"
        raise OperatorError(what, got=(run.folder / "replay.log").read_text(encoding="utf-8")[-300:], do="see replay.log in the run's folder")


def _keep_newest(lines: IO[str] | None, newest: dict[str, Any]) -> None:
    for line in lines or ():
        newest.update(json.loads(line))


if __name__ == "__main__":
    sys.exit(main())
