"""Keep the record of what was quarantined: one file for each return to a promoted state, written once and never rewritten."""

from __future__ import annotations

import json
from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict

from streamrec.migrations import number_of, read_record
from streamrec.pipeline.plan import PlannedRange
from streamrec.storage import Storage

FOLDER = "quarantine"


class Quarantined(BaseModel):
    """Record what one return has quarantined; written once, never rewritten.

    Attributes:
        batch: The micro-batch that began with the return.
        return_to: Version whose state the students went back to.
        first_batch: The first one that was learned and is not any more.
        last_batch: The last one.
        ranges: Offsets of the events topic that they had read.
        num_events: How many of these were applied, and are booked as quarantined.
        num_rejections: Versions that were rejected since.
        reason: The last one's, as a sentence.
        at_ms: Processing time, UTC.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch: int
    return_to: str
    first_batch: int
    last_batch: int
    ranges: tuple[PlannedRange, ...]
    num_events: int
    num_rejections: int
    reason: str
    at_ms: int

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
