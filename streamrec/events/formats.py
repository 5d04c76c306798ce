"""Read interaction files in the formats in which users download them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streamrec.errors import DatasetError
from streamrec.events.assemble import SYNTHETIC_EPOCH_MS, WEEK_MS, Dataset, RawEvents, assemble, first_rows, item_table
from streamrec.events.catalogues import read_companion
from streamrec.events.columns import Columns
from streamrec.events.readers import read_text_table

TAOBAO_TYPES = {"pv": "view", "cart": "cart", "fav": "favourite", "buy": "purchase"}
_TAOBAO_RAW = ["user_id", "item_id", "category_id", "behaviour", "timestamp"]


def read_online_retail(path: Path, name: str) -> Dataset:
    """Read UCI Online Retail: purchases and returns by invoice.

    Only rows with a customer count. Invoices that begin with C are returns. Of an item's several lines in one invoice the first stays.
    """
    columns = Columns(read_text_table(path), path)
    columns.require(["InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "CustomerID"])
    customer = pc.replace_substring_regex(columns.texts("CustomerID"), r"\.0$", "")
    num_rows = len(customer)
    rows = np.flatnonzero(pc.not_equal(customer, "").to_numpy(zero_copy_only=False))
    with_customer = len(rows)
    invoice, item = columns.ids("InvoiceNo"), columns.ids("StockCode")
    rows = rows[first_rows(invoice.take(pa.array(rows)), item.take(pa.array(rows)))]
    chosen = pa.array(rows)
    times, quantity = columns.times_ms("InvoiceDate", is_month_first=True).take(chosen), columns.numbers("Quantity").take(chosen)
    invoice, item = invoice.take(chosen), item.take(chosen)
    returned = pc.starts_with(invoice, "C")
    raw = RawEvents(
        user=customer.take(chosen),
        item=item,
        event_type=pc.if_else(returned, "return", "purchase"),
        time_ms=times,
        value=quantity,
        session=invoice,
        extra={"basket": invoice},
        rows=rows,
    )
    facts = {
        "rows": num_rows,
        "without_customer": num_rows - with_customer,
        "duplicates": with_customer - len(rows),
        "returns": pc.sum(returned).as_py() or 0,
    }
    titles = pc.utf8_trim_whitespace(columns.texts("Description").take(chosen))
    return assemble(name, "online-retail", raw, item_table(item, titles), facts)


def read_ratings_csv(path: Path, name: str) -> Dataset:
    """Read MovieLens ``ratings.csv``; ``movies.csv`` beside it gives titles and genres."""
    columns = Columns(read_text_table(path), path)
    columns.require(["userId", "movieId", "rating", "timestamp"])
    return _ratings(columns, name, ("userId", "movieId", "rating", "timestamp"))


def read_u_data(path: Path, name: str) -> Dataset:
    """Read MovieLens 100K's ``u.data``; ``u.item`` beside it gives titles and genres."""
    names = ["user", "item", "rating", "timestamp"]
    return _ratings(Columns(read_text_table(path, names=names, delimiter="\t", quoted=False), path, first_line=1), name, tuple(names))


def read_ratings_dat(path: Path, name: str) -> Dataset:
    """Read MovieLens 1M's and 10M's ``ratings.dat``; ``movies.dat`` beside it gives titles and genres."""
    fields = ["user", "gap1", "item", "gap2", "rating", "gap3", "timestamp"]  # the separator is two colons
    table = read_text_table(path, names=fields, delimiter=":", quoted=False)
    return _ratings(Columns(table, path, first_line=1), name, ("user", "item", "rating", "timestamp"))


def read_atomic(path: Path, name: str) -> Dataset:
    """Read a RecBole atomic file ``NAME.inter``; ``NAME.item`` beside it gives titles and classes.

    The header types each column, as in ``user_id:token``. Without a rating every row is a click; without a timestamp file order is time.
    """
    table = read_text_table(path, delimiter="\t", quoted=False)
    columns = Columns(table.rename_columns([column.split(":")[0] for column in table.column_names]), path)
    columns.require(["user_id", "item_id"])
    if "rating" in columns.table.column_names and "timestamp" in columns.table.column_names:
        return _ratings(columns, name, ("user_id", "item_id", "rating", "timestamp"))
    times = columns.times_ms("timestamp") if "timestamp" in columns.table.column_names else file_order_times(table.num_rows)
    raw = RawEvents(user=columns.ids("user_id"), item=columns.ids("item_id"), event_type="click", time_ms=times)
    return assemble(name, "recbole", raw, read_companion(path))


def _ratings(columns: Columns, name: str, names: tuple[str, ...]) -> Dataset:
    user, item, rating, timestamp = names
    raw = RawEvents(
        user=columns.ids(user),
        item=columns.ids(item),
        event_type="rating",
        time_ms=pc.multiply(_seconds(columns, timestamp), 1000),
        value=columns.numbers(rating),
    )
    return assemble(name, "movielens", raw, read_companion(columns.path))


def _seconds(columns: Columns, name: str) -> pa.Array:
    try:
        return columns.integers(name)
    except DatasetError:
        return pc.floor(columns.numbers(name)).cast(pa.int64())


def read_sessions(path: Path, name: str) -> Dataset:
    """Read click sessions (period, session, item), such as DIGINETICA's.

    There is no clock: period p begins p weeks after 2000-01-01, and its clicks follow in file order, one second apart (less when a week
    would not hold them). A user is a session.
    """
    columns = Columns(read_text_table(path), path)
    columns.require(["period", "session", "item"])
    periods = columns.integers("period")
    period = periods.to_numpy()
    order = np.argsort(period, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(period[order]) != 0])
    sizes = np.diff(np.r_[starts, len(order)])
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order)) - np.repeat(starts, sizes)
    step_ms = max(min(1000, WEEK_MS // int(sizes.max())), 1)
    times = SYNTHETIC_EPOCH_MS + (period - period.min()) * WEEK_MS + rank * step_ms
    session = columns.ids("session")
    raw = RawEvents(user=session, item=columns.ids("item"), event_type="click", time_ms=pa.array(times), session=session, extra={"period": periods})
    return assemble(name, "sessions", raw, facts={"periods": len(starts), "sessions": pc.count_distinct(session).as_py()})


def read_taobao(path: Path, name: str, *, header: bool) -> Dataset:
    """Read Taobao UserBehavior with or without a header; pv is a view, cart, fav a favourite, buy a purchase; times are seconds."""
    table = read_text_table(path, names=None if header else _TAOBAO_RAW, quoted=False)
    columns = Columns(table.rename_columns(_TAOBAO_RAW), path, first_line=2 if header else 1)
    kinds = columns.texts("behaviour")
    codes = pc.index_in(kinds, pa.array(list(TAOBAO_TYPES)))
    if codes.null_count:
        row = int(np.argmax(codes.is_null().to_numpy(zero_copy_only=False)))
        line = row + columns.first_line
        what = f"Dataset: line {line}, column 'behaviour' of {path} can't be used"
        raise DatasetError(what, got=repr(kinds[row].as_py()), allowed=", ".join(TAOBAO_TYPES), line=line, column="behaviour")
    item = columns.ids("item_id")
    raw = RawEvents(
        user=columns.ids("user_id"),
        item=item,
        event_type=pa.array(list(TAOBAO_TYPES.values())).take(codes),
        time_ms=pc.multiply(columns.integers("timestamp"), 1000),
    )
    categories = pa.ListArray.from_arrays(pa.array(np.arange(len(item) + 1, dtype=np.int32)), columns.texts("category_id"))
    return assemble(name, "taobao", raw, item_table(item, categories=categories))


def read_citeulike(path: Path, name: str) -> Dataset:
    """Read pairs with a split (split, user, item); there is no clock, so file order is time, one second a row. A pair is a favourite."""
    columns = Columns(read_text_table(path), path)
    columns.require(["split", "user", "item"])
    raw = RawEvents(
        user=columns.ids("user"),
        item=columns.ids("item"),
        event_type="favourite",
        time_ms=file_order_times(columns.table.num_rows),
        extra={"split": columns.ids("split")},
    )
    return assemble(name, "citeulike", raw)


def file_order_times(num_rows: int) -> pa.Array:
    """Return times one second apart, from 2000-01-01, for files without a clock."""
    return pa.array(SYNTHETIC_EPOCH_MS + 1000 * np.arange(num_rows))
