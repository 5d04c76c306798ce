from __future__ import annotations

import numpy as np

from streamrec.student.buffers import Buffers
from streamrec.student.tables import ItemTables


def lend(buffers: Buffers, num: int, value: float) -> np.ndarray:
    lent = buffers.lend("a", (num, 4), np.float32)
    lent[:] = value
    return lent


def test_memory_is_lent_again_only_when_nobody_holds_the_array_or_a_view_of_it() -> None:
    buffers = Buffers()
    view = lend(buffers, 100, 1.0)[10:20].T  # What was lent is gone; only a view of a view is left.
    other = lend(buffers, 100, 2.0)
    assert not np.shares_memory(view, other)
    assert (view == 1.0).all()
    address = other.ctypes.data
    del other
    assert lend(buffers, 90, 3.0).ctypes.data == address
    assert (view == 1.0).all()


def test_a_larger_array_gets_larger_memory_and_other_names_get_their_own() -> None:
    buffers = Buffers()
    lend(buffers, 100, 1.0)
    assert lend(buffers, 1000, 2.0).shape == (1000, 4)
    one, other = buffers.lend("a", (7,), np.int64), buffers.lend("b", (7,), np.int64)
    assert not np.shares_memory(one, other)
    assert buffers.lend("c", (0, 4), np.float32).shape == (0, 4)


def test_rows_that_were_picked_stand_still_while_the_tables_go_on_and_are_picked_again() -> None:
    tables = ItemTables(4, 2, seed=0)
    rows = np.arange(50, dtype=np.int32)
    tables.put_items(rows, np.zeros((50, 2), np.int32), np.zeros(50, np.int32))
    wanted = np.asarray([3, 7, 49], np.int64)
    first = tables.pick(wanted)
    held = {name: array.copy() for name, array in first.items()}
    tables.forget_rows(rows)
    second = tables.pick(wanted)
    assert all(np.array_equal(first[name], held[name]) for name in held)
    assert not np.array_equal(first["vectors"], second["vectors"])
    assert (second["generation"] == -1).all()
