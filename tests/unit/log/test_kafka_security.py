from __future__ import annotations

import pickle
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError

from streamrec.config import LogConfig
from streamrec.errors import BrokerRefused, ConfigError
from streamrec.log.broker import resolve_broker
from streamrec.log.kafka_client import consumer_settings
from streamrec.log.kafka_refusal import refusal
from streamrec.log.kafka_secrets import SecretPlace, key_password, read_secret
from streamrec.log.kafka_security import security_settings
from streamrec.testing.certificates import Authority

SERVERS, PASSWORD = "kafka.example:9093", "correct-horse"


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STREAMREC_KAFKA_PASSWORD", "STREAMREC_KAFKA_KEY_PASSWORD"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def password_file(tmp_path: Path) -> str:
    path = tmp_path / "password"
    path.write_text(f"{PASSWORD}\n")
    return str(path)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "ours")


def scram(**more: Any) -> LogConfig:
    return LogConfig(security_protocol="SASL_PLAINTEXT", sasl_username="shop", **more)


# Secrets


def test_a_secret_is_the_text_of_a_file_without_the_end_of_its_line_and_else_the_variables(
    password_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAMREC_KAFKA_PASSWORD", "of the variable ")
    assert read_secret(SecretPlace("sasl_password_file", password_file)) == PASSWORD
    assert read_secret(SecretPlace("sasl_password_file", "")) == "of the variable "
    assert key_password(LogConfig()) is None


def test_a_secret_is_not_shown_and_travels_as_its_place(password_file: str) -> None:
    settings = consumer_settings(SERVERS, scram(sasl_password_file=password_file))
    assert settings["sasl.password"] == PASSWORD
    sent = pickle.dumps(settings)
    for shown in (repr(settings), f"{settings}", f"{settings['sasl.password']}", sent.decode("latin-1")):
        assert PASSWORD not in shown
    Path(password_file).write_text("another")
    assert pickle.loads(sent)["sasl.password"] == "another"


@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff\xfe"])
def test_a_secret_that_is_not_there_is_said_with_where_it_was_looked_for(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "password"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BrokerRefused, match=rf"without a secret, got {path}, which.*log\.sasl_password_file"):
        security_settings(scram(sasl_password_file=str(path)))
    with pytest.raises(BrokerRefused, match=r"got neither log\.sasl_password_file nor STREAMREC_KAFKA_PASSWORD"):
        security_settings(scram())


# Settings


def test_a_plain_kafka_gets_no_settings() -> None:
    assert security_settings(LogConfig()) == {}


def test_settings_are_the_clients(password_file: str, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    ca = str(authority.ca_file)
    user = {"sasl_username": "shop", "sasl_password_file": password_file}
    assert security_settings(LogConfig(security_protocol="SASL_SSL", tls_ca_file=ca, sasl_mechanism="SCRAM-SHA-256", **user)) == {
        "security.protocol": "SASL_SSL",
        "ssl.ca.location": ca,
        "sasl.mechanism": "SCRAM-SHA-256",
        "sasl.username": "shop",
        "sasl.password": PASSWORD,
    }
    certificate, key = map(str, authority.issue("client", password=b"of the key"))
    monkeypatch.setenv("STREAMREC_KAFKA_KEY_PASSWORD", "of the key")
    assert security_settings(LogConfig(security_protocol="SSL", tls_certificate_file=certificate, tls_key_file=key)) == {
        "security.protocol": "SSL",
        "ssl.certificate.location": certificate,
        "ssl.key.location": key,
        "ssl.key.password": "of the key",
    }
    oauth = {"oauth_token_url": "https://login.example/token", "oauth_scope": "kafka", "oauth_ca_file": ca}
    assert security_settings(LogConfig(security_protocol="SASL_PLAINTEXT", sasl_mechanism="OAUTHBEARER", **user, **oauth)) == {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "OAUTHBEARER",
        "sasl.oauthbearer.method": "oidc",
        "sasl.oauthbearer.token.endpoint.url": "https://login.example/token",
        "sasl.oauthbearer.client.id": "shop",
        "sasl.oauthbearer.client.secret": PASSWORD,
        "sasl.oauthbearer.scope": "kafka",
        "https.ca.location": ca,
    }


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"tls_ca_file": "ca.pem"}, r"log\.tls_ca_file is set, and would not be used, got log\.security_protocol = PLAINTEXT.*allowed .*SASL_SSL"),
        ({"security_protocol": "SSL", "sasl_username": "shop"}, r"log\.sasl_username is set, and would not be used"),
        ({"security_protocol": "SASL_SSL"}, r"log\.sasl_username is missing.*because of log\.security_protocol = SASL_SSL"),
        (
            {"security_protocol": "SASL_SSL", "sasl_username": "a", "oauth_token_url": "http://a", "oauth_scope": "b"},
            r"log\.oauth_token_url, log\.oauth_scope are set.*allowed log\.sasl_mechanism = OAUTHBEARER",
        ),
        ({"security_protocol": "SASL_SSL", "sasl_mechanism": "OAUTHBEARER", "sasl_username": "a"}, r"log\.oauth_token_url is missing"),
        ({"security_protocol": "SSL", "tls_certificate_file": "a.pem"}, r"log\.tls_key_file is missing"),
        ({"security_protocol": "SSL", "tls_key_file": "a.key"}, r"log\.tls_certificate_file is missing"),
        ({"security_protocol": "SSL", "tls_key_password_file": "a"}, r"log\.tls_key_file is missing"),
    ],
)
def test_settings_that_would_not_be_used_or_are_missing_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        security_settings(LogConfig(**settings))


def test_a_token_url_holds_no_password() -> None:
    with pytest.raises(ValueError, match="oauth_token_url"):
        LogConfig(oauth_token_url="https://shop:secret@login.example/token")


def test_an_embedded_kafka_is_not_taken_for_one_with_tls(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"embedded Kafka has neither TLS nor users.*got log\.security_protocol = SSL"):
        resolve_broker("auto", tmp_path, lambda _: None, cfg=LogConfig(security_protocol="SSL"), start=lambda *_: pytest.fail("started"))


def test_files_of_tls_that_can_not_be_used_are_named(authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "none.pem").write_text("no certificate")
    for path, reason in ((tmp_path / "away.pem", "No such file"), (tmp_path / "none.pem", "no certificate")):
        with pytest.raises(BrokerRefused, match=rf"log\.tls_ca_file can't be used, got {path} \({reason}"):
            security_settings(LogConfig(security_protocol="SSL", tls_ca_file=str(path)))
    certificate, key = authority.issue("one", password=b"right")
    _, other = authority.issue("two")
    (tmp_path / "wrong").write_text("wrong")
    for given in ({"tls_key_file": other}, {"tls_key_file": key}, {"tls_key_file": key, "tls_key_password_file": tmp_path / "wrong"}):
        cfg = LogConfig(security_protocol="SSL", tls_certificate_file=str(certificate), **{name: str(path) for name, path in given.items()})
        with pytest.raises(BrokerRefused, match=r"log\.tls_certificate_file can't be used, got .*one\.pem with .*\.key \(.+\).*STREAMREC|wrong"):
            security_settings(cfg)


# Why TLS fails


@contextmanager
def tls_server(authority: Authority, *, asks: bool = False, **issued: Any) -> Iterator[str]:
    """Something that speaks TLS, with a certificate of its own, and asks for one where told to; gives its HOST:PORT."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("server", **issued))
    if asks:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(authority.ca_file)

    def serve(listening: socket.socket) -> None:
        with suppress(OSError):
            accepted, _ = listening.accept()
            with suppress(OSError), context.wrap_socket(accepted, server_side=True) as secure:
                secure.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,))
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        with suppress(OSError):
            socket.create_connection(listening.getsockname(), timeout=1).close()  # Where nobody came.
        thread.join(10)


def why(where: str, **settings: Any) -> str:
    return str(refusal(KafkaError(KafkaError._SSL, "SSL handshake failed"), where, LogConfig(security_protocol="SSL", **settings)))


def test_each_reason_for_which_tls_fails_is_told_with_its_remedy(authority: Authority, tmp_path: Path) -> None:
    ours = {"tls_ca_file": str(authority.ca_file)}
    other = Authority(tmp_path / "other", "another")
    with tls_server(authority) as where:
        said = why(where, tls_ca_file=str(other.ca_file))
        assert f"the certificate of {where} is of an authority that is not trusted here" in said
        assert f"trusted: {other.ca_file}" in said
        assert "log.tls_ca_file" in said
    with tls_server(authority, lasts=timedelta(days=-1)) as where:
        assert f"the certificate of {where} has expired" in (said := why(where, **ours))
        assert "renew it" in said
    with tls_server(authority, lasts=timedelta(days=12)) as where:
        assert f"the certificate of {where} is not valid yet" in why(where, **ours)
    with tls_server(authority, host="kafka.example") as where:
        assert f"the certificate of {where} is another host's" in (said := why(where, **ours))
        assert "log.broker" in said
    with tls_server(authority, asks=True) as where:
        assert f"{where} does not accept the client's certificate" in (said := why(where, **ours))
        assert "with no certificate" in said
        assert "log.tls_certificate_file" in said
    with tls_server(authority) as where:
        assert why(where, **ours).startswith(f"Broker: no TLS with {where}, got SSL handshake failed")


def test_a_port_without_tls_is_told_from_one_whose_certificate_is_wrong() -> None:
    def serve(listening: socket.socket) -> None:
        accepted, _ = listening.accept()
        with accepted:
            accepted.sendall(b"\x00\x00\x00\x04none")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,))
        thread.start()
        where = f"127.0.0.1:{listening.getsockname()[1]}"
        assert f"{where} does not speak TLS" in (said := why(where))
        assert "log.security_protocol" in said
        thread.join(10)


@pytest.mark.parametrize(
    ("mechanism", "reason", "says"),
    [
        ("SCRAM-SHA-512", "SASL authentication error: invalid credentials (after 7ms in state AUTH_REQ)", "does not accept this user and password"),
        (
            "PLAIN",
            "handshake failed: Broker: Unsupported SASL mechanism: broker's supported mechanisms: SCRAM-SHA-512",
            "does not let users in by PLAIN.*log.sasl_mechanism",
        ),
        ("OAUTHBEARER", "Failed to acquire SASL OAUTHBEARER token", "asked without a token that it takes.*log.oauth_token_url"),
    ],
)
def test_a_user_who_is_not_let_in_is_told_what_to_correct(mechanism: Any, reason: str, says: str) -> None:
    cfg = LogConfig(security_protocol="SASL_SSL", sasl_mechanism=mechanism, sasl_username="shop", sasl_password_file="/run/password")
    error = refusal(KafkaError(KafkaError._AUTHENTICATION, reason), SERVERS, cfg)
    assert re.search(says, str(error))
    assert "after 7ms" not in str(error)
    assert "'shop'" in str(error)
    assert "log.sasl_password_file = /run/password" in str(error) or mechanism == "PLAIN"
