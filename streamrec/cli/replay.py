"""Send an interaction log to the broker."""

from __future__ import annotations

from streamrec.cli.options import Replay
from streamrec.cli.sending import Meter, err_console, opened_broker, stop_on_interrupt
from streamrec.cli.show_config import resolve
from streamrec.clock import SystemClock
from streamrec.events.datasets import load_dataset, parse_mapping
from streamrec.events.replay import Pace
from streamrec.pipeline.replay import replay_dataset

INTERRUPTED = 130  # what shells expect of a program that SIGINT ended


def run(options: Replay) -> int:
    """Send what has not been sent; return 0 when all is, 130 when interrupted."""
    config, console = resolve(options.settings), err_console()
    pace = Pace.parse(options.speed, options.rate)
    dataset = load_dataset(options.file, parse_mapping(options.mapping) if options.mapping else None)
    clock = SystemClock()
    started_s = clock.monotonic_s()
    with (
        opened_broker(options.broker, config, console) as address,
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
            max_events=options.max_events,
            restart=options.restart,
            with_items=options.with_items,
            progress_path=options.progress,
            on_step=lambda step: meter.show(step.position, step.stop),
            should_stop=stop.is_set,
        )
    wall_s = clock.monotonic_s() - started_s
    rest = "all sent" if last.done else f"stopped at {last.position} of {last.stop}; the same command goes on from there"
    console.print(f"{dataset.name}: {last.sent} events to {config.log.events_topic} at {address} in {wall_s:.1f} s, {rest}")
    return 0 if last.done else INTERRUPTED
