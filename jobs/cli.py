"""Share what the jobs' command lines have in common: options, signals, errors, the closing JSON."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from ray.exceptions import NodeDiedError, ObjectLostError, RayActorError, WorkerCrashedError
from rich.console import Console

from streamrec.cli.replay import INTERRUPTED
from streamrec.clock import SystemClock
from streamrec.config import Config, load_config, parse_overrides
from streamrec.errors import OperatorError, StreamrecError
from streamrec.memory import bound_heaps
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.lineage import current_lineage
from streamrec.pipeline.places import check_places
from streamrec.pipeline.plan import STUDENT
from streamrec.pipeline.session import state_address
from streamrec.telemetry import logs

logger = logging.getLogger(__name__)

_console = Console(stderr=True)
_STOPPING = (signal.SIGINT, signal.SIGTERM)
_GONE = (RayActorError, ObjectLostError, WorkerCrashedError, NodeDiedError)
_clock = SystemClock()
_APART_S = 1.0
"""Whoever ends a job with its group, as a terminal or `timeout` does, may send it one signal twice, at once."""


def parser(doc: str | None, prog: str, *, has_dry_run: bool = True) -> argparse.ArgumentParser:
    """Return a parser with ``--config``, ``--set`` and ``--dry-run``, whose help is the module's docstring."""
    result = argparse.ArgumentParser(prog=f"python -m {prog}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--config", help="configuration file; without it STREAMREC_CONFIG, then ./streamrec.toml, then defaults")
    result.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting, such as student.dim=32")
    if has_dry_run:
        add_dry_run(result)
    return result


def positive(text: str) -> int:
    """Return an option's number of 1 or more."""
    number = int(text)
    if number < 1:
        msg = f"got {text}, allowed 1 or more"
        raise argparse.ArgumentTypeError(msg)
    return number


def add_dry_run(to: argparse.ArgumentParser) -> None:
    """Add ``--dry-run``; see `jobs.dry_run`."""
    to.add_argument("--dry-run", action="store_true", help="print what would be done and what it needs, and change nothing")


def resolve(path: str | None, overrides: list[str], broker: str | None = None) -> Config:
    """Return the configuration with the command line's overrides.

    Args:
        path: The configuration file, or None for the default places.
        overrides: ``KEY=VALUE`` texts.
        broker: What the job takes instead of ``log.broker``.

    Raises:
        ConfigError: A setting is wrong, or what the job keeps would lie in Ray's cache of working folders.
    """
    config = load_config(path, parse_overrides(overrides))
    logs.set_up(config.telemetry.log_format, "job")
    check_places(config, broker)
    return config


def not_live(config: Config) -> str:
    """Return why a state has no live version, and what brings one."""
    folder = current_lineage(state_address(config)).folder
    if folder:
        return f"{folder} has taken over, but its version is not live yet, run python -m jobs.rebuild again, with the settings that made it"
    return "the state was never bootstrapped, run python -m jobs.bootstrap first"


def say(line: str) -> None:
    """Print a line to the error output, or log it where lines are JSON."""
    if logs.is_json():
        logger.setLevel(logging.INFO)  # What is said is said in either form.
        logger.log(logging.WARNING if line.startswith("WARNING: ") else logging.INFO, "%s", line)
        return
    _console.print(line, markup=False, highlight=False, soft_wrap=True)


def stop_on_signals(stop: threading.Event) -> None:
    """Let the first SIGINT or SIGTERM set the event, and one that comes `_APART_S` or more after it raise `KeyboardInterrupt`."""
    first_s: list[float] = []

    def handle(*_: object) -> None:
        now_s = _clock.monotonic_s()
        if first_s and now_s - first_s[0] >= _APART_S:
            raise KeyboardInterrupt
        first_s[:] = first_s or [now_s]
        stop.set()

    for number in _STOPPING:
        signal.signal(number, handle)


def end_on_signals() -> None:
    """Let SIGINT and SIGTERM raise `KeyboardInterrupt`, so that a job without steps cleans up and ends at once."""
    for number in _STOPPING:
        signal.signal(number, signal.default_int_handler)


def waiter(stop: threading.Event) -> Callable[[float], bool]:
    """Return a function that waits so many seconds, or until the event is set, and returns whether it is."""
    return stop.wait


def run(job: Callable[[], int]) -> int:
    """Run a job; one of our errors, or of what Ray has lost, is one paragraph and status 1; a signal that ends it is a line and `INTERRUPTED`."""
    bound_heaps()  # Before a broker's client or a thread pool has threads: the heaps that they have by then stay.
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    try:
        return job()
    except StreamrecError as error:
        return _failed(error)
    except _GONE as error:
        what = "Ray: an actor or a node has died, and this job does not go on without it"
        reason = "; ".join([str(error).strip().splitlines()[-1], *getattr(error, "__notes__", ())])
        return _failed(OperatorError(what, got=reason, do="start it again: it goes on from the last commit"))
    except KeyboardInterrupt:
        say("stopped by a signal before its end")
        return INTERRUPTED


def _failed(error: StreamrecError) -> int:
    if logs.is_json():
        logger.error("%s", error)
        return 1
    _console.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
    return 1


def summary(controller: Controller) -> dict[str, Any]:
    """Return what a job ends with."""
    state, live = controller.state, controller.live()
    return {
        "batch": state.batch,
        "books": controller.books(),
        "versions": state.versions,
        "live": live.get(STUDENT),
        "students": {name: {"live": live.get(name), "versions": line.versions} for name, line in state.lines.items()},
        "teachers": state.teachers,
        "labels": state.labels,
        "refresh_seconds": {teacher: took._asdict() for teacher, took in controller.refreshing.times.last.items()},
        "label_usage": controller.labelling.usage.facts(),
        "weights": controller.labelling.ensemble.weights([*state.teachers, *controller.labelling.counted.teachers]),
        "offsets": {str(partition): offset for partition, offset in sorted(state.offsets.items())},
        "metrics": controller.progressive.means(),
        "gain": found._asdict() if (found := controller.gain.estimate()) is not None else None,
        "worth": controller.ingest.worth.facts(),
        "digests": {name: component.digest() for name, component in controller.components().items()},
    }
