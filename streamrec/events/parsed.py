"""Hold a block of records between parsing and validation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streamrec.events.schema import WIRE, Reason

MAX_DETAIL_CHARS = 120  # a detail quotes the record, which may hold megabytes

REASON_CODES: dict[Reason, int] = {reason: code for code, reason in enumerate(Reason, start=1)}

_NO_COLUMNS = WIRE.empty_table()  # made once: making it costs more than decoding a record


@dataclass
class Parsed:
    """Hold the parse of n values.

    Attributes:
        columns: Table with the `WIRE` schema; values that were rejected while they were parsed have no row in it.
        rows: Which value each row of ``columns`` came from. int64
        reasons: `REASON_CODES` by value, or 0 where nothing is wrong so far. [n] int8
        details: What was wrong, by value; only for rejected ones.
    """

    columns: pa.Table
    rows: NDArray[np.int64]
    reasons: NDArray[np.int8]
    details: dict[int, str]

    @classmethod
    def of_rows(cls, num_rows: int) -> Parsed:
        """Start with no columns and nothing rejected."""
        return cls(_NO_COLUMNS, np.arange(num_rows), np.zeros(num_rows, np.int8), {})

    def reject(self, row: int, reason: Reason, detail: str) -> None:
        """Record why a value is rejected while it is parsed; the first reason stands."""
        if self.reasons[row] == 0:
            self.reasons[row] = REASON_CODES[reason]
            self.details[row] = shorten(detail)


def shorten(text: str) -> str:
    """Cut a text to `MAX_DETAIL_CHARS`."""
    return text if len(text) <= MAX_DETAIL_CHARS else text[: MAX_DETAIL_CHARS - 1] + "…"


def say(cell: object) -> str:
    """Describe a JSON value for a detail, without quoting containers.

    Example:
        >>> say(5), say([1, 2])
        ('got int 5', 'got list')
    """
    return f"got {type(cell).__name__} {shorten(repr(cell))}" if isinstance(cell, str | int | float) else f"got {type(cell).__name__}"
