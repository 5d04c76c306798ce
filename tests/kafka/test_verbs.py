from __future__ import annotations

import json
import socket
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from typer.testing import CliRunner, Result

from streamrec.cli import app
from streamrec.clock import SystemClock
from streamrec.log.base import Record
from streamrec.log.embedded import EmbeddedKafka
from streamrec.log.offsets import OffsetRange
from streamrec.pipeline.dead_letters import PART_BYTES, dead_letters
from streamrec.testing.contracts.log import LogUnderTest

DAY_MS = 86_400_000


@dataclass(frozen=True)
class Deployment:
    events: str
    letters: str
    call: Callable[..., Result]


@pytest.fixture
def deployment(broker: EmbeddedKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    """A configuration with topics of its own, not created yet, and the command."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STREAMREC_CONFIG", raising=False)
    name = uuid.uuid4().hex
    (tmp_path / "streamrec.toml").write_text(
        f'[log]\nbroker = "{broker.address.where}"\nevents_topic = "events-{name}"\ndead_letter_topic = "dead-{name}"\n'
    )
    return Deployment(f"events-{name}", f"dead-{name}", lambda *arguments: CliRunner().invoke(app, arguments))


@pytest.fixture
def create(broker: EmbeddedKafka) -> Callable[..., None]:
    def create(topic: str, num_partitions: int, **settings: str) -> None:
        admin = AdminClient({"bootstrap.servers": broker.address.where})
        config = {name.replace("_", "."): value for name, value in settings.items()}
        admin.create_topics([NewTopic(topic, num_partitions, 1, config=config)])[topic].result()

    return create


@pytest.fixture
def closed_port() -> Iterator[str]:
    """An address at which nobody listens, kept from others meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


def findings(result: Result) -> list[tuple[str, str, str]]:
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    return [(line["verdict"], line["check"], line["found"]) for line in lines]


def test_a_dead_letter_in_parts_is_repaired_and_sent_once_through_kafka(deployment: Deployment, kafka: LogUnderTest) -> None:
    kafka.admin.ensure_topic(deployment.events, 2)
    kafka.admin.ensure_topic(deployment.letters, 1)
    event = {"event_id": "e1", "user_id": "u1", "item_id": "i1", "event_type": "klick", "event_time": 5, "context": {"page": "x" * PART_BYTES}}
    row = {"topic": deployment.events, "partition": 1, "offset": 7, "reason": "unknown_event_type", "detail": "klick", "key": b"u1"}
    for _ in range(2):
        kafka.writer.append(deployment.letters, dead_letters(row | {"value": json.dumps(event).encode()}))
    kafka.writer.append(deployment.letters, [Record(b"x", b"not ours")])
    listed = [json.loads(line) for line in deployment.call("dlq", "list", "--json").stdout.splitlines()]
    assert [(letter["offset"], letter["bytes"], letter["replays"]) for letter in listed] == [(7, len(json.dumps(event)), 0)]
    replay = ("dlq", "replay", f"{deployment.events}/1/7", "--set", "event_type=click")
    assert deployment.call(*replay).exit_code == 0
    assert deployment.call(*replay).stdout == ""
    latest = kafka.reader.latest(deployment.events)
    rows = kafka.reader.read_table([OffsetRange(deployment.events, number, 0, end) for number, end in latest.items()])
    assert rows["key"].to_pylist() == [b"u1"]
    assert json.loads(rows["value"][0].as_py()) == {**event, "event_type": "click"}
    assert json.loads(deployment.call("dlq", "list", "--json").stdout)["replays"] == 1


def test_a_deletion_is_acknowledged_by_kafka(deployment: Deployment, kafka: LogUnderTest) -> None:
    kafka.admin.ensure_topic(deployment.events, 2)
    result = deployment.call("delete-user", "u1", "--yes")
    assert result.exit_code == 0, result.stderr
    topic, partition, offset = result.stdout.split()[0].split("/")
    rows = kafka.reader.read_table([OffsetRange(topic, int(partition), int(offset), int(offset) + 1)])
    assert json.loads(rows["value"][0].as_py())["kind"] == "deletion"


def test_a_deployment_that_will_run_has_no_failure(deployment: Deployment, kafka: LogUnderTest, broker: EmbeddedKafka) -> None:
    result = deployment.call("doctor", "--json")
    assert result.exit_code == 0, result.stdout
    assert ("OK", "broker", f"Kafka at {broker.address.where} answers, 1 broker") in findings(result)
    assert ("OK", f"topic {deployment.events}", "not there yet: jobs create it with 2 partitions and replication factor 1") in findings(result)
    kafka.admin.ensure_topic(deployment.events, 2)
    kafka.admin.ensure_topic(deployment.letters, 1)
    kafka.writer.append(deployment.events, [Record(b"u", b"{}")])
    result = deployment.call("doctor", "--json")
    assert result.exit_code == 0, result.stdout
    texts = [found for verdict, check, found in findings(result) if check == f"topic {deployment.events}"]
    assert any(text.startswith("retention.ms = 604800000 (7d)") or text.startswith("retention.ms = -1") for text in texts)
    assert "cleanup.policy = delete" in texts
    assert any(verdict == "OK" and check == "clock" and found.startswith("the newest record") for verdict, check, found in findings(result))


@pytest.mark.parametrize("own", ["embedded", "auto"])
def test_an_embedded_broker_that_runs_is_looked_into_as_the_jobs_that_will_join_it_do(
    deployment: Deployment, create: Callable[..., None], broker: EmbeddedKafka, tmp_path: Path, own: str
) -> None:
    create(deployment.events, 3)
    (tmp_path / "runs" / "default").mkdir(parents=True)
    (tmp_path / "runs" / "default" / "kafka").symlink_to(broker._folder)
    result = deployment.call("doctor", "--json", "--broker", own)
    assert result.exit_code == 1
    assert ("OK", "broker", f"Kafka at {broker.address.where} answers, 1 broker") in findings(result)
    assert "3 partitions, log.num_partitions = 2" in " ".join(found for verdict, _, found in findings(result) if verdict == "FAIL")


def test_a_topic_that_would_lose_events_fails_before_anything_runs(deployment: Deployment, create: Callable[..., None]) -> None:
    create(deployment.events, 3, cleanup_policy="compact,delete", retention_ms="3600000")
    create(deployment.letters, 1, max_message_bytes="100000")
    result = deployment.call("doctor", "--json")
    assert result.exit_code == 1
    failures = " ".join(found for verdict, _, found in findings(result) if verdict == "FAIL")
    for part in (
        "3 partitions, log.num_partitions = 2",
        "cleanup.policy = compact,delete",
        "retention.ms = 3600000 (1h)",
        "max.message.bytes = 100000",
    ):
        assert part in failures
    shorter = deployment.call("doctor", "--json", "--longest-downtime", "1h")
    assert "retention.ms" not in " ".join(found for verdict, _, found in findings(shorter) if verdict == "FAIL")


def test_a_producer_whose_clock_is_days_ahead_is_seen(deployment: Deployment, kafka: LogUnderTest, create: Callable[..., None]) -> None:
    create(deployment.events, 2, message_timestamp_after_max_ms=str(9 * DAY_MS))
    kafka.writer.append(deployment.events, [Record(b"u", b"{}", timestamp_ms=SystemClock().now_ms() + 3 * DAY_MS), Record(b"u", b"{}")])
    assert all(verdict == "OK" for verdict, check, _ in findings(deployment.call("doctor", "--json")) if check == "clock")
    kafka.writer.append(deployment.events, [Record(b"u", b"{}", timestamp_ms=SystemClock().now_ms() + 3 * DAY_MS)])
    result = deployment.call("doctor", "--json")
    assert result.exit_code == 1
    assert any(verdict == "FAIL" and check == "clock" and "ahead of ours" in found for verdict, check, found in findings(result))


def test_a_broker_that_is_away_is_named_and_the_rest_is_checked(deployment: Deployment, closed_port: str) -> None:
    result = deployment.call("doctor", "--broker", closed_port)
    assert result.exit_code == 1
    assert f"FAIL  broker: Broker: no Kafka answers at {closed_port}, got {closed_port}: connection refused" in result.stdout
    assert "      → start it, or correct --broker (log.broker)" in result.stdout
    assert "OK    storage" in result.stdout
    assert "1 FAIL" in result.stderr
