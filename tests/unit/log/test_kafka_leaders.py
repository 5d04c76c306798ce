"""Partitions whose leader is on its way are asked again, for as long as the wait may take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from confluent_kafka import OFFSET_END, KafkaError, KafkaException, TopicPartition

from streamrec.errors import BrokerUnavailable
from streamrec.log.kafka_client import offsets_at


class Leaderless:
    """Answers once the metadata have been asked for so many times."""

    def __init__(self, num_refusals: int, *, is_by_partition: bool = False) -> None:
        self.num_refusals, self.is_by_partition = num_refusals, is_by_partition

    def offsets_for_times(self, wanted: Sequence[TopicPartition], timeout: float) -> list[Any]:
        error = KafkaError(KafkaError.NOT_LEADER_FOR_PARTITION) if self.num_refusals > 0 else None
        if error is not None and not self.is_by_partition:
            raise KafkaException(error)
        return [Answer(each.partition, 7 + each.partition, error) for each in wanted]

    def list_topics(self, topic: str, timeout: float) -> None:
        self.num_refusals -= 1


class Answer:
    def __init__(self, partition: int, offset: int, error: KafkaError | None) -> None:
        self.partition, self.offset, self.error = partition, offset, error


@pytest.mark.parametrize("is_by_partition", [False, True])
def test_a_partition_without_a_leader_is_asked_again_until_it_has_one(is_by_partition: bool) -> None:
    consumer: Any = Leaderless(3, is_by_partition=is_by_partition)
    assert offsets_at(consumer, "127.0.0.1:1", "t", [0, 1], OFFSET_END, 30.0) == {0: 7, 1: 8}


def test_one_that_never_gets_a_leader_is_told_in_time() -> None:
    consumer: Any = Leaderless(10**9)
    with pytest.raises(BrokerUnavailable, match="no Kafka answers"):
        offsets_at(consumer, "127.0.0.1:1", "t", [0], OFFSET_END, 0.05)
