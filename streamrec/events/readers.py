"""Read text and Parquet files into columns, with errors that name the line and the column."""

from __future__ import annotations

import csv
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet

from streamrec.errors import DatasetError

HEAD_BYTES = 65_536
_GZIP_MAGIC = b"\x1f\x8b"
_PARQUET_MAGIC = b"PAR1"
_TIMES_ALLOWED = "seconds, milliseconds, or ISO 8601 such as 2010-12-01 08:26:00 or 2010-12-01T08:26:00Z"


def open_plain(path: Path) -> IO[bytes]:
    """Open a file for reading its bytes, decompressed when its content is gzip, whatever its name.

    Raises:
        DatasetError: The file can't be read.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(2)
        stream: IO[bytes] = pa.input_stream(str(path), compression="gzip" if magic == _GZIP_MAGIC else None)
    except OSError as error:
        what = f"Dataset: {path} can't be read ({error.strerror or error})"
        raise DatasetError(what, do="give an existing file or folder") from error
    return stream


def is_parquet(path: Path) -> bool:
    """Say whether a file's content is Parquet."""
    with open_plain(path) as file:
        return file.read(4) == _PARQUET_MAGIC


def first_line(path: Path) -> str:
    """Return a text file's first line without its end and byte order mark.

    Raises:
        DatasetError: The file can't be read, is empty or is no text in UTF-8.
    """
    head = _read(path, HEAD_BYTES)
    if not head.strip():
        what = f"Dataset: {path} is empty"
        raise DatasetError(what, got="0 rows", allowed="at least one row", do="check the download")
    try:
        return head.splitlines()[0].decode("utf-8-sig")
    except UnicodeDecodeError as error:
        what = f"Dataset: line 1 of {path} is no text"
        raise DatasetError(what, got="bytes", allowed="UTF-8", do="convert the file", line=1) from error


def read_lines(path: Path, encoding: str) -> list[str]:
    """Return a small text file's lines.

    Raises:
        DatasetError: The file can't be read or decoded.
    """
    try:
        return _read(path, None).decode(encoding).splitlines()
    except UnicodeDecodeError as error:
        what = f"Dataset: {path} can't be decoded ({error})"
        raise DatasetError(what, allowed=encoding, do="convert the file") from error


def _read(path: Path, num_bytes: int | None) -> bytes:
    try:
        with open_plain(path) as file:
            return file.read(num_bytes) if num_bytes is not None else file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise _broken(path, error) from error


def _broken(path: Path, error: Exception) -> DatasetError:
    what = f"Dataset: {path} ends early or is damaged ({error})"
    return DatasetError(what, do="download the file again")


def read_text_table(path: Path, *, names: list[str] | None = None, delimiter: str = ",", quoted: bool = True) -> pa.Table:
    """Read a delimited text file; every column is a string column without nulls.

    Args:
        path: The file, plain or gzip.
        names: The columns' names when the file has no header line.
        delimiter: One character.
        quoted: Whether fields may be wrapped in double quotes, and then hold delimiters and line breaks.

    Raises:
        DatasetError: The file is empty, truncated, not UTF-8, or a line has another number of fields than the first.
    """
    header = first_line(path)
    columns = names or split_header(header, delimiter, quoted=quoted)
    if len(set(columns)) < len(columns):
        what = f"Dataset: line 1 of {path} names a column twice"
        raise DatasetError(what, got=", ".join(columns), do="rename one of them", line=1)
    wrong: list[tuple[int | None, int, int]] = []

    def note(row: Any) -> str:
        wrong.append((row.number, row.expected_columns, row.actual_columns))
        return "error"

    options = _parse_options(delimiter, quoted)
    options.invalid_row_handler = note
    try:
        with open_plain(path) as file:
            table = pa_csv.read_csv(
                file,
                read_options=pa_csv.ReadOptions(use_threads=False, column_names=names),
                parse_options=options,
                convert_options=pa_csv.ConvertOptions(column_types=dict.fromkeys(columns, pa.string()), strings_can_be_null=False),
            )
    except OSError as error:
        raise _broken(path, error) from error
    except pa.ArrowInvalid as error:
        if wrong:
            line, expected, actual = wrong[0]
            what = f"Dataset: line {line} of {path} has another number of fields than the first"
            raise DatasetError(what, got=actual, allowed=expected, do=f"check the separator {delimiter!r} and the quotes", line=line) from error
        what = f"Dataset: {path} does not parse ({error})"
        raise DatasetError(what, allowed=f"UTF-8 text separated by {delimiter!r}", do="correct the file") from error
    if table.num_rows == 0:
        what = f"Dataset: {path} has a header and no rows"
        raise DatasetError(what, got="0 rows", allowed="at least one row", do="check the download")
    return table


def split_header(line: str, delimiter: str = ",", *, quoted: bool = True) -> list[str]:
    """Return the column names of a header line."""
    return next(csv.reader([line], delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE), [])


def _parse_options(delimiter: str, quoted: bool) -> pa_csv.ParseOptions:
    return pa_csv.ParseOptions(delimiter=delimiter, quote_char='"' if quoted else False, newlines_in_values=quoted)


def read_parquet(path: Path) -> pa.Table:
    """Read a Parquet file.

    Raises:
        DatasetError: The file is damaged or has no rows.
    """
    try:
        table = pa_parquet.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise _broken(path, error) from error
    if table.num_rows == 0:
        what = f"Dataset: {path} has no rows"
        raise DatasetError(what, got="0 rows", allowed="at least one row", do="check the download")
    return table


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

    def texts(self, name: str) -> pa.Array:
        """Return a column as strings; whole floats that stand for ids lose their ``.0``."""
        column = _whole(self.table[name])
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
        column = _whole(self.table[name])
        if pa.types.is_string(column.type):
            column = pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column)
        return self._cast(name, pa.float64(), "a number", column)

    def times_ms(self, name: str) -> pa.Array:
        """Return a column of times as int64 milliseconds since the epoch, UTC.

        Numbers are seconds while the column's largest is below 1e11 (the year 5138), else milliseconds below 1e14, else microseconds
        below 1e17, else nanoseconds. Texts are ISO 8601 with an optional offset from UTC; without one they are UTC. Texts such as
        ``12/31/2010 8:26`` are month, day, year, UTC.
        """
        column = _whole(self.table[name])
        if pa.types.is_temporal(column.type):
            times = column.cast(pa.timestamp("ms"), safe=False) if not pa.types.is_timestamp(column.type) else _instants(column)
            return self._without_nulls(times.cast(pa.int64()), name)
        for kind in (pa.int64(), pa.float64()):
            try:
                return self._without_nulls(_scale_to_ms(column.cast(kind)), name)
            except pa.ArrowInvalid:
                continue
        parsed = _parse_times(column.cast(pa.string()))
        return self._without_nulls(parsed, name)

    def _without_nulls(self, times: pa.Array, name: str) -> pa.Array:
        if times.null_count:
            raise self._wrong(int(np.argmax(times.is_null().to_numpy(zero_copy_only=False))), name, _TIMES_ALLOWED)
        return times

    def _cast(self, name: str, kind: pa.DataType, allowed: str, column: pa.Array | None = None) -> pa.Array:
        column = _whole(self.table[name]) if column is None else column
        try:
            return column.cast(kind)
        except pa.ArrowInvalid as error:
            raise self._wrong(_first_failure(column, kind), name, allowed) from error

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
    largest = pc.max(pc.abs(numbers)).as_py() or 0
    values = numbers.to_numpy(zero_copy_only=False)
    for bound, factor in ((1e11, 1e3), (1e14, 1.0), (1e17, 1e-3), (np.inf, 1e-6)):
        if largest < bound:
            scaled = values * int(factor) if factor >= 1 else values // int(1 / factor)
            return pa.array(np.round(scaled).astype(np.int64), mask=numbers.is_null().to_numpy(zero_copy_only=False))
    return numbers


def _parse_times(texts: pa.Array) -> pa.Array:
    """Return int64 milliseconds; null where a text is no time."""
    zoned = pc.match_substring_regex(texts, r"\d[ ]?(Z|[+-]\d{2}(:?\d{2})?)$")
    nothing = pa.scalar(None, pa.string())
    parts = [
        _cast_where_possible(pc.if_else(zoned, texts, nothing), pa.timestamp("us", "UTC")),
        _cast_where_possible(pc.if_else(zoned, nothing, texts), pa.timestamp("us")),
    ]
    american = pc.strptime(texts, format="%m/%d/%Y %H:%M", unit="s", error_is_null=True)
    millis = [pc.divide(part.cast(pa.int64()), 1000) for part in parts]
    return pc.coalesce(*millis, pc.multiply(american.cast(pa.int64()), 1000))


def _cast_where_possible(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    try:
        return texts.cast(kind)
    except pa.ArrowInvalid:
        if len(texts) == 1:
            return pa.nulls(1, kind)
        middle = len(texts) // 2
        return pa.concat_arrays([_cast_where_possible(texts.slice(0, middle), kind), _cast_where_possible(texts.slice(middle), kind)])
