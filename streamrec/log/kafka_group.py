"""Tell a consumer group how far a stream has come, for tools that show lag. Nothing here reads it back."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from streamrec.config import LogConfig
from streamrec.log.kafka_client import checked_servers, client_settings

logger = logging.getLogger(__name__)

_CLOSE_S = 5.0


class GroupOffsets:
    """Commit offsets to a group that has no members.

    **Contract.** `commit` neither waits nor raises: whether the one before arrived is looked at by the next, and a failure is a warning, once for
    each reason. Commits of an older state after a restart take the group back, as they took the stream back.
    """

    def __init__(self, servers: str, group: str, cfg: LogConfig) -> None:
        self._servers = checked_servers(servers)
        self._group = group
        self._cfg = cfg
        self._admin: AdminClient | None = None
        self._under_way: Future[Any] | None = None
        self._warned = ""

    def commit(self, topic: str, offsets: Mapping[int, int]) -> None:
        """Send next offsets, by partition."""
        self._look_back(0.0)
        wanted = [TopicPartition(topic, partition, offset) for partition, offset in sorted(offsets.items())]
        if self._under_way is not None or not wanted:  # The next commit says more than this one.
            return
        try:
            if self._admin is None:
                self._admin = AdminClient(client_settings(self._servers))
            request = [ConsumerGroupTopicPartitions(self._group, wanted)]
            self._under_way = self._admin.alter_consumer_group_offsets(request, request_timeout=self._cfg.connect_timeout_s)[self._group]
        except (KafkaException, ValueError) as error:
            self._warn(str(error))

    def close(self) -> None:
        """Wait a little for the last commit to arrive, and release the connection."""
        self._look_back(_CLOSE_S)
        self._admin = None

    def _look_back(self, timeout_s: float) -> None:
        if self._under_way is None:
            return
        try:
            for answer in self._under_way.result(timeout_s).topic_partitions:
                if answer.error is not None:
                    raise KafkaException(answer.error)
            self._warned = ""
        except TimeoutError:
            return
        except KafkaException as error:
            self._warn(error.args[0].str())
        self._under_way = None

    def _warn(self, reason: str) -> None:
        if reason != self._warned:
            logger.warning("Consumer group %s: the offsets did not arrive at %s (%s); only lag tools miss them", self._group, self._servers, reason)
        self._warned = reason
