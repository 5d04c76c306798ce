from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from streamrec.config import LogConfig, parse_config
from streamrec.events.codec import EventCodec
from streamrec.events.schema import LOG_ROW
from streamrec.log.base import LogAddress
from streamrec.log.connect import open_admin, open_table_reader, open_writer
from streamrec.log.offsets import OffsetRange
from streamrec.pipeline.dead_letters import dead_letters

CFG = LogConfig()
Reject = Callable[..., None]
RowsOf = Callable[[str], pa.Table]


@pytest.fixture
def log(tmp_path: Path) -> LogAddress:
    """A log of files with both topics."""
    address = LogAddress("local", str(tmp_path / "log"))
    admin = open_admin(address, CFG)
    admin.ensure_topic(CFG.events_topic, 2)
    admin.ensure_topic(CFG.dead_letter_topic, 1)
    return address


@pytest.fixture
def reject(log: LogAddress) -> Reject:
    """Dead-letter values as the stream does: with the codec's reason, at ascending offsets of partition 0."""

    def send(values: Sequence[bytes | None], *, key: bytes | None = b"u1", start: int = 0, now_ms: int = 1_764_000_000_000) -> None:
        rows = [
            {"topic": CFG.events_topic, "partition": 0, "offset": start + number, "timestamp": 0, "key": key, "value": value}
            for number, value in enumerate(values)
        ]
        rejected = EventCodec(parse_config({}).events).decode(pa.Table.from_pylist(rows, schema=LOG_ROW), now_ms).rejected.to_pylist()
        assert len(rejected) == len(values)
        open_writer(log, CFG).append(CFG.dead_letter_topic, [record for row in rejected for record in dead_letters(row)])

    return send


@pytest.fixture
def rows_of(log: LogAddress) -> RowsOf:
    """All rows of a topic."""

    def read(topic: str) -> pa.Table:
        reader = open_table_reader(log, CFG)
        return reader.read_table([OffsetRange(topic, number, 0, end) for number, end in reader.latest(topic).items()])

    return read
