from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")

from streamrec.config import LogConfig
from streamrec.errors import EmbeddedBrokerError
from streamrec.log.embedded import EmbeddedKafka, start_embedded
from streamrec.testing.contracts.log import LogUnderTest


@pytest.fixture(scope="session")
def cfg() -> LogConfig:
    return LogConfig(connect_timeout_s=10.0, read_timeout_s=10.0)


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    try:
        embedded = start_embedded(tmp_path_factory.mktemp("run") / "kafka", lambda _: None)
    except EmbeddedBrokerError as error:
        pytest.skip(str(error))
    yield embedded
    embedded.stop()


@pytest.fixture(scope="session")
def kafka(broker: EmbeddedKafka, cfg: LogConfig) -> Iterator[LogUnderTest]:
    log = LogUnderTest.at(broker.address, cfg)
    yield log
    log.close()
