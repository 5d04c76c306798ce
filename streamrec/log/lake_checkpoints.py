"""Look at the checkpoints of the lake's log, which stand for its entries: which one is damaged, and whether the table is whole without it."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from streamrec.errors import Damaged, StorageError
from streamrec.storage import open_storage

LAST_CHECKPOINT = "_last_checkpoint"
ENTRY = re.compile(r"\d{20}\.json")
_CHECKPOINT = re.compile(r"\d{20}\.checkpoint\..*(parquet|json)")
WITHOUT_A_COPY = (
    "without one give `lake.address` a new folder: what comes from then on goes there, and receipts name this table, "
    "which no deletion reaches, until the file is back or you have removed the table"
)
_DISPENSABLE = "the entries of the log are enough without it"


class Log:
    """The files of a table's log, in a folder or a bucket.

    Args:
        address: The table's.
    """

    def __init__(self, address: str) -> None:
        self.where = f"{address}/_delta_log"
        self._storage = open_storage(address) if "://" in address else None

    def names(self) -> list[str]:
        """Return the files' names."""
        if self._storage is None:
            return [path.name for path in Path(self.where).glob("*")]
        return [key.removeprefix("_delta_log/") for key in self._storage.list("_delta_log")]

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes; None where there is none."""
        if self._storage is None:
            with suppress(FileNotFoundError):
                return Path(self.where, name).read_bytes()
            return None
        try:
            return self._storage.read(f"_delta_log/{name}")
        except StorageError as error:
            if error.facts.get("missing"):
                return None
            raise

    def _opened(self, name: str) -> Any:
        return pa.OSFile(str(Path(self.where, name))) if self._storage is None else pa.BufferReader(self.read(name) or b"")

    def is_whole(self, name: str, *, to_the_end: bool) -> bool:
        """Return whether a checkpoint's file can be read: what its end tells of it, or all of it."""
        if not name.endswith(".parquet"):
            return is_whole_entry(self.read(name) or b"")
        try:
            file = self._opened(name)
        except FileNotFoundError:
            return False
        with file:
            try:
                (pq.read_table if to_the_end else pq.read_metadata)(file)
            except (OSError, pa.ArrowException):
                return False
        return True


def is_whole_entry(entry: bytes) -> bool:
    """Return whether an entry has actions and does not end in the middle of one."""
    try:
        return bool(actions(entry))
    except ValueError:
        return False


def actions(entry: bytes) -> list[dict[str, Any]]:
    """Return the actions of an entry; ids within them may hold what text takes for the end of a line."""
    return [json.loads(line) for line in entry.split(b"\n") if line]


def versions_of_checkpoints(names: list[str]) -> list[int]:
    """Return the versions that checkpoints stand for, ascending."""
    return sorted({int(name[:20]) for name in names if _CHECKPOINT.fullmatch(name)})


def damaged_checkpoint(address: str, reason: str, *, to_the_end: bool) -> Damaged | None:
    """Return an error if the newest checkpoint of a table's log is torn, empty or gone; older ones are needed by nobody while it is there.

    Args:
        address: The table's.
        reason: What to say of it.
        to_the_end: Read all of it, not only what its end tells.

    Raises:
        OSError, StorageError: The log itself can't be read.
    """
    log = Log(address)
    found = _newest_bad(log, to_the_end)
    if found is not None:  # Once more: a vacuum may have replaced it meanwhile.
        found = _newest_bad(log, to_the_end)
    if found is None:
        return None
    name, is_there = found
    what = f"Lake: the newest checkpoint of the table's log is {'torn' if is_there else 'gone'}, {log.where}/{name} ({reason})"
    if _is_whole_without(log, int(name[:20])):
        do = f"remove {f'it and {LAST_CHECKPOINT}' if is_there else LAST_CHECKPOINT} beside it: {_DISPENSABLE}"
    else:
        do = f"restore that file from a copy, since entries that it stands for are gone or torn; {WITHOUT_A_COPY}"
    return Damaged(what, do=do, address=address, file=f"{log.where}/{name}")


def _newest_bad(log: Log, to_the_end: bool) -> tuple[str, bool] | None:
    """Return the file of the newest checkpoint that can't be read, and whether it is there."""
    named = _named(log)  # First: what is listed after it is as new or newer.
    names = log.names()
    newest = max(versions_of_checkpoints(names), default=-1)
    if named > newest:
        return f"{named:020d}.checkpoint.parquet", False
    return next(((name, True) for name in _files(names, newest) if not log.is_whole(name, to_the_end=to_the_end)), None)


def _named(log: Log) -> int:
    """Return the version that the log's own note names; -1 where there is none that can be read, which readers do without."""
    with suppress(ValueError, TypeError, KeyError):
        return int(json.loads(log.read(LAST_CHECKPOINT) or b"")["version"])
    return -1


def _files(names: list[str], version: int) -> list[str]:
    return sorted(name for name in names if _CHECKPOINT.fullmatch(name) and int(name[:20]) == version)


def _is_whole_without(log: Log, version: int) -> bool:
    """Return whether the entries since an older checkpoint, or since the beginning, are all there."""
    names = log.names()
    older = [at for at in versions_of_checkpoints(names) if at < version and all(log.is_whole(name, to_the_end=True) for name in _files(names, at))]
    entries = {int(name[:20]) for name in names if ENTRY.fullmatch(name)}
    needed = range(max(older, default=-1) + 1, max(entries, default=-1) + 1)
    return max(entries, default=-1) >= version and all(is_whole_entry(log.read(f"{at:020d}.json") or b"") for at in needed)
