"""Talk to a Kafka cluster: client settings, offset queries, and errors in our words."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient

from streamrec.config import LogConfig
from streamrec.errors import BrokerError, BrokerRefused, BrokerUnavailable, ConfigError
from streamrec.events.schema import LOG_ROW
from streamrec.log.kafka_refusal import is_refusal
from streamrec.log.kafka_security import security_settings
from streamrec.log.offsets import no_topic
from streamrec.log.rows import NO_ROWS
from streamrec.log.topics import checked_topic

_LEADERLESS = {KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE}
_AWAY = {
    KafkaError._TRANSPORT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._DESTROY_BROKER,  # its address has just left the metadata, as it does when a broker stops
    KafkaError._RESOLVE,
    KafkaError._TIMED_OUT,
    KafkaError._TIMED_OUT_QUEUE,
    KafkaError._MSG_TIMED_OUT,
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError.BROKER_NOT_AVAILABLE,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.OFFSET_NOT_AVAILABLE,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NETWORK_EXCEPTION,
}
_NO_RIGHT = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
}
_MISSING = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}
# librdkafka writes refused connections to standard error many times a second; our errors say it once.
_CRITICAL_ONLY = 2
_PROBE_S = 2.0
_QUESTION = 7_021_997


def checked_servers(servers: str) -> str:
    """Return ``HOST:PORT[,HOST:PORT]`` if it is that.

    Raises:
        ConfigError: It isn't.
    """
    for server in servers.split(","):
        host, _, port = server.strip().rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65_536:
            what = "Broker: not an address"
            raise ConfigError(what, got=repr(servers), allowed="HOST:PORT[,HOST:PORT], or auto, embedded, local", do="correct --broker (log.broker)")
    return servers


def client_settings(servers: str, cfg: LogConfig, **more: Any) -> dict[str, Any]:
    """Return the settings that all clients share, and some more in librdkafka's names with ``_`` for ``.``.

    Raises:
        ConfigError: See `streamrec.log.kafka_security.security_settings`.
        BrokerRefused: See there.
    """
    settings: dict[str, Any] = {
        "bootstrap.servers": servers,
        "log_level": _CRITICAL_ONLY,
        "socket.nagle.disable": True,
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 1000,
        # A stopping broker may say that there is no broker at all; the client would ask the given addresses again only after 5 minutes.
        # Reported as https://github.com/confluentinc/librdkafka/issues/5301.
        "metadata.recovery.rebootstrap.trigger.ms": 1000,
    }
    return settings | security_settings(cfg) | {name.replace("_", "."): value for name, value in more.items()}


def consumer_settings(servers: str, cfg: LogConfig, **more: Any) -> dict[str, Any]:
    """Return the settings of a consumer of given offsets, without a group; an offset that is not there is an error and no jump."""
    settings = client_settings(servers, cfg, enable_auto_commit=False, enable_auto_offset_store=False, auto_offset_reset="error", fetch_min_bytes=1)
    # librdkafka asks for a group even where partitions are assigned by hand; nothing is ever committed to it.
    return settings | {"group.id": "streamrec-unused"} | {name.replace("_", "."): value for name, value in more.items()}


@contextmanager
def explained(servers: str, topic: str = "") -> Iterator[None]:
    """Turn the client's errors into ours."""
    try:
        yield
    except KafkaException as error:
        raise in_our_words(error.args[0], servers, topic) from error


def in_our_words(error: KafkaError, servers: str, topic: str = "") -> BrokerError:
    """Return our error for one of the client's."""
    if error.code() in _AWAY:
        return unavailable(servers, error.str())
    if error.code() in _MISSING:
        return no_topic(topic, servers)
    if error.code() in _NO_RIGHT:
        what, do = (
            f"Kafka: {servers} lets this user in, and not do this",
            "give the user the rights of 'A Kafka with TLS and users' in docs/operations.md",
        )
        return BrokerRefused(what, got=f"{error.name()} ({error.str()})", do=do, address=servers)
    if is_refusal(error):
        what, do = f"Broker: {servers} does not let this client in", "see 'A Kafka with TLS and users' in docs/operations.md"
        return BrokerRefused(what, got=f"{error.name()} ({error.str()})", do=do, address=servers)
    return BrokerError(
        f"Kafka: {servers} refused", got=f"{error.name()} ({error.str()})", do="see the broker's log", address=servers, code=error.name()
    )


def unavailable(servers: str, reason: str) -> BrokerUnavailable:
    """Return the error for a broker that does not answer; names what a plain connection says."""
    no_answer = "something listens there, but does not answer as a Kafka broker does in time"
    answers = {server.strip(): probe(server) for server in servers.split(",")}
    said = "; ".join(f"{server}: {answer or no_answer}" for server, answer in answers.items())
    do = "start it, or correct --broker (log.broker)"
    do += "" if all(answers.values()) else ", or log.security_protocol, if the listener has another one"
    return BrokerUnavailable(f"Broker: no Kafka answers at {servers}", got=f"{said} ({reason})", do=do, address=servers)


def speaks_plainly(server: str) -> bool:
    """Return whether ``HOST:PORT`` answers Kafka's first question (ApiVersions) without TLS."""
    host, _, port = server.strip().rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_PROBE_S) as connection:
            connection.sendall(struct.pack(">ihhih", 10, 18, 0, _QUESTION, -1))
            _, answered = struct.unpack(">ii", connection.recv(8, socket.MSG_WAITALL))
            return bool(answered == _QUESTION)
    except (OSError, struct.error):
        return False


def probe(server: str) -> str:
    """Return why ``HOST:PORT`` takes no plain connection, such as a host without an address; empty when something listens there."""
    host, _, port = server.strip().rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PROBE_S).close()
    except OSError as error:
        return (error.strerror or str(error) or type(error).__name__).lower()
    return ""


def partitions_of(consumer: Consumer, servers: str, topic: str, timeout_s: float) -> list[int]:
    """Return a topic's partitions in order, without creating the topic.

    Raises:
        TopicMissing: It does not exist, or the broker is starting or stopping.
        BrokerUnavailable: Nobody answers within ``timeout_s``.
    """
    checked_topic(topic)
    with explained(servers, topic):
        found = consumer.list_topics(topic, timeout=timeout_s).topics[topic]
        if found.error is not None:
            raise KafkaException(found.error)
    return sorted(found.partitions)


def topic_id_of(servers: str, cfg: LogConfig, topic: str) -> str:
    """Return a topic's id; see `streamrec.log.base.TableReader.topic_id`.

    Raises:
        TopicMissing: It does not exist, or the broker is starting or stopping.
        BrokerUnavailable: Nobody answers within ``log.connect_timeout_s``.
    """
    admin = AdminClient(client_settings(servers, cfg))
    with explained(servers, topic):
        described = admin.describe_topics(TopicCollection([topic]), request_timeout=cfg.connect_timeout_s)[topic].result()
    return str(described.topic_id)


def offsets_at(consumer: Consumer, servers: str, topic: str, partitions: Sequence[int], where: int, timeout_s: float) -> dict[int, int]:
    """Return by partition the earliest offset (inclusive) or the end offset (exclusive), in one request per broker.

    Args:
        consumer: Whom to ask through.
        servers: Named in errors.
        topic: The partitions' topic.
        partitions: Which ones.
        where: ``OFFSET_BEGINNING`` or ``OFFSET_END``; Kafka takes them in place of a timestamp.
        timeout_s: Bound of the wait, also for partitions that have no leader yet, as those of a new topic for a moment.
    """
    wanted = [TopicPartition(topic, partition, where) for partition in partitions]
    deadline = time.monotonic() + timeout_s
    with explained(servers, topic):
        while True:
            try:
                return _answers(consumer, wanted, max(0.1, deadline - time.monotonic()))
            except KafkaException as error:
                if error.args[0].code() not in _LEADERLESS or time.monotonic() > deadline:
                    raise
                consumer.list_topics(topic, timeout=timeout_s)  # Asks who leads now.


def _answers(consumer: Consumer, wanted: list[TopicPartition], timeout_s: float) -> dict[int, int]:
    answers = consumer.offsets_for_times(wanted, timeout=timeout_s) if wanted else []
    for answer in answers:
        if answer.error is not None:
            raise KafkaException(answer.error)
    return {answer.partition: answer.offset for answer in answers}


def messages_table(messages: Iterable[Message]) -> pa.Table:
    """Return the log rows of a client's messages, in their order."""
    rows = [(message.topic(), message.partition(), message.offset(), message.timestamp()[1], message.key(), message.value()) for message in messages]
    return pa.table(list(zip(*rows, strict=True)), schema=LOG_ROW) if rows else NO_ROWS
