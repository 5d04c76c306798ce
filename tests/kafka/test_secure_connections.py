"""A Kafka with TLS and users: every client comes in, and who does not is told why, without a secret in anything that is written."""

from __future__ import annotations

import base64
import json
import logging
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)
from confluent_kafka.cimpl import NewTopic
from typer.testing import CliRunner

import streamrec
from streamrec.cli import app
from streamrec.config import Config, LogConfig, parse_config
from streamrec.errors import BrokerRefused, BrokerUnavailable
from streamrec.log.connect import kafka_address
from streamrec.log.embedded import EmbeddedKafka
from streamrec.log.kafka_facts import kafka_facts
from streamrec.log.kafka_group import GroupOffsets
from streamrec.log.kafka_reach import num_brokers
from streamrec.pipeline.session import log_address, stream_reader
from streamrec.testing.certificates import Authority
from streamrec.testing.contracts.log import LogUnderTest, everything, followed, numbered, values

USER = "streamrec-test"
AT_ONCE_S = 20.0
"""Bound of what shall not wait for `log.connect_limit_s`, on a busy machine."""


@pytest.fixture
def secure(cfg: LogConfig, doors: Any, scram_users: None) -> Callable[..., LogConfig]:
    """Settings that are let in at the door SECURE, with others over them."""
    usual = {"broker": doors.where["SECURE"], "security_protocol": "SASL_SSL", "tls_ca_file": str(doors.authority.ca_file)}
    usual |= {"sasl_username": USER, "sasl_password_file": str(doors.password_file)}
    return lambda **more: LogConfig(**{**cfg.model_dump(), **usual, **more})


@pytest.fixture(scope="module")
def token_url(doors: Any) -> Iterator[str]:
    """An endpoint that gives `USER` unsigned tokens, as the broker takes them, for the right secret."""
    asks = "Basic " + base64.b64encode(f"{USER}:{doors.password}".encode()).decode()

    def part(claims: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")

    class Endpoint(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # the server's name for it
            is_right, now = self.headers["Authorization"] == asks, int(time.time())
            token = f"{part({'alg': 'none'})}.{part({'sub': USER, 'iat': now, 'exp': now + 600})}."
            body = json.dumps(
                {"access_token": token, "token_type": "Bearer", "expires_in": 600} if is_right else {"error": "invalid_client"}
            ).encode()
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(200 if is_right else 401)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Endpoint) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/token"
        server.shutdown()
        thread.join()


def use_every_client(settings: LogConfig, plain: AdminClient, topic: str = "") -> None:
    """Create a topic where none is named, append, read, follow and tell a group, all by these settings."""
    address, topic = kafka_address(settings.broker), topic or f"streamrec-{uuid.uuid4().hex}"
    log = LogUnderTest.at(address, settings)
    assert kafka_facts(address.where, settings, [topic], 10.0)[0] == 1
    log.admin.ensure_topic(topic, 1)
    assert log.writer.append(topic, numbered(3)) == [(0, 0), (0, 1), (0, 2)]
    assert log.reader.topic_id(topic)
    assert values(log.reader.read_table(everything(log.reader, topic))) == [b"0", b"1", b"2"]
    tail = log.follow(topic, {0: 1})
    assert values(followed(tail, 2)) == [b"1", b"2"]
    tail.close()
    log.close()
    group = GroupOffsets(address.where, topic, settings)
    group.commit(topic, {0: 3})
    group.close()
    found = plain.list_consumer_group_offsets([ConsumerGroupTopicPartitions(topic)])[topic].result(10)
    assert [(part.partition, part.offset) for part in found.topic_partitions] == [(0, 3)]


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-512", "OAUTHBEARER"])
def test_every_client_comes_in_over_tls_as_a_user(
    secure: Callable[..., LogConfig], broker: EmbeddedKafka, token_url: str, mechanism: str, capfd: pytest.CaptureFixture[str]
) -> None:
    more = {"oauth_token_url": token_url} if mechanism == "OAUTHBEARER" else {}
    use_every_client(secure(sasl_mechanism=mechanism, **more), AdminClient({"bootstrap.servers": broker.address.where, "log_level": 2}))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "PLAIN"])
def test_a_user_comes_in_by_other_mechanisms(secure: Callable[..., LogConfig], mechanism: str) -> None:
    settings = secure(sasl_mechanism=mechanism)
    assert num_brokers(settings.broker, settings, 10.0) == 1


def test_every_client_comes_in_by_its_certificate(
    cfg: LogConfig, doors: Any, broker: EmbeddedKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = doors.authority.issue("client", password=b"of the key")
    monkeypatch.setenv("STREAMREC_KAFKA_KEY_PASSWORD", "of the key")
    files = {"tls_ca_file": doors.authority.ca_file, "tls_certificate_file": certificate, "tls_key_file": key}
    settings = {**cfg.model_dump(), "broker": doors.where["MUTUAL"], "security_protocol": "SSL"} | {name: str(path) for name, path in files.items()}
    use_every_client(LogConfig(**settings), AdminClient({"bootstrap.servers": broker.address.where, "log_level": 2}))


def test_the_rights_that_the_cluster_s_files_give_are_enough_and_without_them_the_right_is_named(
    secure: Callable[..., LogConfig], broker: EmbeddedKafka
) -> None:
    settings, topic = secure(), f"streamrec-{uuid.uuid4().hex}"
    plain = AdminClient({"bootstrap.servers": broker.address.where, "log_level": 2})
    plain.create_topics([NewTopic(topic, 1, 1)])[topic].result(10)
    users = yaml.safe_load_all((Path(streamrec.__file__).parents[1] / "cluster" / "kafka" / "users.yaml").read_text())
    (user,) = [each for each in users if each["metadata"]["name"] == "streamrec-ray"]
    rules = []
    for rule in user["spec"]["authorization"]["acls"]:
        kind, names = rule["resource"]["type"].upper(), {"streamrec.events": topic}
        pattern = ResourcePatternType.PREFIXED if rule["resource"]["patternType"] == "prefix" else ResourcePatternType.LITERAL
        for operation in rule["operations"]:
            name, called = names.get(rule["resource"]["name"], rule["resource"]["name"]), re.sub("(?<=[a-z])(?=[A-Z])", "_", operation).upper()
            allowed = (f"User:{USER}", "*", AclOperation[called], AclPermissionType.ALLOW)
            rules.append(AclBinding(ResourceType[kind], name, pattern, *allowed))
    writes = [rule for rule in rules if (rule.name, rule.operation) == (topic, AclOperation.WRITE)]
    made = plain.create_acls(rules)
    try:
        for each in made.values():
            each.result(10)
        use_every_client(settings, plain, topic)
        for each in plain.delete_acls([AclBindingFilter(*vars_of(rule)) for rule in writes]).values():
            each.result(10)
        log = LogUnderTest.at(kafka_address(settings.broker), settings)
        with pytest.raises(BrokerRefused, match=r"lets this user in, and not do this, got TOPIC_AUTHORIZATION_FAILED.*give the user the rights"):
            log.writer.append(topic, numbered(1))
        log.close()
    finally:
        for each in plain.delete_acls([AclBindingFilter(*vars_of(rule)) for rule in rules]).values():
            each.result(10)


def vars_of(rule: AclBinding) -> tuple[Any, ...]:
    return (rule.restype, rule.name, rule.resource_pattern_type, rule.principal, rule.host, rule.operation, rule.permission_type)


# Who is not let in


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "wrong password": (
        {"sasl_password_file": "{wrong}"},
        r"does not accept this user and password, got 'streamrec-test' by SCRAM-SHA-512 .*log\.sasl_pass",
    ),
    "no such user": ({"sasl_username": "nobody"}, "does not accept this user and password, got 'nobody'"),
    "wrong secret": (
        {"sasl_mechanism": "OAUTHBEARER", "oauth_token_url": "{token_url}", "sasl_password_file": "{wrong}"},
        r"asked without a token that it takes.*log\.oauth_token_url",
    ),
    "unknown authority": ({"tls_ca_file": "{other}"}, r"authority that is not trusted here.*log\.tls_ca_file"),
    "expired": ({"broker": "{EXPIRED}"}, "certificate of 127.0.0.1:.* has expired.*renew it"),
    "no certificate": (
        {"broker": "{MUTUAL}", "security_protocol": "SSL", "sasl_username": "", "sasl_password_file": ""},
        r"does not accept the client's certificate.*log\.tls_certificate_file",
    ),
    "no TLS there": ({"broker": "{PLAIN}"}, r"does not speak TLS.*log\.security_protocol"),
    "no users there": (
        {"broker": "{PLAIN}", "security_protocol": "SASL_PLAINTEXT", "tls_ca_file": ""},
        r"log\.sasl_mechanism|log\.security_protocol",
    ),
}


@pytest.fixture
def refused(
    request: pytest.FixtureRequest, secure: Callable[..., LogConfig], doors: Any, broker: EmbeddedKafka, token_url: str, tmp_path: Path
) -> tuple[LogConfig, str]:
    settings, says = REFUSED[request.param]
    (tmp_path / "wrong").write_text("wrong-password")
    known = {"wrong": tmp_path / "wrong", "token_url": token_url, "PLAIN": broker.address.where, **doors.where}
    known["other"] = Authority(tmp_path / "other", "another").ca_file if "{other}" in settings.values() else ""
    return secure(connect_timeout_s=30.0, connect_limit_s=120.0, **{name: value.format(**known) for name, value in settings.items()}), says


@pytest.mark.parametrize("refused", REFUSED, indirect=True)
def test_who_is_not_let_in_is_told_why_at_once_and_does_not_ask_again(refused: tuple[LogConfig, str], tmp_path: Path) -> None:
    settings, says = refused
    said: list[str] = []
    began = time.monotonic()
    with pytest.raises(BrokerRefused, match=says) as caught:
        log_address(parse_config({"state": str(tmp_path), "log": settings.model_dump()}), said.append)
    assert time.monotonic() - began < AT_ONCE_S
    assert (said, "\n" in str(caught.value)) == ([], False)


@pytest.mark.parametrize("refused", ["expired"], indirect=True)
def test_a_server_does_not_start_where_it_will_not_be_let_in(refused: tuple[LogConfig, str], tmp_path: Path) -> None:
    settings, says = refused
    with pytest.raises(BrokerRefused, match=says):
        log_address(parse_config({"state": str(tmp_path), "log": settings.model_dump()}), lambda _: None, must_answer=False)


@pytest.mark.parametrize("refused", ["wrong password"], indirect=True)
def test_each_client_is_told_by_itself_and_goes_on_when_the_password_s_file_is_corrected(
    refused: tuple[LogConfig, str], broker: EmbeddedKafka, doors: Any, caplog: pytest.LogCaptureFixture
) -> None:
    (settings, says), topic = refused, f"streamrec-{uuid.uuid4().hex}"
    log = LogUnderTest.at(kafka_address(settings.broker), settings)
    group = GroupOffsets(settings.broker, topic, settings.model_copy(update={"connect_timeout_s": 1.0}))
    calls: tuple[Callable[[], object], ...] = (
        lambda: log.admin.ensure_topic(topic, 1),
        lambda: log.writer.append(topic, numbered(1)),
        lambda: log.reader.topic_id(topic),
    )
    began = time.monotonic()
    for call in calls:
        with pytest.raises(BrokerRefused, match=says):
            call()
    tail = log.follow(topic, {0: 0})
    with pytest.raises(BrokerRefused, match=says):
        followed(tail, 1)
    while not caplog.messages and time.monotonic() - began < AT_ONCE_S:
        group.commit(topic, {0: 1})
        threading.Event().wait(0.05)
    (message,) = caplog.messages
    assert message.startswith(f"Consumer group {topic}: the offsets did not arrive")
    assert "invalid credentials" in message
    assert time.monotonic() - began < AT_ONCE_S

    Path(settings.sasl_password_file).write_text(doors.password)
    for call in calls:
        call()
    tail.close()
    tail = log.follow(topic, {0: 0})
    assert values(followed(tail, 1)) == [b"0"]
    plain = AdminClient({"bootstrap.servers": broker.address.where, "log_level": 2})
    told: list[TopicPartition] = []
    while not told and time.monotonic() - began < 2 * AT_ONCE_S:
        group.commit(topic, {0: 1})
        told = plain.list_consumer_group_offsets([ConsumerGroupTopicPartitions(topic)])[topic].result(10).topic_partitions
    assert [(part.partition, part.offset) for part in told] == [(0, 1)]
    assert caplog.messages == [message]
    group.close()
    tail.close()
    log.close()


@pytest.mark.parametrize("refused", ["wrong password", "unknown authority", "expired"], indirect=True)
def test_doctor_has_a_finding_for_each(refused: tuple[LogConfig, str], tmp_path: Path) -> None:
    settings, says = refused
    (tmp_path / "config.yaml").write_text(json.dumps({"state": str(tmp_path / "state"), "log": settings.model_dump()}))
    began = time.monotonic()
    result = CliRunner().invoke(app, ["doctor", "--json", "--config", str(tmp_path / "config.yaml")])
    assert time.monotonic() - began < AT_ONCE_S
    (finding,) = [each for each in map(json.loads, result.stdout.splitlines()) if each["check"] == "broker"]
    assert (result.exit_code, finding["verdict"]) == (1, "FAIL")
    assert re.search(says, f"{finding['found']}, {finding['remedy']}")


def test_a_client_without_tls_at_a_port_with_it_is_pointed_to_the_protocol(cfg: LogConfig, doors: Any, broker: EmbeddedKafka) -> None:
    log = LogUnderTest.at(kafka_address(doors.where["SECURE"]), cfg.model_copy(update={"connect_timeout_s": 1.0}))
    with pytest.raises(BrokerUnavailable, match=r"something listens there.*log\.security_protocol"):
        log.reader.latest("t")
    log.close()


# Nothing that is written has the secret


@pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\.")
def test_ray_reads_and_neither_its_logs_nor_ours_nor_the_configuration_have_the_password(
    ray_cluster: None,
    secure: Callable[..., LogConfig],
    doors: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    settings = secure(events_topic=f"ray-{uuid.uuid4().hex}")
    config: Config = parse_config({"state": str(tmp_path / "state"), "log": settings.model_dump()})
    caplog.set_level(logging.DEBUG)
    said: list[str] = []
    address, _ = log_address(config, said.append)
    log = LogUnderTest.at(address, config.log)
    log.admin.ensure_topic(config.log.events_topic, 2)
    log.writer.append(config.log.events_topic, numbered(40))
    reader = stream_reader(address, config.log)
    rows = reader.read_table(everything(reader, config.log.events_topic))
    reader.close()
    log.close()
    assert sorted(values(rows), key=int) == [b"%d" % number for number in range(40)]

    dumped = (
        CliRunner().invoke(app, ["config", "show", "--json", *(f"--set=log.{name}={value}" for name, value in settings.model_dump().items())]).stdout
    )
    assert str(doors.password_file) in dumped
    logs = [path for path in Path(ray._private.worker._global_node.get_session_dir_path()).rglob("*") if path.is_file()]
    assert any("ray-data" in str(path) for path in logs)
    assert [path for path in logs if doors.password.encode() in path.read_bytes()] == []
    for text in (dumped, caplog.text, *said, *capfd.readouterr(), config.model_dump_json()):
        assert doors.password not in text
