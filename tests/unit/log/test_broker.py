from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from streamrec.config import LogConfig
from streamrec.errors import ConfigError, EmbeddedBrokerError
from streamrec.log.base import LogAddress
from streamrec.log.broker import resolve_broker
from streamrec.log.connect import local_address, open_admin, open_writer


class Embedded:
    def __init__(self) -> None:
        self.address = LogAddress("kafka", "127.0.0.1:9")
        self.stops = 0

    def stop(self) -> None:
        self.stops += 1


def unavailable(_folder: Path, _say: Callable[[str], None]) -> Embedded:
    msg = "Embedded Kafka: no Java to run it with"
    raise EmbeddedBrokerError(msg)


def test_auto_takes_the_embedded_kafka(tmp_path: Path) -> None:
    started: list[Path] = []
    embedded = Embedded()

    def start(folder: Path, _say: Callable[[str], None]) -> Embedded:
        started.append(folder)
        return embedded

    said: list[str] = []
    address, handle = resolve_broker("auto", tmp_path, said.append, start=start)
    handle.stop()
    assert (address, started, embedded.stops) == (embedded.address, [tmp_path / "kafka"], 1)
    assert said == ["broker: embedded Apache Kafka 4.1.1 at 127.0.0.1:9"]


def test_auto_falls_back_to_files_and_says_why(tmp_path: Path) -> None:
    said: list[str] = []
    address, handle = resolve_broker("auto", tmp_path, said.append, start=unavailable)
    handle.stop()
    assert address == local_address(tmp_path / "log")
    assert len(said) == 1
    assert "files in" in said[0]
    assert "no Java" in said[0]


def test_auto_stays_with_the_files_of_an_earlier_run(tmp_path: Path) -> None:
    address, _ = resolve_broker("local", tmp_path, lambda _: None, start=unavailable)
    open_admin(address, LogConfig()).ensure_topic("t", 1)
    said: list[str] = []
    assert resolve_broker("auto", tmp_path, said.append, start=lambda *_: pytest.fail("started"))[0] == address
    assert "as before" in said[0]
    assert open_writer(address, LogConfig()).append("t", []) == []


def test_auto_does_not_leave_a_kafka_that_holds_the_run(tmp_path: Path) -> None:
    (tmp_path / "kafka" / "data").mkdir(parents=True)
    with pytest.raises(EmbeddedBrokerError, match="no Java"):
        resolve_broker("auto", tmp_path, lambda _: None, start=unavailable)


def test_embedded_does_not_fall_back(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedBrokerError, match="no Java"):
        resolve_broker("embedded", tmp_path, lambda _: None, start=unavailable)


def test_what_is_no_broker_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"got 'embeded'.*HOST:PORT.*auto, embedded, local"):
        resolve_broker("embeded", tmp_path, lambda _: None)
