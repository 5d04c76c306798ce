"""Fuzz the decoders, guided by coverage: any bytes never raise, never vanish, and decode alike on every way.

    make fuzz [FUZZ_S=60]

The input is cut at its zero bytes into values, which are decoded twice: together, on the vectorised way with every group tried, and one by one.
Both must give each value's offset once, as the same event or with a rejection.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["streamrec.events"]):
    from streamrec.config import EventsConfig
    from streamrec.events import parse
    from streamrec.events.codec import Decoded, EventCodec

import orjson
import pyarrow as pa

from streamrec.events.schema import LOG_ROW

NOW_MS = 1_700_000_000_000
CODEC = EventCodec(EventsConfig(max_id_bytes=16))
TOKENS = ("{", "}", "[", "]", '"', "\\", ":", ",", "null", "true", "NaN", "-Infinity", "1e999", "\\ud800", "\n", "\r", "\t", "{}{}", '":', '","')
SEEDS = (
    {"event_id": "e", "user_id": "u", "item_id": "i", "event_type": "click", "event_time": 5, "value": 1.5, "session_id": "s"},
    {"kind": "item_update", "event_id": "e", "item_id": "i", "event_time": 5, "title": "a lamp", "price": 2, "available": True, "locale": "en"},
    {"kind": "item_update", "event_id": "e", "item_id": "i", "event_time": 5, "categories": ["a", "b"], "vectors": {"text": [0.5, 1]}},
    {"kind": "impression", "event_id": "e", "user_id": "u", "event_time": 5, "items": ["a", "b"], "request_id": "r", "namespace": "shop"},
    {"kind": "deletion", "event_id": "e", "user_id": "u", "event_time": 1_600_000_000_000},
    {
        "event_id": "e",
        "user_id": "ü",
        "item_id": "i",
        "event_type": "rating",
        "event_time": 5,
        "context": {"device": "phone", "wide": True},
        "new": "x",
    },
)


def rows_of(values: list[bytes]) -> pa.Table:
    size = len(values)
    columns = [["t"] * size, [0] * size, range(size), [0] * size, [None] * size, values]
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, LOG_ROW, strict=True)], schema=LOG_ROW)


def decode(rows: pa.Table, few_rows: int) -> Decoded:
    parse.FEW_ROWS, parse.LEAF_ROWS, parse.FEW_CUTS = few_rows, 1, 0
    return CODEC.decode(rows, NOW_MS)


def try_one(data: bytes) -> None:
    values = data.split(b"\0")[:32]
    rows = rows_of(values)
    together, alone = decode(rows, 1), decode(rows, len(values) + 1)
    offsets = together.valid["offset"].to_pylist(), together.rejected["offset"].to_pylist()
    assert sorted(offsets[0] + offsets[1]) == list(range(len(values))), "a record vanished or was doubled"
    assert offsets[0] == sorted(offsets[0]), "rows shifted"
    assert together.rejected["value"].to_pylist() == [values[place] for place in offsets[1]], "a rejected record lost its bytes"
    assert repr(together.valid.to_pylist()) == repr(alone.valid.to_pylist()), "the ways differ"
    assert together.rejected.to_pylist() == alone.rejected.to_pylist(), "the reasons differ"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        seeds = [orjson.dumps(seed) for seed in SEEDS]
        for number, data in enumerate([*seeds, b"\0".join(seeds), b"\0".join(seeds[:2] * 6), seeds[0] * 2]):
            (corpus / f"seed{number}").write_bytes(data)
        words = Path(folder) / "words"
        escaped = ["".join(f"\\x{byte:02X}" for byte in token.encode()) for token in [*TOKENS, *(f'"{name}":' for seed in SEEDS for name in seed)]]
        words.write_text("".join(f'"{token}"\n' for token in escaped), encoding="ascii")
        atheris.Setup([*sys.argv, f"-dict={words}", "-max_len=2048", "-artifact_prefix=fuzz-", str(corpus)], try_one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
