"""Open what an address names: a reader, a writer, an admin, a tail.

Nothing connects before its first call, so opening can't fail for a broker that is away. `streamrec.log.broker` says how to get a log to address.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from streamrec.config import LogConfig
from streamrec.errors import ConfigError
from streamrec.log.base import LogAddress, LogAdmin, LogReader, LogTail, LogWriter, TableReader
from streamrec.log.kafka import DirectKafkaReader, KafkaLog
from streamrec.log.kafka_client import checked_servers
from streamrec.log.kafka_tail import KafkaTail
from streamrec.log.kafka_writer import KafkaAdmin, KafkaWriter
from streamrec.log.local import LocalAdmin, LocalLog, LocalTail, LocalWriter
from streamrec.log.memory import MemoryLog


def kafka_address(servers: str) -> LogAddress:
    """Return the address of a Kafka cluster at ``HOST:PORT[,HOST:PORT]``.

    Raises:
        ConfigError: ``servers`` is not of that form.
    """
    return LogAddress("kafka", checked_servers(servers))


def local_address(folder: str | Path) -> LogAddress:
    """Return the address of a log of files; the folder is made with its first topic."""
    return LogAddress("local", str(Path(folder).absolute()))


def memory_address(name: str) -> LogAddress:
    """Return the address of a log in the memory of this process."""
    return LogAddress("memory", name)


def open_reader(address: LogAddress, cfg: LogConfig) -> LogReader:
    """Return a reader that gives Ray Datasets too.

    Raises:
        ConfigError: The log is in memory, where Ray's workers do not see it.
    """
    if address.kind == "kafka":
        return KafkaLog(address.where, cfg)
    if address.kind == "local":
        return LocalLog(address.where)
    what = "Log: Ray does not read a log in the memory of one process"
    raise ConfigError(what, got=str(address), allowed="kafka:// or local://", do="use open_table_reader")


def open_table_reader(address: LogAddress, cfg: LogConfig) -> TableReader:
    """Return a reader that needs no Ray."""
    if address.kind == "kafka":
        return DirectKafkaReader(address.where, cfg)
    return LocalLog(address.where) if address.kind == "local" else MemoryLog.named(address.where)


def open_writer(address: LogAddress, cfg: LogConfig) -> LogWriter:
    """Return a writer."""
    if address.kind == "kafka":
        return KafkaWriter(address.where, cfg)
    return LocalWriter(address.where) if address.kind == "local" else MemoryLog.named(address.where)


def open_admin(address: LogAddress, cfg: LogConfig, replication_factor: int = 1) -> LogAdmin:
    """Return an admin; ``replication_factor`` is that of the topics it creates, where the log has such a thing."""
    if address.kind == "kafka":
        return KafkaAdmin(address.where, cfg, replication_factor)
    return LocalAdmin(address.where) if address.kind == "local" else MemoryLog.named(address.where)


def open_tail(address: LogAddress, topic: str, start_offsets: Mapping[int, int], cfg: LogConfig) -> LogTail:
    """Return a tail that follows the partitions of ``start_offsets`` from these offsets (inclusive)."""
    if address.kind == "kafka":
        return KafkaTail(address.where, topic, start_offsets, cfg)
    if address.kind == "local":
        return LocalTail(address.where, topic, start_offsets)
    return MemoryLog.named(address.where).follow(topic, start_offsets)
