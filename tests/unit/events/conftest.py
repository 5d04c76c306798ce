from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from streamrec.events.schema import LOG_ROW


@pytest.fixture
def real_data() -> Callable[[str], Path]:
    """Return a function that gives a real set's path, or skips the test."""
    folder = Path(os.environ.get("STREAMREC_DATA") or Path(__file__).parents[3].parent / "shared" / "data")

    def find(name: str) -> Path:
        path = folder / name
        if not path.exists():
            pytest.skip(f"the real set {name} is not in {folder}; name the folder that holds it in STREAMREC_DATA")
        return path

    return find


@pytest.fixture
def log_rows() -> Callable[[list[bytes | None]], pa.Table]:
    """Return a function that makes log rows of values: topic t, partition 3, offsets from 100."""

    def make(values: list[bytes | None]) -> pa.Table:
        size = len(values)
        columns = [["t"] * size, [3] * size, range(100, 100 + size), [9] * size, [b"key"] * size, values]
        return pa.table([pa.array(column, field.type) for column, field in zip(columns, LOG_ROW, strict=True)], schema=LOG_ROW)

    return make
