from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from streamrec.clock import ManualClock
from streamrec.config import LogConfig
from streamrec.errors import BrokerUnavailable
from streamrec.log.kafka_reach import reach

WHERE = "kafka.example:9092"


class Away:
    """A broker that answers at the given attempt; each takes a second."""

    def __init__(self, answers_at: int) -> None:
        self.clock, self.said, self.waited = ManualClock(), [], []
        self.left = answers_at

    def ask(self, servers: str, timeout_s: float) -> int:
        self.left -= 1
        self.clock.advance(1.0)
        if self.left:
            what = f"Broker: no Kafka answers at {servers}"
            raise BrokerUnavailable(what, got="kafka.example:9092: connection refused", address=servers)
        return 3

    def wait(self, seconds: float) -> None:
        self.waited.append(seconds)
        self.clock.advance(seconds)

    def reach(self, limit_s: float) -> int:
        return reach(WHERE, LogConfig(), self.said.append, attempt_s=5.0, limit_s=limit_s, wait=self.wait, ask=self.ask, now_s=self.clock.monotonic_s)


def test_a_broker_that_comes_later_is_reached_after_growing_waits_that_each_name_it() -> None:
    away = Away(answers_at=9)
    assert away.reach(limit_s=120.0) == 3
    assert away.waited == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]
    assert len(away.said) == 8
    assert all("no Kafka answers at kafka.example:9092, got kafka.example:9092: connection refused" in line for line in away.said)
    assert away.said[0].startswith("attempt 1, trying again in 0.2 s and for 119 s at most: ")


def test_the_last_reason_is_raised_at_the_limit_after_a_last_attempt() -> None:
    away = Away(answers_at=0)
    with pytest.raises(BrokerUnavailable, match=WHERE):
        away.reach(limit_s=20.0)
    assert sum(away.waited) + len(away.said) == pytest.approx(20.0)
    once = Away(answers_at=0)
    with pytest.raises(BrokerUnavailable, match=WHERE):
        once.reach(limit_s=0.0)
    assert (once.said, once.waited) == ([], [])


def test_a_host_without_an_address_is_named_in_the_first_line() -> None:
    said: list[str] = []
    waited: list[float] = []

    def stop(seconds: float) -> None:
        waited.append(seconds)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reach("no-such-host.invalid:9092", LogConfig(), said.append, attempt_s=30.0, limit_s=60.0, wait=stop)
    assert len(said) == len(waited) == 1
    assert "no Kafka answers at no-such-host.invalid:9092, got no-such-host.invalid:9092:" in said[0]
    assert "name" in said[0].split("got", 1)[1]  # as the resolver says it


@pytest.fixture
def deaf() -> Iterator[str]:
    """Somebody who listens and never answers, so that the client waits in C."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(50)
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def handler() -> Iterator[Callable[[], None]]:
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    yield lambda: os.kill(os.getpid(), signal.SIGTERM)
    signal.signal(signal.SIGTERM, before)


def test_a_signal_ends_the_wait_for_one_attempt_long_before_its_end(deaf: str, handler: Callable[[], None]) -> None:
    timer = threading.Timer(0.2, handler)
    timer.start()
    said: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        reach(deaf, LogConfig(), said.append, attempt_s=20.0, limit_s=0.0)
    timer.join()
    assert said == []
