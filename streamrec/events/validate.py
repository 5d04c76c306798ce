"""Check parsed columns against the schema and the configuration, all rows at once.

A row keeps the first reason that is found; reasons found while parsing come before those found here.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from streamrec.config import MAX_NAMESPACE_BYTES, MAX_NAMESPACE_CHARS, MAX_TIME_MS, EventsConfig
from streamrec.events.parsed import REASON_CODES, Parsed, shorten
from streamrec.events.schema import FIELDS_OF, REQUIRED_OF, WIRE, Kind, Reason

_KINDS = list(Kind)
_REQUIRED_IDS = ("event_id", "user_id", "item_id")
_OPTIONAL_IDS = ("session_id", "request_id")

Mask = NDArray[np.bool_]


def check_columns(parsed: Parsed, cfg: EventsConfig, now_ms: int) -> None:
    """Reject the rows that break a rule, and clear the fields that are not their kind's.

    Args:
        parsed: Changed in place: ``reasons``, ``details``, and ``columns``. `fill_in` gives the defaults to those that are left.
        cfg: Gives the namespace, the event types, the longest id and the tolerance for clocks that run ahead.
        now_ms: Processing time, against which the far future is judged.
    """
    kinds = _check_kinds(parsed)
    _clear_foreign_fields(parsed, kinds)
    _check_required(parsed, kinds)
    _check_ids(parsed, cfg)
    interactions = kinds == _KINDS.index(Kind.INTERACTION)
    if interactions.any():
        known = pc.is_in(parsed.columns["event_type"], pa.array(list(cfg.meanings), pa.string())).to_numpy()
        _reject(parsed, interactions & ~known, Reason.UNKNOWN_EVENT_TYPE, "event_type", "a key of events.meanings")
    _check_times(parsed, now_ms + round(cfg.future_tolerance_s * 1000))


def fill_in(columns: pa.Table, cfg: EventsConfig) -> pa.Table:
    """Return the columns with the defaults where ``kind`` and ``namespace`` are absent."""
    for name, default in (("kind", Kind.INTERACTION.value), ("namespace", cfg.namespace)):
        column = columns[name]
        if column.null_count:
            all_absent = column.null_count == len(column)
            filled = pa.repeat(pa.scalar(default, pa.string()), len(column)) if all_absent else pc.fill_null(column, default)
            columns = columns.set_column(WIRE.get_field_index(name), WIRE.field(name), filled)
    return columns


def _reject(parsed: Parsed, mask: Mask, reason: Reason, name: str, allowed: str) -> None:
    if not mask.any():
        return
    rows = np.flatnonzero(mask)
    rows = rows[parsed.reasons[parsed.rows[rows]] == 0]
    parsed.reasons[parsed.rows[rows]] = REASON_CODES[reason]
    for row, cell in zip(parsed.rows[rows].tolist(), parsed.columns[name].take(pa.array(rows)).to_pylist(), strict=True):
        got = f"{len(cell.encode())} bytes" if reason is Reason.ID_TOO_LONG and isinstance(cell, str) else shorten(repr(cell))
        parsed.details[row] = f"{name}: got {got}, allowed {allowed}"


def _set(parsed: Parsed, name: str, column: pa.ChunkedArray) -> None:
    parsed.columns = parsed.columns.set_column(WIRE.get_field_index(name), WIRE.field(name), column)


def _check_kinds(parsed: Parsed) -> NDArray[np.int8]:
    """Return [n], the place of each row's kind in `_KINDS`, -1 where unknown."""
    column = parsed.columns["kind"]
    if column.null_count == len(column):
        return np.full(len(column), _KINDS.index(Kind.INTERACTION), np.int8)
    given = pc.fill_null(column, Kind.INTERACTION.value)
    codes: NDArray[np.int8] = pc.fill_null(pc.index_in(given, pa.array(_KINDS, pa.string())), -1).to_numpy().astype(np.int8)
    _reject(parsed, codes < 0, Reason.UNKNOWN_KIND, "kind", ", ".join(_KINDS))
    return codes


def _clear_foreign_fields(parsed: Parsed, kinds: NDArray[np.int8]) -> None:
    present = [kind for code, kind in enumerate(_KINDS) if (kinds == code).any()]
    for name in WIRE.names:
        column = parsed.columns[name]
        if name in {"kind", "namespace"} or column.null_count == len(column):
            continue
        owners = [kind for kind in present if name in FIELDS_OF[kind]]
        if owners != present:
            owned = np.isin(kinds, [_KINDS.index(kind) for kind in owners])
            _set(parsed, name, column.take(pa.array(np.arange(len(owned)), mask=~owned)))


def _check_required(parsed: Parsed, kinds: NDArray[np.int8]) -> None:
    for code, kind in enumerate(_KINDS):
        own = kinds == code
        for name in REQUIRED_OF[kind] if own.any() else ():
            column = parsed.columns[name]
            if column.null_count:
                _reject(parsed, own & column.is_null().to_numpy(), Reason.MISSING_FIELD, name, f"a value in every {kind}")


def _check_ids(parsed: Parsed, cfg: EventsConfig) -> None:
    for name in (*_REQUIRED_IDS, *_OPTIONAL_IDS, "namespace"):
        column = parsed.columns[name]
        if column.null_count == len(column):
            continue
        lengths = pc.binary_length(column)
        if _within(lengths, 1, cfg.max_id_bytes if name != "namespace" else MAX_NAMESPACE_CHARS):
            continue
        sizes = pc.fill_null(lengths, 1).to_numpy()
        empty = sizes == 0
        if name not in _OPTIONAL_IDS:
            _reject(parsed, empty, Reason.EMPTY_ID, name, "a non-empty string")
        elif empty.any():  # producers that know no session send "" as often as nothing
            _set(parsed, name, column.take(pa.array(np.arange(len(empty)), mask=empty)))
        if name == "namespace":
            chars = pc.fill_null(pc.utf8_length(column), 1).to_numpy()
            _reject(parsed, chars > MAX_NAMESPACE_CHARS, Reason.ID_TOO_LONG, name, f"{MAX_NAMESPACE_CHARS} characters")
            _reject(parsed, sizes > MAX_NAMESPACE_BYTES, Reason.ID_TOO_LONG, name, f"{MAX_NAMESPACE_BYTES} bytes in UTF-8")
        else:
            _reject(parsed, sizes > cfg.max_id_bytes, Reason.ID_TOO_LONG, name, f"{cfg.max_id_bytes} bytes")
    items = parsed.columns["items"]
    if items.null_count < len(items):
        _check_listed_ids(parsed, items.combine_chunks(), cfg.max_id_bytes)


def _check_listed_ids(parsed: Parsed, items: pa.ListArray, max_id_bytes: int) -> None:
    sizes = pc.binary_length(pc.list_flatten(items)).to_numpy(zero_copy_only=False)
    owners = pc.list_parent_indices(items).to_numpy(zero_copy_only=False)
    for wrong, reason, allowed in (
        (sizes == 0, Reason.EMPTY_ID, "non-empty strings"),
        (sizes > max_id_bytes, Reason.ID_TOO_LONG, f"{max_id_bytes} bytes each"),
    ):
        mask = np.zeros(len(items), np.bool_)
        mask[owners[wrong]] = True
        _reject(parsed, mask, reason, "items", allowed)


def _check_times(parsed: Parsed, latest_ms: int) -> None:
    column = parsed.columns["event_time"]
    if _within(column, 0, min(MAX_TIME_MS, latest_ms)):
        return
    times = pc.fill_null(column, 0).to_numpy()
    _reject(parsed, (times < 0) | (times > MAX_TIME_MS), Reason.BAD_TIME, "event_time", f"0 to {MAX_TIME_MS}")
    _reject(parsed, times > latest_ms, Reason.FUTURE_TIME, "event_time", f"up to {latest_ms}")


def _within(numbers: pa.ChunkedArray, low: int, high: int) -> bool:
    """Return whether all numbers lie from ``low`` to ``high``; a byte count within a bound on characters is within it too."""
    found = pc.min_max(numbers).as_py()
    return found["min"] is None or (found["min"] >= low and found["max"] <= high)
