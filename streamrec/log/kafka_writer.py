"""Append to Kafka, and create its topics."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from streamrec.config import LogConfig
from streamrec.errors import BrokerUnavailable, StreamrecError
from streamrec.log.base import MAX_RECORD_BYTES, Record, check_records, too_large
from streamrec.log.kafka_client import checked_servers, client_settings, explained, in_our_words, unavailable
from streamrec.log.kafka_reach import check_let_in
from streamrec.log.offsets import no_partition, no_topic, other_num_partitions
from streamrec.log.topics import KAFKA_PARTITIONER, checked_topic

# Another thread's poll may take this thread's acknowledgement: then it is noticed this much later.
_LOOK_EVERY_S = 0.002
_TOO_LARGE = {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG_SIZE}
_TOPIC_LOOK_EVERY_S = 0.02
_NOWHERE = (-1, -1)


class KafkaWriter:
    """Append to Kafka; implements `LogWriter`. Acknowledged by all replicas, idempotent within the session, connects at the first call."""

    def __init__(self, servers: str, cfg: LogConfig) -> None:
        self._servers = checked_servers(servers)
        self._cfg = cfg
        self._opened: Producer | None = None
        self._lock = threading.Lock()
        self._num_partitions: dict[str, int] = {}

    def append(self, topic: str, records: Sequence[Record]) -> list[tuple[int, int]]:
        """Append and return the (partition, offset) of each record; acknowledged when it returns."""
        checked_topic(topic)
        check_records(records)
        with self._renewed_after_failure():
            return self._append(topic, records)

    def _append(self, topic: str, records: Sequence[Record]) -> list[tuple[int, int]]:
        producer = self._producer()
        self._check_places(producer, topic, records)
        batch = _Batch(len(records))
        deadline = time.monotonic() + self._cfg.connect_timeout_s + 5.0  # the client itself gives up at connect_timeout_s
        for position, record in enumerate(records):
            self._produce(producer, topic, record, batch.acknowledge(position))
        while batch.num_waiting and time.monotonic() < deadline:
            producer.poll(_LOOK_EVERY_S)
        if batch.error is not None:
            raise self._explain(batch.error[1], topic, batch.error[0], records[batch.error[0]])
        if batch.num_waiting:
            raise unavailable(self._servers, f"{batch.num_waiting} of {len(records)} records not acknowledged")
        if num_lost := sum(place == _NOWHERE for place in batch.places):  # Acknowledged as a duplicate of what the broker can't name.
            what = "Broker: it does not say where it wrote what it acknowledged"
            got = f"no offset for {num_lost} of {len(records)} records of {topic}"
            raise BrokerUnavailable(what, got=got, do="send them again: an event counts once by its event_id", address=self._servers)
        return batch.places

    def close(self) -> None:
        """Release the connection."""
        with self._lock:
            producer, self._opened = self._opened, None
        if producer is not None:
            producer.flush(self._cfg.connect_timeout_s)

    @contextmanager
    def _renewed_after_failure(self) -> Iterator[None]:
        """Let the next append connect anew: a client whose broker restarted may not find it again (librdkafka issue 5301)."""
        try:
            yield
        except BrokerUnavailable:
            with self._lock:
                producer, self._opened = self._opened, None
                self._num_partitions.clear()
            if producer is not None:  # What it still holds has been reported as failed.
                producer.purge()
            raise

    def _producer(self) -> Producer:
        with self._lock:
            if self._opened is None:
                check_let_in(self._servers, self._cfg, self._cfg.connect_timeout_s)
                settings = client_settings(
                    self._servers,
                    self._cfg,
                    acks="all",
                    enable_idempotence=True,
                    linger_ms=0,
                    # A broker takes any first number from a writer that it does not know. Of two requests under way to a new partition the first may
                    # be sent back, its leader being on its way, and the second taken; the first, sent again, is called a duplicate, and is lost.
                    max_in_flight=1,
                    partitioner=KAFKA_PARTITIONER,
                    message_max_bytes=MAX_RECORD_BYTES + 65_536,
                    message_timeout_ms=max(1, round(self._cfg.connect_timeout_s * 1000)),
                )
                self._opened = Producer(settings)
            return self._opened

    def _produce(self, producer: Producer, topic: str, record: Record, acknowledge: Callable[[KafkaError | None, Message], None]) -> None:
        partition = -1 if record.partition is None else record.partition
        while True:
            try:
                with explained(self._servers, topic):
                    producer.produce(topic, record.value, record.key, partition, on_delivery=acknowledge, timestamp=record.timestamp_ms or 0)
            except BufferError:  # the client's queue is full: let it send
                producer.poll(_LOOK_EVERY_S)
            else:
                return

    def _explain(self, error: KafkaError, topic: str, position: int, record: Record) -> StreamrecError:
        if error.fatal():
            with self._lock:
                self._opened = None
        if error.code() in _TOO_LARGE:
            return too_large(position, len(record.value) + len(record.key or b""), "what the broker's message.max.bytes says")
        return in_our_words(error, self._servers, topic)

    def _check_places(self, producer: Producer, topic: str, records: Sequence[Record]) -> None:
        """Check that topic and partitions exist: the client alone would look for them until its time is over."""
        num_partitions = self._num_partitions.get(topic)
        highest = max((record.partition for record in records if record.partition is not None), default=-1)
        if num_partitions is None or highest >= num_partitions:  # Partitions may have been added.
            with explained(self._servers, topic):
                found = producer.list_topics(timeout=self._cfg.connect_timeout_s).topics.get(topic)
            if found is None:
                raise no_topic(topic, self._servers)
            num_partitions = self._num_partitions[topic] = len(found.partitions)
        for record in records:
            if record.partition is not None and not 0 <= record.partition < num_partitions:
                raise no_partition(topic, record.partition, range(num_partitions))


class _Batch:
    """Collect the acknowledgements of one append."""

    def __init__(self, num_records: int) -> None:
        self.places = [_NOWHERE] * num_records
        self.num_waiting = num_records
        self.error: tuple[int, KafkaError] | None = None

    def acknowledge(self, position: int) -> Callable[[KafkaError | None, Message], None]:
        def acknowledged(error: KafkaError | None, message: Message) -> None:
            self.num_waiting -= 1
            partition, offset = message.partition(), message.offset()
            if error is not None:
                self.error = self.error or (position, error)
            elif partition is not None and offset is not None and offset >= 0:
                self.places[position] = (partition, offset)

        return acknowledged


class KafkaAdmin:
    """Create topics and drop what is old; implements `LogAdmin`."""

    def __init__(self, servers: str, cfg: LogConfig, replication_factor: int = 1) -> None:
        self._servers = checked_servers(servers)
        self._cfg = cfg
        self._replication_factor = replication_factor
        self._opened: AdminClient | None = None

    def ensure_topic(self, topic: str, num_partitions: int) -> None:
        """Create the topic unless it is there; returns when every partition has a leader."""
        deadline = time.monotonic() + self._cfg.connect_timeout_s
        leaders = self._leaders(checked_topic(topic))
        if not leaders:
            self._create(topic, num_partitions)
        while not leaders or -1 in leaders:
            if time.monotonic() > deadline:
                raise unavailable(self._servers, f"topic {topic!r} has partitions without a leader")
            time.sleep(_TOPIC_LOOK_EVERY_S)
            leaders = self._leaders(topic)
        if len(leaders) != num_partitions:
            raise other_num_partitions(topic, len(leaders), num_partitions)

    def drop_before(self, topic: str, offsets: Mapping[int, int]) -> None:
        """Drop by partition what lies below an offset."""
        wanted = [TopicPartition(topic, partition, offset) for partition, offset in offsets.items()]
        with explained(self._servers, topic):
            for answer in self._admin.delete_records(wanted, request_timeout=self._cfg.connect_timeout_s).values():
                answer.result()

    def close(self) -> None:
        """Release the connection."""
        self._opened = None

    @property
    def _admin(self) -> AdminClient:
        if self._opened is None:
            check_let_in(self._servers, self._cfg, self._cfg.connect_timeout_s)
            self._opened = AdminClient(client_settings(self._servers, self._cfg))
        return self._opened

    def _leaders(self, topic: str) -> list[int]:
        """Return each partition's leader, -1 for none; no partitions when the topic does not exist."""
        with explained(self._servers, topic):
            # Asking for all topics creates none, whatever the broker's settings say.
            found = self._admin.list_topics(timeout=self._cfg.connect_timeout_s).topics.get(topic)
        return [] if found is None else [partition.leader for partition in found.partitions.values()]

    def _create(self, topic: str, num_partitions: int) -> None:
        # Compaction would take offsets out of planned ranges.
        wanted = NewTopic(topic, num_partitions, self._replication_factor, config={"cleanup.policy": "delete"})
        try:
            with explained(self._servers, topic):
                self._admin.create_topics([wanted], request_timeout=self._cfg.connect_timeout_s)[topic].result()
        except StreamrecError as error:
            cause = error.__cause__
            if not isinstance(cause, KafkaException) or cause.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
