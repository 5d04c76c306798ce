"""A record counts as written when the broker says where."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import KafkaError

from streamrec.config import LogConfig
from streamrec.errors import BrokerUnavailable
from streamrec.log import kafka_writer
from streamrec.log.base import Record
from streamrec.log.kafka_writer import KafkaWriter


class Said:
    """A message as its acknowledgement carries it."""

    def __init__(self, partition: int | None, offset: int | None) -> None:
        self.place = partition, offset

    def partition(self) -> int | None:
        return self.place[0]

    def offset(self) -> int | None:
        return self.place[1]


class Client:
    """A producer that acknowledges each record with what a test says."""

    made: list[Client]
    offsets: list[int | None]

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings, self.waiting = settings, list[Callable[[KafkaError | None, Any], None]]()
        self.made.append(self)

    def list_topics(self, timeout: float) -> Any:
        partitions = {0: object()}
        return type("Cluster", (), {"topics": {"t": type("Topic", (), {"partitions": partitions})}})

    def produce(self, topic: str, value: bytes, key: bytes | None, partition: int, **options: Any) -> None:
        self.waiting.append(options["on_delivery"])

    def poll(self, timeout: float) -> None:
        for number, acknowledged in enumerate(self.waiting):
            acknowledged(None, Said(0, self.offsets[number]))
        self.waiting = []

    def purge(self) -> None:
        self.waiting = []


@pytest.fixture
def writer(monkeypatch: pytest.MonkeyPatch) -> KafkaWriter:
    Client.made = []
    monkeypatch.setattr(kafka_writer, "Producer", Client)
    return KafkaWriter("127.0.0.1:1", LogConfig())


def records(num: int) -> list[Record]:
    return [Record(b"k", b"%d" % number) for number in range(num)]


def test_the_places_are_those_that_the_broker_says(writer: KafkaWriter) -> None:
    Client.offsets = [7, 8, 9]
    assert writer.append("t", records(3)) == [(0, 7), (0, 8), (0, 9)]


@pytest.mark.parametrize("nowhere", [None, -1, -1001])
def test_an_acknowledgement_without_an_offset_is_no_success_and_the_next_append_connects_anew(writer: KafkaWriter, nowhere: int | None) -> None:
    Client.offsets = [nowhere, 0, 1]
    with pytest.raises(BrokerUnavailable, match="got no offset for 1 of 3 records of t, send them again"):
        writer.append("t", records(3))
    Client.offsets = [0, 1, 2]  # Now the broker says where all are.
    assert writer.append("t", records(3)) == [(0, 0), (0, 1), (0, 2)]
    assert len(Client.made) == 2


def test_one_request_is_under_way_at_a_time_because_a_broker_that_does_not_know_a_writer_yet_takes_its_second_one_first(writer: KafkaWriter) -> None:
    Client.offsets = [0]
    writer.append("t", records(1))
    assert Client.made[0].settings["max.in.flight"] == 1
    assert Client.made[0].settings["enable.idempotence"] is True
