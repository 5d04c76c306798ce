"""Keep the record of what was quarantined: one file for each return to a promoted state, never rewritten, withdrawn with a step that is given up."""

from __future__ import annotations

import json
from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict

from streamrec.migrations import number_of, read_record
from streamrec.pipeline.plan import PlannedRange
from streamrec.storage import Storage

FOLDER = "quarantine"


class Quarantined(BaseModel):
    """Record what one return has quarantined.

    Attributes:
        batch: The micro-batch that began with the return.
        return_to: Version whose state the students went back to.
        batches: Those that were learned and are not any more, as stretches, first and last of each; none is in two records.
        ranges: Offsets of the events topic that they had read; none of a topic that was made anew since.
        num_events: How many of these were applied, and are booked as quarantined.
        num_rejections: Versions that were rejected since.
        reason: The last one's, as a sentence.
        at_ms: Processing time, UTC.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch: int
    return_to: str
    batches: tuple[tuple[int, int], ...]
    ranges: tuple[PlannedRange, ...]
    num_events: int
    num_rejections: int
    reason: str
    at_ms: int

    @property
    def first_batch(self) -> int:
        """The first one that was learned and is not any more; 0 where nothing was."""
        return min((first for first, _ in self.batches), default=0)

    @property
    def last_batch(self) -> int:
        """The last one; 0 where nothing was."""
        return max((last for _, last in self.batches), default=0)

    def to_json(self) -> bytes:
        """Return the JSON, keys sorted."""
        return json.dumps({"format": number_of("quarantine"), **self.model_dump(mode="json")}, sort_keys=True, indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes, where: str = "its bytes") -> Quarantined:
        """Parse what `to_json` wrote at ``where``.

        Raises:
            Damaged: It is no such record.
            StorageError: It was written by a newer streamrec.
        """
        what = f"Quarantine: a record can't be read, {where}"
        return read_record("quarantine", data, cls, what, "restore that file from a copy")


def quarantined(storage: Storage) -> Iterator[Quarantined]:
    """Give the records of a lineage, oldest first."""
    for key in storage.list(FOLDER):
        yield Quarantined.from_json(storage.read(key), f"{storage.address}/{key}")


def record_key(batch: int) -> str:
    """Return where the record of the return is kept that a micro-batch began with."""
    return f"{FOLDER}/{batch:08d}.json"


def withdraw_quarantined(storage: Storage, after_batch: int) -> list[int]:
    """Remove the records of returns after a micro-batch, by steps that are given up, and return the batches that these began with."""
    names = [key.rsplit("/", 1)[-1].removesuffix(".json") for key in storage.list(FOLDER)]
    gone = sorted(batch for name in names if name.isdecimal() and (batch := int(name)) > after_batch)
    for batch in gone:
        storage.delete(record_key(batch))
    return gone
