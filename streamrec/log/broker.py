"""Turn ``--broker`` into a log that runs: ``auto``, ``embedded``, ``local``, ``HOST:PORT`` or an address.

Apart from `streamrec.log.connect`, because only the process that starts the log needs what an embedded broker takes to start.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from streamrec.config import LogConfig
from streamrec.errors import EmbeddedBrokerError
from streamrec.log.base import LogAddress
from streamrec.log.connect import kafka_address, local_address
from streamrec.log.embedded import start_embedded
from streamrec.log.kafka_install import KAFKA_VERSION
from streamrec.log.kafka_reach import reach
from streamrec.log.kafka_security import check_embedded


class BrokerHandle(Protocol):
    """Hold on to what `resolve_broker` started."""

    def stop(self) -> None:
        """Stop what was started; nothing for a log that runs by itself. Stopping twice is fine."""
        ...

    def ended(self) -> EmbeddedBrokerError | None:
        """Return why what was started has ended by itself; None while it runs, and for a log that runs by itself."""
        ...


class StartedBroker(BrokerHandle, Protocol):
    """A log whose process this one started."""

    address: LogAddress


class NothingToStop:
    """Stand for a log that needs no process, or whose process is somebody else's."""

    def stop(self) -> None:
        """Do nothing."""

    def ended(self) -> None:
        """Return None: nobody here would know."""


def resolve_broker(
    broker: str,
    run_folder: Path,
    say: Callable[[str], None],
    *,
    cfg: LogConfig | None = None,
    connect_timeout_s: float = 30.0,
    connect_limit_s: float = 0.0,
    start: Callable[[Path, Callable[[str], None]], StartedBroker] = start_embedded,
) -> tuple[LogAddress, BrokerHandle]:
    """Return the address of the log to use, running, and the handle to stop it with.

    ``auto`` stays with the kind of log that the run folder already holds, because offsets of one mean nothing in the other; in a new
    run folder it takes the embedded Kafka and falls back to files, saying so with the reason.

    Args:
        broker: ``auto``, ``embedded``, ``local``, ``[kafka://]HOST:PORT[,HOST:PORT]`` or ``local:///FOLDER``.
        run_folder: The embedded Kafka's data goes to ``kafka`` in it, files to ``log``.
        say: Gets one line that says which log it is, and one for each attempt to reach a Kafka that does not answer.
        cfg: Says how a Kafka is spoken to; None takes defaults.
        connect_timeout_s: Bound of one attempt to reach the Kafka at ``HOST:PORT``.
        connect_limit_s: How long to try again; 0 tries once.
        start: Starts the embedded Kafka.

    Raises:
        ConfigError: ``broker`` is none of these, or settings are of another Kafka than the embedded one.
        BrokerUnavailable: No Kafka answers at ``HOST:PORT`` until the limit.
        BrokerRefused: It does not let this client in.
        EmbeddedBrokerError: The embedded Kafka can't be had, and nothing else was allowed.
    """
    kafka_folder, local_folder = run_folder / "kafka", run_folder / "log"
    if broker.startswith("local://"):
        return local_address(broker.removeprefix("local://")), NothingToStop()
    if broker == "auto" and local_folder.exists():
        say(f"broker: files in {local_folder}, as before in this run")
        return local_address(local_folder), NothingToStop()
    if broker == "local":
        say(f"broker: files in {local_folder}")
        return local_address(local_folder), NothingToStop()
    if broker not in {"auto", "embedded"}:
        address = kafka_address(broker.removeprefix("kafka://"))
        began_s = time.monotonic()
        num_brokers = reach(address.where, cfg or LogConfig(), say, attempt_s=connect_timeout_s, limit_s=connect_limit_s)
        say(f"broker: Kafka at {address.where} ({num_brokers} brokers, answered in {time.monotonic() - began_s:.1f} s)")
        return address, NothingToStop()
    check_embedded(cfg or LogConfig())
    try:
        embedded = start(kafka_folder, say)
    except EmbeddedBrokerError as error:
        if (where := error.facts.get("address")) is not None:
            say(f"broker: the embedded Apache Kafka of another process, at {where}; it ends with that process")
            return kafka_address(where), NothingToStop()
        if broker == "embedded" or (kafka_folder / "data").exists():
            raise
        say(f"broker: files in {local_folder} instead of Kafka, because: {error}")
        return local_address(local_folder), NothingToStop()
    say(f"broker: embedded Apache Kafka {KAFKA_VERSION} at {embedded.address.where}")
    return embedded.address, embedded
