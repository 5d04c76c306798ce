"""Hold any log that gives Ray Datasets to the promises of `streamrec.log.base.LogReader`; the tests need a running Ray.

Example:
    class TestMyDatasets(DatasetContract):
        @pytest.fixture
        def log(self, tmp_path):
            return LogUnderTest.at(local_address(tmp_path))

        @pytest.fixture
        def datasets(self, tmp_path):
            return open_reader(local_address(tmp_path), LogConfig())
"""

from __future__ import annotations

import uuid

import pyarrow as pa
import pytest

from streamrec.errors import RetentionGap, RowCountMismatch
from streamrec.events.schema import LOG_ROW
from streamrec.log.base import LogReader
from streamrec.log.offsets import OffsetRange
from streamrec.testing.contracts.log import LogUnderTest, numbered, places_of, values


class DatasetContract:
    """Tests that every `LogReader` passes beyond `LogContract`; a subclass gives the fixtures ``log`` and ``datasets``."""

    @pytest.fixture
    def topic(self, log: LogUnderTest) -> str:
        """A new topic of two partitions."""
        name = f"contract-{uuid.uuid4().hex}"
        log.admin.ensure_topic(name, 2)
        log.writer.append(name, [*numbered(2500, partition=0), *numbered(30, partition=1)])
        return name

    def test_a_dataset_has_exactly_the_rows_of_its_ranges(self, log: LogUnderTest, datasets: LogReader, topic: str) -> None:
        """In offset order within a partition, whether all partitions are planned or one."""
        for ranges in (
            [OffsetRange(topic, 0, 100, 2400), OffsetRange(topic, 1, 5, 30)],
            [OffsetRange(topic, 1, 10, 20), OffsetRange(topic, 0, 7, 7)],
            [OffsetRange(topic, 1, 10, 20)],
        ):
            rows = pa.concat_tables(part for part in datasets.read(ranges).iter_batches(batch_format="pyarrow", batch_size=None))
            assert rows.schema.equals(LOG_ROW)
            by_partition = sorted(zip(places_of(rows), values(rows), strict=True), key=lambda row: row[0][0])
            expected = log.reader.read_table(ranges)
            assert by_partition == list(zip(places_of(expected), values(expected), strict=True))
            assert datasets.read_table(ranges).equals(expected)

    def test_no_offsets_give_an_empty_dataset(self, datasets: LogReader, topic: str) -> None:
        """Planned or not planned at all."""
        assert datasets.read([OffsetRange(topic, 0, 7, 7)]).count() == 0
        assert datasets.read([]).count() == 0
        assert datasets.read_table([OffsetRange(topic, 0, 7, 7)]).schema.equals(LOG_ROW)

    def test_a_gap_is_an_error_of_the_call(self, log: LogUnderTest, datasets: LogReader, topic: str) -> None:
        """Not of a later one, and never a jump."""
        log.admin.drop_before(topic, {0: 2500})
        log.writer.append(topic, numbered(5, partition=0))
        log.admin.drop_before(topic, {0: 2500})
        for read in (datasets.read, datasets.read_table):
            with pytest.raises(RetentionGap) as caught:
                read([OffsetRange(topic, 0, 2400, 2505)])
            assert caught.value.facts == {"topic": topic, "partition": 0, "wanted": 2400, "earliest": 2500}
            with pytest.raises(RowCountMismatch):
                read([OffsetRange(topic, 1, 0, 31)])
