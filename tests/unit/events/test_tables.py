from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrec.events import tables
from streamrec.events.tables import runs_of, take, take_values


@given(st.lists(st.integers(0, 19), max_size=40), st.integers(1, 40), st.integers(1, 20))
def test_rows_are_the_same_whether_copied_as_runs_or_picked(rows: list[int], rows_a_run: int, chunk: int) -> None:
    texts, lists = [None if row % 7 == 3 else f"text {row}" for row in range(20)], [list(range(row % 3)) for row in range(20)]
    whole = pa.table({"text": pa.array(texts), "list": pa.array(lists), "none": pa.nulls(20, pa.int64())})
    table = pa.Table.from_batches(whole.to_batches(max_chunksize=chunk))
    chosen = np.asarray(rows, np.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "ROWS_A_RUN", rows_a_run)
        assert take(table, chosen).equals(whole.take(pa.array(chosen)))
        values = pa.array(texts).slice(2, 15)
        inside = chosen[chosen < 15]
        assert take_values(values, inside).to_pylist() == [texts[2 + row] for row in inside.tolist()]


def test_runs_are_told_only_where_they_are_long() -> None:
    assert runs_of(np.asarray([*range(5, 90), *range(91, 150)])) == [(5, 85), (91, 59)]
    assert runs_of(np.arange(0, 100, 2)) is None
    assert runs_of(np.zeros(0, np.int64)) is None
