from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrec.errors import Damaged
from streamrec.state import ComponentState, digest_of, from_bytes, pack_strings, to_bytes, unpack_strings
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


def test_a_local_worker_calls_at_once_and_raises_at_once() -> None:
    worker = LocalWorker([1, 2])
    assert worker.submit(list.append, 3).result() is None
    assert worker.submit(list.index, 3).result() == 2
    with pytest.raises(ValueError, match="not in list"):
        worker.submit(list.index, 9)
