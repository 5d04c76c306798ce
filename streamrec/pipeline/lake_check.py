"""Recount the event lake against the newest checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from streamrec.errors import OperatorError
from streamrec.log.lake import EventLake
from streamrec.log.lake_table import Held, lake_address
from streamrec.pipeline.checkpoint import CheckpointStore
from streamrec.pipeline.layout import lake_url
from streamrec.pipeline.lineage import noted_lakes
from streamrec.storage import open_storage


@dataclass(frozen=True)
class LakeReport:
    """Hold what a recount found.

    Attributes:
        address: The table's.
        batch: The checkpoint's.
        last_batch: The table's; ahead of the checkpoint's while a step is in progress, or until a crashed stream goes on.
        applied: Events that the checkpoint applied.
        expected: Rows that it appended, of them all those that were removed since.
        rows: Rows that the table has of them.
        topic_batch: The batch by which the stream went on with a topic that was made anew; 0 while there was none.
        rows_before: Rows, of those, of topics before; whether their offsets were read, and were there once, nobody can say any more.
        removed: Rows that deletions took away.
        left_out: Applied events that are no rows, by reason.
        rows_ahead: Rows of batches that the checkpoint does not cover yet.
        differences: One sentence each; empty when lake and checkpoint agree.
    """

    address: str
    batch: int
    last_batch: int
    applied: int
    expected: int
    rows: int
    topic_batch: int
    rows_before: int
    removed: int
    left_out: Mapping[str, int]
    rows_ahead: int
    differences: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {"agrees": not self.differences, **asdict(self)}


def check_lake(lake: EventLake, checkpoints: CheckpointStore, lineage_url: str = "") -> LakeReport:
    """Compare the table with the newest checkpoint, which is read first, so that a stream may run meanwhile.

    Args:
        lake: The table.
        checkpoints: The state's.
        lineage_url: The lineage's folder; where the checkpoint speaks of no lake, the tables that it knows of are named.

    Raises:
        OperatorError: Nothing was committed, or the state keeps no lake.
    """
    loaded = checkpoints.load_newest(only=("stream", "lake"))
    if loaded is None or loaded.components.get("lake", (None,))[0] is None:
        what = "Lake: the state has no checkpoint that speaks of a lake"
        before = _written_before(lineage_url) if lineage_url else []
        where = f"; what it has written before lies at {', '.join(before)}" if before else ""
        do = f"name the state's configuration, and let the stream commit with `lake.enabled`{where}"
        raise OperatorError(what, got=lake.address, do=do)
    manifest, stream = (dict(loaded.components[name][0].meta) for name in ("lake", "stream"))
    offsets = {int(partition): int(offset) for partition, offset in stream["offsets"].items()}
    expected = {int(partition): int(num) for partition, num in manifest["rows"].items()}
    topic_batch = int(stream.get("topic_batch", 0))
    held = lake.held(stream["batch"], dict.fromkeys({*offsets, *expected}, 0), topic_batch)
    last = lake.last_batch()
    report = LakeReport(
        address=lake.address,
        batch=stream["batch"],
        last_batch=last,
        applied=stream["counts"]["applied"] + stream["counts"]["quarantined"],
        expected=sum(expected.values()),
        rows=sum(part.rows for part in held.values()),
        topic_batch=topic_batch,
        rows_before=sum(part.rows_before for part in held.values()),
        removed=sum(part.removed for part in held.values()),
        left_out=manifest["left_out"],
        rows_ahead=sum(part.rows_ahead for part in held.values()),
    )
    if last < manifest["batch"]:
        report.differences.append(f"the lake ends at batch {last}, the checkpoint appended up to batch {manifest['batch']}")
    for partition, part in held.items():
        report.differences.extend(_compare(partition, part, expected.get(partition, 0), offsets.get(partition, 0), is_ahead=last > manifest["batch"]))
    counted = report.expected + sum(report.left_out.values())
    if counted != report.applied:
        report.differences.append(f"the checkpoint applied {report.applied} events, its lake accounts for {counted}")
    return report


def _written_before(lineage_url: str) -> list[str]:
    tables = [lake_address(lake_url(lineage_url, noted)) for noted in ("", *noted_lakes(open_storage(lineage_url)))]
    return [address for address in tables if EventLake(address, str).is_there()]


def _compare(partition: int, part: Held, expected: int, end: int, *, is_ahead: bool) -> list[str]:
    """Return in what a partition differs."""
    found = []
    # Ahead of the checkpoint, what was removed may have been rows that the checkpoint does not count yet.
    least = part.rows if is_ahead else part.rows + part.removed
    if not least <= expected <= part.rows + part.removed:
        removed = f" and {part.removed} removed" if part.removed else ""
        found.append(f"partition {partition}: {part.rows} rows{removed}, the checkpoint appended {expected}")
    if part.duplicates:
        found.append(f"partition {partition}: {part.duplicates} rows repeat the offset of another")
    if part.highest >= end:
        found.append(f"partition {partition}: a row has offset {part.highest}, the checkpoint read up to {end} (exclusive)")
    if part.lowest_ahead is not None and part.lowest_ahead < end:
        found.append(f"partition {partition}: a row of a later batch has offset {part.lowest_ahead}, the checkpoint read up to {end} (exclusive)")
    return found
