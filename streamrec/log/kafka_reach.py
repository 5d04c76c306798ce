"""Reach a Kafka: say at once where it does not let this client in, and ask one that is not there yet again, after growing waits, up to a limit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from confluent_kafka import Consumer, KafkaError, KafkaException

from streamrec.config import LogConfig
from streamrec.errors import BrokerRefused, BrokerUnavailable, StreamrecError
from streamrec.log.kafka_client import consumer_settings, in_our_words, probe, speaks_plainly, unavailable
from streamrec.log.kafka_refusal import is_refusal, no_tls, refusal

FIRST_WAIT_S = 0.2
LONGEST_WAIT_S = 10.0
# A signal is noticed this soon, whatever the client and the resolver of names are waiting for.
_LOOK_EVERY_S = 0.05
# The client tells of a refusal only between two waits, and asks on by itself.
_FIRST_LOOK_S = 0.1


def reach(
    servers: str,
    cfg: LogConfig,
    say: Callable[[str], None],
    *,
    attempt_s: float,
    limit_s: float,
    wait: Callable[[float], object] = time.sleep,
    ask: Callable[[str, float], int] | None = None,
    now_s: Callable[[], float] = time.monotonic,
) -> int:
    """Return how many brokers a Kafka has, as soon as it answers.

    **Contract.** Each failed attempt is one line that names the address and the reason, such as a host that has no address. A signal whose
    handler raises ends the wait at once.

    Args:
        servers: ``HOST:PORT[,HOST:PORT]``.
        cfg: Says how it is spoken to.
        say: Gets the lines.
        attempt_s: Bound of one attempt.
        limit_s: No attempt begins later than so long after the first; 0 tries once.
        wait: Waits so many seconds.
        ask: Asks once, within so many seconds; None asks the network.
        now_s: Gives monotonic seconds.

    Raises:
        BrokerUnavailable: Nobody answered until the limit; the last reason.
        BrokerRefused: It does not let this client in, which is said at once.
    """
    began_s, attempt, wait_s = now_s(), 1, FIRST_WAIT_S
    while True:
        try:
            return ask(servers, attempt_s) if ask is not None else _ask(servers, cfg, attempt_s)
        except BrokerUnavailable as error:
            left_s = began_s + limit_s - now_s()
            if left_s <= 0:
                raise
            wait_s = min(wait_s, left_s)
            say(f"attempt {attempt}, trying again in {wait_s:.1f} s and for {left_s:.0f} s at most: {error}")
        wait(wait_s)
        attempt, wait_s = attempt + 1, min(2 * wait_s, LONGEST_WAIT_S)


def check_let_in(servers: str, cfg: LogConfig, timeout_s: float) -> None:
    """Check that a Kafka with TLS or users lets this client in: its own calls would wait to their time's end, and say that nobody answers.

    Raises:
        BrokerRefused: It does not; told as soon as it is known.
        BrokerUnavailable: Nobody answers within ``timeout_s``.
    """
    if cfg.has_tls or cfg.has_sasl:
        num_brokers(servers, cfg, timeout_s)


def num_brokers(servers: str, cfg: LogConfig, timeout_s: float) -> int:
    """Return how many brokers a Kafka has.

    Raises:
        BrokerRefused: It does not let this client in; told as soon as it is known.
        BrokerUnavailable: Nobody answers within ``timeout_s``.
    """
    # Where every address refuses, the client would try on until its time is over.
    if all(probe(server) for server in servers.split(",")):
        raise unavailable(servers, "no connection")
    complaints = _Complaints(servers, cfg)
    consumer = Consumer(consumer_settings(servers, cfg) | {"error_cb": complaints.note})
    # Who speaks plainly is refused by nobody. What answers within no short wait may within a longer one.
    until_s, wait_s = time.monotonic() + timeout_s, _FIRST_LOOK_S if cfg.has_tls or cfg.has_sasl else timeout_s
    try:
        while True:
            left_s = until_s - time.monotonic()
            try:
                return len(consumer.list_topics(timeout=max(0.01, min(left_s, wait_s))).brokers)
            except KafkaException as error:
                consumer.poll(0)
                is_over = left_s <= wait_s
                if (refused := complaints.refusal(is_over=is_over)) is not None:
                    raise refused from None
                if is_over:
                    raise in_our_words(error.args[0], servers) from error
            wait_s *= 2
    finally:
        consumer.close()


class _Complaints:
    """Collect what a client reports while it knocks."""

    def __init__(self, servers: str, cfg: LogConfig) -> None:
        self._servers, self._cfg = servers, cfg
        self._refused: dict[str, KafkaError] = {}
        self._doubt = ""

    def note(self, error: KafkaError) -> None:
        if is_refusal(error):
            self._refused[error.str().partition(": ")[0]] = error
        elif "PLAINTEXT broker listener?" in error.str():
            self._doubt = error.str()

    def refusal(self, *, is_over: bool) -> BrokerRefused | None:
        """Return why nobody lets the client in; None while one of the servers may."""
        servers = self._servers.split(",")
        if self._refused and (is_over or len(self._refused) >= len(servers)):
            return refusal(next(iter(self._refused.values())), self._servers, self._cfg)
        # What stands before a broker that is away breaks connections as a listener without TLS does.
        if self._doubt and all(speaks_plainly(server) for server in servers):
            return no_tls(self._servers, "a plain answer")
        return None


def _ask(servers: str, cfg: LogConfig, timeout_s: float) -> int:
    """Ask in a thread: the client waits in C, where no signal reaches it."""
    found: list[int] = []
    failed: list[StreamrecError] = []

    def ask() -> None:
        try:
            found.append(num_brokers(servers, cfg, timeout_s))
        except StreamrecError as error:
            failed.append(error)

    thread = threading.Thread(target=ask, name="broker-probe", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_LOOK_EVERY_S)
    if not found:
        raise failed[0] if failed else unavailable(servers, "the client failed")
    return found[0]
