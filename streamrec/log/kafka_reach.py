"""Wait for a Kafka that is not there yet: name it, ask again after growing waits, give up at a limit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from confluent_kafka import Consumer

from streamrec.errors import BrokerError, BrokerUnavailable
from streamrec.log.kafka_client import consumer_settings, explained, probe, unavailable

FIRST_WAIT_S = 0.2
LONGEST_WAIT_S = 10.0
# A signal is noticed this soon, whatever the client and the resolver of names are waiting for.
_LOOK_EVERY_S = 0.05


def reach(
    servers: str,
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
        say: Gets the lines.
        attempt_s: Bound of one attempt.
        limit_s: No attempt begins later than so long after the first; 0 tries once.
        wait: Waits so many seconds.
        ask: Asks once, within so many seconds; None asks the network.
        now_s: Gives monotonic seconds.

    Raises:
        BrokerUnavailable: Nobody answered until the limit; the last reason.
    """
    began_s, attempt, wait_s = now_s(), 1, FIRST_WAIT_S
    while True:
        try:
            return (ask or _ask)(servers, attempt_s)
        except BrokerUnavailable as error:
            left_s = began_s + limit_s - now_s()
            if left_s <= 0:
                raise
            wait_s = min(wait_s, left_s)
            say(f"attempt {attempt}, trying again in {wait_s:.1f} s and for {left_s:.0f} s at most: {error}")
        wait(wait_s)
        attempt, wait_s = attempt + 1, min(2 * wait_s, LONGEST_WAIT_S)


def _ask(servers: str, timeout_s: float) -> int:
    """Ask in a thread: the client waits in C, where no signal reaches it."""
    found: list[int] = []
    failed: list[BrokerError] = []

    def ask() -> None:
        try:
            found.append(_num_brokers(servers, timeout_s))
        except BrokerError as error:
            failed.append(error)

    thread = threading.Thread(target=ask, name="broker-probe", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_LOOK_EVERY_S)
    if not found:
        raise failed[0] if failed else unavailable(servers, "the client failed")
    return found[0]


def _num_brokers(servers: str, timeout_s: float) -> int:
    # Where every address refuses, the client would try on until its time is over.
    if all(probe(server) for server in servers.split(",")):
        raise unavailable(servers, "no connection")
    consumer = Consumer(consumer_settings(servers))
    try:
        with explained(servers):
            return len(consumer.list_topics(timeout=timeout_s).brokers)
    finally:
        consumer.close()
