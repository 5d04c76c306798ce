"""Run the real loop for a while at a steady rate, with new users and new items throughout, and say what grows.

    python -m benchmarks.soak [--quick] [--seconds 600] [--rate 2000]

Embedded broker, Ray Data, actors, two teachers that refresh on the way, publication, gate, checkpoints and the lake; no serving. Another process
sends `--rate` clicks a second of `streamrec.events.synthetic.ArrivingWorld`; the bounds on users and items are small, so that both leave
throughout. After a quarter of the time, which warms up, the memory of every process that lives to the end is fitted with a line: its share of
private memory and files. Shared memory, Ray's object store, is bounded by its size and a series of its own; processes that come and go, such as
the readers that replace each other, are in the sum of all. A standard error is that of a line through the means of twelve stretches.

The last line is one flat JSON object: seconds, events_per_s (applied), lag_max and lag_last (records, after the warm-up), slope_mb_per_min_max with
slope_process and slope_error (the process that grows fastest for sure: by its slope less twice its error), slope_mb_per_min_all and its
error, disk_mb_last and disk_mb_per_min (registry, checkpoint, teachers, lake and plans; the lake keeps every event), kept_mb_per_min
(the same without the lake), items_left and users_held.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks._common import arguments, facts, finish
from benchmarks._flow import take_teachers
from benchmarks._processes import Series, Watch, slope
from streamrec.clock import SystemClock
from streamrec.config import Config, LogConfig, parse_config
from streamrec.events.codec import encode_table
from streamrec.events.synthetic import ArrivingWorld
from streamrec.log.base import LogAddress, LogWriter, Record
from streamrec.log.connect import open_writer
from streamrec.log.memory import MemoryLog
from streamrec.pipeline.bootstrap import bootstrap
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.driver import Driver
from streamrec.pipeline.session import open_session
from streamrec.pipeline.wiring import build_local

FIRST_EVENTS, LOT_S, QUICK_S = 4000, 0.1, 8
MAX_USERS, MAX_ITEMS = 6000, 2000
SUMS = ("all processes", "shared memory")
STATE = ("registry", "checkpoint", "teachers", "lake", "plans")
BARS = {
    "lag_last": "bounded: not above a few micro-batches",
    "slope_mb_per_min_max": "flat: within twice its error of 0",
    "kept_mb_per_min": "bounded disk",
}


def settings(folder: Path, broker: str) -> Config:
    """Return a configuration with small bounds, in which everything that is kept must leave again within minutes."""
    teachers = {
        "transformer_refresh_events": 200_000,
        "linear_refresh_events": 40_000,
        "window_events": 20_000,
        "transformer": {"first_steps": 20, "refresh_steps": 20},
        "linear": {"max_items": 1024},
    }
    features = {"max_users": MAX_USERS, "max_items": MAX_ITEMS, "dedupe_horizon": 50_000}
    pipeline = {"checkpoint_interval_s": 5.0, "publish_interval_s": 2.0}
    registry = {"keep_last": 5, "keep_for_s": 20.0}
    lake = {"optimize_every": 10, "keep_for_s": 20.0}
    return parse_config({
        "state": str(folder), "log": {"broker": broker}, "features": features, "teachers": teachers, "pipeline": pipeline, "registry": registry,
        "lake": lake, "student": {"bootstrap_passes": 1, "replay_capacity": 10_000}, "serving": {"port": 0},
    })  # fmt: skip


def send(writer: LogWriter, topic: str, world: ArrivingWorld, num: int, now_ms: int, span_ms: int) -> None:
    """Append the next clicks, which happened within the last ``span_ms``."""
    keys, values = encode_table(world.take(num, now_ms - span_ms, now_ms))
    writer.append(topic, [Record(key, value) for key, value in zip(keys, values, strict=True)])


def first_events(writer: LogWriter, config: Config, world: ArrivingWorld, now_ms: int) -> None:
    """Append what the bootstrap learns from."""
    send(writer, config.log.events_topic, world, FIRST_EVENTS, now_ms, 60_000)


def produce(address: LogAddress, log: LogConfig, rate: int, now_ms: int, stop: Any) -> None:
    """Send ``rate`` clicks a second, after those of the bootstrap, until told to stop; one that is late is sent at once."""
    writer, world, num = open_writer(address, log), ArrivingWorld(), round(rate * LOT_S)
    world.take(FIRST_EVENTS, now_ms - 60_000, now_ms)
    due = time.monotonic()
    while not stop.wait(max(0.0, due - time.monotonic())):
        send(writer, log.events_topic, world, num, SystemClock().now_ms(), round(1000 * LOT_S))
        due += LOT_S
    writer.close()


def make_teachers(folder: Path, now_ms: int) -> None:
    """Make the first teachers in this process: the loop finds them, and need not wait for Ray Train."""
    config, log = settings(folder, "local"), MemoryLog()
    log.ensure_topic(config.log.events_topic, config.log.num_partitions)
    controller = build_local(config, log, str(folder), SystemClock(), dead_letters=log)
    controller.recover()
    first_events(log, config, ArrivingWorld(), now_ms)
    bootstrap(controller, log.latest(config.log.events_topic))


def _pid(_: object) -> int:
    return os.getpid()


def names_of(controller: Controller, **more: int | None) -> dict[int, str]:
    """Return what the known processes are."""
    parts = controller.parts
    workers = {"student": parts.student, "control": parts.control, "scorer": parts.scorer, "statistics": parts.linear}
    names = {worker.submit(_pid).result(): name for name, worker in workers.items() if worker is not None}
    return names | {os.getpid(): "driver"} | {pid: name for name, pid in more.items() if pid is not None}


def grown(watch: Watch, warm_s: float) -> dict[str, Line]:
    """Return the line through each long-lived process's memory, and through the sums, and print them."""
    lived = {f"{watch.titles[pid]} {pid}": series.since(warm_s) for pid, series in watch.processes.items()}
    num = len(watch.others["all processes"].since(warm_s).times)
    whole = {name: series for name, series in lived.items() if len(series.times) >= 0.95 * num}
    print(f"processes {len(whole)} lived throughout, {len(lived) - len(whole)} came or went")
    whole |= {name: watch.others[name].since(warm_s) for name in SUMS}
    found = {name: Line.of(series) for name, series in whole.items()}
    for name in sorted(found, key=lambda name: -found[name].per_minute):
        line = found[name]
        print(f"memory {name}: {line.per_minute:+.2f} ± {line.error:.2f} MB a minute, {thinned(whole[name].values)} MB")
    return found


@dataclass(frozen=True)
class Line:
    """Hold what a series does in a minute, the standard error of that, and how it ends."""

    per_minute: float
    error: float
    last: float

    @classmethod
    def of(cls, series: Series) -> Line:
        """Fit it."""
        per_second, error = slope(series.times, series.values)
        return cls(60 * per_second, 60 * error, series.values[-1])


def thinned(values: list[float], num: int = 12) -> str:
    """Return some of the values, the last one among them."""
    return " ".join(f"{value:.1f}" for value in values[:: -max(1, len(values) // num)][::-1])


def main() -> None:
    """Run the benchmark."""
    options = arguments(__doc__ or "", seconds=600, rate=2000)
    logging.getLogger("streamrec").setLevel(logging.ERROR)
    seconds = QUICK_S if options.quick else options.seconds
    now_ms = SystemClock().now_ms()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="streamrec-soak-")))
        make_teachers(folder / "pure", now_ms)
        take_teachers(folder / "pure", folder / "full")
        said: list[str] = []
        session = stack.enter_context(open_session(settings(folder / "full", "auto"), said.append))
        driver = Driver(lambda: session.controller("streamrec-soak"), time.sleep, said.append)
        first_events(session.writer, session.config, ArrivingWorld(), now_ms)
        bootstrap(driver.controller, session.reader.latest(session.config.log.events_topic))
        spawn = multiprocessing.get_context("spawn")
        stop = spawn.Event()
        arguments_ = (session.address, session.config.log, options.rate, now_ms, stop)
        producer = spawn.Process(target=produce, args=arguments_, daemon=True)
        producer.start()
        names = names_of(driver.controller, producer=producer.pid)
        watch = Watch(max(0.5, seconds / 300), names, {name: folder / "full" / name for name in STATE}, {})
        lags, began = Series(), dict(driver.controller.state.counts)
        num_steps, num_failed, num_refreshed = 0, 0, 0
        watch.start()
        while watch.second() < seconds:
            report = driver.step()
            if report is not None:
                num_steps, num_failed = num_steps + 1, num_failed + len(report.refreshes_failed)
                num_refreshed += len(report.activated)
                lags.add(watch.second(), report.lag)
        took_s = watch.second()
        stop.set()
        producer.join()
        watch.stop()
        controller = driver.controller
        applied = controller.state.counts["applied"] - began["applied"]
        items_left, users_held = controller.ingest.vocabulary.counters["left"], len(controller.ingest.histories)
    report_all(watch, lags, took_s, applied, {"items_left": items_left, "users_held": users_held}, options, {
        "steps": num_steps, "refreshes": num_refreshed, "refreshes_failed": num_failed, "broker": said[0] if said else "", "failures": said[1:][-3:],
    })  # fmt: skip


def report_all(watch: Watch, lags: Series, took_s: float, applied: int, counts: dict[str, int], options: Any, more: dict[str, object]) -> None:
    """Print what was seen, and the last line."""
    warm_s = took_s / 4
    found = grown(watch, warm_s)
    own = {name: line for name, line in found.items() if name not in SUMS}
    worst = max(own, key=lambda name: own[name].per_minute - 2 * own[name].error)
    later = lags.since(warm_s)
    print(f"lag {thinned(later.values, 20)} records")
    disk = Series(watch.others["lake"].times, [sum(row) for row in zip(*(watch.others[name].values for name in STATE), strict=True)])
    kept = Series(disk.times, [sum(row) for row in zip(*(watch.others[name].values for name in STATE if name != "lake"), strict=True)])
    for name in STATE:
        print(f"disk {name} {thinned(watch.others[name].values)} MB")
    result: dict[str, float | int | str | None] = {
        "seconds": took_s, "events_per_s": applied / took_s, "lag_max": max(later.values), "lag_last": later.values[-1],
        "slope_mb_per_min_max": own[worst].per_minute, "slope_process": worst.rpartition(" ")[0], "slope_error": own[worst].error,
        "slope_mb_per_min_all": found["all processes"].per_minute, "slope_error_all": found["all processes"].error,
        "disk_mb_last": disk.values[-1], "disk_mb_per_min": Line.of(disk.since(warm_s)).per_minute,
        "kept_mb_per_min": Line.of(kept.since(warm_s)).per_minute, **counts,
    }  # fmt: skip
    if options.quick:
        print("quick " + " ".join(f"{name} {value}" for name, value in result.items()) + "; too short for a slope")
        result = dict.fromkeys(result)
    finish(result, facts(rate=options.rate, **more), BARS)


if __name__ == "__main__":
    main()
