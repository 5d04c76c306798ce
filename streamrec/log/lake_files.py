"""Look at the lake's files: which one is damaged when something could not be read, and bring a commit's to the disk."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable

from streamrec.errors import Damaged, StorageError
from streamrec.storage import open_storage

_IS_APPEND = b'"operation":"WRITE"'
_REMOVE = "remove that file and start again: its rows are appended again, and if the checkpoint counts on them the next append says so"
_RESTORE = "restore that file from a copy; without one remove it, start again, and repeat the deletions of users since the checkpoint before"
_RESTORE_ROWS = (
    "restore that file from a copy; without one give `lake.address` a new folder: what comes from then on goes there, and receipts name this table, "
    "which no deletion reaches, until the file is back or you have removed the table"
)
_ENTRY = re.compile(r"\d{20}\.json")
_CHECKPOINT = re.compile(r"\d{20}\.checkpoint\..*(parquet|json)")
_NAMED = re.compile(r"[^\s\"'():]*\.parquet")


def torn_entry(address: str, reason: str) -> Damaged | None:
    """Return an error if an entry of a local table's log that a reader needs is empty, cut off or gone.

    delta-rs takes an empty one for a commit of nothing, so that what it had removed is back.

    Args:
        address: The table's.
        reason: What to say of it.
    """
    if "://" in address:
        return None
    found = _first_bad_entry(Path(address))
    if found is not None:  # Once more: a vacuum may have removed entries meanwhile.
        found = _first_bad_entry(Path(address))
    if found is None:
        return None
    entry, data, is_newest = found
    state = "gone" if data is None else "torn"
    what = f"Lake: {'the newest' if is_newest else 'an'} entry of the table's log is {state}, {entry} ({reason})"
    if is_newest:
        return Damaged(what, do=_REMOVE if _IS_APPEND in (data or b"") else _RESTORE, address=address)
    return Damaged(what, do=_RESTORE_ROWS, address=address, file=str(entry))


def check_log(address: str) -> None:
    """Return if no entry of a local table's log is damaged; a file is read for each commit since its last checkpoint, as by who opens it.

    Raises:
        Damaged: See `torn_entry`.
    """
    if (torn := torn_entry(address, "found before the table was opened")) is not None:
        raise torn


def _first_bad_entry(table: Path) -> tuple[Path, bytes | None, bool] | None:
    """Return an entry since the log's newest checkpoint, what is left of it, and whether it is the newest."""
    log = table / "_delta_log"
    names = [path.name for path in log.glob("*")]
    begin = max((int(name[:20]) + 1 for name in names if _CHECKPOINT.fullmatch(name)), default=0)
    end = max((int(name[:20]) + 1 for name in names if _ENTRY.fullmatch(name)), default=0)
    for version in range(begin, end):
        entry = log / f"{version:020d}.json"
        try:
            data = entry.read_bytes()
        except FileNotFoundError:
            return entry, None, False
        if not _is_whole(data):
            return entry, data, version == end - 1
    return None


def _is_whole(entry: bytes) -> bool:
    try:
        return bool(_actions(entry))
    except ValueError:
        return False  # It ends in the middle of an action.


def _actions(entry: bytes) -> list[dict[str, Any]]:
    """Return the actions of an entry; ids within them may hold what text takes for the end of a line."""
    return [json.loads(line) for line in entry.split(b"\n") if line]


def damaged_file(address: str, table: DeltaTable | None, reason: str) -> Damaged | None:
    """Return an error if a file of the table's rows is gone or torn; of a bucket's only the one that delta-rs blames is looked at.

    Args:
        address: The table's.
        table: As it was when something could not be read; None where that is not known.
        reason: Why, in delta-rs's words.
    """
    if table is None or "parquet" not in reason.lower():
        return None
    files = table.file_uris()
    blamed = {name.rpartition("/")[2] for name in _NAMED.findall(reason)}
    first = [file for file in files if file.rpartition("/")[2] in blamed]
    found = next((file for file in first if _is_gone_or_torn(address, file)), None) if "://" in address else _first_torn([*first, *files])
    if found is None:
        return None
    what = f"Lake: a file of the table's rows can't be read, {found} ({reason})"
    return Damaged(what, do=_RESTORE_ROWS, address=address, file=found)


def _is_gone_or_torn(address: str, file: str) -> bool:
    """Return whether a bucket holds a file otherwise than whole; an outage is neither."""
    try:
        pq.read_metadata(pa.BufferReader(open_storage(address).read(file.removeprefix(f"{address}/"))))
    except StorageError as error:
        return bool(error.facts.get("missing"))
    except (OSError, pa.ArrowException):
        return True
    return False


def _first_torn(files: Iterable[str]) -> str | None:
    for read in (pq.read_metadata, pq.read_table):  # What a table's end tells is read in no time.
        for file in files:
            try:
                read(file)
            except (OSError, pa.ArrowException):
                return file
    return None


def sync_commit(address: str, version: int) -> None:
    """Bring a commit to a local disk: delta-rs leaves that to the operating system."""
    if "://" in address:
        return
    folder = Path(address)
    entry = folder / "_delta_log" / f"{version:020d}.json"
    files = [folder / unquote(action["add"]["path"]) for action in _actions(entry.read_bytes()) if "add" in action]
    folders = {parent for file in files for parent in file.parents if parent.is_relative_to(folder)}
    for path in (*files, *folders, entry, entry.parent, folder, folder.parent):
        _sync_path(path)


def sync_log(address: str, version: int) -> None:
    """Bring the newest checkpoint of the table's log to a local disk."""
    if "://" in address:
        return
    log = Path(address) / "_delta_log"
    for path in (*log.glob(f"{version:020d}.checkpoint*"), log / "_last_checkpoint", log):
        _sync_path(path)


def _sync_path(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
