"""Send the interactions of a quarantined range to the log once more, so that they are learned again."""

from __future__ import annotations

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


def requeue(record: Quarantined, topic: str, lake: EventLake, writer: LogWriter) -> Iterator[int]:
    """Send the interactions of a range again, and give the number sent after each chunk.

    They come from the lake, which has what was applied and nothing else: of the log's same offsets some were duplicates, late or rejected, and an
    event that is renamed would not be known as such any more. Their event ids get ``~q`` and the record's batch behind them, since their own are
    known: sent twice, they are duplicates. Everything else was applied for good, and is left out, and so are users who were deleted since.

    Raises:
        OperatorError: The lake does not have the range yet, since it is not committed.
    """
    if (there := lake.last_batch()) < record.last_batch:
        what, got = "Quarantine: the range is not in the lake yet", f"batches up to {there}"
        raise OperatorError(what, got=got, allowed=f"up to {record.last_batch}", do="try again after the stream's next commit")
    events = lake.between(record.first_batch - 1, record.last_batch)
    events = events.filter(pc.equal(events["kind"], str(Kind.INTERACTION)))
    named = pc.binary_join_element_wise(events["event_id"].cast(pa.string()), pa.scalar(f"q{record.batch}"), "~")
    events = events.set_column(events.schema.get_field_index("event_id"), "event_id", named)
    for start in range(0, events.num_rows, CHUNK):
        keys, values = encode_table(events.slice(start, CHUNK))
        writer.append(topic, [Record(key, value) for key, value in zip(keys, values, strict=True)])
        yield len(keys)
