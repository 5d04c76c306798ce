"""What the stream does when its topic changes under it: retention, a topic made anew, partitions added, a broker that restarts."""

from __future__ import annotations

import json
import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions

from streamrec.clock import SystemClock
from streamrec.config import Config, LogConfig, parse_config
from streamrec.errors import BrokerError, RetentionGap, TopicReplaced
from streamrec.log.base import LogTail, Record, TableReader
from streamrec.log.connect import open_table_reader, open_tail
from streamrec.log.embedded import EmbeddedKafka, start_embedded
from streamrec.log.kafka_group import GroupOffsets
from streamrec.pipeline.bootstrap import bootstrap
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.driver import Driver
from streamrec.pipeline.lineage import current_url
from streamrec.pipeline.rebuild import Rebuild
from streamrec.pipeline.skipping import skip_lost
from streamrec.pipeline.wiring import build_local
from streamrec.testing.contracts.log import LogUnderTest, followed, numbered, values

SOON_S = 30.0
BRIEF = {"connect_timeout_s": 3.0}
"""How long one call waits for a broker that is away: the test waits as long."""


def events(start: int, end: int) -> list[Record]:
    now_ms = time.time_ns() // 1_000_000
    return [
        Record(
            b"u%d" % (number % 17),
            json.dumps(
                {
                    "event_id": f"e{number}",
                    "user_id": f"u{number % 17}",
                    "item_id": f"i{number % 23}",
                    "event_type": "click",
                    "event_time": now_ms - 100_000 + number,
                }
            ).encode(),
        )
        for number in range(start, end)
    ]


class Stream:
    """A stream on a topic of its own, everything but the log in this process."""

    def __init__(self, broker: EmbeddedKafka, kafka: LogUnderTest, cfg: LogConfig, folder: Path) -> None:
        self.broker, self.kafka, self.folder = broker, kafka, folder
        self.topic = f"stream-{uuid.uuid4().hex}"
        self.admin = AdminClient({"bootstrap.servers": broker.address.where})
        self.config = self.settings(cfg)
        self.reader = open_table_reader(broker.address, self.config.log)
        kafka.admin.ensure_topic(self.topic, 2)

    def settings(self, cfg: LogConfig) -> Config:
        return parse_config(
            {
                "log": {**cfg.model_dump(), "events_topic": self.topic},
                "teachers": {"enabled": []},
                "student": {"dim": 8, "control": False},
                "pipeline": {"max_batch_events": 50},
            }
        )

    def controller(self) -> Controller:
        made = build_local(self.config, self.reader, str(self.folder), SystemClock())
        made.recover()
        return made

    def append(self, start: int, end: int) -> None:
        self.kafka.writer.append(self.topic, events(start, end))

    def play(self, controller: Controller) -> None:
        while controller.lag():
            controller.step()
        controller.finish()

    def make_anew(self) -> None:
        self.admin.delete_topics([self.topic])[self.topic].result(20)
        deadline = time.monotonic() + SOON_S
        while self.topic in self.admin.list_topics(timeout=10).topics and time.monotonic() < deadline:
            pass
        self.kafka.admin.ensure_topic(self.topic, 2)


@pytest.fixture
def stream(broker: EmbeddedKafka, kafka: LogUnderTest, cfg: LogConfig, tmp_path: Path) -> Iterator[Stream]:
    made = Stream(broker, kafka, cfg, tmp_path / "state")
    yield made
    made.reader.close()


def test_a_retention_gap_is_an_error_with_its_facts_and_skipped_on_purpose_only(stream: Stream) -> None:
    stream.append(0, 100)
    stream.play(stream.controller())
    stream.append(100, 300)
    controller = stream.controller()
    wanted, ends = dict(controller.state.offsets), stream.reader.latest(stream.topic)
    stream.kafka.admin.drop_before(stream.topic, {0: ends[0] - 10, 1: ends[1] - 10})
    with pytest.raises(RetentionGap, match=r"jobs\.stream --skip-lost") as caught:
        controller.step()
    partition = caught.value.facts["partition"]
    assert (caught.value.facts["wanted"], caught.value.facts["earliest"]) == (wanted[partition], ends[partition] - 10)

    again = stream.controller()
    assert skip_lost(again, lambda _: None) is not None
    stream.play(again)
    books = again.books()
    assert (books["received"], books["applied"], books["lost"]) == (300, 120, 180)


def test_a_topic_that_was_made_anew_is_noticed_by_its_id_although_it_has_more_records(stream: Stream) -> None:
    stream.append(0, 60)
    controller = stream.controller()
    stream.play(controller)
    stream.make_anew()
    stream.append(1000, 1200)
    with pytest.raises(TopicReplaced, match=r"was made anew.*got topic id .*allowed topic id .*--skip-lost"):
        stream.controller().step()
    again = stream.controller()
    assert skip_lost(again, lambda _: None) is not None
    stream.play(again)
    assert again.books()["received"] == 260
    assert stream.controller().step() is None


def test_a_topic_made_anew_under_a_running_stream_is_noticed_by_its_end(stream: Stream) -> None:
    stream.append(0, 60)
    controller = stream.controller()
    stream.play(controller)
    stream.make_anew()
    with pytest.raises(TopicReplaced, match=r"was made anew.*partition . ends at 0, before offset"):
        controller.step()


def test_partitions_added_to_a_running_stream_are_read_and_followed_from_their_first_offset(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamrec.log.kafka_tail._LOOK_EVERY_S", 0.0)
    stream.append(0, 60)
    controller = stream.controller()
    stream.play(controller)
    tail = open_tail(stream.broker.address, stream.topic, dict(controller.state.offsets), stream.config.log)
    stream.admin.create_partitions([NewPartitions(stream.topic, 3)])[stream.topic].result(20)
    (added,) = events(500, 501)
    stream.kafka.writer.append(stream.topic, [Record(b"k", added.value, partition=2)])
    deadline = time.monotonic() + SOON_S
    while controller.state.offsets.get(2) != 1 and time.monotonic() < deadline:
        controller.step()
    assert controller.state.offsets[2] == 1
    assert values(followed(tail, 1)) == [added.value]
    tail.close()


def test_committed_offsets_are_those_of_the_group_that_lag_tools_look_at(stream: Stream, caplog: pytest.LogCaptureFixture) -> None:
    stream.append(0, 120)
    name = f"group-{uuid.uuid4().hex}"
    group = GroupOffsets(stream.broker.address.where, name, stream.config.log)
    controller = stream.controller()
    controller.parts.progress = group.commit
    stream.play(controller)
    group.close()
    request = [ConsumerGroupTopicPartitions(name)]
    found = stream.admin.list_consumer_group_offsets(request)[name].result(20).topic_partitions
    assert {part.partition: part.offset for part in found} == controller.state.offsets
    assert caplog.messages == []


def test_a_group_that_can_not_be_told_is_a_warning_and_no_error(caplog: pytest.LogCaptureFixture) -> None:
    group = GroupOffsets("127.0.0.1:9", "nobody", LogConfig(connect_timeout_s=0.5))
    group.commit("t", {0: 1})
    group.close()
    (message,) = caplog.messages
    assert "Consumer group nobody: the offsets did not arrive at 127.0.0.1:9" in message


def test_a_group_is_told_again_after_its_broker_was_away_for_longer_than_a_commit_waits(
    tmp_path: Path, broker: EmbeddedKafka, cfg: LogConfig
) -> None:
    del broker  # It says whether one can be started here.
    own = start_embedded(tmp_path, lambda _: None)
    group = GroupOffsets(own.address.where, "g", cfg.model_copy(update={"connect_timeout_s": 0.5}))
    try:
        kill(own)
        deadline = time.monotonic() + SOON_S
        while not group._warned and time.monotonic() < deadline:
            group.commit("t", {0: 1})
            Event().wait(0.05)  # As a stream's steps come one after another.
        assert group._warned
        own = start_embedded(tmp_path, lambda _: None)
        log = LogUnderTest.at(own.address, cfg)
        log.admin.ensure_topic("t", 1)
        log.close()
        deadline = time.monotonic() + SOON_S
        while group._warned and time.monotonic() < deadline:
            group.commit("t", {0: 2})  # The client for administration aborted the process here.
            Event().wait(0.05)
        assert not group._warned
    finally:
        group.close()
        own.stop()


def kill(embedded: EmbeddedKafka) -> None:
    (java,) = Path(f"/proc/{embedded._supervisor.pid}/task/{embedded._supervisor.pid}/children").read_text().split()
    os.kill(int(java), signal.SIGKILL)
    embedded.stop()


@pytest.mark.parametrize("end", [EmbeddedKafka.stop, kill])
def test_a_tail_and_a_writer_in_use_go_on_soon_after_the_broker_restarted_on_its_port(
    tmp_path: Path, broker: EmbeddedKafka, cfg: LogConfig, end: Callable[[EmbeddedKafka], None]
) -> None:
    own = start_embedded(tmp_path, lambda _: None)
    try:
        log = LogUnderTest.at(own.address, cfg.model_copy(update=BRIEF))
        log.admin.ensure_topic("t", 1)
        log.writer.append("t", numbered(5))
        tail: LogTail = open_tail(own.address, "t", {0: 4}, cfg)
        assert values(followed(tail, 1)) == [b"4"]
        with ThreadPoolExecutor(1) as threads:  # Both are used while it goes, as by a server and a stream.
            going = threads.submit(end, own)
            while not going.done():
                try_append(log)
                tail.poll(0.05)
        own = start_embedded(tmp_path, lambda _: None)
        deadline = time.monotonic() + SOON_S
        while (place := try_append(log, b"after")) is None and time.monotonic() < deadline:
            tail.poll(0.05)
        assert place is not None
        seen: list[Any] = []
        while b"after" not in seen and time.monotonic() < deadline:
            seen += values(tail.poll(0.1))
        assert b"after" in seen
        tail.close()
        log.close()
    finally:
        own.stop()


def test_a_stream_asks_again_while_its_broker_is_away_and_goes_on_where_it_was(tmp_path: Path, broker: EmbeddedKafka, cfg: LogConfig) -> None:
    del broker  # It says whether one can be started here.
    patience = cfg.model_copy(update=BRIEF)
    brokers = [start_embedded(tmp_path / "kafka", lambda _: None)]
    log = LogUnderTest.at(brokers[0].address, cfg)
    stream = Stream(brokers[0], log, patience, tmp_path / "state")
    said: list[str] = []

    def wait(seconds: float) -> None:
        if said and len(brokers) == 1:  # The driver has noticed; while it waits, the broker comes back.
            brokers.append(start_embedded(tmp_path / "kafka", lambda _: None))
        Event().wait(seconds)  # As `jobs.stream` waits: ten failures within no time would end it.

    try:
        stream.append(0, 100)
        driver = Driver(stream.controller, wait, said.append)
        while not driver.is_caught_up():
            driver.step()
        before = driver.controller
        stream.append(100, 200)
        kill(brokers[0])
        while not driver.is_caught_up():
            driver.step()
        driver.controller.finish()
        assert len(brokers) == 2
        assert any(brokers[0].address.where in line for line in said)
        assert driver.controller is before  # Nothing was lost, so nothing was built anew.
        books = driver.controller.books()
        assert (books["received"], books["applied"], books["pending"]) == (200, 200, 0)
        assert dict(driver.controller.state.offsets) == stream.reader.latest(stream.topic)
    finally:
        stream.reader.close()
        log.close()
        brokers[-1].stop()


def try_append(log: LogUnderTest, value: bytes = b"meanwhile") -> tuple[int, int] | None:
    try:
        return log.writer.append("t", [Record(b"k", value)])[0]
    except BrokerError:
        return None


def test_a_rebuild_learns_lake_and_topic_and_the_stream_goes_on_with_the_new_lineage(stream: Stream) -> None:
    large = stream.config.model_copy(update={"student": stream.config.student.model_copy(update={"dim": 12})})
    stream.append(0, 200)
    first = stream.controller()
    bootstrap(first, stream.reader.latest(stream.topic))
    # What the topic has dropped is in the lake alone.
    stream.kafka.admin.drop_before(stream.topic, {partition: end // 2 for partition, end in stream.reader.latest(stream.topic).items()})
    stream.append(200, 260)

    def build(lineage_url: str, reader: TableReader, *, publishes: bool) -> Controller:
        made = build_local(large, reader, lineage_url, SystemClock(), dead_letters=stream.kafka.writer)
        if not publishes:
            made.parts.publisher = None
        return made

    said: list[str] = []
    rebuilt = Rebuild(
        large, str(stream.folder), stream.reader, build, dead_letters=stream.kafka.writer, on_step=lambda report: None, say=said.append
    ).run()
    assert rebuilt is not None, said
    assert (rebuilt.books()["received"], rebuilt.books()["applied"]) == (260, 260)
    stream.append(260, 300)
    again = build_local(large, stream.reader, current_url(str(stream.folder)), SystemClock())
    again.recover()
    stream.play(again)
    assert again.books()["applied"] == 300
