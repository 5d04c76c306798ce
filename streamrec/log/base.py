"""Define the seams of the log: reader, writer, admin and tail, and the address that travels to actors and replicas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import pyarrow as pa

from streamrec.errors import ConfigError, DataError
from streamrec.log.offsets import OffsetRange

if TYPE_CHECKING:
    import ray.data

# Room for the largest event that a client may send by mistake, so that it reaches the dead letters with its bytes instead of stopping its writer.
MAX_RECORD_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Record:
    """Hold one record to append.

    Attributes:
        key: Decides the partition when ``partition`` is None; records of one key keep their order.
        value: The event's bytes.
        timestamp_ms: Processing time at the source; None for the time of the append.
        partition: None for the hash of the key (`streamrec.log.topics`); without a key the log chooses one.
    """

    key: bytes | None
    value: bytes
    timestamp_ms: int | None = None
    partition: int | None = None


class TableReader(Protocol):
    """Read ranges of offsets as Arrow tables, without Ray."""

    def partitions(self, topic: str) -> list[int]:
        """Return the topic's partitions in order.

        Raises:
            BrokerError: The topic does not exist.
            BrokerUnavailable: Nobody answers.
        """
        ...

    def earliest(self, topic: str) -> dict[int, int]:
        """Return by partition the first offset that is still there (inclusive)."""
        ...

    def latest(self, topic: str) -> dict[int, int]:
        """Return by partition the end offset (exclusive): the offset that the next record will get."""
        ...

    def topic_id(self, topic: str) -> str:
        """Return an id that is another one when the topic was deleted and made anew; empty where the log has no such thing."""
        ...

    def read_table(self, ranges: Sequence[OffsetRange]) -> pa.Table:
        """Return the rows of exactly these offsets, in the schema `streamrec.events.schema.LOG_ROW`.

        **Contract.** Partitions come in the order of ``ranges``, offsets ascending within each. The same ranges give the same rows for as
        long as the log retains them, however often and in whichever process they are read. Never fewer rows, never a jump. Blocks until
        the rows are there or `LogConfig.read_timeout_s` has passed without progress.

        Raises:
            RetentionGap: A range starts below the earliest offset.
            RowCountMismatch: The log can't give every offset of a range.
            BrokerUnavailable: Nobody answers within `LogConfig.connect_timeout_s`.
        """
        ...

    def close(self) -> None:
        """Release connections; a closed reader is not used again."""
        ...


@runtime_checkable
class ReadsAhead(Protocol):
    """Read a range while something else is done; what a `TableReader` may be too."""

    def read_ahead(self, ranges: Sequence[OffsetRange]) -> None:
        """Begin to read what `TableReader.read_table` will probably be asked for next.

        **Contract.** Returns at once and raises nothing about the rows. `read_table` gives the same rows or raises the same errors as without;
        other ranges than these drop what was read ahead.
        """
        ...


class LogReader(TableReader, Protocol):
    """Read ranges of offsets as Ray Datasets too."""

    def read(self, ranges: Sequence[OffsetRange]) -> ray.data.Dataset:
        """Return a dataset of the rows that `read_table` gives.

        **Contract.** The rows are there and counted when the call returns (a range is bounded), so that a gap is an error of this call
        and not of a later one. In offset order within a partition; the order of partitions is not promised. Called by the driver.

        Raises:
            RetentionGap: See `TableReader.read_table`.
            RowCountMismatch: See `TableReader.read_table`.
            BrokerUnavailable: See `TableReader.read_table`.
        """
        ...


class LogWriter(Protocol):
    """Append records."""

    def append(self, topic: str, records: Sequence[Record]) -> list[tuple[int, int]]:
        """Append and return the (partition, offset) of each record, in the order given.

        **Contract.** Returns only after the broker or the disk has every record. Records of one partition get ascending offsets in the order
        given. When it raises, some of the records may be in the log: appending again may write them twice (the dedupe stage
        drops repeated event ids). May be called from several threads and, with a writer each, from several processes.

        Raises:
            DataError: A record is larger than `MAX_RECORD_BYTES` or than the broker takes, or has no value; nothing was written of any.
            BrokerError: The topic or partition does not exist.
            BrokerUnavailable: The broker did not acknowledge within `LogConfig.connect_timeout_s`.
        """
        ...

    def close(self) -> None:
        """Release connections; what was appended is in the log already."""
        ...


class LogAdmin(Protocol):
    """Create topics and drop what is old."""

    def ensure_topic(self, topic: str, num_partitions: int) -> None:
        """Create the topic unless it is there; returns when it can be written.

        **Contract.** Idempotent, and safe when several processes do it at once.

        Raises:
            BrokerError: It is there with another number of partitions.
        """
        ...

    def drop_before(self, topic: str, offsets: Mapping[int, int]) -> None:
        """Drop by partition what lies below an offset, as retention does.

        **Contract.** Nothing at or above the offset is dropped; a log that keeps segments may keep more below it.
        """
        ...

    def close(self) -> None:
        """Release connections."""
        ...


class LogTail(Protocol):
    """Follow a topic from given offsets; what a serving replica keeps its histories fresh with. No Ray, no thread of its own."""

    def poll(self, timeout_s: float) -> pa.Table:
        """Return the records that came, in the schema `streamrec.events.schema.LOG_ROW`; no rows when nothing came in time.

        **Contract.** Returns as soon as there is a record, at the latest after ``timeout_s``. Every offset from the start offsets on is
        given once, ascending within a partition. While the broker is away it returns no rows and goes on where it was
        afterwards. Called by one thread.

        Raises:
            RetentionGap: The next offset has left the log; the follower must start again from a newer checkpoint.
            BrokerError: The topic does not exist, or has not reached the start offset.
        """
        ...

    def close(self) -> None:
        """Release connections."""
        ...


@dataclass(frozen=True, slots=True)
class LogAddress:
    """Say where a log is; picklable, and a string such as ``kafka://127.0.0.1:9092`` or ``local:///runs/demo/log``.

    Attributes:
        kind: Which log.
        where: ``HOST:PORT[,HOST:PORT]``, an absolute folder, or the name of a `streamrec.log.memory.MemoryLog` of this process.

    Example:
        >>> LogAddress.parse("kafka://127.0.0.1:9092")
        LogAddress(kind='kafka', where='127.0.0.1:9092')
        >>> str(LogAddress("local", "/tmp/log"))
        'local:///tmp/log'
    """

    kind: Literal["kafka", "local", "memory"]
    where: str

    def __str__(self) -> str:
        return f"{self.kind}://{self.where}"

    @classmethod
    def parse(cls, text: str) -> LogAddress:
        """Return the address of a string.

        Raises:
            ConfigError: The string is not one.
        """
        kind, separator, where = text.partition("://")
        if separator and where:
            if kind == "kafka":
                return cls("kafka", where)
            if kind == "local" and where.startswith("/"):
                return cls("local", where)
            if kind == "memory":
                return cls("memory", where)
        what = "Log: not an address"
        raise ConfigError(what, got=repr(text), allowed="kafka://HOST:PORT, local:///FOLDER or memory://NAME")


def check_records(records: Sequence[Record]) -> None:
    """Check that every log takes these records.

    A value that is null, Kafka's tombstone, is refused: our topics are not compacted, so it would take nothing away, and the stream would reject it.

    Raises:
        DataError: One is larger than `MAX_RECORD_BYTES`, or its key or value is not bytes; none has been written.
    """
    for position, record in enumerate(records):
        for name, given, allowed in (("value", record.value, bytes), ("key", record.key, bytes | None)):
            if not isinstance(given, allowed):
                what = f"Record: the {name} of the record at position {position} is not bytes"
                do = "send an event's JSON; a user is removed by a deletion event (`streamrec delete-user`), not by a null value"
                raise DataError(what, got=repr(given)[:80], allowed="bytes" if name == "value" else "bytes or None", do=do, position=position)
        num_bytes = len(record.value) + len(record.key or b"")
        if num_bytes > MAX_RECORD_BYTES:
            raise too_large(position, num_bytes, f"{MAX_RECORD_BYTES} bytes of key and value")


def too_large(position: int, num_bytes: int, allowed: str) -> DataError:
    """Return the error for a record that a log does not take."""
    what = f"Record: the record at position {position} is larger than the log takes"
    return DataError(what, got=f"{num_bytes} bytes", allowed=allowed, do="send less", position=position)
