"""Send the interactions of a quarantined range to the log once more, so that they are learned again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from streamrec.log.base import LogWriter, Record, TableReader
from streamrec.log.offsets import OffsetRange
from streamrec.pipeline.quarantined import Quarantined

CHUNK = 5_000
"""Records that are read, and acknowledged, together."""


def requeue(record: Quarantined, reader: TableReader, writer: LogWriter) -> Iterator[int]:
    """Send the interactions of a range again, and give the number sent after each chunk.

    Their event ids get ``~q`` and the record's batch behind them, since their own are known: sent twice, they are duplicates. Everything
    else was applied for good, and is left out. Who was deleted since stays deleted: the stream takes nothing of before a deletion.

    Raises:
        RetentionGap: The range has left the log.
    """
    for part in record.ranges:
        for start in range(part.start, part.end, CHUNK):
            rows = reader.read_table([OffsetRange(part.topic, part.partition, start, min(start + CHUNK, part.end))])
            keyed = zip(rows["key"].to_pylist(), rows["value"].to_pylist(), strict=True)
            again = [Record(key, value) for key, old in keyed if (value := _renamed(old, record.batch)) is not None]
            if again:
                writer.append(part.topic, again)
            yield len(again)


def _renamed(value: bytes | None, batch: int) -> bytes | None:
    """Return an interaction under its new id; None for what is none."""
    try:
        event: Any = json.loads(value or b"")
    except ValueError:
        return None
    if not isinstance(event, dict) or event.get("kind") not in {None, "interaction"} or not isinstance(event.get("event_id"), str):
        return None
    return json.dumps({**event, "event_id": f"{event['event_id']}~q{batch}"}).encode()
