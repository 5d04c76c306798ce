from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from streamrec.config import LogConfig
from streamrec.errors import BrokerError, BrokerUnavailable, EmbeddedBrokerError, TopicMissing
from streamrec.log.base import Record
from streamrec.log.broker import resolve_broker
from streamrec.log.connect import kafka_address, open_table_reader, open_tail
from streamrec.log.embedded import EmbeddedKafka, running_at, start_embedded
from streamrec.log.offsets import OffsetRange
from streamrec.testing.contracts.log import LogUnderTest, followed, numbered, values

SOON_S = 30.0


def wait_until_gone(pids: list[int], limit_s: float = 15.0) -> list[int]:
    deadline = time.monotonic() + limit_s
    while (left := [pid for pid in pids if Path(f"/proc/{pid}").exists()]) and time.monotonic() < deadline:
        signal.sigtimedwait([], 0.02)
    return left


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture(scope="module", autouse=True)
def jars_are_there(broker: EmbeddedKafka) -> None:
    """Skip the module where the broker can't be had."""


@pytest.fixture
def own(tmp_path: Path) -> Iterator[list[EmbeddedKafka]]:
    started: list[EmbeddedKafka] = []
    yield started
    for embedded in started:
        embedded.stop()


def test_a_broker_that_ends_by_itself_says_why(tmp_path: Path, own: list[EmbeddedKafka]) -> None:
    own.append(start_embedded(tmp_path, lambda _: None))
    assert own[-1].ended() is None
    with (tmp_path / "broker.log").open("a") as log:  # What it writes where its disk is full.
        log.write(
            "[2026-11-26 21:00:00] ERROR Error while appending records to t-0\njava.io.IOException: No space left on device\n[...] INFO shut down\n"
        )
    (broker,) = children_of(own[-1]._supervisor.pid)
    os.kill(broker, signal.SIGKILL)
    assert wait_until_gone([broker]) == []
    own[-1]._supervisor.wait(SOON_S)
    ended = own[-1].ended()
    assert ended is not None
    assert "ended by itself, with status 137 (SIGKILL" in str(ended)
    assert "java.io.IOException: No space left on device" in str(ended)
    assert "INFO shut down" not in str(ended)
    assert str(tmp_path / "broker.log") in str(ended)


def test_a_broker_whose_storage_can_t_be_formatted_says_why_in_its_own_words(tmp_path: Path) -> None:
    doors: dict[str, str | int] = {
        "listeners": "ONE://127.0.0.1:1024,OTHER://127.0.0.1:1024",
        "listener.security.protocol.map": "ONE:PLAINTEXT,OTHER:PLAINTEXT",
    }
    with pytest.raises(EmbeddedBrokerError, match=r"its storage could not be formatted; its last lines: .*two listeners on the same port"):
        start_embedded(tmp_path, lambda _: None, settings=doors)


def test_a_broker_goes_on_with_its_data_after_a_stop_and_after_a_kill(
    tmp_path: Path, own: list[EmbeddedKafka], cfg: LogConfig, caplog: pytest.LogCaptureFixture
) -> None:
    own.append(start_embedded(tmp_path, lambda _: None))
    address = own[-1].address
    assert running_at(tmp_path) == address.where
    log = LogUnderTest.at(address, cfg)
    log.admin.ensure_topic("t", 1)
    log.writer.append("t", numbered(1000))
    cluster = json.loads((tmp_path / "node.json").read_text())["cluster_id"]
    tail = open_tail(address, "t", {0: 999}, cfg)
    assert followed(tail, 1).num_rows == 1

    own[-1].stop()
    assert not own[-1].is_running
    assert running_at(tmp_path) is None
    own[-1].stop()
    deadline = time.monotonic() + 20
    while not caplog.messages and time.monotonic() < deadline:
        assert tail.poll(0.1).num_rows == 0
    assert caplog.messages == [f"{address.where} does not answer: t is followed again when it does"]
    own.append(start_embedded(tmp_path, lambda _: None))
    assert own[-1].address == address
    assert cluster in (tmp_path / "data" / "meta.properties").read_text()
    assert log.writer.append("t", [Record(b"k", b"after the stop")]) == [(0, 1000)]

    (java,) = children_of(own[-1]._supervisor.pid)
    os.kill(java, signal.SIGKILL)
    assert wait_until_gone([java]) == []
    own[-1].stop()
    own.append(start_embedded(tmp_path, lambda _: None))
    assert values(log.reader.read_table([OffsetRange("t", 0, 0, 1001)])) == [*(b"%d" % number for number in range(1000)), b"after the stop"]
    assert log.writer.append("t", [Record(b"k", b"after the kill")]) == [(0, 1001)]
    assert values(followed(tail, 2)) == [b"after the stop", b"after the kill"]
    tail.close()
    log.close()


def test_a_reader_of_a_broker_that_stops_and_starts_gets_errors_that_name_it_and_are_tried_again(
    tmp_path: Path, own: list[EmbeddedKafka], cfg: LogConfig
) -> None:
    own.append(start_embedded(tmp_path, lambda _: None))
    address = own[-1].address
    log = LogUnderTest.at(address, cfg)
    log.admin.ensure_topic("t", 2)
    log.writer.append("t", numbered(10))
    reader = open_table_reader(address, cfg.model_copy(update={"connect_timeout_s": 3.0}))  # So long it asks for a broker that is away.
    before = reader.latest("t")
    came: list[BrokerError] = []

    def ask() -> BrokerError | None:
        try:
            assert reader.latest("t") == before
        except BrokerError as error:
            came.append(error)
            return error
        return None

    with ThreadPoolExecutor(1) as threads:
        stopping = threads.submit(own[-1].stop)
        deadline = time.monotonic() + SOON_S
        while not isinstance(ask(), BrokerUnavailable) and time.monotonic() < deadline:
            pass
        stopping.result()
    assert isinstance(came[-1], BrokerUnavailable)
    own.append(start_embedded(tmp_path, lambda _: None))
    deadline = time.monotonic() + SOON_S
    while (still := ask()) is not None and time.monotonic() < deadline:
        pass
    assert still is None
    # Whether a stopping broker is met that no longer knows its topics is a matter of milliseconds.
    assert {type(error) for error in came} <= {BrokerUnavailable, TopicMissing}
    assert all(address.where in str(error) for error in came)
    with pytest.raises(TopicMissing, match=f"'other' does not exist at {address.where}"):
        reader.latest("other")
    reader.close()
    log.close()


def test_a_broker_does_not_outlive_a_killed_starter_and_is_named_at_once_while_that_lives(
    tmp_path: Path, own: list[EmbeddedKafka], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        (tmp_path / "node.json").write_text(json.dumps({"cluster_id": "MkU3OEVBNTcwNTJENDM2Qg", "broker_port": port, "controller_port": port}))
        script = """
import os, signal, sys
from pathlib import Path
from streamrec.log.embedded import start_embedded
embedded = start_embedded(Path(sys.argv[1]), lambda _: None)
if os.fork() == 0:
    signal.pause()  # a fork that holds every open file, as a started worker may
print(embedded.address.where, embedded._supervisor.pid, flush=True)
signal.pause()
"""
        starter = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert starter.stdout is not None
        where, supervisor = starter.stdout.readline().split()
    assert not where.endswith(f":{port}")  # that port was taken
    (java,) = children_of(int(supervisor))
    with monkeypatch.context() as patch:
        patch.setattr("streamrec.log.embedded._pause", lambda: pytest.fail("it waits although the broker answers"))
        with pytest.raises(EmbeddedBrokerError, match=f"another process runs one on.*log.broker = {where}"):
            start_embedded(tmp_path, lambda _: None)
    forks = children_of(starter.pid)

    starter.send_signal(signal.SIGKILL)
    starter.wait()
    assert wait_until_gone([java, int(supervisor)]) == []
    for fork in forks:
        if fork != int(supervisor):
            os.kill(fork, signal.SIGKILL)
    starter.stdout.close()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", int(where.rpartition(":")[2]))).close()


def test_a_cluster_id_may_begin_with_a_dash(tmp_path: Path, own: list[EmbeddedKafka], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamrec.log.embedded._new_cluster_id", lambda: base64.urlsafe_b64encode(b"\xfb" + bytes(15)).decode().rstrip("="))
    own.append(start_embedded(tmp_path, lambda _: None))
    assert own[-1].is_running


def test_a_broker_that_does_not_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(EmbeddedBrokerError, match=r"did not start.*meta\.properties.*--broker local.*--broker HOST:PORT"):
        start_embedded(tmp_path, lambda _: None)
    with pytest.raises(EmbeddedBrokerError, match=r"did not start on.*(in time|formatted)"):
        start_embedded(tmp_path / "other", lambda _: None, start_timeout_s=0.01)


def test_a_broker_that_is_not_there_is_named_by_every_part_within_the_limit(cfg: LogConfig) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{closed.getsockname()[1]}"
        log = LogUnderTest.at(kafka_address(where), cfg.model_copy(update={"connect_timeout_s": 0.5}))
        for call in (
            lambda: log.reader.latest("t"),
            lambda: log.reader.read_table([OffsetRange("t", 0, 0, 1)]),
            lambda: log.writer.append("t", numbered(1)),
            lambda: log.admin.ensure_topic("t", 1),
            lambda: resolve_broker(where, Path("unused"), lambda _: None, connect_timeout_s=0.5),
        ):
            started = time.monotonic()
            with pytest.raises(BrokerUnavailable, match=f"{where}.*connection refused.*--broker"):
                call()
            assert time.monotonic() - started < 5
        tail = log.follow("t", {0: 0})
        assert tail.poll(0.1).num_rows == 0
        tail.close()
        log.close()


def test_something_that_is_no_kafka_is_told_from_nothing(cfg: LogConfig) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(50)
        with pytest.raises(BrokerUnavailable, match="something listens there, but does not answer"):
            resolve_broker(f"127.0.0.1:{deaf.getsockname()[1]}", Path("unused"), lambda _: None, connect_timeout_s=0.5)


def test_an_address_of_a_broker_is_used_as_it_is(broker: EmbeddedKafka, tmp_path: Path) -> None:
    said: list[str] = []
    address, handle = resolve_broker(broker.address.where, tmp_path, said.append)
    handle.stop()
    assert address == broker.address
    assert broker.is_running
    assert list(tmp_path.iterdir()) == []
    assert len(said) == 1
    assert broker.address.where in said[0]
