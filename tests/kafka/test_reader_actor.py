from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import ray

from streamrec import awaiting
from streamrec.config import LogConfig
from streamrec.errors import RetentionGap
from streamrec.log.embedded import EmbeddedKafka
from streamrec.log.offsets import OffsetRange
from streamrec.pipeline.reader_actor import RayReads, RecycledReader
from streamrec.testing.contracts.log import LogContract, LogUnderTest, dropped_below, numbered, values

# Ray Data warns of the defaults of its own settings.
pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\.")]


@pytest.fixture(scope="module")
def shared(broker: EmbeddedKafka, cfg: LogConfig, ray_cluster: None) -> Iterator[RecycledReader]:
    reader = RecycledReader(broker.address, cfg)
    yield reader
    reader.close()


class TestRecycledReader(LogContract):
    @pytest.fixture
    def log(self, kafka: LogUnderTest, shared: RecycledReader) -> LogUnderTest:
        return dataclasses.replace(kafka, reader=shared)


class Rig:
    """A reader that counts the actors that it starts."""

    def __init__(self, broker: EmbeddedKafka, cfg: LogConfig, kafka: LogUnderTest, **options: Any) -> None:
        self.actors: list[Any] = []
        self.topic = f"recycled-{uuid.uuid4().hex}"
        kafka.admin.ensure_topic(self.topic, 2)
        kafka.writer.append(self.topic, numbered(20, partition=1))

        def start() -> Any:
            make: Any = ray.remote(RayReads)
            self.actors.append(make.options(num_cpus=0).remote(broker.address, cfg))
            return self.actors[-1]

        self.reader = RecycledReader(broker.address, cfg, start=start, **options)

    def read(self, start: int, end: int) -> list[bytes]:
        return values(self.reader.read_table(self.ranges(start, end)))

    def ranges(self, start: int, end: int) -> list[OffsetRange]:
        return [OffsetRange(self.topic, 0, 0, 0), OffsetRange(self.topic, 1, start, end)]


def test_successors_take_over_and_the_rows_are_the_same(broker: EmbeddedKafka, cfg: LogConfig, kafka: LogUnderTest) -> None:
    rig = Rig(broker, cfg, kafka, reads_per_actor=2)
    first = rig.reader._actor
    for number in range(60):
        assert rig.read(number % 19, number % 19 + 1) == [b"%d" % (number % 19)]
        if rig.reader._actor is not first:
            break
    assert rig.reader._actor is rig.actors[1]
    assert rig.read(0, 20) == [b"%d" % number for number in range(20)]
    rig.reader.close()


def test_an_actor_that_died_is_replaced_and_the_read_done_again(broker: EmbeddedKafka, cfg: LogConfig, kafka: LogUnderTest) -> None:
    rig = Rig(broker, cfg, kafka)
    rig.reader.read_ahead(rig.ranges(3, 5))
    ray.kill(rig.actors[0])
    assert rig.read(3, 5) == [b"3", b"4"]
    ray.kill(rig.reader._actor)
    assert rig.read(4, 6) == [b"4", b"5"]
    rig.reader.close()


def test_what_is_waited_for_is_said_while_there_is_no_room_for_the_actor(
    broker: EmbeddedKafka, cfg: LogConfig, kafka: LogUnderTest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(broker, cfg, kafka)
    monkeypatch.setattr(awaiting, "SLOW_S", 0.01)
    assert rig.read(3, 5) == [b"3", b"4"]
    assert "still waiting for an actor to read the log" in caplog.text
    rig.reader.close()


def test_what_was_read_ahead_is_used_for_the_same_ranges_only_and_its_errors_are_those_of_the_read(
    broker: EmbeddedKafka, cfg: LogConfig, kafka: LogUnderTest
) -> None:
    rig = Rig(broker, cfg, kafka)
    rig.reader.read_ahead(rig.ranges(0, 4))
    assert rig.read(0, 4) == [b"0", b"1", b"2", b"3"]
    rig.reader.read_ahead(rig.ranges(4, 6))
    assert rig.read(4, 5) == [b"4"]
    rig.reader.read_ahead(rig.ranges(19, 21))  # Not there yet.
    kafka.writer.append(rig.topic, numbered(1, partition=1))
    assert rig.read(19, 21) == [b"19", b"0"]
    topic = f"dropped-{uuid.uuid4().hex}"
    kafka.admin.ensure_topic(topic, 1)
    earliest = dropped_below(kafka, topic, 6)
    gone = [OffsetRange(topic, 0, 0, 8)]
    rig.reader.read_ahead(gone)
    with pytest.raises(RetentionGap) as caught:
        rig.reader.read_table(gone)
    assert caught.value.facts["earliest"] == earliest
    rig.reader.close()
