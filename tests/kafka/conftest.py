from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")

from serve.haproxy import free_port
from streamrec.config import LogConfig
from streamrec.errors import EmbeddedBrokerError
from streamrec.log.embedded import EmbeddedKafka, start_embedded
from streamrec.testing.certificates import Authority
from streamrec.testing.contracts.log import LogUnderTest

USER = "streamrec-test"
DOORS = ("SECURE", "EXPIRED", "MUTUAL")
"""TLS and users; the same with a certificate that has expired; TLS that asks the client for a certificate."""


@dataclass(frozen=True)
class Doors:
    """Hold the ways into the test's broker beside the plain one.

    Attributes:
        authority: Has signed what its listeners show.
        password: Of `USER`.
        password_file: Holds it.
        where: HOST:PORT by listener.
    """

    authority: Authority
    password: str
    password_file: Path
    where: dict[str, str]

    def settings(self) -> dict[str, str | int]:
        """Return what the broker is started with."""
        protocols = {"SECURE": "SASL_SSL", "EXPIRED": "SASL_SSL", "MUTUAL": "SSL"}
        settings: dict[str, str | int] = {
            "listeners": ",".join(f"{door}://{where}" for door, where in self.where.items()),
            "advertised.listeners": ",".join(f"{door}://{where}" for door, where in self.where.items()),
            "listener.security.protocol.map": ",".join(f"{door}:{protocols[door]}" for door in DOORS),
            "listener.name.mutual.ssl.client.auth": "required",
            # Who comes in plainly may do anything, and everybody what no rule is about.
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
            "allow.everyone.if.no.acl.found": "true",
        }
        modules = {
            "scram-sha-256": "scram.ScramLoginModule required;",
            "scram-sha-512": "scram.ScramLoginModule required;",
            "plain": f'plain.PlainLoginModule required user_{USER}="{self.password}";',
            "oauthbearer": 'oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";',
        }
        for door in DOORS:
            certificate, key = self.authority.issue(door.lower(), lasts=timedelta(days=-1 if door == "EXPIRED" else 1))
            store, prefix = certificate.with_suffix(".store"), f"listener.name.{door.lower()}"
            store.write_bytes(key.read_bytes() + certificate.read_bytes())
            settings |= {f"{prefix}.ssl.keystore.type": "PEM", f"{prefix}.ssl.keystore.location": str(store)}
            settings |= {f"{prefix}.ssl.truststore.type": "PEM", f"{prefix}.ssl.truststore.location": str(self.authority.ca_file)}
            settings[f"{prefix}.sasl.enabled.mechanisms"] = "SCRAM-SHA-256,SCRAM-SHA-512,PLAIN,OAUTHBEARER"
            settings |= {f"{prefix}.{name}.sasl.jaas.config": f"org.apache.kafka.common.security.{module}" for name, module in modules.items()}
        return settings


@pytest.fixture(scope="session")
def cfg() -> LogConfig:
    return LogConfig(connect_timeout_s=10.0, read_timeout_s=10.0)


@pytest.fixture(scope="session")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Doors:
    folder, password = tmp_path_factory.mktemp("doors"), secrets.token_hex(16)
    (folder / "password").write_text(f"{password}\n")
    ports: set[int] = set()
    while len(ports) < len(DOORS):
        ports.add(free_port())  # None that the kernel gives to the broker's plain listener, or to another program before the broker starts.
    where = {door: f"127.0.0.1:{port}" for door, port in zip(DOORS, ports, strict=True)}
    return Doors(Authority(folder / "authority", "the test's authority"), password, folder / "password", where)


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory, doors: Doors) -> Iterator[EmbeddedKafka]:
    try:
        embedded = start_embedded(tmp_path_factory.mktemp("run") / "kafka", lambda _: None, settings=doors.settings())
    except EmbeddedBrokerError as error:
        pytest.skip(str(error))
    yield embedded
    embedded.stop()


@pytest.fixture(scope="session")
def scram_users(broker: EmbeddedKafka, doors: Doors) -> None:
    """Make `USER` for both kinds of SCRAM."""
    admin = AdminClient({"bootstrap.servers": broker.address.where, "log_level": 2})
    for kind in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):
        wanted = UserScramCredentialUpsertion(USER, ScramCredentialInfo(kind, 4096), doors.password.encode())
        admin.alter_user_scram_credentials([wanted])[USER].result(10)


@pytest.fixture(scope="session")
def kafka(broker: EmbeddedKafka, cfg: LogConfig) -> Iterator[LogUnderTest]:
    log = LogUnderTest.at(broker.address, cfg)
    yield log
    log.close()
