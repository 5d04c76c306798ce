"""Follow a Kafka topic from given offsets."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import pyarrow as pa
from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaError, Message, TopicPartition

from streamrec.config import LogConfig
from streamrec.errors import BrokerError
from streamrec.log.kafka_client import checked_servers, consumer_settings, in_our_words, messages_table, offsets_at
from streamrec.log.offsets import beyond_the_end, retention_gap

logger = logging.getLogger(__name__)

_MAX_ROWS_PER_POLL = 10_000


class KafkaTail:
    """Follow a topic with one consumer; implements `LogTail`.

    The broker answers a waiting fetch as soon as a record is there. A fetch waits at most 50 ms for one, so an idle tail costs 20 requests
    a second; what is fetched ahead of `poll` is bounded to 16 MiB.
    """

    def __init__(self, servers: str, topic: str, start_offsets: Mapping[int, int], cfg: LogConfig) -> None:
        self._servers = checked_servers(servers)
        self._topic = topic
        self._cfg = cfg
        self._next = dict(start_offsets)
        self._is_away = False
        settings = consumer_settings(servers, fetch_wait_max_ms=50, queued_max_messages_kbytes=16_384)
        self._consumer = Consumer(settings | {"error_cb": self._on_client_error})
        self._consumer.assign([TopicPartition(topic, partition, offset) for partition, offset in sorted(self._next.items())])

    def poll(self, timeout_s: float) -> pa.Table:
        """Return the records that came; no rows when nothing came in time."""
        first = self._consumer.poll(timeout_s)
        came = [] if first is None else [first, *self._consumer.consume(_MAX_ROWS_PER_POLL, 0)]
        messages = [message for message in came if self._is_record(message)]
        for message in messages:
            partition, offset = message.partition(), message.offset()
            assert partition is not None
            assert offset is not None
            self._next[partition] = offset + 1
        if messages:
            self._is_away = False
        return messages_table(messages)

    def close(self) -> None:
        """Close the consumer."""
        self._consumer.close()

    def _is_record(self, message: Message) -> bool:
        error = message.error()
        if error is None:
            return True
        if error.code() == KafkaError._AUTO_OFFSET_RESET:
            raise self._out_of_range(message)
        raise in_our_words(error, self._servers, self._topic)

    def _on_client_error(self, error: KafkaError) -> None:
        """Note that the broker went away, once; the client looks for it by itself."""
        if error.code() == KafkaError._ALL_BROKERS_DOWN and not self._is_away:
            logger.warning("%s does not answer: %s is followed again when it does", self._servers, self._topic)
            self._is_away = True

    def _out_of_range(self, message: Message) -> BrokerError:
        partition = message.partition()
        assert partition is not None
        wanted = self._next[partition]
        timeout_s = self._cfg.connect_timeout_s
        earliest = offsets_at(self._consumer, self._servers, self._topic, [partition], OFFSET_BEGINNING, timeout_s)[partition]
        if wanted < earliest:
            return retention_gap(self._topic, partition, wanted, earliest)
        latest = offsets_at(self._consumer, self._servers, self._topic, [partition], OFFSET_END, timeout_s)[partition]
        return beyond_the_end(self._topic, partition, wanted, latest)
