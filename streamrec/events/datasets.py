"""Load an interaction file or folder: recognise its format by its content, or read it by a mapping of columns."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from streamrec.errors import DatasetError
from streamrec.events.assemble import Dataset, RawEvents, assemble
from streamrec.events.catalogues import check_mapping
from streamrec.events.columns import Columns
from streamrec.events.formats import (
    TAOBAO_TYPES,
    file_order_times,
    read_atomic,
    read_citeulike,
    read_online_retail,
    read_ratings_csv,
    read_ratings_dat,
    read_sessions,
    read_taobao,
    read_u_data,
)
from streamrec.events.readers import first_line, first_row_line, header_of, is_parquet, read_any_table, read_parquet, split_header

__all__ = ["EVENT_FIELDS", "KINDS", "Dataset", "known_kind", "load_dataset", "parse_mapping", "show_mapping", "single_file"]

EVENT_FIELDS = ("user", "item", "time", "type", "value", "session", "basket", "split")

_Reader = Callable[[Path, str], Dataset]
_KNOWN: dict[str, tuple[str, _Reader]] = {  # kind → (the name in event ids, or "" for the file's; the reader)
    "online-retail": ("online-retail", read_online_retail),
    "movielens-csv": ("movielens", read_ratings_csv),
    "movielens-100k": ("movielens-100k", read_u_data),
    "movielens-1m": ("movielens-1m", read_ratings_dat),
    "recbole": ("", read_atomic),
    "sessions": ("sessions", read_sessions),
    "taobao": ("taobao", partial(read_taobao, header=True)),
    "taobao-raw": ("taobao", partial(read_taobao, header=False)),
    "citeulike": ("citeulike", read_citeulike),
}
KINDS = (*_KNOWN, "table")
_DO_MAP = "add --map user=COLUMN,item=COLUMN,time=COLUMN"
_IN_FOLDER = ("ratings.csv", "ratings.csv.gz", "ratings.dat", "u.data", "*.inter", "*.csv", "*.csv.gz", "*.parquet")
_TAOBAO_LINE = re.compile(rf"-?\d+,-?\d+,-?\d+,({'|'.join(TAOBAO_TYPES)}),-?\d+")


def load_dataset(path: str | Path, mapping: Mapping[str, str] | None = None, kind: str | None = None, name: str | None = None) -> Dataset:
    """Load the interactions of a file, or of a folder that holds one.

    Recognised by content, plain or gzip: UCI Online Retail; MovieLens ``ratings.csv``, ``u.data`` and ``ratings.dat``; RecBole atomic files;
    sessions (period, session, item); Taobao UserBehavior with and without a header; pairs with a split (split, user, item). Any other file
    of columns, Parquet or text that ``,``, ``;``, tab or ``|`` separates, is read with a mapping.

    Args:
        path: The file or folder.
        mapping: From `EVENT_FIELDS` to the file's columns; ``user`` and ``item`` are required. Without ``time`` file order is time, one second
            a row. Without ``type`` rows with a ``value`` are ratings, others clicks. Given, it decides over the content. For times see
            `streamrec.events.columns.Columns.times_ms`.
        kind: One of `KINDS`, in place of the recognition.
        name: In place of the format's or the file's name, for the event ids.

    Raises:
        DatasetError: The file can't be read, is not recognised, or a cell is wrong; line and column are named.

    Example:
        >>> load_dataset("ratings.csv").facts  # doctest: +SKIP
        {'rows': 100004, 'events': 100004, 'users': 671, 'items': 9066}
    """
    file = single_file(path)
    chosen = kind or ("table" if mapping is not None else _recognise(file))
    if chosen == "table":
        return _read_mapped(file, dict(mapping or {}), name or _stem(file))
    if chosen not in _KNOWN:
        what = "Dataset: unknown kind of file"
        raise DatasetError(what, got=repr(chosen), allowed=", ".join(KINDS))
    own_name, reader = _KNOWN[chosen]
    return reader(file, name or own_name or _stem(file))


def parse_mapping(text: str) -> dict[str, str]:
    """Parse ``user=CustomerID,item=StockCode`` into fields and columns; a part that holds a comma is quoted, as in CSV.

    Raises:
        DatasetError: A part has no ``=`` or a field comes twice.

    Example:
        >>> parse_mapping("user=u, item=i")
        {'user': 'u', 'item': 'i'}
        >>> parse_mapping('"user=Customer, No.",item=i')
        {'user': 'Customer, No.', 'item': 'i'}
    """
    mapping: dict[str, str] = {}
    try:
        parts = next(csv.reader([text], skipinitialspace=True)) or [""]
    except csv.Error:  # Of several lines.
        parts = [""]
    for part in parts:
        field, equals, column = (piece.strip() for piece in part.partition("="))
        if not (field and equals and column) or field in mapping:
            what = "Dataset: the mapping does not parse"
            raise DatasetError(what, got=repr(part or text), allowed="FIELD=COLUMN,FIELD=COLUMN,… with each field once")
        mapping[field] = column
    return mapping


def show_mapping(mapping: Mapping[str, str]) -> str:
    """Return fields and columns as `parse_mapping` reads them."""
    shown = io.StringIO()
    csv.writer(shown, lineterminator="").writerow(f"{field}={column}" for field, column in mapping.items())
    return shown.getvalue()


def _stem(path: Path) -> str:
    return path.name.split(".")[0] or path.name


def single_file(path: str | Path) -> Path:
    """Return a file, or the one file of interactions in a folder.

    Raises:
        DatasetError: The folder holds none, or several.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    for pattern in _IN_FOLDER:
        files = sorted(file for file in path.glob(pattern) if file.is_file())
        if len(files) == 1:
            return files[0]
    what = f"Dataset: {path} holds no single file of interactions"
    found = ", ".join(sorted(file.name for file in path.iterdir())[:8]) or "nothing"
    raise DatasetError(what, got=found, allowed=", ".join(_IN_FOLDER), do="name the file")


def _recognise(path: Path) -> str:
    found = known_kind(path)
    if found is not None:
        return found
    if is_parquet(path):
        what = f"Dataset: {path} is Parquet, whose columns need a mapping"
        raise DatasetError(what, got=", ".join(read_parquet(path).column_names), do=_DO_MAP)
    header_of(path)
    what = f"Dataset: line 1 of {path} is no header of a known format"
    raise DatasetError(what, got=repr(first_line(path)[:80]), allowed=", ".join(KINDS), do=_DO_MAP, line=1)


def known_kind(path: Path) -> str | None:
    """Return which of `KINDS` a file is by its content; None where its columns need a mapping.

    Raises:
        DatasetError: The file can't be read.
    """
    if is_parquet(path):
        return None
    line = first_line(path)
    names = set(split_header(line))
    if {"InvoiceNo", "StockCode", "CustomerID"} <= names:
        return "online-retail"
    if {"userId", "movieId", "rating", "timestamp"} <= names:
        return "movielens-csv"
    if line.startswith("user_id:token"):
        return "recbole"
    if names == {"period", "session", "item"}:
        return "sessions"
    if names == {"split", "user", "item"}:
        return "citeulike"
    if {"user_id", "item_id", "category_id", "timestamp"} <= names and names & {"behaviour", "behavior", "behavior_type"}:
        return "taobao"
    if _TAOBAO_LINE.fullmatch(line):
        return "taobao-raw"
    if re.fullmatch(r"\d+\t\d+\t\d+\t\d+", line):
        return "movielens-100k"
    if re.fullmatch(r"\d+::\d+::[\d.]+::\d+", line):
        return "movielens-1m"
    return None


def _read_mapped(path: Path, mapping: dict[str, str], name: str) -> Dataset:
    table = read_any_table(path)
    check_mapping(mapping, EVENT_FIELDS, ("user", "item"), table.column_names, path)
    columns = Columns(table, path, first_row_line(path))
    values = columns.numbers(mapping["value"]) if "value" in mapping else None
    raw = RawEvents(
        user=columns.ids(mapping["user"]),
        item=columns.ids(mapping["item"]),
        event_type=columns.ids(mapping["type"]) if "type" in mapping else ("click" if values is None else "rating"),
        time_ms=columns.times_ms(mapping["time"]) if "time" in mapping else file_order_times(table.num_rows),
        value=values,
        session=columns.texts(mapping["session"]) if "session" in mapping else None,
        extra={field: columns.texts(mapping[field]) for field in ("basket", "split") if field in mapping},
    )
    return assemble(name, "table", raw)
