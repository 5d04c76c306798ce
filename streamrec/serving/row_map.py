"""Translate the history view's item codes into one version's rows, without a dictionary look-up per item of a request."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrec.serving.filters import Filters
from streamrec.serving.history_view import Codes, HistoryTable
from streamrec.serving.recommender import Recommender

# Of a million items each takes up to 4 MB.
_KEPT_FILTERS = 16


class RowMap:
    """Map item codes of one history table to rows of one version; -1 where the version doesn't know the item.

    Args:
        table: The histories whose codes are mapped.
        recommender: The version whose rows are wanted.
        older: The map of the version before. In the same lineage its rows are kept where they hold the same item, which is where the generation is
            the same, and the others are looked up.

    **Contract.** One thread at a time.
    """

    def __init__(self, table: HistoryTable, recommender: Recommender, older: RowMap | None = None) -> None:
        self.table = table
        self.recommender = recommender
        self._num_known = 0
        self._unavailable: tuple[Codes | None, NDArray[np.int32]] = (None, np.empty(0, np.int32))
        self._passing: dict[Any, NDArray[np.int32]] = {}
        self._passing_of = -1
        self._rows = np.full(max(64, len(table.item_ids)), -1, np.int32)
        if older is not None and older.table is table and older.recommender.catalog.lineage is recommender.catalog.lineage:
            self._inherit(older)
        self._look_up_new()

    def rows(self, codes: Codes) -> NDArray[np.int32]:
        """Return the rows of the codes, in the same order."""
        if self._num_known < len(self.table.item_ids):
            self._look_up_new()
        return self._rows.take(codes)

    def unavailable_rows(self) -> NDArray[np.int32]:
        """Return the rows whose items can't be had: the same array until others can't."""
        codes = self.table.availability.codes
        if codes is not self._unavailable[0]:
            rows = self.rows(codes)
            self._unavailable = codes, rows[rows >= 0]
        return self._unavailable[1]

    def passing_rows(self, filters: Filters) -> NDArray[np.int32]:
        """Return the rows whose items are known to pass what filters ask of attributes: the same array until something was said."""
        attributes, asked = self.table.attributes, (filters.categories, filters.prices, filters.locale)
        if attributes.epoch != self._passing_of:
            self._passing, self._passing_of = {}, attributes.epoch
        found = self._passing.get(asked)
        if found is None:
            rows = self.rows(attributes.passing(*asked))
            found = rows[rows >= 0]
            self._passing = dict([*self._passing.items(), (asked, found)][-_KEPT_FILTERS:])
        return found

    def _inherit(self, older: RowMap) -> None:
        num = older._num_known
        rows = older._rows[:num].copy()
        rows[rows >= self.recommender.num_rows] = -1
        held = np.flatnonzero(rows >= 0)
        then, now = older.recommender.generations[rows[held]], self.recommender.generations[rows[held]]
        rows[held[then != now]] = -1
        for code in np.flatnonzero(rows < 0).tolist():
            rows[code] = self._row_of(code)
        self._rows[:num] = rows
        self._num_known = num

    def _look_up_new(self) -> None:
        num = len(self.table.item_ids)
        if num > len(self._rows):
            grown = np.full(max(num, 2 * len(self._rows)), -1, np.int32)
            grown[: self._num_known] = self._rows[: self._num_known]
            self._rows = grown
        for code in range(self._num_known, num):
            self._rows[code] = self._row_of(code)
        self._num_known = num

    def _row_of(self, code: int) -> int:
        row = self.recommender.catalog.row_of(*self.table.item_ids[code])
        return row if row < self.recommender.num_rows else -1
