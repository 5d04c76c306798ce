"""Serve the configuration's state and log until told to stop.

    python -m serve --config streamrec.toml
    python -m serve --config streamrec.toml --set serving.port=8080 --log kafka://127.0.0.1:9092

The only line of the output is the server's URL, once it answers; remarks and errors go to the error output. A server that starts before the
first version is live says so at ``/readyz`` and takes it when it comes; one that finds no broker says so and serves without the newest events
until there is one. Ray is the one of RAY_ADDRESS, else a local one that ends with the
server. SIGTERM and Ctrl-C stop it, also while it starts; the exit status is then 0, and 1 after an error.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from serve.launch import launch, shutdown
from streamrec.cli.sending import stop_on_interrupt
from streamrec.config import check_student, load_config, parse_overrides
from streamrec.errors import StreamrecError
from streamrec.log.broker import BrokerHandle, NothingToStop
from streamrec.pipeline.places import check_places
from streamrec.pipeline.session import log_address, state_address
from streamrec.telemetry import logs

logger = logging.getLogger(__name__)

_POLL_S = 0.2


def main(argv: Sequence[str] | None = None) -> int:
    """Serve, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m serve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", metavar="FILE", help="without it STREAMREC_CONFIG, then ./streamrec.toml, then defaults")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting, such as serving.port=8080")
    parser.add_argument("--student", default="default", metavar="NAME", help="serve a further student of the configuration")
    parser.add_argument("--log", metavar="ADDRESS", help="kafka://HOST:PORT or local:///FOLDER; without it log.broker")
    options = parser.parse_args(argv)
    try:
        return _serve(options.config, options.set, options.log, options.student)
    except StreamrecError as error:
        _say(str(error), logging.ERROR)
        return 1


def _serve(path: str | None, overrides: list[str], log: str | None, student: str) -> int:
    config = load_config(path, {**parse_overrides(overrides), **({"log.broker": log} if log else {})})
    logs.set_up(config.telemetry.log_format, "server")
    check_places(config)
    check_student(config, student)
    handle: BrokerHandle = NothingToStop()
    try:
        with _interrupted_by_signals():
            address, handle = log_address(config, _say, must_answer=False)
            url = launch(config, address, state_address(config), student=student)
        with stop_on_interrupt() as stop:
            sys.stdout.write(f"{url}\n")
            sys.stdout.flush()
            # Not stop.wait: a handler that sets the event while this thread holds its lock would wait for ever.
            while not stop.is_set():
                time.sleep(_POLL_S)
    except KeyboardInterrupt:
        _say("stopped by a signal during the start")
    finally:
        shutdown()
        handle.stop()
    return 0


@contextmanager
def _interrupted_by_signals() -> Iterator[None]:
    """Let SIGINT or SIGTERM raise `KeyboardInterrupt`, whatever waits; a second signal has its usual effect."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def interrupt(*_: object) -> None:
        restore()
        raise KeyboardInterrupt

    for number in before:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        restore()


def _say(line: str, level: int = logging.WARNING) -> None:
    if logs.is_json():
        logger.log(level, "%s", line)
        return
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())
