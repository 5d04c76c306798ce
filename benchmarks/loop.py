"""Measure events a second through the whole micro-batch, beside the same functions called without Ray and Kafka, and each stage's share.

    python -m benchmarks.loop [--quick] [--steps 2000] [--backlog 3600000]

Both contestants bootstrap on the first events, get the same two teachers, and then take the same micro-batches in turn, `LOT` of which wait at a
time, as they do in a stream that catches up: evaluation of student, control and baselines, soft labels of two teachers, one new and one replay
pass of student and control, publication, gate and checkpoint. ``full`` reads a real log through Ray Data and keeps student, control, scorer and
statistics in actors; ``pure`` has it all in one process.

Then, not with ``--quick``: ``full`` makes ``--steps`` micro-batches of a few events, and its driver's memory is watched; at last it works off a
backlog of ``--backlog`` events, the file over and over with new ids and later times. The last line is one flat JSON object: events_per_s,
ratio_to_pure, catch_up_min (minutes for one hour of 1,000 events a second; null for another backlog), driver_mb_per_1000_steps (a line through all
but the first quarter, which warms up) with driver_mb_error, the standard error of a line through the means of twelve stretches, and
share_<stage> (of the full loop's time). The driver's memory is what it has allocated, as in the soak; the line of what is resident is printed beside
it. The store of labels, 1.1 KB a query, is filled up first; what a step's events add to the driver's other state is in it: 48 bytes each, until the
event ids are full.
"""

from __future__ import annotations

import dataclasses
import gc
import logging
import os
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import torch

from benchmarks._common import arguments, facts, finish
from benchmarks._flow import START, prepare, prepare_pure, send, settings, steps, take_teachers
from benchmarks._growth import thinned
from benchmarks._processes import NUM_BLOCKS, memory_mb, slope
from streamrec.environment import cache_folder
from streamrec.events.datasets import Dataset, load_dataset
from streamrec.events.demo import demo_dataset
from streamrec.log.base import LogWriter
from streamrec.memory import bound_heaps, give_back
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.report import STAGES, StepReport
from streamrec.pipeline.session import open_session

BATCH = 4096
LOT = 3
ONE_HOUR = 3_600_000
FEW = 4
"""Events of a micro-batch whose driver is watched: what grows is not the state."""
WATCH_EVERY = 20
SENT_AT_ONCE = 50_000
BARS = {
    "events_per_s": "at least 5,000 on 2 cores",
    "ratio_to_pure": "at least 0.7",
    "catch_up_min": "under 12",
    "driver_mb_per_1000_steps": "no growth over 2,000 micro-batches: within twice its error of 0",
}


class Backlog:
    """Give a dataset's events over and over: each time round with other ids, and later."""

    def __init__(self, dataset: Dataset, position: int) -> None:
        self.dataset, self.position = dataset, position
        times = dataset.events["event_time"]
        self._span_ms = pc.max(times).as_py() - pc.min(times).as_py() + 1000

    def send(self, writer: LogWriter, topic: str, num: int) -> None:
        """Append the next events."""
        while num > 0:
            turn, start = divmod(self.position, self.dataset.events.num_rows)
            rows = self.dataset.events.slice(start, min(num, SENT_AT_ONCE))
            if turn:
                ids = pc.binary_join_element_wise(rows["event_id"], f"t{turn}", "/")
                times = pc.add(rows["event_time"], pa.scalar(turn * self._span_ms))
                rows = rows.drop_columns(["event_id", "event_time"]).append_column("event_id", ids).append_column("event_time", times)
                rows = rows.select(self.dataset.events.column_names)
            send(writer, topic, dataclasses.replace(self.dataset, events=rows), 0, rows.num_rows)
            self.position, num = self.position + rows.num_rows, num - rows.num_rows


def now_mb() -> tuple[float, float]:
    """Return what this process has allocated and what of it all is resident, in MB, after what is free has been given back."""
    gc.collect()
    give_back()
    resident = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return memory_mb(os.getpid())[0], resident / 1e6


def fill_labels(controller: Controller, writer: LogWriter, topic: str, backlog: Backlog) -> None:
    """Learn until the store of labels is at its bound: up to there it grows, which is no growth of the driver's."""
    while len(controller.labelling.store) < controller.config.student.replay_capacity:
        backlog.send(writer, topic, LOT * BATCH)
        for _ in steps(controller):
            pass


def driver_growth(controller: Controller, writer: LogWriter, topic: str, backlog: Backlog, num_steps: int) -> tuple[float, float] | None:
    """Return by how many MB this process grows in 1,000 micro-batches, with the standard error: a line through all but the first quarter.

    None for too few of them.
    """
    points: list[tuple[float, float, float]] = []
    for number in range(num_steps):
        backlog.send(writer, topic, FEW)
        for _ in steps(controller):
            pass
        if number % WATCH_EVERY == 0:
            points.append((number / 1000, *now_mb()))
    later = points[len(points) // 4 :]
    if len(later) < NUM_BLOCKS:  # No line through so few points.
        return None
    thousands = [point[0] for point in later]
    for name, place in (("own", 1), ("resident, the object store's pages and libraries included", 2)):
        line, error = slope(thousands, [point[place] for point in later])
        print(f"driver {name}: {thinned([point[place] for point in points], 16)} MB, {line:+.2f} ± {error:.2f} MB per 1,000 micro-batches")
    return slope(thousands, [point[1] for point in later])


def catch_up(controller: Controller, writer: LogWriter, topic: str, backlog: Backlog, num_events: int) -> float:
    """Return how many seconds a backlog takes; print how fast each tenth of it went and what its time went to."""
    backlog.send(writer, topic, num_events)
    began = time.perf_counter()
    done = list(steps(controller))
    took_s = time.perf_counter() - began
    tenths = [done[len(done) * tenth // 10 : len(done) * (tenth + 1) // 10] for tenth in range(10)]
    rates = [sum(report.plan.num_records for report, _ in tenth) / max(sum(seconds for _, seconds in tenth), 1e-9) for tenth in tenths]
    total = sum(seconds for _, seconds in done)
    shares = {stage: round(sum(report.seconds[stage] for report, _ in done) / total, 3) for stage in STAGES}
    print(f"backlog: {len(done)} micro-batches, events/s of each tenth {[round(rate) for rate in rates]}, shares {shares}")
    return took_s


def main() -> None:
    """Run the benchmark."""
    options = arguments(__doc__ or "", steps=2000, backlog=ONE_HOUR)
    bound_heaps()  # As a streaming job does.
    logging.getLogger("streamrec").setLevel(logging.ERROR)
    torch.set_num_threads(1)  # As in the actors.
    num_lots = 1 if options.quick else 4
    dataset = load_dataset(demo_dataset(cache_folder()))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="streamrec-bench-")))
        pure, log = prepare_pure(folder / "pure", dataset, BATCH)
        take_teachers(folder / "pure", folder / "full")
        said: list[str] = []
        config = settings(folder / "full", "auto", BATCH)
        session = stack.enter_context(open_session(config, said.append))
        full, topic = session.controller("streamrec-bench"), config.log.events_topic
        prepare(full, session.reader, session.writer, dataset)
        rates: dict[str, list[float]] = {"pure": [], "full": []}
        seen: list[tuple[StepReport, float]] = []
        backlogs = {"pure": Backlog(dataset, START), "full": Backlog(dataset, START)}
        for number in range(num_lots + 1):
            for name, controller, writer in (("pure", pure, log), ("full", full, session.writer)):
                num_batches = LOT if number else 1  # The first one warms up.
                backlogs[name].send(writer, topic, num_batches * BATCH)
                done = list(steps(controller))
                if number:
                    rates[name].append(num_batches * BATCH / sum(seconds for _, seconds in done))
                    seen += done if name == "full" else []
        if not options.quick:
            fill_labels(full, session.writer, topic, backlogs["full"])
        growth = None if options.quick else driver_growth(full, session.writer, topic, backlogs["full"], options.steps)
        backlog_s = None if options.quick else catch_up(full, session.writer, topic, backlogs["full"], options.backlog)
    fast, slow, total = statistics.median(rates["pure"]), statistics.median(rates["full"]), sum(seconds for _, seconds in seen)
    result: dict[str, float | int | None] = {"events_per_s": slow, "ratio_to_pure": slow / fast}
    result["catch_up_min"] = backlog_s / 60 if backlog_s is not None and options.backlog == ONE_HOUR else None
    result["driver_mb_per_1000_steps"], result["driver_mb_error"] = growth or (None, None)
    result |= {f"share_{stage}": sum(report.seconds[stage] for report, _ in seen) / total for stage in STAGES}
    print(f"passes {config.student.new_passes} new, {config.student.replay_passes} replayed; labels for {labelled(seen):.0%} of the queries")
    about = {"batch": BATCH, "batches": len(seen), "pure_events_per_s": round(fast)}
    about |= {"backlog": options.backlog, "backlog_events_per_s": round(options.backlog / backlog_s)} if backlog_s is not None else {}
    finish(result, facts(broker=said[0] if said else "", **about), BARS)


def labelled(seen: list[tuple[StepReport, float]]) -> float:
    """Return the share of queries that teachers labelled."""
    num = sum(report.num_queries for report, _ in seen)
    return sum(report.num_queries for report, _ in seen if report.plan.teachers) / max(num, 1)


if __name__ == "__main__":
    main()
