"""Say what the lake's table looks like, and what it is asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pyarrow as pa

from streamrec.events.schema import EVENT

COLUMNS = EVENT.append(pa.field("topic", pa.string())).append(pa.field("batch", pa.int64())).append(pa.field("event_date", pa.date32()))
"""The table's columns: an event, its place in the log, the micro-batch that applied it, and the UTC date of its event time."""

PARTITION_BY = ["namespace", "event_date"]

PROPERTIES = {
    # Whoever opens the table reads the log since its last checkpoint, all entries at once, each in a thread that stays for ten seconds: of the usual
    # hundred entries 100 threads and 20 MB were left.
    "delta.checkpointInterval": "20",
    # The log outlives files for a while, so its statistics must name no user, session or event.
    "delta.dataSkippingStatsColumns": "event_time,partition,offset,batch",
    # delta-rs would do so without waiting until the checkpoint that stands for old entries is on the disk; the vacuum does.
    "delta.enableExpiredLogCleanup": "false",
}
"""What every table is told of its log."""

BESIDE_HOURS = 1
"""What other writers of a table have not committed yet, and entries of its log that they may be about to read, are younger than that."""

_RECOUNT = (
    "select partition, count(*) filter (where batch <= {batch}) as rows, count(*) filter (where batch <= {since}) as rows_before,"
    " max(offset) filter (where batch <= {batch} and batch > {since}) as highest,"
    " count(*) filter (where batch > {batch}) as rows_ahead, min(offset) filter (where batch > {batch}) as lowest_ahead,"
    " count(*) - count(distinct {place}) as duplicates from lake group by partition"
)
# Of topics before, no row says which one it is of; within a batch an offset is there once in any case.
_PLACE_IN_TOPICS = "case when batch > {since} then concat('', offset) else concat(batch, '/', offset) end"

EXTENT = (
    'with batches as (select "partition", batch, min("offset") as first, max("offset") as last from lake group by "partition", batch),'
    ' ordered as (select "partition", first, max(last) over (partition by "partition" order by batch rows between unbounded preceding'
    " and 1 preceding) as before from batches)"
    ' select "partition", min(first) as first, count(*) filter (where first <= before) as repeated from ordered group by "partition"'
)


@dataclass(frozen=True)
class Held:
    """Say what the table holds of one partition of the topic.

    Attributes:
        rows: Rows up to the batch that was asked about.
        rows_before: Rows, of those, of topics before the one of today.
        highest: The highest offset of the others, -1 without rows.
        rows_ahead: Rows of later batches.
        lowest_ahead: Their lowest offset, None without rows.
        duplicates: Rows, of any batch, whose offset another row of the topic has; of topics before, another row of the batch.
        removed: Rows that deletions took away, ever.
    """

    rows: int = 0
    rows_before: int = 0
    highest: int = -1
    rows_ahead: int = 0
    lowest_ahead: int | None = None
    duplicates: int = 0
    removed: int = 0


def recount(batch: int, since: int) -> str:
    """Return a query by partition; see `Held`.

    Args:
        batch: Later ones are ahead.
        since: Rows of batches up to this one are of topics before; 0 while there was one topic.
    """
    return _RECOUNT.format(batch=int(batch), since=int(since), place=_PLACE_IN_TOPICS.format(since=int(since)) if since else "offset")


def lake_rows(events: pa.Table, topic: str, batch: int) -> pa.Table:
    """Return events as rows of `COLUMNS`.

    Args:
        events: Table with the `streamrec.events.schema.EVENT` schema.
        topic: Where they were read.
        batch: The micro-batch that applied them.
    """
    dates = events["event_time"].cast(pa.timestamp("ms")).cast(pa.date32())
    values = {"topic": pa.repeat(pa.scalar(topic), len(dates)), "batch": pa.repeat(pa.scalar(batch, pa.int64()), len(dates)), "event_date": dates}
    return pa.table([values[name] if name in values else events[name] for name in COLUMNS.names], schema=COLUMNS)


def quoted(text: str) -> str:
    """Return a text as an SQL literal: in standard SQL nothing but the quote itself ends it."""
    return "'" + text.replace("'", "''") + "'"


def places_of(found: pa.Table) -> str:
    """Return a condition that holds for these rows alone; a topic that was made anew gives an offset again, but not in the same batch."""
    columns = [found[name].to_pylist() for name in ("batch", "partition", "offset")]
    batches = ", ".join(map(str, sorted(set(columns[0]))))  # Files of no such batch are not opened.
    places = ", ".join(f"'{batch}/{partition}/{offset}'" for batch, partition, offset in zip(*columns, strict=True))
    return f"batch in ({batches}) and concat(batch, '/', \"partition\", '/', \"offset\") in ({places})"


def lake_address(address: str) -> str:
    """Return an address as delta-rs takes it: a folder's absolute path, or a bucket's URL."""
    parts = urlsplit(address) if "://" in address else None
    if parts is not None and parts.scheme != "file":
        return address.rstrip("/")
    return str(Path(unquote(parts.path) if parts is not None else address).absolute())
