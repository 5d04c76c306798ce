"""Share what the verbs that send something have in common: the broker, the progress, and stopping."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from streamrec.config import Config
from streamrec.log.base import LogAddress
from streamrec.log.broker import resolve_broker
from streamrec.pipeline.layout import run_folder

LINE_EVERY_S = 5.0  # without a terminal, one line this often


def err_console() -> Console:
    """Return the console for progress and remarks: the error output."""
    return Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def opened_broker(broker: str | None, config: Config, console: Console) -> Iterator[LogAddress]:
    """Give the address of a log that runs, waiting for a Kafka that is away; a broker started for it stops afterwards."""
    log = config.log
    folder = run_folder(config)
    address, handle = resolve_broker(
        broker or log.broker, folder, console.print, cfg=log, connect_timeout_s=log.connect_timeout_s, connect_limit_s=log.connect_limit_s
    )
    try:
        yield address
    finally:
        handle.stop()


@contextmanager
def stop_on_interrupt() -> Iterator[threading.Event]:
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


class Meter:
    """Show how much has been sent: a bar in a terminal, else a line now and then.

    Args:
        console: Where to.
        name: What is being sent.
        unit: What is counted.
    """

    def __init__(self, console: Console, name: str, unit: str) -> None:
        self._console = console
        self._unit = unit
        self._next_line_s = 0.0
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console, transient=True
        )
        self._task = self._bar.add_task(name, total=None)

    def __enter__(self) -> Meter:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def show(self, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` are sent."""
        if self._console.is_terminal:
            self._bar.update(self._task, completed=done, total=total)
        elif done >= total or time.monotonic() >= self._next_line_s:
            self._next_line_s = time.monotonic() + LINE_EVERY_S
            self._console.print(f"{done} of {total} {self._unit} sent")
