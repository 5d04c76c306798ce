"""Follow a Kafka topic from given offsets."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

import pyarrow as pa
from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaError, Message, TopicPartition

from streamrec.config import LogConfig
from streamrec.errors import BrokerError
from streamrec.log.kafka_client import checked_servers, consumer_settings, in_our_words, messages_table, offsets_at, partitions_of
from streamrec.log.kafka_refusal import is_refusal, refusal
from streamrec.log.offsets import beyond_the_end, retention_gap

logger = logging.getLogger(__name__)

_MAX_ROWS_PER_POLL = 10_000
# A client whose broker restarted may not find it again (librdkafka issue 5301): one that has found none for so long is replaced.
_RENEW_AFTER_S = 3.0
# Partitions that were added are noticed this late by an idle tail; a busy one looks when nothing waits.
_LOOK_EVERY_S = 10.0
_LOOK_S = 1.0


class KafkaTail:
    """Follow a topic with one consumer; implements `LogTail`.

    The broker answers a waiting fetch as soon as a record is there. A fetch waits at most 50 ms for one, so an idle tail costs 20 requests
    a second; what is fetched ahead of `poll` is bounded to 16 MiB. Partitions that are added to the topic are followed from their first offset.
    """

    def __init__(self, servers: str, topic: str, start_offsets: Mapping[int, int], cfg: LogConfig) -> None:
        self._servers = checked_servers(servers)
        self._topic = topic
        self._cfg = cfg
        self._next = dict(start_offsets)
        self._is_away = False
        self._refused_by: KafkaError | None = None
        self._look_at_s = time.monotonic() + _LOOK_EVERY_S
        self._consumer = self._connected()

    def poll(self, timeout_s: float) -> pa.Table:
        """Return the records that came; no rows when nothing came in time."""
        if self._is_away and time.monotonic() > self._renew_at_s:
            self._consumer.close()
            self._consumer = self._connected()
        first = self._consumer.poll(timeout_s)
        came = [] if first is None else [first, *self._consumer.consume(_MAX_ROWS_PER_POLL, 0)]
        if self._refused_by is not None and not came:
            raise refusal(self._refused_by, self._servers, self._cfg)
        messages = [message for message in came if self._is_record(message)]
        for message in messages:
            partition, offset = message.partition(), message.offset()
            assert partition is not None
            assert offset is not None
            self._next[partition] = offset + 1
        if messages:
            self._is_away = False
        elif not self._is_away and time.monotonic() > self._look_at_s:
            self._look_for_partitions()
        return messages_table(messages)

    def close(self) -> None:
        """Close the consumer."""
        self._consumer.close()

    def _connected(self) -> Consumer:
        self._renew_at_s = time.monotonic() + _RENEW_AFTER_S
        self._refused_by = None
        settings = consumer_settings(self._servers, self._cfg, fetch_wait_max_ms=50, queued_max_messages_kbytes=16_384)
        consumer = Consumer(settings | {"error_cb": self._on_client_error})
        consumer.assign([TopicPartition(self._topic, partition, offset) for partition, offset in sorted(self._next.items())])
        return consumer

    def _look_for_partitions(self) -> None:
        self._look_at_s = time.monotonic() + _LOOK_EVERY_S
        try:
            there = partitions_of(self._consumer, self._servers, self._topic, _LOOK_S)
        except BrokerError:
            return  # The next poll says so if it lasts.
        added = [partition for partition in there if partition not in self._next]
        if added:
            logger.warning("%s has partitions %s since: they are followed from their first offset", self._topic, added)
            self._next |= offsets_at(self._consumer, self._servers, self._topic, added, OFFSET_BEGINNING, self._cfg.connect_timeout_s)
            self._consumer.incremental_assign([TopicPartition(self._topic, partition, self._next[partition]) for partition in added])

    def _is_record(self, message: Message) -> bool:
        error = message.error()
        if error is None:
            return True
        if error.code() == KafkaError._AUTO_OFFSET_RESET:
            raise self._out_of_range(message)
        raise in_our_words(error, self._servers, self._topic)

    def _on_client_error(self, error: KafkaError) -> None:
        """Note that the broker does not let it in, or went away, once; the client looks for it by itself."""
        if is_refusal(error):
            self._refused_by = error
        if error.code() == KafkaError._ALL_BROKERS_DOWN and not self._is_away:
            if self._refused_by is None:  # The next poll says that.
                logger.warning("%s does not answer: %s is followed again when it does", self._servers, self._topic)
            self._is_away = True
            self._renew_at_s = time.monotonic() + _RENEW_AFTER_S

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
