from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from streamrec.errors import DatasetError
from streamrec.events.columns import Columns

UTC = datetime.UTC


def times(cells: list[Any]) -> list[int]:
    result: list[int] = Columns(pa.table({"t": cells}), Path("f.csv")).times_ms("t").to_pylist()
    return result


@pytest.mark.parametrize(
    ("cells", "wanted"),
    [
        (["1511658000", "5"], [1_511_658_000_000, 5_000]),
        (["1511658000.25"], [1_511_658_000_250]),
        (["1511658000123"], [1_511_658_000_123]),
        (["1511658000123456"], [1_511_658_000_123]),
        (["1511658000123456789"], [1_511_658_000_123]),
        (["-5"], [-5_000]),
        (["2010-12-01 08:26:00", "2010-12-01", "2010-12-01T08:26Z"], [1_291_191_960_000, 1_291_161_600_000, 1_291_191_960_000]),
        (["2010-12-01T08:26:00.123456+02:00", "2010-12-01 08:26:00-0530"], [1_291_184_760_123, 1_291_211_760_000]),
        (["1.12.2010 8:26", "01.01.1970", "31.12.2010 08:26:05"], [1_291_191_960_000, 0, 1_293_783_965_000]),
        (["2010/12/01 08:26:00", "2010/12/1 8:26", "1970/1/1"], [1_291_191_960_000, 1_291_191_960_000, 0]),
        (["12/1/2010 8:26", "1970-01-01", "12/31/2010 8:26"], [1_291_191_960_000, 0, 1_293_783_960_000]),
        (["12/1/2010 8:26 AM", "12/31/2010 12:00:05 PM", "12/31/2010"], [1_291_191_960_000, 1_293_796_805_000, 1_293_753_600_000]),
        (["1/12/2010 8:26", "31/12/2010 08:26:05"], [1_291_191_960_000, 1_293_783_965_000]),
        (["1.12.2010 8:26 pm", "2010/12/01 12:26 AM"], [1_291_235_160_000, 1_291_163_160_000]),
        ([datetime.datetime(2010, 12, 1, tzinfo=datetime.timezone(datetime.timedelta(hours=2)))], [1_291_154_400_000]),
        ([datetime.date(2010, 12, 1)], [1_291_161_600_000]),
        ([1.5, 2.0], [1_500, 2_000]),
    ],
)
def test_a_column_of_times_is_read_in_its_unit(cells: list[Any], wanted: list[int]) -> None:
    assert times(cells) == wanted


@pytest.mark.parametrize("bad", ["yesterday", "", "2010-13-01", "2010-12-01T25:00", "nan", "99999-01-01", None])
def test_an_unparsable_time_is_named_by_line_and_column(bad: str | None) -> None:
    with pytest.raises(DatasetError, match=r"line 4, column 't' of f.csv") as caught:
        times(["2010-12-01", "2010-12-02", bad, "2010-12-03"] if bad != "nan" else ["1", "2", bad])
    assert (caught.value.facts["line"], caught.value.facts["column"]) == (4, "t")


@pytest.mark.parametrize("cells", [["2010-12-01", "1/12/2010 8:26"], ["1970-01-01", "12/11/2010 8:26", "1/1/2010 0:00"]])
def test_where_no_line_settles_whether_the_month_comes_first_nothing_is_guessed(cells: list[str]) -> None:
    with pytest.raises(DatasetError, match=r"line 3, column 't' of f.csv begins with a month or with a day, .* got '1.?/1.*write them so"):
        times(cells)


def test_a_column_of_both_orders_is_refused() -> None:
    with pytest.raises(DatasetError, match=r"line 4, column 't' of f.csv can't be used, got '31/12/2010 8:26'"):
        times(["1/12/2010 8:26", "12/31/2010 8:26", "31/12/2010 8:26"])


def test_where_a_format_puts_the_month_first_a_day_first_is_refused() -> None:
    columns = Columns(pa.table({"t": ["1/12/2010 8:26", "31/12/2010 8:26"]}), Path("f.csv"))
    with pytest.raises(DatasetError, match=r"line 3, column 't' of f.csv can't be used, got '31/12/2010 8:26'"):
        columns.times_ms("t", is_month_first=True)


def test_an_unparsable_number_is_named_by_line_and_column() -> None:
    columns = Columns(pa.table({"n": ["1", "2", "x", "4", "y"], "m": ["1", "", "2.5", "1", "1"]}), Path("f.csv"))
    with pytest.raises(DatasetError, match=r"line 4, column 'n' .* got 'x'"):
        columns.integers("n")
    with pytest.raises(DatasetError, match=r"line 4, column 'n' .* got 'x'"):
        columns.numbers("n")
    assert columns.numbers("m").to_pylist() == [1.0, None, 2.5, 1.0, 1.0]


def test_an_empty_id_is_named_by_line_and_column() -> None:
    with pytest.raises(DatasetError, match=r"line 3, column 'u'"):
        Columns(pa.table({"u": ["a", "", "b"]}), Path("f.csv")).ids("u")


def test_ids_that_a_file_holds_as_whole_floats_lose_the_fraction() -> None:
    columns = Columns(pa.table({"u": [17850.0, 5.0], "v": [0.5, 1.0], "d": pa.array(["a", "b"]).dictionary_encode()}), Path("f.parquet"))
    assert columns.ids("u").to_pylist() == ["17850", "5"]
    assert columns.ids("v").to_pylist() == ["0.5", "1"]
    assert columns.ids("d").to_pylist() == ["a", "b"]
