from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrec.errors import Damaged
from streamrec.state import ROWS, ChangedRows, ComponentState, digest_of, from_bytes, merge, pack_strings, to_bytes, unpack_strings
from streamrec.workers import LocalWorker

STATE = ComponentState({"b": np.arange(6, dtype=np.int64).reshape(2, 3), "a": np.zeros((0, 4), np.float16)}, {"x": [1, "é", None], "y": {"z": 0.1}})


def test_a_state_is_read_as_it_was_written() -> None:
    again = from_bytes(to_bytes(STATE))
    assert dict(again.meta) == dict(STATE.meta)
    assert again.arrays.keys() == STATE.arrays.keys()
    for name, array in STATE.arrays.items():
        assert again.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(again.arrays[name], array)


def test_equal_states_have_equal_bytes_whatever_their_order_and_layout() -> None:
    other = ComponentState({"a": STATE.arrays["a"], "b": np.asfortranarray(STATE.arrays["b"])}, dict(reversed(STATE.meta.items())))
    assert to_bytes(other) == to_bytes(STATE)
    changed = ComponentState({**STATE.arrays, "b": STATE.arrays["b"] + 1}, STATE.meta)
    assert digest_of(changed) != digest_of(STATE)
    assert digest_of(ComponentState(STATE.arrays, {})) != digest_of(STATE)


@pytest.mark.parametrize("data", [b"", b"nonsense", to_bytes(STATE)[:-1], to_bytes(STATE)[:20]])
def test_bytes_that_are_no_state_are_damaged(data: bytes) -> None:
    with pytest.raises(Damaged):
        from_bytes(data)


@given(st.lists(st.text(st.characters(), max_size=5), max_size=8))
def test_packed_strings_are_unpacked_as_they_were(values: list[str]) -> None:
    assert unpack_strings(*pack_strings(values)) == values


def test_a_lone_surrogate_is_packed_too() -> None:
    assert unpack_strings(*pack_strings(["\ud800"])) == ["\ud800"]


def table_of(rows: dict[int, tuple[int, str]], picked: list[int], suffix: str) -> dict[str, np.ndarray]:
    """Rows as a dense array and as text; a row that is not there is zero and empty."""
    held = [rows.get(row, (0, "")) for row in picked]
    data, offsets = pack_strings([text for _, text in held])
    return {
        f"number{suffix}": np.asarray([number for number, _ in held], np.int64),
        f"name_bytes{suffix}": data,
        f"name_offsets{suffix}": offsets,
    }


changes = st.dictionaries(st.integers(0, 9), st.tuples(st.integers(1, 9), st.text("abé", max_size=4)), max_size=5)


@given(changes, st.lists(changes, max_size=4), st.integers(0, 4))
def test_a_base_merged_with_deltas_is_the_snapshot_that_holds_both_in_any_grouping(first: Any, later: list[Any], split: int) -> None:
    rows = dict(first)
    num = max(first, default=-1) + 1
    base = ComponentState(table_of(rows, list(range(num)), "") | {"whole": np.zeros(2)}, {"n": 0, "kept": True})
    deltas = []
    for number, change in enumerate(later):
        rows |= change
        picked = sorted(change)
        arrays = {ROWS: np.asarray(picked, np.int64), **table_of(rows, picked, "@values"), "whole": np.full(2, number)}
        deltas.append(ComponentState(arrays, {"n": number}))
        num = max([num, *(row + 1 for row in change)])
    whole = base.arrays["whole"] if not later else np.full(2, len(later) - 1)
    expected = ComponentState(table_of(rows, list(range(num)), "") | {"whole": whole}, {"n": max(0, len(later) - 1), "kept": True})
    before = digest_of(base)
    assert digest_of(merge(base, deltas)) == digest_of(expected)
    assert digest_of(merge(merge(base, deltas[:split]), deltas[split:])) == digest_of(expected)
    assert digest_of(base) == before


def test_a_delta_of_rows_on_nothing_begins_the_arrays() -> None:
    delta = ComponentState({ROWS: np.asarray([2]), **table_of({2: (7, "x")}, [2], "@values")})
    merged = merge(ComponentState(), [delta]).arrays
    assert merged["number"].tolist() == [0, 0, 7]
    assert unpack_strings(merged["name_bytes"], merged["name_offsets"]) == ["", "", "x"]


def test_a_delta_of_another_kind_is_not_merged() -> None:
    with pytest.raises(Damaged, match="names no rows, got added"):
        merge(STATE, [ComponentState({"added": np.zeros(2)})])


@given(st.lists(st.one_of(st.lists(st.integers(0, 3000), max_size=5), st.none()), max_size=8))
def test_changed_rows_are_those_marked_since_they_were_last_taken(steps: list[list[int] | None]) -> None:
    changed, model = ChangedRows(), set()
    for step in steps:
        if step is None:
            assert changed.take().tolist() == sorted(model)
            model.clear()
        else:
            changed.mark(step)
            model |= set(step)
            assert changed.count() == len(model)


def test_a_local_worker_calls_at_once_and_raises_at_once() -> None:
    worker = LocalWorker([1, 2])
    assert worker.submit(list.append, 3).result() is None
    assert worker.submit(list.index, 3).result() == 2
    with pytest.raises(ValueError, match="not in list"):
        worker.submit(list.index, 9)
