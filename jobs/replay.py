"""Send an interaction log to the events topic in event-time order, keyed by user.

    python -m jobs.replay --config streamrec.toml --data ratings.csv --broker 127.0.0.1:9092 --speed 600x
    ray job submit --working-dir . -- python -m jobs.replay --config streamrec.toml --data ratings.csv --rate 500

The file is recognised by its content (Online Retail, MovieLens, RecBole, sessions, Taobao, CiteULike); any other CSV or Parquet file needs
``--map user=COLUMN,item=COLUMN,time=COLUMN[,type=COLUMN,value=COLUMN]``. Without ``--data`` MovieLens 100K is brought and sent.

``--speed 600x`` lets ten minutes of event time pass in a second, ``--speed max`` sends as fast as the log takes it, ``--rate N`` sends N events
a second. ``--broker`` is HOST:PORT, ``kafka://HOST:PORT``, ``local:///FOLDER``, ``local``, ``embedded`` or ``auto``; the last three belong to the
run's folder, and an embedded broker stops with this job.

Interrupt it (Ctrl-C or SIGTERM) or kill it, and start it again with the same options: it goes on where it was and sends nothing twice. The
progress is kept in the run's folder or in ``--progress FILE``; ``--restart`` forgets it. ``--max-events N`` stops after the file's first N events,
counting those of earlier runs. ``--with-items`` sends what the file says about items first.

Progress goes to the error output; the last line of the output is a JSON object: dataset, topic, broker, sent, position, stop, done, wall_s,
events_per_s. The exit status is 0 when all is sent, 1 after an error, 130 when interrupted.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from streamrec.clock import Clock, SystemClock
from streamrec.config import Config, cache_folder, load_config
from streamrec.errors import StreamrecError
from streamrec.events.datasets import Dataset, load_dataset, parse_mapping
from streamrec.events.demo import demo_dataset
from streamrec.events.replay import Pace
from streamrec.log.base import LogAddress
from streamrec.log.broker import BrokerHandle, NothingToStop, resolve_broker
from streamrec.pipeline.replay import ReplayStep, replay_dataset

LINE_EVERY_S = 5.0  # without a terminal, one line this often


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return its exit status."""
    options = _parser().parse_args(argv)
    console = Console(stderr=True)
    try:
        with _stop_on_signals() as stop:
            summary = _replay(options, console, stop)
    except StreamrecError as error:
        console.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        return 1
    sys.stdout.write(json.dumps(summary) + "\n")
    sys.stdout.flush()
    return 0 if summary["done"] else 130


@contextmanager
def _stop_on_signals() -> Iterator[threading.Event]:
    """Give an event that SIGINT and SIGTERM set; a second signal has its usual effect."""
    stop = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def handle(*_: object) -> None:
        stop.set()
        restore()

    for number in before:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        restore()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m jobs.replay", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", metavar="FILE", help="streamrec.toml or .yaml; default: $STREAMREC_CONFIG, then ./streamrec.toml")
    parser.add_argument("--data", metavar="PATH", help="file or folder; default: MovieLens 100K")
    parser.add_argument("--map", metavar="FIELD=COLUMN,…", help="the columns of a file of another format")
    parser.add_argument("--broker", metavar="ADDRESS", help="default: log.broker of the configuration")
    pace = parser.add_mutually_exclusive_group()
    pace.add_argument("--speed", metavar="600x|max", help="event time per processing time; default: max")
    pace.add_argument("--rate", type=float, metavar="N", help="events per second")
    parser.add_argument("--max-events", type=_positive, metavar="N", help="stop after the file's first N events")
    parser.add_argument("--progress", type=Path, metavar="FILE", help="where to keep the progress")
    parser.add_argument("--restart", action="store_true", help="forget the progress")
    parser.add_argument("--with-items", action="store_true", help="send the items first")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        msg = f"got {text}, allowed 1 or more"
        raise argparse.ArgumentTypeError(msg)
    return number


def _replay(options: argparse.Namespace, console: Console, stop: threading.Event) -> dict[str, Any]:
    config = load_config(options.config)
    pace = Pace.parse(options.speed, options.rate)
    path = Path(options.data) if options.data else demo_dataset(cache_folder())
    dataset = load_dataset(path, parse_mapping(options.map) if options.map else None)
    address, handle = _resolve(options.broker or config.log.broker, config, lambda line: console.print(line, markup=False, highlight=False))
    clock = SystemClock()
    started_s = clock.monotonic_s()
    try:
        with _Display(console, dataset, clock) as display:
            last = replay_dataset(
                config,
                dataset,
                address,
                pace=pace,
                clock=clock,
                sleep=stop.wait,
                max_events=options.max_events,
                restart=options.restart,
                with_items=options.with_items,
                progress_path=options.progress,
                on_step=display.show,
                should_stop=stop.is_set,
            )
    finally:
        handle.stop()
    wall_s = clock.monotonic_s() - started_s
    return {
        "dataset": dataset.name,
        "topic": config.log.events_topic,
        "broker": str(address),
        "sent": last.sent,
        "position": last.position,
        "stop": last.stop,
        "done": last.done,
        "wall_s": round(wall_s, 3),
        "events_per_s": round(last.sent / max(wall_s, 1e-9), 1),
    }


def _resolve(broker: str, config: Config, say: Callable[[str], None]) -> tuple[LogAddress, BrokerHandle]:
    if "://" in broker:
        return LogAddress.parse(broker), NothingToStop()
    folder = cache_folder() / "run" if "://" in config.state else Path(config.state)
    return resolve_broker(broker, folder, say, connect_timeout_s=config.log.connect_timeout_s)


class _Display:
    """Show the progress: a bar on a terminal, else a line now and then."""

    def __init__(self, console: Console, dataset: Dataset, clock: Clock) -> None:
        self._console = console
        self._clock = clock
        self._next_line_s = 0.0
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console, transient=True
        )
        self._task = self._bar.add_task(dataset.name, total=dataset.events.num_rows)

    def __enter__(self) -> _Display:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, step: ReplayStep) -> None:
        """Show a step."""
        if self._console.is_terminal:
            self._bar.update(self._task, completed=step.position, total=step.stop)
        elif step.done or self._clock.monotonic_s() >= self._next_line_s:
            self._next_line_s = self._clock.monotonic_s() + LINE_EVERY_S
            self._console.print(f"replay: {step.position} of {step.stop} events sent", markup=False, highlight=False)


if __name__ == "__main__":
    sys.exit(main())
