"""Send the interactions of a quarantined range to the log once more, so that they are learned again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from streamrec.errors import OperatorError
from streamrec.events.codec import encode_table
from streamrec.events.schema import Kind
from streamrec.log.base import LogWriter, Record
from streamrec.log.lake import EventLake
from streamrec.pipeline.quarantined import Quarantined

CHUNK = 5_000
"""Records that are acknowledged together."""


def requeue(record: Quarantined, topic: str, lake: EventLake, writer: LogWriter, max_id_bytes: int = 512) -> Iterator[int]:
    """Send the interactions of a range again, and give the number sent after each chunk.

    They come from the lake, which has what was applied and nothing else: of the log's same offsets some were duplicates, late or rejected, and an
    event that is renamed would not be known as such any more. Their event ids get ``~q`` and the record's batch behind them, since their own are
    known: sent twice, they are duplicates. Where that is longer than ``max_id_bytes`` the id is the SHA-256 of it, in hex. Everything else was
    applied for good, and is left out, and so are users who were deleted since.

    Raises:
        OperatorError: The lake does not have the range yet, since it is not committed.
    """
    if (there := lake.last_batch()) < record.last_batch:
        what, got = "Quarantine: the range is not in the lake yet", f"batches up to {there}"
        raise OperatorError(what, got=got, allowed=f"up to {record.last_batch}", do="try again after the stream's next commit")
    for first, last in record.batches:  # One by one: a topic that is made anew gives offsets again, and places would be taken for the same.
        events = lake.between(first - 1, last)
        events = events.filter(pc.equal(events["kind"], str(Kind.INTERACTION)))
        events = events.set_column(events.schema.get_field_index("event_id"), "event_id", renamed(events["event_id"], record.batch, max_id_bytes))
        for start in range(0, events.num_rows, CHUNK):
            keys, values = encode_table(events.slice(start, CHUNK))
            writer.append(topic, [Record(key, value) for key, value in zip(keys, values, strict=True)])
            yield len(keys)


def renamed(event_ids: pa.ChunkedArray, batch: int, max_id_bytes: int) -> pa.Array:
    """Return the ids under which events are sent again that the return of a batch took back: always the same ones, none longer than allowed."""
    names = [f"{event_id}~q{batch}" for event_id in event_ids.to_pylist()]
    fitting = [name if len(name.encode()) <= max_id_bytes else hashlib.sha256(name.encode()).hexdigest()[:max_id_bytes] for name in names]
    return pa.array(fitting, pa.string())
