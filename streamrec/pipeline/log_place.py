"""Find the log that a configuration means, where one is there."""

from __future__ import annotations

from streamrec.config import Config
from streamrec.log.base import LogAddress
from streamrec.log.connect import kafka_address, local_address
from streamrec.log.embedded import running_at
from streamrec.log.kafka_security import check_embedded
from streamrec.pipeline.layout import run_folder


def log_there(config: Config, broker: str) -> LogAddress | None:
    """Return the address of the log that a job would use; None where that job would start an embedded Kafka. Starts nothing, and asks nobody.

    Args:
        config: The resolved configuration.
        broker: What ``log.broker`` may be.

    Raises:
        ConfigError: ``broker`` is none of these, or settings are of another Kafka than the embedded one.
    """
    files = run_folder(config) / "log"
    if broker.startswith("local://"):
        return local_address(broker.removeprefix("local://"))
    if broker == "local" or (broker == "auto" and files.exists()):
        return local_address(files)
    if broker in {"auto", "embedded"}:
        check_embedded(config.log)
        running = running_at(run_folder(config) / "kafka")  # Jobs join it.
        return None if running is None else kafka_address(running)
    return kafka_address(broker.removeprefix("kafka://"))
