"""Tell a consumer group how far a stream has come, for tools that show lag. Nothing here reads it back."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from streamrec.config import LogConfig
from streamrec.errors import StreamrecError
from streamrec.log.kafka_client import checked_servers, client_settings
from streamrec.log.kafka_refusal import is_refusal, reason_of

logger = logging.getLogger(__name__)

_CLOSE_S = 5.0


class GroupOffsets:
    """Commit offsets to a group that has no members.

    A consumer commits, one that never reads: librdkafka's client for administration aborts the whole process when a broker comes back after a request
    about a group had timed out (``rd_kafka_enq_once_del_source_return``, librdkafka 2.16).

    **Contract.** `commit` neither waits nor raises: whether the one before arrived is looked at by the next, and a failure is a warning, once for
    each reason. Commits of an older state after a restart take the group back, as they took the stream back.
    """

    def __init__(self, servers: str, group: str, cfg: LogConfig) -> None:
        self._servers = checked_servers(servers)
        self._group = group
        self._cfg = cfg
        self._consumer: Consumer | None = None
        self._is_under_way = False
        self._is_refused = False
        self._warned = ""

    def commit(self, topic: str, offsets: Mapping[int, int]) -> None:
        """Send next offsets, by partition."""
        wanted = [TopicPartition(topic, partition, offset) for partition, offset in sorted(offsets.items())]
        self._look_back(0.0)
        if self._is_under_way or not wanted:  # The next commit says more than this one.
            return
        if self._is_refused:  # The next consumer reads the secrets anew, which may have been replaced. To end one with a commit under way would wait.
            self._drop()
        try:
            if self._consumer is None:
                self._consumer = self._connect()
            self._consumer.commit(offsets=wanted, asynchronous=True)
        except (KafkaException, StreamrecError, ValueError) as error:
            self._warn(str(error))
        else:
            self._is_under_way = True

    def close(self) -> None:
        """Wait a little for the last commit to arrive, and release the connection."""
        until = time.monotonic() + _CLOSE_S
        while self._is_under_way and time.monotonic() < until:
            self._look_back(0.05)
        self._drop()

    def _drop(self) -> None:
        consumer, self._consumer = self._consumer, None
        self._is_refused = False
        if consumer is not None:
            consumer.close()

    def _connect(self) -> Consumer:
        # The client gives up by itself what finds no coordinator within the session's time.
        patience_ms = max(1, round(self._cfg.connect_timeout_s * 1000))
        more = {"group_id": self._group, "enable_auto_commit": False, "session_timeout_ms": patience_ms}
        return Consumer(client_settings(self._servers, self._cfg, **more) | {"on_commit": self._answered, "error_cb": self._on_client_error})

    def _look_back(self, timeout_s: float) -> None:
        if self._is_under_way and self._consumer is not None:
            self._consumer.poll(timeout_s)  # It has nothing to read; answers come by the way.

    def _answered(self, error: KafkaError | None, partitions: list[TopicPartition]) -> None:
        self._is_under_way = False
        refused = error or next((part.error for part in partitions if part.error is not None), None)
        if refused is None:
            self._warned = ""
        elif not self._is_refused:  # That is said.
            self._warn(reason_of(refused))

    def _on_client_error(self, error: KafkaError) -> None:
        if is_refusal(error):
            self._is_refused = True
            self._warn(reason_of(error))

    def _warn(self, reason: str) -> None:
        if reason != self._warned:
            logger.warning("Consumer group %s: the offsets did not arrive at %s (%s); only lag tools miss them", self._group, self._servers, reason)
        self._warned = reason
