"""Find what a rebuild misses between its lake and its log: records that left the log before they were committed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow.compute as pc

from streamrec.errors import RetentionGap
from streamrec.log.lake import EventLake

BEGIN_HERE = "to make the state without what neither the lake nor the log has: python -m jobs.rebuild --skip-lost"
BEGIN_ANEW = "to begin anew with the lake as it is now: python -m jobs.rebuild --anew, with --skip-lost where that is refused too"


@dataclass(frozen=True)
class Gap:
    """Say what is missing of a partition.

    Attributes:
        partition: The partition.
        held: Its next offset, as committed.
        start: Where the log begins.
        num_found: Places between the two of which the lake has an event, of steps that no commit covers.
    """

    partition: int
    held: int
    start: int
    num_found: int

    @property
    def num_lost(self) -> int:
        """Number of records that neither has."""
        return self.start - self.held - self.num_found

    def __str__(self) -> str:
        from_lake = f"; {self.num_found} come from the lake" if self.num_found else ""
        return f"goes on at offset {self.start} instead of {self.held} and {self.num_lost} records are lost{from_lake}"


def gaps_of(wanted: Mapping[int, int], earliest: Mapping[int, int]) -> dict[int, int]:
    """Return by partition how many offsets from the wanted one on lie before the log's earliest, where some do; one that is not wanted has none."""
    gaps = {partition: start - wanted.get(partition, start) for partition, start in sorted(earliest.items())}
    return {partition: num for partition, num in gaps.items() if num > 0}


def find_gaps(lake: EventLake, ends: Mapping[int, int], earliest: Mapping[int, int]) -> list[Gap]:
    """Compare what is committed with the log.

    Args:
        lake: Has events of before, and perhaps of steps that no commit covers.
        ends: Partition to its next offset, as committed. One that only such a step has read begins in the lake.
        earliest: Where the log begins.
    """
    held = {**{partition: first for partition, (first, _) in lake.extent().items()}, **ends}
    found = {partition: lake.rows(partition, held[partition], earliest[partition])["offset"] for partition in gaps_of(held, earliest)}
    return [Gap(partition, held[partition], earliest[partition], pc.count_distinct(offsets).as_py()) for partition, offsets in found.items()]


def check_no_gap(topic: str, wanted: Mapping[int, int], earliest: Mapping[int, int], remedy: str) -> None:
    """Return if the log has every wanted offset.

    Raises:
        RetentionGap: It has not.
    """
    gaps = gaps_of(wanted, earliest)
    if gaps:
        first = next(iter(gaps))
        what = f"Rebuild: {topic} no longer holds what comes next"
        got = "; ".join(f"partition {partition} begins at {earliest[partition]}, {num} offsets too late" for partition, num in gaps.items())
        facts = {"topic": topic, "partition": first, "wanted": wanted[first], "earliest": earliest[first]}
        raise RetentionGap(what, got=got, do=f"bring the records back; {remedy}", **facts)
