"""Give typed columns of a file's table, with errors that name the line and the column."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streamrec.errors import DatasetError

TIMES_ALLOWED = (
    "seconds, milliseconds, ISO 8601 such as 2010-12-01 08:26 or 2010-12-01T08:26:00Z, 01.12.2010 08:26:00, 2010/12/01 08:26:00, 12/31/2010 8:26 PM"
    " or 31/12/2010 20:26"
)
_FULL_YEAR = r"^(\d{1,2}[./]\d{1,2}[./]\d{4}|\d{4}/\d{1,2}/\d{1,2})( |$)"
_CLOCKS = (" %H:%M:%S", " %H:%M", " %I:%M:%S %p", " %I:%M %p", "")
_PLAIN = ("%d.%m.%Y", "%Y/%m/%d")
"""Days that nobody takes for months."""
_ISO_TIME = r"^\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(:\d{2})?"
_SCALES = ((1e11, 1000, 1), (1e14, 1, 1), (1e17, 1, 1000), (np.inf, 1, 1_000_000))  # largest number below, multiply by, divide by


@dataclass(frozen=True)
class Columns:
    """Give typed columns of a table, with errors that say where a cell is wrong.

    Attributes:
        table: The columns as read.
        path: The file, for errors.
        first_line: The line number of row 0: 2 below a header, else 1; for Parquet, rows are counted so too.
    """

    table: pa.Table
    path: Path
    first_line: int = 2

    def require(self, names: Iterable[str]) -> None:
        """Raise a `DatasetError` unless the table has these columns."""
        missing = [name for name in names if name not in self.table.column_names]
        if missing:
            what = f"Dataset: {self.path} has no column {missing[0]!r}"
            raise DatasetError(what, allowed=", ".join(self.table.column_names), do="name an existing column", column=missing[0])

    def _column(self, name: str) -> pa.Array:
        column = _whole(self.table[name])
        if pa.types.is_nested(column.type):
            what = f"Dataset: column {name!r} of {self.path} holds {column.type}"
            raise DatasetError(what, allowed="one value a row", do="name another column, or write a row for each value", column=name)
        return column

    def texts(self, name: str) -> pa.Array:
        """Return a column as strings; whole floats that stand for ids lose their ``.0``."""
        column = self._column(name)
        if pa.types.is_floating(column.type) and pc.all(pc.equal(pc.floor(column), column)).as_py():
            column = column.cast(pa.int64())
        return column.cast(pa.string())

    def ids(self, name: str) -> pa.Array:
        """Return a column as strings; a cell that is null or empty is an error."""
        column = self.texts(name)
        empty = pc.fill_null(pc.equal(pc.binary_length(column), 0), fill_value=True).to_numpy(zero_copy_only=False)
        if empty.any():
            raise self._wrong(int(np.argmax(empty)), name, "an id")
        return column

    def integers(self, name: str) -> pa.Array:
        """Return a column as int64."""
        return self._cast(name, pa.int64(), "an integer")

    def numbers(self, name: str) -> pa.Array:
        """Return a column as float64; an empty cell is null."""
        column = self._column(name)
        if pa.types.is_string(column.type):
            column = pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column)
        return self._cast(name, pa.float64(), "a number", column)

    def times_ms(self, name: str, *, is_month_first: bool = False) -> pa.Array:
        """Return a column of times as int64 milliseconds since the epoch, UTC.

        Numbers are seconds while the column's largest is below 1e11 (the year 5138), else milliseconds below 1e14, else microseconds
        below 1e17, else nanoseconds. Texts are ISO 8601 with an optional offset from UTC; without one they are UTC. Texts such as
        ``31.12.2010 8:26`` and ``2010/12/31 8:26`` are UTC, with or without a time of day, its seconds, and AM or PM. So are texts such as
        ``12/31/2010 8:26``; the month comes first where ``is_month_first`` says so, else whichever order all of them allow; where that is both they
        are an error.
        """
        column = self._column(name)
        if pa.types.is_temporal(column.type):
            times = column.cast(pa.timestamp("ms"), safe=False) if not pa.types.is_timestamp(column.type) else _instants(column)
            return self._without_nulls(times.cast(pa.int64()), name)
        for kind in (pa.int64(), pa.float64()):
            try:
                return self._without_nulls(_scale_to_ms(column.cast(kind)), name)
            except pa.ArrowInvalid:
                continue
        texts = column.cast(pa.string())
        times = _parse_iso(texts)
        if times.null_count:
            # %Y takes 10 for the year 10.
            full = pc.if_else(pc.match_substring_regex(texts, _FULL_YEAR), texts, pa.scalar(None, pa.string()))
            times = pc.coalesce(times, *(_parse_clocks(full, day) for day in _PLAIN))
        if times.null_count:
            month_first, day_first = (pc.coalesce(times, _parse_clocks(full, day)) for day in ("%m/%d/%Y", "%d/%m/%Y"))
            if not is_month_first and not month_first.null_count and not day_first.null_count:
                raise self._unsettled(int(np.argmax(times.is_null().to_numpy(zero_copy_only=False))), name)
            times = day_first if not is_month_first and month_first.null_count and not day_first.null_count else month_first
        return self._without_nulls(times, name)

    def _without_nulls(self, times: pa.Array, name: str) -> pa.Array:
        if times.null_count:
            raise self._wrong(int(np.argmax(times.is_null().to_numpy(zero_copy_only=False))), name, TIMES_ALLOWED)
        return times

    def _cast(self, name: str, kind: pa.DataType, allowed: str, column: pa.Array | None = None) -> pa.Array:
        column = self._column(name) if column is None else column
        try:
            return column.cast(kind)
        except pa.ArrowInvalid as error:
            raise self._wrong(_first_failure(column, kind), name, allowed) from error

    def _unsettled(self, row: int, name: str) -> DatasetError:
        line = row + self.first_line
        what = f"Dataset: line {line}, column {name!r} of {self.path} begins with a month or with a day, and no line settles which"
        return DatasetError(
            what, got=repr(self.table[name][row].as_py()), allowed=TIMES_ALLOWED, do="write them so", line=line, column=name, unsettled=True
        )

    def _wrong(self, row: int, name: str, allowed: str) -> DatasetError:
        line = row + self.first_line
        what = f"Dataset: line {line}, column {name!r} of {self.path} can't be used"
        got = repr(self.table[name][row].as_py())
        return DatasetError(what, got=got[:80], allowed=allowed, do="correct or remove the line", line=line, column=name)


def _whole(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _first_failure(column: pa.Array, kind: pa.DataType) -> int:
    """Return the first row that can't be cast, found by halving."""
    start, end = 0, len(column)
    while end - start > 1:
        middle = (start + end) // 2
        try:
            column.slice(start, middle - start).cast(kind)
            start = middle
        except pa.ArrowInvalid:
            end = middle
    return start


def _instants(column: pa.Array) -> pa.Array:
    zoned = column.type.tz is not None
    times = column.cast(pa.timestamp("ms", "UTC" if zoned else None), safe=False)
    return times.cast(pa.timestamp("ms")) if zoned else times


def _scale_to_ms(numbers: pa.Array) -> pa.Array:
    """Return int64 milliseconds; null where a number is null or not finite."""
    values = numbers.to_numpy(zero_copy_only=False)
    known = np.isfinite(values)
    largest = np.abs(values[known]).max(initial=0)
    multiply, divide = next(scale for bound, *scale in _SCALES if largest < bound)
    values = np.where(known, values, 0)
    scaled = values * multiply if divide == 1 else values // divide
    return pa.array(np.round(scaled).astype(np.int64), mask=~known)


def _parse_clocks(texts: pa.Array, day: str) -> pa.Array:
    """Return int64 milliseconds; null where a text is no such day, in the form of `strptime`, with or without a time of day."""
    told = [pc.strptime(texts, format=f"{day}{clock}", unit="s", error_is_null=True) for clock in _CLOCKS]
    return pc.multiply(pc.coalesce(*(each.cast(pa.int64()) for each in told)), 1000)


def _parse_iso(texts: pa.Array) -> pa.Array:
    """Return int64 milliseconds; null where a text is no time in ISO 8601."""
    nothing = pa.scalar(None, pa.string())
    zoned = pc.match_substring_regex(texts, _ISO_TIME + r"(\.\d{1,9})?(Z|[+-]\d{2}(:?\d{2})?)$")
    plain = pc.match_substring_regex(texts, _ISO_TIME + r"(\.\d{1,9})?$|^\d{4}-\d{2}-\d{2}$")
    parts = [
        _cast_where_possible(pc.if_else(zoned, texts, nothing), pa.timestamp("ns", "UTC")),
        _cast_where_possible(pc.if_else(plain, texts, nothing), pa.timestamp("ns")),
    ]
    return pc.coalesce(*(part.cast(pa.timestamp("ms", part.type.tz), safe=False).cast(pa.int64()) for part in parts))


def _cast_where_possible(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    try:
        return texts.cast(kind)
    except pa.ArrowInvalid:
        if len(texts) == 1:
            return pa.nulls(1, kind)
        middle = len(texts) // 2
        return pa.concat_arrays([_cast_where_possible(texts.slice(0, middle), kind), _cast_where_possible(texts.slice(middle), kind)])
