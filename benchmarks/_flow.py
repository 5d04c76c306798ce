"""Share what the benchmarks of the whole flow do: settings, sending, a bootstrap that does not wait for Ray Train."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from streamrec.clock import SystemClock
from streamrec.config import Config, parse_config
from streamrec.events.codec import encode_table
from streamrec.events.datasets import Dataset
from streamrec.log.base import LogWriter, Record, TableReader
from streamrec.log.memory import MemoryLog
from streamrec.pipeline.bootstrap import bootstrap
from streamrec.pipeline.checkpoint import CheckpointStore
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.layout import checkpoint_url
from streamrec.pipeline.report import StepReport
from streamrec.pipeline.wiring import build_local
from streamrec.storage import open_storage

START = 6_000
"""Events of the bootstrap."""


def settings(folder: Path, broker: str, batch: int) -> Config:
    """Return a configuration with micro-batches of at most ``batch`` events and teachers that never refresh while we measure."""
    teachers = {
        "transformer_refresh_events": 10**9,
        "linear_refresh_events": 10**9,
        "transformer": {"first_steps": 20},  # A hardly trained teacher costs as much to ask as a good one.
    }
    values = {"state": str(folder), "log": {"broker": broker}, "features": {"lateness_s": "10000d"}, "teachers": teachers}
    # The same micro-batches for everybody, whatever was measured before.
    pipeline = {"max_batch_events": batch, "min_batch_events": batch, "checkpoint_interval_s": 5.0}
    # In the driver a version is some 4 KB of manifest for as long as it is kept, and a file of the lake 50 KB until it is merged: at their bound
    # soon, they are no growth.
    bounds = {"registry": {"keep_for_s": 30.0}, "lake": {"optimize_every": 20}}
    return parse_config({**values, **bounds, "pipeline": pipeline, "student": {"bootstrap_passes": 1}, "serving": {"port": 0}})


def send(writer: LogWriter, topic: str, dataset: Dataset, start: int, end: int) -> None:
    """Append the file's events ``[start, end)``."""
    keys, values = encode_table(dataset.events.slice(start, end - start))
    writer.append(topic, [Record(key, value) for key, value in zip(keys, values, strict=True)])


def steps(controller: Controller) -> Iterator[tuple[StepReport, float]]:
    """Step until the log is read and yield each step with its seconds."""
    while controller.lag():
        began = time.perf_counter()
        report = controller.step()
        if report is not None and report.plan.num_records:
            yield report, time.perf_counter() - began


def prepare(controller: Controller, reader: TableReader, writer: LogWriter, dataset: Dataset) -> None:
    """Bootstrap on the first `START` events."""
    topic = controller.config.log.events_topic
    controller.recover()
    send(writer, topic, dataset, 0, START)
    bootstrap(controller, reader.latest(topic))


def prepare_pure(folder: Path, dataset: Dataset, batch: int) -> tuple[Controller, MemoryLog]:
    """Build and bootstrap a controller that has everything in this process and its log in memory."""
    config, log = settings(folder, "local", batch), MemoryLog()
    log.ensure_topic(config.log.events_topic, config.log.num_partitions)
    controller = build_local(config, log, str(folder), SystemClock(), dead_letters=log)
    prepare(controller, log, log, dataset)
    return controller, log


def take_teachers(source: Path, target: Path) -> None:
    """Copy teacher versions: a refresh under a name that is there is done at once. The pointer first: teachers without one are damage."""
    CheckpointStore(open_storage(checkpoint_url(str(target)))).acquire()
    shutil.copytree(source / "teachers", target / "teachers")
