"""Read text, JSON and Parquet files into tables, with errors that name the line."""

from __future__ import annotations

import csv
import re
import zlib
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.json as pa_json
import pyarrow.parquet as pa_parquet

from streamrec.errors import DatasetError

HEAD_BYTES = 65_536
_GZIP_MAGIC = b"\x1f\x8b"
_PARQUET_MAGIC = b"PAR1"
_TEXTS = pa.list_(pa.string())
_DELIMITERS = ",;\t|"
"""Of those that make as many columns the first one."""


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
    return _read(path, len(_PARQUET_MAGIC)) == _PARQUET_MAGIC


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


def is_json(path: Path) -> bool:
    """Say whether a file that is no Parquet begins with a JSON object."""
    return first_line(path).lstrip().startswith("{")


def read_any_table(path: Path) -> pa.Table:
    """Read any Parquet file, lines of JSON, see `read_json_lines`, or text below a header, see `header_of`.

    Columns of text are strings, names have no spaces around them. What is nested in Parquet gets a column for each field, as in lines of JSON.

    Raises:
        DatasetError: The file can't be read.
    """
    if is_parquet(path):
        table = _flat(read_parquet(path))
    else:
        table = read_json_lines(path) if is_json(path) else read_text_table(path, delimiter=header_of(path)[1])
    names = [name.strip() for name in table.column_names]
    return table.rename_columns(names) if len(set(names)) == len(names) else table


def first_row_line(path: Path) -> int:
    """Return the number of the line that holds the first row: 1 in lines of JSON, else 2, below a header; Parquet's rows are counted so too."""
    return 1 if not is_parquet(path) and is_json(path) else 2


def header_of(path: Path) -> tuple[list[str], str]:
    """Return the columns of a text file by its first line, and the separator: the one that makes most columns of it.

    Raises:
        DatasetError: The file can't be read, or holds a JSON array.
    """
    line = first_line(path)
    if line.lstrip().startswith("["):
        what = f"Dataset: {path} holds one JSON document"
        do = "write one object a line, as `jq -c '.[]' FILE` does, or send the events to POST /v1/events"
        raise DatasetError(what, got=repr(line[:80]), allowed="lines of JSON objects, text with a header line, or Parquet", do=do, line=1)
    delimiter = max(_DELIMITERS, key=lambda mark: len(split_header(line, mark)))
    return split_header(line, delimiter), delimiter


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


def read_json_lines(path: Path) -> pa.Table:
    """Read a file of one JSON object a line, plain or gzip.

    What is nested gets a column for each field, named by its way, as ``item.id``; a list of texts stays one, which a catalogue takes for categories,
    and other lists are not read. A field that an object lacks is null.

    Raises:
        DatasetError: A line is no JSON object, or a field has values of several types.
    """
    try:
        with open_plain(path) as file:
            table = pa_json.read_json(file, read_options=pa_json.ReadOptions(use_threads=False))
    except OSError as error:
        raise _broken(path, error) from error
    except pa.ArrowInvalid as error:
        # Arrow counts rows from 0.
        why = re.sub(r"\bin row (\d+)", lambda found: f"in line {int(found[1]) + 1}", str(error))
        what = f"Dataset: {path} does not parse ({why})"
        raise DatasetError(what, allowed="one JSON object a line, a field of one type in all of them", do="correct the file") from error
    table = _flat(table)
    unread = [field.name for field in table.schema if pa.types.is_null(field.type) or (pa.types.is_list(field.type) and field.type != _TEXTS)]
    return table.drop_columns(unread)


def _flat(table: pa.Table) -> pa.Table:
    while any(pa.types.is_struct(kind) for kind in table.schema.types):
        table = table.flatten()
    return table


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
