"""Send an interaction log to the broker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.console import Console

from streamrec.cli.options import Replay
from streamrec.cli.output import write_json
from streamrec.cli.sending import Meter, err_console, opened_broker, stop_on_interrupt
from streamrec.cli.show_config import resolve
from streamrec.clock import SystemClock
from streamrec.config import Config
from streamrec.events.datasets import Dataset, load_dataset, parse_mapping
from streamrec.events.replay import Pace
from streamrec.log.base import LogAddress
from streamrec.pipeline.replay import ReplayStep, replay_dataset

INTERRUPTED = 130  # what shells expect of a program that SIGINT ended


@dataclass(frozen=True)
class Sent:
    """Say what was sent, where to and in how long."""

    last: ReplayStep
    address: LogAddress
    wall_s: float


def run(options: Replay) -> int:
    """Send what has not been sent; return 0 when all is, 130 when interrupted."""
    config, console = resolve(options.settings, options.broker), err_console()
    pace = Pace.parse(options.speed, options.rate)
    dataset = load_dataset(options.file, parse_mapping(options.mapping) if options.mapping else None)
    choice: dict[str, Any] = {
        "max_events": options.max_events,
        "restart": options.restart,
        "with_items": options.with_items,
        "progress_path": options.progress,
    }
    sent = send(config, dataset, options.broker, pace, console, **choice)
    last = sent.last
    if options.json:
        where = {"topic": config.log.events_topic, "log": str(sent.address)}
        write_json(
            dataset=dataset.name, events=last.sent, position=last.position, stop=last.stop, done=last.done, **where, wall_s=round(sent.wall_s, 3)
        )
        return 0 if last.done else INTERRUPTED
    rest = "all sent" if last.done else f"stopped at {last.position} of {last.stop}; the same command goes on from there"
    console.print(f"{dataset.name}: {last.sent} events to {config.log.events_topic} at {sent.address} in {sent.wall_s:.1f} s, {rest}")
    return 0 if last.done else INTERRUPTED


def send(config: Config, dataset: Dataset, broker: str | None, pace: Pace, console: Console, **choice: Any) -> Sent:
    """Send a dataset with a progress bar until all is sent or SIGINT or SIGTERM comes.

    Args:
        config: The resolved configuration.
        dataset: What is sent.
        broker: Where to; None takes ``log.broker``.
        pace: How fast.
        console: Where progress and remarks go.
        choice: Passed on to `streamrec.pipeline.replay.replay_dataset`.
    """
    if broker is not None:
        config = config.model_copy(update={"log": config.log.model_copy(update={"broker": broker})})
    clock = SystemClock()
    started_s = clock.monotonic_s()
    with (
        opened_broker(broker, config, console) as address,
        stop_on_interrupt() as stop,
        Meter(console, dataset.name, "events") as meter,
    ):
        last = replay_dataset(
            config,
            dataset,
            address,
            pace=pace,
            clock=clock,
            sleep=stop.wait,
            on_step=lambda step: meter.show(step.position, step.stop),
            should_stop=stop.is_set,
            **choice,
        )
    return Sent(last, address, clock.monotonic_s() - started_s)
