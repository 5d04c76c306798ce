from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pa_parquet
import pytest

from streamrec.config import EventsConfig
from streamrec.errors import DatasetError
from streamrec.events.catalogues import items_from_file
from streamrec.events.codec import EventCodec, encode_table

CATALOGUE = 'sku,name,text,tags,cost,lang,stock,changed\na1,Lamp,"bright,\nwarm",home|light,9.5,en,yes,2020-01-01\na2,,,,,,,2020-01-02\n'
MAPPING = {
    **{"item": "sku", "title": "name", "description": "text", "categories": "tags"},
    **{"price": "cost", "locale": "lang", "available": "stock", "time": "changed"},
}


def test_a_catalogue_is_read_with_a_mapping(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text(CATALOGUE)
    one, two = items_from_file(tmp_path / "items.csv", MAPPING, event_time_ms=5).to_pylist()
    assert one["event_id"] != two["event_id"]
    assert {name: cell for name, cell in one.items() if name != "event_id"} == {
        **{"kind": "item_update", "item_id": "a1", "event_time": 1_577_836_800_000, "title": "Lamp", "description": "bright,\nwarm"},
        **{"categories": ["home", "light"], "price": 9.5, "locale": "en", "available": True},
    }
    assert (two["title"], two["categories"], two["price"], two["available"]) == (None, [], None, None)


def test_columns_with_the_fields_own_names_need_no_mapping(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item_id,title,price,other\na,Lamp,5,x\n")
    (row,) = items_from_file(tmp_path / "items.csv", event_time_ms=7).to_pylist()
    assert (row["item_id"], row["title"], row["price"], row["event_time"]) == ("a", "Lamp", 5.0, 7)
    pa_parquet.write_table(pa.table({"item": [5], "categories": [["x", "y"]], "available": [True]}), tmp_path / "items.parquet")
    (row,) = items_from_file(tmp_path / "items.parquet", event_time_ms=7).to_pylist()
    assert (row["item_id"], row["categories"], row["available"]) == ("5", ["x", "y"], True)


def test_movielens_item_files_are_known(tmp_path: Path) -> None:
    (tmp_path / "movies.csv").write_text('movieId,title,genres\n1,"American President, The",Comedy|Drama\n2,B,(no genres listed)\n')
    table = items_from_file(tmp_path / "movies.csv", event_time_ms=7)
    assert table["title"].to_pylist() == ["American President, The", "B"]
    assert table["categories"].to_pylist() == [["Comedy", "Drama"], []]


def test_the_same_row_has_the_same_event_id_and_a_changed_one_another(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_text("item,price\na,5\nb,6\n")
    first = items_from_file(path, event_time_ms=7)["event_id"].to_pylist()
    assert items_from_file(path, event_time_ms=7)["event_id"].to_pylist() == first
    path.write_text("item,price\na,5\nb,8\n")
    second = items_from_file(path, event_time_ms=7)["event_id"].to_pylist()
    assert first[0] == second[0]
    assert first[1] != second[1]
    assert items_from_file(path, event_time_ms=8)["event_id"].to_pylist()[0] != first[0]


def test_what_a_catalogue_gives_is_accepted_by_the_codec(tmp_path: Path, log_rows: Callable[..., pa.Table]) -> None:
    (tmp_path / "items.csv").write_text(CATALOGUE)
    keys, values = encode_table(items_from_file(tmp_path / "items.csv", MAPPING, event_time_ms=5))
    assert keys == [b"a1", b"a2"]
    decoded = EventCodec(EventsConfig()).decode(log_rows(values), 1_700_000_000_000)
    assert decoded.valid["categories"].to_pylist() == [["home", "light"], []]


@pytest.mark.parametrize(
    ("text", "mapping", "message"),
    [
        ("name,price\nx,5\n", None, r"no column for the item's id, got name, price, allowed item or item_id"),
        ("item,price\nx,much\n", None, r"line 2, column 'price' .* got 'much', allowed a number"),
        ("item,available\nx,maybe\n", None, r"line 2, column 'available' .* got 'maybe', allowed true, 1, yes"),
        ("item,title\n,Lamp\n", None, r"line 2, column 'item'"),
        ("sku,name\nx,Lamp\n", {"title": "name"}, r"lacks 'item'"),
        ("sku,name\nx,Lamp\n", {"item": "sku", "name": "name"}, r"unknown field 'name'"),
        ("sku,name\nx,Lamp\n", {"item": "id"}, r"no column 'id' \(mapped to 'item'\), allowed sku, name"),
        ("", None, r"is empty"),
    ],
)
def test_a_broken_catalogue_is_an_error_that_names_the_place(tmp_path: Path, text: str, mapping: dict[str, str] | None, message: str) -> None:
    (tmp_path / "items.csv").write_text(text)
    with pytest.raises(DatasetError, match=message):
        items_from_file(tmp_path / "items.csv", mapping, event_time_ms=5)


def test_a_folder_is_refused_and_a_file_in_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "movies.csv").write_text("movieId,title,genres\n")
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(DatasetError, match=r"is a folder, allowed one file of items, name the file, such as .*movies\.csv"):
        items_from_file(tmp_path, event_time_ms=5)
