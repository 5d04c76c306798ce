from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pa_parquet
import pytest

from streamrec.errors import DatasetError
from streamrec.events.codec import encode_table
from streamrec.events.datasets import KINDS, Dataset, load_dataset, parse_mapping, show_mapping
from streamrec.events.readers import read_any_table

RETAIL = '''InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country
536366,22633, HAND WARMER ,6,2010-12-01 08:28:00,1.85,17850.0,United Kingdom
536365,85123A,,6,2010-12-01 08:26:00,2.55,17850.0,United Kingdom
536365,85123A,WHITE HANGING HEART,2,2010-12-01 08:26:00,2.55,17850.0,United Kingdom
536365,71053,"WHITE, METAL",6,2010-12-01 08:26:00,3.39,17850.0,United Kingdom
536370,71053,WHITE METAL,6,2010-12-01 08:27:00,3.39,,France
C536379,85123A,"WHITE ""HEART""",-1,2010-12-01 09:41:00,2.55,14527.0,United Kingdom
'''


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def rows(dataset: Dataset, *names: str) -> list[tuple[object, ...]]:
    return list(zip(*(dataset.events[name].to_pylist() for name in names), strict=True))


@pytest.mark.parametrize("compress", [False, True])
def test_online_retail_gives_purchases_and_returns_of_known_customers_once_per_invoice(tmp_path: Path, compress: bool) -> None:
    path = write(tmp_path / "anything.csv", gzip.compress(RETAIL.encode()) if compress else RETAIL)
    dataset = load_dataset(path)
    assert (dataset.name, dataset.kind) == ("online-retail", "online-retail")
    assert rows(dataset, "event_id", "user_id", "item_id", "event_type", "value", "basket", "session_id") == [
        ("online-retail:1", "17850", "85123A", "purchase", 6.0, "536365", "536365"),
        ("online-retail:3", "17850", "71053", "purchase", 6.0, "536365", "536365"),
        ("online-retail:0", "17850", "22633", "purchase", 6.0, "536366", "536366"),
        ("online-retail:5", "14527", "85123A", "return", -1.0, "C536379", "C536379"),
    ]
    assert dataset.events["event_time"].to_pylist()[:3] == [1_291_191_960_000, 1_291_191_960_000, 1_291_192_080_000]
    assert dataset.items is not None
    titles = dict(zip(dataset.items["item_id"].to_pylist(), dataset.items["title"].to_pylist(), strict=True))
    assert titles == {"22633": "HAND WARMER", "71053": "WHITE, METAL", "85123A": 'WHITE "HEART"'}
    assert dataset.facts == {"rows": 6, "without_customer": 1, "duplicates": 1, "returns": 1, "events": 4, "users": 2, "items": 3}


def test_the_events_and_items_of_a_dataset_can_be_encoded(tmp_path: Path) -> None:
    dataset = load_dataset(write(tmp_path / "retail.csv", RETAIL))
    keys, values = encode_table(dataset.events)
    assert keys[0] == b"17850"
    assert b'"basket"' not in values[0]
    assert dataset.items is not None
    keys, values = encode_table(dataset.items)
    assert keys == [b"22633", b"71053", b"85123A"]
    assert b'"kind":"item_update"' in values[0]
    assert dataset.items["event_time"].to_pylist() == [1_291_191_960_000] * 3


RATINGS = [("1", "31", 2.5, 1_260_759_144_000), ("7", "31", 4.0, 1_260_759_145_000)]


@pytest.mark.parametrize(
    ("name", "text", "companion", "items"),
    [
        (
            "ratings.csv",
            "userId,movieId,rating,timestamp\n7,31,4.0,1260759145\n1,31,2.5,1260759144\n",
            "movies.csv",
            "movieId,title,genres\n31,A,X|Y\n",
        ),
        ("u.data", "7\t31\t4\t1260759145\n1\t31\t2.5\t1260759144\n", "u.item", "31|A|01-Jan-1995|||0|1|0|1" + "|0" * 15),
        ("ratings.dat", "7::31::4::1260759145\n1::31::2.5::1260759144\n", "movies.dat", "31::A::X|Y\n"),
        (
            "ml.inter",
            "user_id:token\titem_id:token\trating:float\ttimestamp:float\n7\t31\t4\t1260759145\n1\t31\t2.5\t1260759144\n",
            "ml.item",
            "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n31\tA\t1995\tX Y\n",
        ),
    ],
)
@pytest.mark.parametrize("as_folder", [False, True])
def test_each_form_of_movielens_gives_the_same_ratings_with_titles_and_genres(
    tmp_path: Path, name: str, text: str, companion: str, items: str, as_folder: bool
) -> None:
    path = write(tmp_path / name, text.replace("2.5", "2") if name == "u.data" else text)
    write(tmp_path / companion, items)
    dataset = load_dataset(tmp_path if as_folder else path)
    wanted = [("1", "31", 2.0 if name == "u.data" else 2.5, RATINGS[0][3]), RATINGS[1]]
    assert rows(dataset, "user_id", "item_id", "value", "event_time") == wanted
    assert set(dataset.events["event_type"].to_pylist()) == {"rating"}
    assert dataset.items is not None
    (item,) = dataset.items.select(["item_id", "title", "categories"]).to_pylist()
    assert item == {"item_id": "31", "title": "A", "categories": ["Action", "Animation"] if name == "u.data" else ["X", "Y"]}


def test_ratings_without_an_item_file_have_no_items(tmp_path: Path) -> None:
    assert load_dataset(write(tmp_path / "ratings.csv", "userId,movieId,rating,timestamp\n1,31,2.5,1260759144\n")).items is None


def test_latin_1_titles_of_movielens_are_read(tmp_path: Path) -> None:
    write(tmp_path / "u.item", "31|Misérables, Les (1995)|||".encode("latin-1"))
    dataset = load_dataset(write(tmp_path / "u.data", "1\t31\t5\t1260759144\n"))
    assert dataset.items is not None
    assert dataset.items["title"].to_pylist() == ["Misérables, Les (1995)"]


def test_sessions_get_times_in_file_order_with_periods_a_week_apart(tmp_path: Path) -> None:
    dataset = load_dataset(write(tmp_path / "s.csv", "period,session,item\n0,9,1\n0,8,2\n1,7,3\n0,9,4\n2,7,5\n"))
    start, week = 946_684_800_000, 7 * 86_400_000
    assert rows(dataset, "session_id", "item_id", "event_time") == [
        ("9", "1", start),
        ("8", "2", start + 1000),
        ("9", "4", start + 2000),
        ("7", "3", start + week),
        ("7", "5", start + 2 * week),
    ]
    assert dataset.events["user_id"].to_pylist() == dataset.events["session_id"].to_pylist()
    assert dataset.period is not None
    assert dataset.period.tolist() == [0, 0, 0, 1, 2]
    assert (dataset.facts["periods"], dataset.facts["sessions"], dataset.split) == (3, 3, None)


@pytest.mark.parametrize("header", ["user_id,item_id,category_id,behaviour,timestamp\n", "user_id,item_id,category_id,behavior,timestamp\n", ""])
def test_taobao_is_read_with_and_without_a_header(tmp_path: Path, header: str) -> None:
    lines = "1,10,5,pv,1511658000\n1,10,5,fav,1511658001\n2,11,6,cart,1511658001\n2,11,6,buy,1511658002\n"
    dataset = load_dataset(write(tmp_path / "UserBehavior.csv", header + lines))
    assert dataset.events["event_type"].to_pylist() == ["view", "favourite", "cart", "purchase"]
    assert dataset.events["event_time"][0].as_py() == 1_511_658_000_000
    assert dataset.items is not None
    assert dataset.items["categories"].to_pylist() == [["5"], ["6"]]
    bad = write(tmp_path / "bad.csv", header + lines + "3,12,5,stare,1511658003\n")
    with pytest.raises(DatasetError, match=rf"line {6 if header else 5}, column 'behaviour' .* got 'stare', allowed pv, cart, fav, buy"):
        load_dataset(bad)


def test_pairs_with_a_split_keep_file_order_and_their_split(tmp_path: Path) -> None:
    dataset = load_dataset(write(tmp_path / "c.csv", "split,user,item\ntrain,0,5\ntrain,0,4\ntest,0,9\n"))
    assert dataset.events["item_id"].to_pylist() == ["5", "4", "9"]
    assert dataset.split == ["train", "train", "test"]
    assert dataset.events["event_type"].to_pylist() == ["favourite"] * 3


TABLE = "who,what,when,did,stars,visit\nu1,i1,2020-01-01T00:00:01Z,cart,,v1\nu2,i2,2020-01-01,click,4.5,v2\n"


def test_any_csv_is_read_with_a_mapping(tmp_path: Path) -> None:
    path = write(tmp_path / "shop.log.csv", TABLE)
    dataset = load_dataset(path, parse_mapping("user=who,item=what,time=when,type=did,value=stars,session=visit"))
    assert rows(dataset, "event_id", "user_id", "item_id", "event_type", "value", "session_id") == [
        ("shop:1", "u2", "i2", "click", 4.5, "v2"),
        ("shop:0", "u1", "i1", "cart", None, "v1"),
    ]
    assert load_dataset(path, {"user": "who", "item": "what"}, name="mine").events["event_id"].to_pylist() == ["mine:0", "mine:1"]
    assert load_dataset(path, {"user": "who", "item": "what", "value": "stars"}).events["event_type"].to_pylist() == ["rating", "rating"]


def test_any_parquet_is_read_with_a_mapping(tmp_path: Path) -> None:
    table = pa.table({"who": [1, 2], "what": ["a", "b"], "when": pa.array([2_000_000, 1_000_000], pa.timestamp("us"))})
    pa_parquet.write_table(table, tmp_path / "log.parquet")
    dataset = load_dataset(tmp_path / "log.parquet", {"user": "who", "item": "what", "time": "when"})
    assert rows(dataset, "user_id", "item_id", "event_time") == [("2", "b", 1000), ("1", "a", 2000)]
    with pytest.raises(DatasetError, match="columns need a mapping, got who, what, when"):
        load_dataset(tmp_path / "log.parquet")


def test_a_byte_order_mark_and_windows_line_ends_are_taken(tmp_path: Path) -> None:
    path = write(tmp_path / "s.csv", b"\xef\xbb\xbfperiod,session,item\r\n0,9,1\r\n")
    assert load_dataset(path).events["item_id"].to_pylist() == ["1"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"is empty, got 0 rows"),
        ("\n\n", r"is empty"),
        ("period,session,item\n", r"has a header and no rows"),
        ("period,session,item\n0,1\n", r"line 2 of .* another number of fields than the first, got 2, allowed 3"),
        ("period,session,item\n0,1,2\n0,1,2,3\n", r"line 3 of .* got 4, allowed 3"),
        ("period,session,item\nx,1,2\n", r"line 2, column 'period' .* got 'x', allowed an integer"),
        ("period,session,item\n0,1,2\n0,,2\n", r"line 3, column 'session' .* got '', allowed an id"),
        ("split,split,user,item\n0,0,1,2\n", r"names a column twice|no header"),
        ("period;session;item\n0;1;2\n", r"line 1 .* got 'period;session;item', allowed online-retail, .*add --map"),
        ('[{"user": "u", "item": "i"}]\n', r"holds one JSON document, got '\[\{\"user.*write one object a line.*POST /v1/events$"),
        ('{"user": "u", "item": "i"}\n', r"line 1 .* got '\{\"user.*add --map"),
        ("a,b,c\n1,2,3\n", r"line 1 .* got 'a,b,c', allowed online-retail, .*add --map"),
        ("userId,movieId,rating,timestamp\n1,2,3,soon\n", r"line 2, column 'timestamp' .* got 'soon'"),
        ("userId,movieId,rating,timestamp\n1,2,good,5\n", r"line 2, column 'rating' .* got 'good'"),
        (RETAIL.replace("2010-12-01 08:28:00", "tomorrow"), r"line 2, column 'InvoiceDate' .* got 'tomorrow', allowed seconds, milliseconds"),
        (b"period,session,item\n0,\xff,2\n", r"UTF-?8"),
    ],
)
def test_a_broken_file_is_an_error_that_names_the_place_and_what_is_allowed(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        load_dataset(write(tmp_path / "broken.csv", text))


def test_a_truncated_gzip_is_an_error_that_says_so(tmp_path: Path) -> None:
    text = "period,session,item\n" + "".join(f"0,{row * 7919 % 1000},{row}\n" for row in range(50_000))
    path = write(tmp_path / "s.csv.gz", gzip.compress(text.encode())[:-2000])
    with pytest.raises(DatasetError, match="ends early or is damaged"):
        load_dataset(path)
    with pytest.raises(DatasetError, match="ends early or is damaged"):
        load_dataset(write(tmp_path / "t.csv.gz", gzip.compress(text.encode())[:20]))


def test_a_damaged_parquet_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="ends early or is damaged"):
        load_dataset(write(tmp_path / "log.parquet", b"PAR1 and no more"), {"user": "u", "item": "i"})


def test_a_missing_file_and_a_folder_without_a_set_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="can't be read"):
        load_dataset(tmp_path / "absent.csv")
    write(tmp_path / "notes.txt", "x")
    with pytest.raises(DatasetError, match=r"no single file of interactions, got notes.txt"):
        load_dataset(tmp_path)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"user": "who", "item": "nothing"}, r"line 1 .* no column 'nothing' \(mapped to 'item'\), allowed who, what"),
        ({"user": "who"}, r"lacks 'item'"),
        ({"user": "who", "item": "what", "colour": "did"}, r"unknown field 'colour', allowed user, item, time"),
        ({"user": "who", "item": "what", "time": "did"}, r"line 2, column 'did' .* got 'cart'"),
        ({"user": "who", "item": "what", "value": "did"}, r"line 2, column 'did' .* got 'cart', allowed a number"),
    ],
)
def test_a_wrong_mapping_is_an_error_that_names_the_columns(tmp_path: Path, mapping: dict[str, str], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        load_dataset(write(tmp_path / "log.csv", TABLE), mapping)


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("name", ["what", " what ", "what, or which", "what=which", 'what "else"'])
def test_a_file_is_read_whatever_separates_its_columns_and_whatever_they_are_called(tmp_path: Path, separator: str, name: str) -> None:
    cells = [["who", f'"{name.replace(chr(34), chr(34) * 2)}"', "when"], ["u1", "i1", "2020-01-01"], ["u2", '"i;2,|"', "2020-01-02"]]
    path = write(tmp_path / "log.csv", "".join(separator.join(row) + "\n" for row in cells))
    mapping = {"user": "who", "item": name.strip(), "time": "when"}
    assert parse_mapping(show_mapping(mapping)) == mapping
    assert rows(load_dataset(path, mapping), "user_id", "item_id") == [("u1", "i1"), ("u2", "i;2,|")]
    assert load_dataset(path, parse_mapping(f"user= who, {show_mapping({'item': name})}")).facts["items"] == 2


@pytest.mark.parametrize("text", ["user", "user=", "=who", "user=a,user=b", "", "user=a\nitem=b"])
def test_a_mapping_that_does_not_parse_is_an_error(text: str) -> None:
    with pytest.raises(DatasetError, match="mapping does not parse"):
        parse_mapping(text)


def test_a_kind_can_be_forced_and_an_unknown_one_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "s.csv", "period,session,item,more\n0,9,1,x\n")
    assert load_dataset(path, kind="sessions").facts["events"] == 1
    with pytest.raises(DatasetError, match="unknown kind of file, got 'xlsx'"):
        load_dataset(path, kind="xlsx")
    assert "sessions" in KINDS


LINES = """
{"u": 7, "when": "2010-12-01T08:26:00Z", "what": {"sku": "a", "tags": ["x", "y"]}, "sizes": [1]}
{"u": 8, "when": "2010-12-01T08:27:00Z", "what": {"sku": "b"}}
""".lstrip()


def test_lines_of_json_are_read_by_their_fields_however_deep(tmp_path: Path) -> None:
    path = write(tmp_path / "events.jsonl", LINES)
    dataset = load_dataset(path, {"user": "u", "item": "what.sku", "time": "when"})
    rows = [tuple(row.values()) for row in dataset.events.select(["user_id", "item_id", "event_time"]).to_pylist()]
    assert rows == [("7", "a", 1_291_191_960_000), ("8", "b", 1_291_192_020_000)]
    assert read_any_table(path).column_names == ["u", "when", "what.sku", "what.tags"]
    assert read_any_table(path)["what.tags"].to_pylist() == [["x", "y"], None]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LINES + "hello\n", r"does not parse \(JSON parse error: .*\), allowed one JSON object a line"),
        (LINES + '{"u": "x"}\n', r"does not parse \(.*changed from number to string in line 3\)"),
        (LINES.replace('"sku": "b"', '"sku": ""'), r"line 2, column 'what.sku' of .* got ''"),
        (LINES.replace('"sku": "b"', '"x": "b"'), r"line 2, column 'what.sku' of .* got None"),
    ],
)
def test_a_broken_line_of_json_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        load_dataset(write(tmp_path / "events.jsonl", text), {"user": "u", "item": "what.sku", "time": "when"})
