from __future__ import annotations

from datetime import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streamrec.errors import DatasetError
from streamrec.events.columns import Columns
from streamrec.events.guessing import guess_mapping, guess_meaning
from streamrec.events.readers import read_any_table

NUM = 60
CELLS = {
    "user": [f"u{row % 7}" for row in range(NUM)],
    "item": [f"i{row % 11}" for row in range(NUM)],
    "id": [str(1000 + row) for row in range(NUM)],
    "seconds": [str(1_764_000_000 + row) for row in range(NUM)],
    "iso": [f"2025-11-24 16:{row:02d}:00" for row in range(NUM)],
    "type": [("view", "buy", "add to cart")[row % 3] for row in range(NUM)],
    "stars": [str(1 + row % 5) for row in range(NUM)],
    "price": [f"{row * 7}.50" for row in range(NUM)],
    "count": [str(row % 3) for row in range(NUM)],
}


def guessed(**columns: str) -> dict[str, str]:
    """The mapping of a file whose columns have these names and cells."""
    table = pa.table({name: CELLS[cells] for name, cells in columns.items()})
    return {guess.field: guess.column for guess in guess_mapping(table, Path("a.csv"))}


@pytest.mark.parametrize(
    ("columns", "mapping"),
    [
        (
            {"event_id": "id", "CustomerID": "user", "StockCode": "item", "InvoiceDate": "iso", "Price": "price"},
            {"user": "CustomerID", "item": "StockCode", "time": "InvoiceDate"},
        ),
        (
            {"visitorid": "user", "itemid": "item", "timestamp": "seconds", "event": "type"},
            {"user": "visitorid", "item": "itemid", "time": "timestamp", "type": "event"},
        ),
        (
            {"reviewerID": "user", "asin": "item", "overall": "stars", "unixReviewTime": "seconds"},
            {"user": "reviewerID", "item": "asin", "time": "unixReviewTime", "value": "overall"},
        ),
        (
            {"item_type": "type", "item_id": "item", "user_id": "user", "created_at": "iso", "order_value": "price", "session_id": "user"},
            {"user": "user_id", "item": "item_id", "time": "created_at", "type": "item_type", "session": "session_id"},
        ),
        (
            {"Beleg-Nr": "id", "Kd.Nr.": "user", "Art.-Nr": "item", "Menge": "count", "Buchungsdatum": "iso", "Vorgang": "type"},
            {"user": "Kd.Nr.", "item": "Art.-Nr", "time": "Buchungsdatum", "type": "Vorgang", "basket": "Beleg-Nr"},
        ),
        ({"user": "user", "item": "item", "score": "price"}, {"user": "user", "item": "item"}),
        ({"user": "user", "item": "item", "type": "id"}, {"user": "user", "item": "item"}),
        (
            {"user": "user", "item": "item", "date": "type", "created_at": "iso"},
            {"user": "user", "item": "item", "time": "created_at", "type": "date"},
        ),
    ],
)
def test_a_name_counts_where_the_cells_fit(columns: dict[str, str], mapping: dict[str, str]) -> None:
    assert guessed(**columns) == mapping


def test_in_a_small_sample_what_is_another_in_each_row_is_no_type() -> None:
    table = pa.table({"user": CELLS["user"][:20], "item": CELLS["item"][:20], "event": [f"e{row}" for row in range(20)]})
    assert {guess.field for guess in guess_mapping(table, Path("a.csv"))} == {"user", "item"}


def test_of_a_date_beside_times_of_the_day_it_says_that_the_hours_are_not_read() -> None:
    days, hours = ["2025-11-24", "2025-11-25"] * (NUM // 2), ["14:05", "9:30:15"] * (NUM // 2)
    told = "from 2025-11-24T00:00 to 2025-11-25T00:00; days alone, the hours of 'hour' are not read: join both in one column"
    for cells in (pa.array(hours), pa.array([None, *hours[1:]]), pa.array([time(14, 5)] * NUM)):
        table = pa.table({"user": CELLS["user"], "item": CELLS["item"], "date": days, "hour": cells})
        assert told in next(guess.why for guess in guess_mapping(table, Path("a.csv")) if guess.field == "time")
    for cells in (pa.nulls(NUM, pa.string()), pa.array([*hours[1:], "noon"]), pa.array([1] * NUM)):
        table = pa.table({"user": CELLS["user"], "item": CELLS["item"], "date": days, "hour": cells})
        assert "hours" not in next(guess.why for guess in guess_mapping(table, Path("a.csv")) if guess.field == "time")
    table = pa.table({"user": CELLS["user"], "item": CELLS["item"], "date": [f"{day} 10:00" for day in days], "hour": hours})
    assert "hours" not in next(guess.why for guess in guess_mapping(table, Path("a.csv")) if guess.field == "time")


def test_without_a_telling_name_ids_that_come_back_are_guessed_and_it_says_so() -> None:
    table = pa.table({"row": CELLS["id"], "a": CELLS["user"], "b": CELLS["item"], "what": CELLS["price"]})
    guesses = guess_mapping(table, Path("a.csv"))
    assert [(guess.field, guess.column) for guess in guesses] == [("user", "a"), ("item", "b")]
    assert guesses[0].why == "no name says so; 7 different ones in 60 rows: look whether it is right"


@pytest.mark.parametrize(("factor", "is_time"), [(1, True), (1000, True), (1_000_000, True), (0.5, False), (2, False)])
def test_numbers_that_are_instants_of_our_years_are_a_time_whatever_the_column_is_called(factor: float, is_time: bool) -> None:
    cells = [str((1_764_000_000.25 + row) * factor) if factor == 1 else str((1_764_000_000 + row) * factor) for row in range(NUM)]
    table = pa.table({"用户": CELLS["user"], "商品": CELLS["item"], "时间": cells})
    found = {guess.field: guess for guess in guess_mapping(table, Path("a.csv"))}
    assert {field: guess.column for field, guess in found.items()} == {"user": "用户", "item": "商品", **({"time": "时间"} if is_time else {})}
    assert not is_time or found["time"].why.startswith("no name says so; from 2025-11-24T16:00 to ")


def test_a_column_that_is_named_like_an_id_and_has_holes_is_told_of() -> None:
    users = ["", *CELLS["user"][1:]]
    with pytest.raises(DatasetError, match=r"line 2, column 'user' of a\.csv can't be used, got ''"):
        guess_mapping(pa.table({"user": users, "item": CELLS["item"], "time": CELLS["seconds"]}), Path("a.csv"))


def test_what_is_given_is_not_guessed_and_its_column_is_nothing_else() -> None:
    table = pa.table({"user": CELLS["item"], "other": CELLS["user"], "time": CELLS["seconds"]})
    found = {guess.field: (guess.column, guess.why) for guess in guess_mapping(table, Path("a.csv"), {"item": "user"})}
    assert found["item"] == ("user", "you said so")
    assert found["user"][0] == "other"


@pytest.mark.parametrize(
    ("name", "cells", "got"),
    [
        ("time", ["13/13/2025 08:12"] * NUM, "'13/13/2025 08:12'"),
        ("ts", ["24.11.25 16:00:09"] * NUM, "'24.11.25 16:00:09'"),
        ("order date", ["3/11/2025 08:12"] * NUM, "'3/11/2025 08:12', of which no line settles whether the month or the day comes first"),
        ("time", CELLS["count"], "1970-01-01T00:00:00.000 to 1970-01-01T00:00:02.000, read as a time"),
        ("time", ["2025-11-24"] * (NUM - 1) + ["soon"], "'soon'"),
    ],
)
def test_a_column_that_is_named_like_a_time_and_is_none_is_told_of_unless_times_are_left_out(name: str, cells: list[str], got: str) -> None:
    table = pa.table({"user": CELLS["user"], "item": CELLS["item"], name: cells})
    with pytest.raises(DatasetError, match=rf"column '{name}' of a.csv is named like a time and can't be read as one, got {got}, allowed"):
        guess_mapping(table, Path("a.csv"))
    assert {guess.field for guess in guess_mapping(table, Path("a.csv"), {"time": "none"})} == {"user", "item"}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"price": "price", "user": "user"},
            "looks like the item, got price, user, name it: streamrec init a.csv --map item=COLUMN",
        ),
        ({"17": "user", "23": "item", "name": "iso"}, "line 1 of a.csv is no header"),
        ({"u30": "user", "i18": "item", "1764000000123": "seconds"}, "line 1 of a.csv is no header"),
    ],
)
def test_what_can_not_be_guessed_is_asked_for(columns: dict[str, str], message: str) -> None:
    with pytest.raises(DatasetError, match=message.replace("(", r"\(")):
        guessed(**columns)


def test_a_parquet_file_has_types_of_its_own() -> None:
    table = pa.table(
        {"member": list(range(5)) * 2, "track": [3, 4] * 5, "played_at": pa.array(range(10**12, 2 * 10**12, 10**11), pa.timestamp("ms"))}
    )
    assert {guess.field: guess.column for guess in guess_mapping(table, Path("a.parquet"))} == {
        "user": "member",
        "item": "track",
        "time": "played_at",
    }


def test_what_is_nested_in_a_parquet_file_has_a_column_for_each_field_and_lists_are_passed_over(tmp_path: Path) -> None:
    rows = [{"who": {"id": f"u{row % 7}"}, "tags": ["a"], "what": f"i{row % 11}", "at": 1_764_000_000 + row} for row in range(NUM)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "n.parquet")
    table = read_any_table(tmp_path / "n.parquet")
    assert {guess.field: guess.column for guess in guess_mapping(table, tmp_path / "n.parquet")} == {"user": "who.id", "item": "what", "time": "at"}
    with pytest.raises(DatasetError, match=r"column 'tags' of .*n\.parquet holds list<.*, allowed one value a row"):
        Columns(table, tmp_path / "n.parquet").ids("tags")


@pytest.mark.parametrize(
    ("event_type", "role", "weight"),
    [
        ("ProductView", "target", 0.5),
        ("page_view", "target", 0.5),
        ("add-to-cart", "target", 1.0),
        ("removeFromCart", "negative", 1.0),
        ("order refund", "negative", 1.0),
        ("site search", "context", 1.0),
        ("wobble", "target", 1.0),
    ],
)
def test_an_event_type_means_what_its_words_say(event_type: str, role: str, weight: float) -> None:
    found = guess_meaning(event_type)
    assert (found.role, found.weight) == (role, weight)
