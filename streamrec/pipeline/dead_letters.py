"""Wrap rejected records for the dead-letter topic: where each was, why it was rejected, and its original bytes."""

from __future__ import annotations

import base64
import json
from typing import Any

import pyarrow as pa

from streamrec.log.base import LogWriter, Record
from streamrec.migrations import number_of

PART_BYTES = 256 * 1024
"""Original bytes of a key and of a value in one dead letter: in base64 both stay below a broker's usual limit of 1 MiB a message, so that
a record that was accepted can always be sent on."""


def dead_letters(row: dict[str, Any]) -> list[Record]:
    """Wrap one rejected record; a large one takes several dead letters, ``part`` of ``parts``, whose bytes follow one another.

    The key is topic/partition/offset, so that a record that is sent again after a crash can be told.

    Args:
        row: A row of `streamrec.events.codec.Decoded.rejected`.
    """
    where = f"{row['topic']}/{row['partition']}/{row['offset']}".encode()
    facts = {name: row[name] for name in ("topic", "partition", "offset", "reason", "detail")}
    originals: dict[str, bytes | None] = {name: row[name] for name in ("key", "value")}
    num_parts = max(1, *(-(-len(data or b"") // PART_BYTES) for data in originals.values()))
    letters = []
    for part in range(num_parts):
        piece = slice(part * PART_BYTES, (part + 1) * PART_BYTES)
        encoded = {f"{name}_base64": None if data is None else base64.b64encode(data[piece]).decode("ascii") for name, data in originals.items()}
        letters.append(Record(where, json.dumps({"format": number_of("letter"), **facts, "part": part, "parts": num_parts, **encoded}).encode()))
    return letters


def send_dead_letters(writer: LogWriter | None, topic: str, rejected: pa.Table) -> None:
    """Send rejected records to their topic; without a writer they stay counted only.

    Args:
        writer: Appends to the log.
        topic: The dead-letter topic.
        rejected: As `streamrec.events.codec.Decoded.rejected`.
    """
    if rejected.num_rows and writer is not None:
        writer.append(topic, [letter for row in rejected.to_pylist() for letter in dead_letters(row)])
