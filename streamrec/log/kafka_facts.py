"""Ask a Kafka cluster what it is and how its topics are set up. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from streamrec.config import LogConfig
from streamrec.log.kafka_client import checked_servers, client_settings, explained
from streamrec.log.kafka_reach import check_let_in

SETTINGS = ("cleanup.policy", "retention.ms", "retention.bytes", "min.insync.replicas", "max.message.bytes", "message.timestamp.type")


@dataclass(frozen=True)
class TopicFacts:
    """Hold how a topic is set up.

    Attributes:
        replication: Copies of the partition that has the fewest; None where the log keeps no copies.
        settings: The topic's own or the broker's, of `SETTINGS`; empty where the log has none or does not tell.
    """

    num_partitions: int
    replication: int | None = None
    settings: Mapping[str, str] = field(default_factory=dict)


def kafka_facts(servers: str, cfg: LogConfig, topics: Iterable[str], timeout_s: float) -> tuple[int, dict[str, TopicFacts]]:
    """Return how many brokers answer, and the topics among ``topics`` that exist.

    Args:
        servers: ``HOST:PORT[,HOST:PORT]``.
        cfg: Says how it is spoken to.
        topics: Whom to ask about.
        timeout_s: Bound of each of two requests.

    Raises:
        BrokerUnavailable: Nobody answers.
        BrokerRefused: It does not let this client in.
    """
    check_let_in(checked_servers(servers), cfg, timeout_s)
    admin = AdminClient(client_settings(servers, cfg))
    with explained(servers):
        cluster = admin.list_topics(timeout=timeout_s)
    found = {topic: cluster.topics[topic] for topic in topics if topic in cluster.topics}
    facts: dict[str, TopicFacts] = {}
    for topic, metadata in found.items():
        replication = min((len(partition.replicas) for partition in metadata.partitions.values()), default=0)
        facts[topic] = TopicFacts(len(metadata.partitions), replication, _settings(admin, topic, timeout_s))
    return len(cluster.brokers), facts


def _settings(admin: AdminClient, topic: str, timeout_s: float) -> dict[str, str]:
    resource = ConfigResource(ResourceType.TOPIC, topic)
    try:
        entries = admin.describe_configs([resource], request_timeout=timeout_s)[resource].result()
    except KafkaException:  # such as no right to ask
        return {}
    return {name: entries[name].value for name in SETTINGS if name in entries and entries[name].value is not None}
