"""Read catalogues: the item files of known datasets, and any CSV or Parquet file with a mapping of its columns."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from streamrec.errors import DatasetError
from streamrec.events.assemble import item_table
from streamrec.events.columns import Columns
from streamrec.events.readers import first_line, first_row_line, is_parquet, read_any_table, read_lines, read_text_table, split_header

ITEM_FIELDS = ("item", "title", "description", "categories", "price", "locale", "available", "time")
CATEGORY_SEPARATOR = "|"
_COMPANIONS = ("movies.csv", "movies.csv.gz", "u.item", "movies.dat")
_NO_GENRE = {"(no genres listed)", "unknown", ""}
_U_ITEM_GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy"),
    *("Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
_KNOWN_HEADERS: dict[frozenset[str], dict[str, str]] = {
    frozenset({"movieId", "title", "genres"}): {"item": "movieId", "title": "title", "categories": "genres"},
}
_WORDS = {"true": True, "1": True, "yes": True, "y": True, "false": False, "0": False, "no": False, "n": False}


def read_companion(path: Path) -> pa.Table | None:
    """Return the items described beside an interaction file, or None when no known item file lies there."""
    beside = [path.with_suffix(".item")] if path.suffix == ".inter" else [path.parent / name for name in _COMPANIONS]
    found = next((file for file in beside if file.is_file()), None)
    if found is None:
        return None
    ids, titles, categories = _known_items(found) or ([], [], [])
    return item_table(pa.array(ids, pa.string()), pa.array(titles, pa.string()), pa.array(categories, pa.list_(pa.string())))


_Items = tuple[list[str], list[str | None], list[list[str]]]


def _known_items(path: Path) -> _Items | None:
    """Return (ids, titles, categories) of a dataset's own item file, or None for another file."""
    if path.name == "u.item":
        lines = [line.split("|") for line in read_lines(path, "latin-1") if line]
        flags = [[genre for genre, flag in zip(_U_ITEM_GENRES, line[5:], strict=False) if flag == "1"] for line in lines]
        return [line[0] for line in lines], [line[1] for line in lines], [_genres(genres) for genres in flags]
    if path.name == "movies.dat":
        lines = [line.split("::") for line in read_lines(path, "latin-1") if line]
        return [line[0] for line in lines], [line[1] for line in lines], [_genres(line[-1].split("|")) for line in lines]
    header = first_line(path)
    if header.startswith("item_id:token"):
        table = read_text_table(path, delimiter="\t", quoted=False)
        columns = {name.split(":")[0]: table[name].to_pylist() for name in table.column_names}
        titles = columns.get("movie_title") or columns.get("title") or [None] * table.num_rows
        classes = columns.get("class") or columns.get("categories") or [""] * table.num_rows
        return columns["item_id"], titles, [_genres(names.split(" ")) for names in classes]
    if {"movieId", "title", "genres"} <= set(split_header(header)):
        table = read_text_table(path)
        return table["movieId"].to_pylist(), table["title"].to_pylist(), [_genres(names.split("|")) for names in table["genres"].to_pylist()]
    return None


def _genres(names: list[str]) -> list[str]:
    return [name for name in names if name not in _NO_GENRE]


def items_from_file(path: str | Path, mapping: Mapping[str, str] | None = None, *, event_time_ms: int) -> pa.Table:
    """Read a catalogue as rows of `ItemUpdate`.

    The event id is a digest of the row and its time, so that an import repeated with the same time changes nothing.

    Args:
        path: A CSV or Parquet file, plain or gzip, or an item file of MovieLens (``movies.csv``, ``movies.dat``, ``u.item``) or RecBole.
        mapping: From `ITEM_FIELDS` to the file's columns; ``item`` is required. Without it the columns are taken by their names. Several
            categories in one cell are separated by ``|``.
        event_time_ms: The time of the updates, ms UTC, where no column gives one.

    Returns:
        Table of kind, event_id, item_id, event_time and those of title, description, categories, price, locale, available that are there.

    Raises:
        DatasetError: The file can't be read, a column is missing or a cell is wrong; line and column are named.
    """
    path = Path(path)
    if path.is_dir():
        what = f"Dataset: {path} is a folder"
        raise DatasetError(what, allowed="one file of items", do=f"name the file, such as {path / _likely_file(path)}")
    known = _known_items(path) if mapping is None and not is_parquet(path) else None
    if known is not None:
        ids, titles, categories = known
        fields = {"title": pa.array(titles, pa.string()), "categories": pa.array(categories, pa.list_(pa.string()))}
        return _updates(pa.array(ids, pa.string()), fields, pa.array(np.full(len(ids), event_time_ms, np.int64)))
    table = read_any_table(path)
    columns = Columns(table, path, first_row_line(path))
    chosen = dict(mapping) if mapping is not None else _by_name(table.column_names, path)
    check_mapping(chosen, ITEM_FIELDS, ("item",), table.column_names, path)
    times = columns.times_ms(chosen["time"]) if "time" in chosen else pa.array(np.full(table.num_rows, event_time_ms, np.int64))
    fields = {name: _field(columns, name, column) for name, column in chosen.items() if name not in {"item", "time"}}
    return _updates(columns.ids(chosen["item"]), fields, times)


def _likely_file(folder: Path) -> str:
    names = sorted(file.name for file in folder.iterdir() if file.is_file())
    return next((name for name in _COMPANIONS if name in names), names[0] if names else _COMPANIONS[0])


def _by_name(names: list[str], path: Path) -> dict[str, str]:
    mapping = {field: field for field in ITEM_FIELDS if field in names}
    if "item_id" in names:
        mapping["item"] = "item_id"
    if "item" not in mapping:
        what = f"Dataset: {path} has no column for the item's id"
        raise DatasetError(what, got=", ".join(names), allowed="item or item_id", do="name it with --map item=COLUMN", column="item")
    return mapping


def check_mapping(mapping: Mapping[str, str], fields: tuple[str, ...], required: tuple[str, ...], columns: list[str], path: Path) -> None:
    """Raise a `DatasetError` unless a mapping names known fields, all required ones, and columns that exist."""
    for field in mapping:
        if field not in fields:
            what = f"Dataset: the mapping has an unknown field {field!r}"
            raise DatasetError(what, allowed=", ".join(fields), do="write --map FIELD=COLUMN,…", column=field)
    for field in required:
        if field not in mapping:
            what = f"Dataset: the mapping lacks {field!r}"
            raise DatasetError(what, got=", ".join(mapping), allowed=", ".join(fields), do=f"add {field}=COLUMN", column=field)
    for field, column in mapping.items():
        if column not in columns:
            what = f"Dataset: line 1 of {path} has no column {column!r} (mapped to {field!r})"
            raise DatasetError(what, allowed=", ".join(columns), do="name an existing column", line=1, column=column)


def _field(columns: Columns, name: str, column: str) -> pa.Array:
    if name == "price":
        return columns.numbers(column)
    if name == "categories":
        kind = columns.table[column].type
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            return columns.table[column].combine_chunks().cast(pa.list_(pa.string()))
        return pa.array(
            [_genres(cell.split(CATEGORY_SEPARATOR)) if cell else [] for cell in columns.texts(column).to_pylist()], pa.list_(pa.string())
        )
    if name == "available":
        cells = columns.texts(column).to_pylist()
        for row, cell in enumerate(cells):
            if cell and cell.lower() not in _WORDS:
                line = row + columns.first_line
                what = f"Dataset: line {line}, column {column!r} of {columns.path} can't be used"
                raise DatasetError(what, got=repr(cell), allowed=", ".join(_WORDS), line=line, column=column)
        return pa.array([_WORDS[cell.lower()] if cell else None for cell in cells], pa.bool_())
    texts = columns.texts(column)
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)


def _updates(ids: pa.Array, fields: Mapping[str, pa.Array], times: pa.Array) -> pa.Table:
    cells = zip(ids.to_pylist(), times.to_pylist(), *(column.to_pylist() for column in fields.values()), strict=True)
    digests = ["item:" + hashlib.blake2b(orjson.dumps(row), digest_size=12).hexdigest() for row in cells]
    kinds = pa.repeat(pa.scalar("item_update"), len(ids))
    return pa.table({"kind": kinds, "event_id": pa.array(digests, pa.string()), "item_id": ids, "event_time": times, **fields})
