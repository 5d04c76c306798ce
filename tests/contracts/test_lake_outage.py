"""A stream whose lake lies in a bucket that nobody answers for during a minute of the stream's clock."""

from __future__ import annotations

import importlib.util
import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from streamrec.clock import ManualClock
from streamrec.config import Config, parse_config
from streamrec.errors import StorageError
from streamrec.log.base import Record
from streamrec.log.lake import EventLake
from streamrec.log.memory import MemoryLog
from streamrec.pipeline.checkpoint import CheckpointStore
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.driver import Driver
from streamrec.pipeline.lake_check import check_lake
from streamrec.pipeline.layout import checkpoint_url
from streamrec.pipeline.wiring import build_local
from streamrec.storage import open_storage

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("moto") is None, reason="buckets need `pip install 'streamrec[dev]'`: moto stands in for one"
)

NOW_MS = 1_700_000_000_000
NUM_EVENTS = 240
AWAY_FROM_S, AWAY_UNTIL_S = 3.0, 63.0
RESTART_AFTER_S = 20.0


class AwayLake:
    """Call a table whose server answers, except between two times of a clock, when the address has no listener."""

    def __init__(self, inner: EventLake, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
        self.inner, self.clock, self.monkeypatch = inner, clock, monkeypatch

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.inner, name)
        if not callable(value):
            return value

        def call(*args: Any) -> Any:
            with self.reach() as lake:
                return getattr(lake, name)(*args)

        return call

    @contextmanager
    def reach(self) -> Iterator[EventLake]:
        if not AWAY_FROM_S <= self.clock.monotonic_s() < AWAY_UNTIL_S:
            yield self.inner
            return
        with self.monkeypatch.context() as away:
            away.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
            yield EventLake(self.inner.address, lambda: self.inner.app.removeprefix("streamrec/"))


class Stream:
    """A stream over a log in memory, its state in a folder, its lake in the bucket."""

    def __init__(self, folder: Path, change: Callable[[EventLake, ManualClock], Any]) -> None:
        self.folder, self.change, self.clock, self.log = folder, change, ManualClock(NOW_MS), MemoryLog()
        self.config = settings(f"s3://streamrec-tests/{uuid.uuid4().hex}/lake")
        self.log.ensure_topic(self.config.log.events_topic, 2)
        self.log.append(self.config.log.events_topic, [record(number) for number in range(NUM_EVENTS)])
        self.messages: list[str] = []

    def build(self) -> Controller:
        controller = build_local(self.config, self.log, str(self.folder), self.clock)
        controller.parts.lake.lake = self.change(controller.parts.lake.lake, self.clock)
        return controller

    def play(self) -> dict[str, Any]:
        """Step until nothing is left, one second a step; a supervisor starts a job that ended with an error again."""
        while True:
            try:
                driver = Driver(self.build, self.clock.advance, lambda _: None)
                while driver.step() is not None:
                    self.clock.advance(1.0)
                driver.controller.finish()
                break
            except StorageError as error:
                self.messages.append(str(error))
                self.clock.advance(RESTART_AFTER_S)
        report = check_lake(driver.controller.parts.lake.lake, CheckpointStore(open_storage(checkpoint_url(str(self.folder)))))
        return {"books": driver.controller.books(), "lake": (report.rows, report.rows_ahead, report.differences)}


def settings(lake: str) -> Config:
    return parse_config(
        {
            "log": {"num_partitions": 2},
            "lake": {"address": lake},
            "teachers": {"enabled": []},
            "student": {"dim": 8, "batch_size": 32, "replay_capacity": 120, "control": False},
            "pipeline": {"max_batch_events": 30, "checkpoint_interval_s": 2.0},
        }
    )


def record(number: int) -> Record:
    event = {"event_id": f"e{number}", "user_id": f"u{number % 7}", "item_id": f"i{number % 9}", "event_type": "click", "event_time": NOW_MS + number}
    return Record(b"u%d" % (number % 7), json.dumps(event).encode())


def test_a_lake_whose_bucket_is_away_for_a_minute_ends_each_driver_with_its_address_until_one_goes_on(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = Stream(tmp_path / "calm", lambda lake, _: lake)
    wanted = calm.play()
    assert calm.messages == []
    assert wanted == {"books": {**wanted["books"], "applied": NUM_EVENTS}, "lake": (NUM_EVENTS, 0, [])}

    stream = Stream(tmp_path / "disturbed", lambda lake, clock: AwayLake(lake, clock, monkeypatch))
    assert stream.play() == wanted
    assert len(stream.messages) == (AWAY_UNTIL_S - AWAY_FROM_S) / RESTART_AFTER_S
    assert all(stream.config.lake.address in message and "restore access" in message for message in stream.messages)
