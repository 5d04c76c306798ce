"""Run the real loop and serving for a while at a steady rate, with new users and new items throughout, and say what grows.

    python -m benchmarks.soak [--quick] [--seconds 600] [--rate 2000] [--replicas 1]

Embedded broker, Ray Data, actors, two teachers that refresh on the way, publication, gate, checkpoints, the lake, and replicas that follow the log
and answer requests. Another process sends `--rate` clicks a second of `streamrec.events.synthetic.ArrivingWorld`, and asks for ten answers a second.
The bounds on users, items, event ids and replay follow the rate so that all are reached within half a minute, and users and items leave throughout:
what grows after the first quarter of the time, which warms up, is not state that fills up. How full it was then is printed.

From the warm-up to the end the memory of every process that lives that long is fitted with a line: what it has allocated, without pages of files.
It is flat when it is within twice its standard error of 0, falls, or is below `_growth.FLOOR_MB_PER_MIN`, and grows for sure beyond three errors;
what it may grow at most is printed beside. Shared memory, Ray's object store, is bounded by its size and a series of its own; processes that come
and go, such as a refresh's and the readers that replace each other, are in the sum of all. A standard error is that of a line through the means of
twelve stretches.

The last line is one flat JSON object: seconds, events_per_s (applied), lag_max and lag_last (records, after the warm-up), is_full (the bounds were
reached by then), num_processes, num_growing, growing and unsure (names), slope_mb_per_min_max with slope_process and slope_error (the process that
grows fastest for sure: by its slope less twice its error), slope_mb_per_min_all and its error, <name>_mb_per_min, <name>_error and <name>_mb_last
for each of `NAMED`, disk_mb_last and disk_mb_per_min (registry, checkpoint, teachers, lake and plans; the lake keeps every event), kept_mb_per_min
(the same without the lake), items_left, users_held, answers and answers_failed, and of the books received, duplicate, late, rejected and quarantined.
"""

from __future__ import annotations

import http.client
import logging
import multiprocessing
import os
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks._common import arguments, facts, finish
from benchmarks._flow import take_teachers
from benchmarks._growth import Line, lines, summary, thinned
from benchmarks._processes import Series, Watch
from serve.launch import launch, shutdown
from streamrec.clock import SystemClock
from streamrec.config import Config, LogConfig, parse_config
from streamrec.events.codec import encode_table
from streamrec.events.synthetic import ArrivingWorld
from streamrec.log.base import LogAddress, LogWriter, Record
from streamrec.log.connect import open_writer
from streamrec.log.memory import MemoryLog
from streamrec.memory import bound_heaps
from streamrec.pipeline.bootstrap import bootstrap
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.driver import Driver
from streamrec.pipeline.layout import registry_url
from streamrec.pipeline.session import open_session
from streamrec.pipeline.wiring import build_local
from streamrec.testing.measure import Client

LOT_S, QUICK_S = 0.1, 8
NEARLY = 0.9
"""Of a bound; what is full loses some users and items at a time."""
STATE = ("registry", "checkpoint", "teachers", "lake", "plans")
NAMED = (
    "driver", "student", "control", "scorer", "statistics", "Board", "ServeReplica", "ServeController", "proxy", "ProxyActor", "broker",
    "raylet", "GCS", "DashboardAgent",
)  # fmt: skip
BARS = {
    "lag_last": "bounded: not above a few micro-batches",
    "num_growing": "0: memory of every process flat after warm-up (the broker's heap fills up to its bound first)",
    "is_full": "1: or state that fills up grows, too",
    "kept_mb_per_min": "bounded disk",
}


@dataclass(frozen=True)
class Size:
    """Say how much is kept; all of it is full half a minute after the start.

    Attributes:
        rate: Clicks a second.
    """

    rate: int

    @property
    def max_users(self) -> int:
        """Return the bound on users; twice the rate act at a time, and a twentieth of the rate comes anew each second."""
        return 3 * self.rate

    @property
    def max_items(self) -> int:
        """Return the bound on items; three quarters of it are clicked at a time, and a fiftieth of the rate comes anew each second."""
        return self.rate

    @property
    def event_ids(self) -> int:
        """Return how many event ids are remembered."""
        return 25 * self.rate

    @property
    def replayed(self) -> int:
        """Return how many examples the students keep."""
        return 5 * self.rate

    def world(self) -> ArrivingWorld:
        """Return the world."""
        return ArrivingWorld(num_users=2 * self.rate, num_items=3 * self.rate // 4)

    def full(self, controller: Controller) -> dict[str, float]:
        """Return how much of each bound is reached."""
        ingest, replayed = controller.ingest, len(controller.labelling.store)
        return {
            "users": len(ingest.histories) / self.max_users, "items": ingest.vocabulary.num_items / self.max_items,
            "event ids": len(ingest.dedupe) / self.event_ids, "replay": replayed / self.replayed,
        }  # fmt: skip


def settings(folder: Path, broker: str, size: Size, num_replicas: int) -> Config:
    """Return a configuration with small bounds, in which everything that is kept must leave again within minutes."""
    teachers = {
        "transformer_refresh_events": 100 * size.rate,
        "linear_refresh_events": 20 * size.rate,
        "window_events": 10 * size.rate,
        "transformer": {"first_steps": 20, "refresh_steps": 20},
        "linear": {"max_items": 1024},
    }
    features = {"max_users": size.max_users, "max_items": size.max_items, "dedupe_horizon": size.event_ids}
    serving = {"port": 0, "num_replicas": max(1, num_replicas), "history_users": size.max_users}
    pipeline = {"checkpoint_interval_s": 5.0, "publish_interval_s": 2.0}
    registry = {"keep_last": 5, "keep_for_s": 20.0}
    lake = {"optimize_every": 10, "keep_for_s": 20.0}
    return parse_config({
        "state": str(folder), "log": {"broker": broker}, "features": features, "teachers": teachers, "pipeline": pipeline, "registry": registry,
        "lake": lake, "student": {"bootstrap_passes": 1, "replay_capacity": size.replayed}, "serving": serving,
    })  # fmt: skip


def send(writer: LogWriter, topic: str, world: ArrivingWorld, num: int, now_ms: int, span_ms: int) -> None:
    """Append the next clicks, which happened within the last ``span_ms``."""
    keys, values = encode_table(world.take(num, now_ms - span_ms, now_ms))
    writer.append(topic, [Record(key, value) for key, value in zip(keys, values, strict=True)])


def first_events(writer: LogWriter, config: Config, size: Size, now_ms: int) -> None:
    """Append what the bootstrap learns from: two seconds' clicks."""
    send(writer, config.log.events_topic, size.world(), 2 * size.rate, now_ms, 60_000)


def produce(address: LogAddress, log: LogConfig, size: Size, now_ms: int, url: str, stop: Any, asked: Any) -> None:
    """Send the clicks that follow those of the bootstrap, until told to stop; one that is late is sent at once. Ask once for each lot."""
    with suppress(PermissionError):  # What is measured must not keep its own load away, as far as this user may see to it.
        os.nice(-5)
    writer, world, num = open_writer(address, log), size.world(), round(size.rate * LOT_S)
    world.take(2 * size.rate, now_ms - 60_000, now_ms)
    client, due, number = Client(url) if url else None, time.monotonic(), 0
    while not stop.wait(max(0.0, due - time.monotonic())):
        send(writer, log.events_topic, world, num, SystemClock().now_ms(), round(1000 * LOT_S))
        due, number = due + LOT_S, number + 1
        if client is not None:
            asked[not _answers(client, f"u{number * num // 20}")] += 1
    writer.close()


def _answers(client: Client, user: str) -> bool:
    try:
        status, answer = client.request("GET", f"/v1/recommend/{user}?n=20")
    except (OSError, http.client.HTTPException):
        return False
    return status == http.HTTPStatus.OK and bool(answer.get("items"))


def make_teachers(folder: Path, size: Size, now_ms: int) -> None:
    """Make the first teachers in this process: the loop finds them, and need not wait for Ray Train."""
    config, log = settings(folder, "local", size, 0), MemoryLog()
    log.ensure_topic(config.log.events_topic, config.log.num_partitions)
    controller = build_local(config, log, str(folder), SystemClock(), dead_letters=log)
    controller.recover()
    first_events(log, config, size, now_ms)
    bootstrap(controller, log.latest(config.log.events_topic))


def _pid(_: object) -> int:
    return os.getpid()


def names_of(controller: Controller, **more: int | None) -> dict[int, str]:
    """Return what the known processes are."""
    parts = controller.parts
    workers = {"student": parts.student, "control": parts.control, "scorer": parts.scorer, "statistics": parts.linear}
    names = {worker.submit(_pid).result(): name for name, worker in workers.items() if worker is not None}
    return names | {os.getpid(): "driver"} | {pid: name for name, pid in more.items() if pid is not None}


def main() -> None:
    """Run the benchmark."""
    options = arguments(__doc__ or "", seconds=600, rate=2000, replicas=1)
    logging.getLogger("streamrec").setLevel(logging.ERROR)
    bound_heaps()  # As a streaming job does, before there are threads: heaps that are there stay.
    seconds, size = QUICK_S if options.quick else options.seconds, Size(options.rate)
    now_ms, warm_s = SystemClock().now_ms(), seconds / 4
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="streamrec-soak-")))
        make_teachers(folder / "pure", size, now_ms)
        take_teachers(folder / "pure", folder / "full")
        said: list[str] = []
        config = settings(folder / "full", "auto", size, options.replicas)
        session = stack.enter_context(open_session(config, said.append, num_replicas=options.replicas))
        driver = Driver(lambda: session.controller("streamrec-soak"), time.sleep, said.append, session.numbers())
        first_events(session.writer, session.config, size, now_ms)
        bootstrap(driver.controller, session.reader.latest(session.config.log.events_topic))
        url = ""
        if options.replicas:
            stack.callback(shutdown)
            url = launch(session.config, session.address, session.state_url, registry_url(session.state_url))
        spawn = multiprocessing.get_context("spawn")
        stop, asked = spawn.Event(), spawn.Array("l", 2)
        arguments_ = (session.address, session.config.log, size, now_ms, url, stop, asked)
        producer = spawn.Process(target=produce, args=arguments_, daemon=True)
        producer.start()
        names = names_of(driver.controller, producer=producer.pid)
        watch = Watch(max(0.5, seconds / 300), names, {name: folder / "full" / name for name in STATE}, {})
        lags, began, full = Series(), dict(driver.controller.state.counts), dict[str, float]()
        num_steps, num_failed, num_refreshed = 0, 0, 0
        watch.start()
        while watch.second() < seconds:
            report = driver.step()
            if report is not None:
                num_steps, num_failed = num_steps + 1, num_failed + len(report.refreshes_failed)
                num_refreshed += len(report.activated)
                lags.add(watch.second(), report.lag)
            if not full and watch.second() >= warm_s:
                full = size.full(driver.controller)
        took_s = watch.second()
        stop.set()
        producer.join()
        watch.stop()
        controller = driver.controller
        books = {name: number - began.get(name, 0) for name, number in controller.state.counts.items()}
        applied = books["applied"]
        print("books: " + ", ".join(f"{name} {number}" for name, number in books.items()), flush=True)
        counts = {name: books[name] for name in ("received", "duplicate", "late", "rejected", "quarantined")}
        counts |= {"items_left": controller.ingest.vocabulary.counters["left"], "users_held": len(controller.ingest.histories)}
        counts |= {"answers": asked[0], "answers_failed": asked[1], "is_full": int(min(full.values(), default=0.0) >= NEARLY)}
    print("of the bounds after the warm-up " + ", ".join(f"{name} {share:.0%}" for name, share in full.items()))
    report_all(watch, lags, (warm_s, took_s), applied, counts, options, {
        "steps": num_steps, "refreshes": num_refreshed, "refreshes_failed": num_failed, "broker": said[0] if said else "", "failures": said[1:][-3:],
    })  # fmt: skip


def report_all(
    watch: Watch, lags: Series, times_s: tuple[float, float], applied: int, counts: dict[str, int], options: Any, more: dict[str, object]
) -> None:
    """Print what was seen, and the last line."""
    warm_s, took_s = times_s
    found, later = lines(watch, warm_s), lags.since(warm_s)
    print(f"lag {thinned(later.values, 20)} records")
    disk = Series(watch.others["lake"].times, [sum(row) for row in zip(*(watch.others[name].values for name in STATE), strict=True)])
    kept = Series(disk.times, [sum(row) for row in zip(*(watch.others[name].values for name in STATE if name != "lake"), strict=True)])
    for name in STATE:
        print(f"disk {name} {thinned(watch.others[name].values)} MB")
    result: dict[str, float | int | str | None] = {
        "seconds": took_s, "events_per_s": applied / took_s, "lag_max": max(later.values, default=None),
        "lag_last": later.values[-1] if later.values else None,
        **summary(found, NAMED), "disk_mb_last": disk.values[-1], "disk_mb_per_min": Line.of(disk.since(warm_s)).per_minute,
        "kept_mb_per_min": Line.of(kept.since(warm_s)).per_minute, **counts,
    }  # fmt: skip
    if options.quick:
        print("quick " + " ".join(f"{name} {value}" for name, value in result.items()) + "; too short for a slope")
        result = dict.fromkeys(result)
    finish(result, facts(rate=options.rate, replicas=options.replicas, **more), BARS)


if __name__ == "__main__":
    main()
