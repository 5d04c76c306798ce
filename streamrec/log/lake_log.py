"""Read a log whose beginning lies in an event lake: to whoever reads it, a log that keeps everything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from streamrec.events.codec import encode_table
from streamrec.events.schema import LOG_ROW
from streamrec.log.base import ReadsAhead, TableReader
from streamrec.log.lake import EventLake
from streamrec.log.offsets import OffsetRange
from streamrec.log.rows import concatenated


class LakeThenLog:
    """Read offsets below a bound from a lake's rows, and the others from the log.

    **Contract.** As `streamrec.log.base.TableReader`, but for offsets of the lake: it holds what was applied, so what was rejected, late or a
    duplicate, deletions and what their users did before them have no rows. The lake's rows are encoded as records again.

    Args:
        lake: The table.
        log: The log.
        begins: Where each partition begins in the lake.
        ends: Where each partition's lake ends and its log begins (exclusive).
    """

    def __init__(self, lake: EventLake, log: TableReader, begins: Mapping[int, int], ends: Mapping[int, int]) -> None:
        self._lake = lake
        self._log = log
        self._begins = begins
        self._ends = ends

    def partitions(self, topic: str) -> list[int]:
        """Return the log's."""
        return self._log.partitions(topic)

    def earliest(self, topic: str) -> dict[int, int]:
        """Return where each partition begins in the lake, or in the log if it is not in the lake."""
        return {**self._log.earliest(topic), **self._begins}

    def latest(self, topic: str) -> dict[int, int]:
        """Return the log's."""
        return self._log.latest(topic)

    def topic_id(self, topic: str) -> str:
        """Return the log's."""
        return self._log.topic_id(topic)

    def read_table(self, ranges: Sequence[OffsetRange]) -> pa.Table:
        """Return the rows of the ranges, in their order; see the class's contract."""
        if self._is_past_the_lake(ranges):
            return self._log.read_table(ranges)
        tables = []
        for part in ranges:
            bound = min(max(self._ends.get(part.partition, 0), part.start), part.end)
            if part.start < bound:
                tables.append(log_rows(part.topic, self._lake.rows(part.partition, part.start, bound)))
            if bound < part.end:
                tables.append(self._log.read_table([OffsetRange(part.topic, part.partition, bound, part.end)]))
        return concatenated(tables)

    def read_ahead(self, ranges: Sequence[OffsetRange]) -> None:
        """Let the log read ahead what lies in it alone."""
        if isinstance(self._log, ReadsAhead) and self._is_past_the_lake(ranges):
            self._log.read_ahead(ranges)

    def _is_past_the_lake(self, ranges: Sequence[OffsetRange]) -> bool:
        return all(part.start >= min(self._ends.get(part.partition, 0), part.end) for part in ranges)

    def close(self) -> None:
        """Close the log's reader."""
        self._log.close()


def log_rows(topic: str, events: pa.Table) -> pa.Table:
    """Return a lake's rows as records of the log; their broker time, which the lake does not keep, is the event's."""
    keys, values = encode_table(events)
    columns = {
        "topic": pa.repeat(pa.scalar(topic, pa.string()), events.num_rows),
        "partition": events["partition"],
        "offset": events["offset"],
        "timestamp": events["event_time"],
        "key": pa.array(keys, pa.binary()),
        "value": pa.array(values, pa.binary()),
    }
    return pa.table([columns[name] for name in LOG_ROW.names], names=LOG_ROW.names).cast(LOG_ROW)
