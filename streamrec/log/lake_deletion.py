"""Say which rows of the lake a deletion takes. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streamrec.log.lake_table import quoted

Place = tuple[int, int, int]
"""Event time, partition and offset: what the stream is ordered by."""

_COUNT_BITS = 32

DELETED_BY = ["namespace", "user_id", "event_time", "partition", "offset", "batch"]
"""Columns that `owners` needs, and the places of rows."""


class Deleted(NamedTuple):
    """Name a user whose rows go.

    Attributes:
        namespace: The user's.
        user_id: Any text.
        before: Only rows before this place in the stream's order, or in its partition. For a table whose batches are not one's own.
    """

    namespace: str
    user_id: str
    before: Place | None = None


class Asked(NamedTuple):
    """Name the step that deletes, so that one that is executed again is told the same counts.

    Attributes:
        by: Whose step it is; empty for the lineage that the table belongs to.
        batch: Its number.
    """

    by: str
    batch: int

    def mark(self, number: int, num_rows: int) -> tuple[str, int]:
        """Return a name and a number that say how many rows of its user ``number`` went; a later step's take their place."""
        return f"asked/{self.by}/{number}", (self.batch << _COUNT_BITS) + num_rows

    def rows(self, mark: int | None) -> int:
        """Return how many rows a mark's number says that went in this step."""
        return 0 if mark is None or mark >> _COUNT_BITS != self.batch else mark % (1 << _COUNT_BITS)


def rows_of(users: Sequence[Deleted], before_batch: int | None) -> str:
    """Return a condition that holds for all rows of `owners`, and for few others: lists stay flat, however many users there are."""
    namespaces = ", ".join(sorted({quoted(user.namespace) for user in users}))
    ids = ", ".join(sorted({quoted(user.user_id) for user in users}))
    chosen = f"namespace in ({namespaces}) and user_id in ({ids})"
    return chosen if before_batch is None else f"{chosen} and batch < {int(before_batch)}"


def owners(found: pa.Table, users: Sequence[Deleted]) -> NDArray[np.int64]:
    """Return for each row the position of the first of the users whose row it is, -1 where it is none's. [rows]."""
    result = np.full(found.num_rows, -1, np.int64)
    if not found.num_rows:
        return result
    time, partition, offset = (found[name].to_numpy() for name in ("event_time", "partition", "offset"))
    names = list(zip(found["namespace"].to_pylist(), found["user_id"].to_pylist(), strict=True))
    rows: dict[tuple[str, str], list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(name, []).append(row)
    for number, user in enumerate(users):
        own = np.asarray(rows.get((user.namespace, user.user_id), []), np.int64)
        if user.before is not None:
            at, among, until = user.before
            earlier = (time[own] < at) | ((time[own] == at) & (partition[own] < among))
            own = own[earlier | ((partition[own] == among) & (offset[own] < until))]
        result[own[result[own] < 0]] = number
    return result
