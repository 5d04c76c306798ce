"""Look at the lake's files: which one is damaged when something could not be read, and bring a commit's to the disk."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from streamrec.clock import SystemClock
from streamrec.errors import Damaged, StorageError
from streamrec.log.lake_checkpoints import (
    ENTRY,
    LAST_CHECKPOINT,
    WITHOUT_A_COPY,
    actions,
    damaged_checkpoint,
    is_whole_entry,
    versions_of_checkpoints,
)
from streamrec.log.lake_table import BESIDE_HOURS
from streamrec.storage import open_storage

Counted = Callable[[], int | None]

_IS_APPEND = b'"operation":"WRITE"'
_REMOVE = "remove that file and start again: its rows are appended again"
_PERHAPS = "restore that file from a copy; without one, and only if `streamrec doctor` says that the checkpoint does not count on it, remove it"
_RESTORE = "restore that file from a copy; without one remove it, start again, and repeat the deletions of users since the checkpoint before"
_RESTORE_ROWS = f"restore that file from a copy; {WITHOUT_A_COPY}"
_NAMED = re.compile(r"[^\s\"'():]*\.parquet")
_STAGED = re.compile(r"#\d+$|^_commit_.*\.json\.tmp$")


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
        return Damaged(
            what, do=_PERHAPS if (is_append := _IS_APPEND in (data or b"")) else _RESTORE, address=address, append=is_append, file=str(entry)
        )
    return Damaged(what, do=_RESTORE_ROWS, address=address, file=str(entry))


def unknown() -> None:
    """Return nothing: what the checkpoint counts on is not known here."""


def weighed(damaged: Damaged, app: Callable[[], str], counted_on: Counted) -> Damaged:
    """Return the error of a torn newest append with what to do about it: the entry may go if the checkpoint does not count on it.

    Args:
        damaged: As `torn_entry` gave it.
        app: Returns the application id of the lineage's transactions.
        counted_on: Returns the last batch whose rows the checkpoint counts on; None where that is not known.
    """
    counted = counted_on()
    if counted is None:
        return damaged
    address, entry = str(damaged.facts["address"]), Path(str(damaged.facts["file"]))
    what = str(damaged).removesuffix(f", {damaged.remedy}")
    number = int(entry.stem)
    try:
        held = (DeltaTable(address, version=number - 1).transaction_version(app()) or 0) if number else 0
    except (DeltaError, OSError, ValueError):
        return damaged
    if held >= counted:
        return Damaged(what, do=_REMOVE, address=address)
    got, allowed = f"rows up to batch {held} without it", f"batch {counted}, on which the checkpoint counts, or later"
    return Damaged(what, got=got, allowed=allowed, do=_RESTORE_ROWS, address=address, file=str(entry))


def damaged_unopened(address: str) -> Damaged | None:
    """Return an error if of a local table's log the newest checkpoint or an entry since is damaged, all of which are read by who opens it."""
    return None if "://" in address else damaged_log(address, "found before the table was opened", to_the_end=False)


def damaged_log(address: str, reason: str, *, to_the_end: bool = True) -> Damaged | None:
    """Return an error if a table's log is damaged, see `damaged_checkpoint` and `torn_entry`; a bucket's is looked at where delta-rs blames it."""
    if "://" not in address or "checkpoint" in reason.lower() or "parquet" in reason.lower():
        with suppress(OSError, StorageError):  # A log that nobody may or can read is no damage; what delta-rs says of it is told.
            if (damaged := damaged_checkpoint(address, reason, to_the_end=to_the_end)) is not None:
                return damaged
    return torn_entry(address, reason)


def _first_bad_entry(table: Path) -> tuple[Path, bytes | None, bool] | None:
    """Return an entry since the log's newest checkpoint, what is left of it, and whether it is the newest."""
    log = table / "_delta_log"
    names = [path.name for path in log.glob("*")]
    begin = max(versions_of_checkpoints(names), default=-1) + 1
    end = max((int(name[:20]) + 1 for name in names if ENTRY.fullmatch(name)), default=0)
    for version in range(begin, end):
        entry = log / f"{version:020d}.json"
        try:
            data = entry.read_bytes()
        except FileNotFoundError:
            return entry, None, False
        if not is_whole_entry(data):
            return entry, data, version == end - 1
    return None


def moved_on(table: DeltaTable | None) -> bool:
    """Bring a table up to date and return whether another process has committed to it; False where that can't be known."""
    if table is None:
        return False
    before = table.version()
    with suppress(Exception):  # delta-rs raises the bare class for some of what it can't read.
        table.update_incremental()
    return bool(table.version() > before)


def damaged_file(address: str, table: DeltaTable | None, reason: str) -> Damaged | None:
    """Return an error if a file of the table's rows is gone or torn; of a bucket's only the one that delta-rs blames is looked at.

    Args:
        address: The table's.
        table: As it is now; None where that is not known. What it does not need any more is no damage.
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


def sync_commits(address: str, version: int) -> None:
    """Bring this commit of a local table and those after it to the disk, of whomever; what another process has removed since needs no disk."""
    while "://" not in address and (Path(address) / "_delta_log" / f"{version:020d}.json").exists():
        with suppress(FileNotFoundError):
            sync_commit(address, version)
        version += 1


def sync_commit(address: str, version: int) -> None:
    """Bring a commit to a local disk: delta-rs leaves that to the operating system."""
    if "://" in address:
        return
    folder = Path(address)
    entry = folder / "_delta_log" / f"{version:020d}.json"
    files = [folder / unquote(action["add"]["path"]) for action in actions(entry.read_bytes()) if "add" in action]
    folders = {parent for file in files for parent in file.parents if parent.is_relative_to(folder)}
    for path in (*files, *folders, entry, entry.parent, folder, folder.parent):
        _sync_path(path)


def sync_log(address: str, version: int) -> None:
    """Bring the newest checkpoint of the table's log to a local disk."""
    if "://" in address:
        return
    log = Path(address) / "_delta_log"
    for path in (*log.glob(f"{version:020d}.checkpoint*"), log / LAST_CHECKPOINT, log):
        _sync_path(path)


def remove_unneeded(address: str, table: DeltaTable, keep_hours: int) -> int:
    """Remove files that the table has not needed for so many hours, or that no commit of it ever named, and return how many.

    The latter may be another writer's, whose commit comes: they stay for `BESIDE_HOURS`, whatever else is kept.
    """
    beside = max(keep_hours, BESIDE_HOURS)
    # Not in full: what the log says is gone, and nothing else.
    asked = [(keep_hours, False), (beside, True)] if keep_hours < beside else [(keep_hours, True)]
    gone = {name for hours, full in asked for name in table.vacuum(hours, dry_run=False, enforce_retention_duration=False, full=full)}
    return len(gone) + _remove_staged(address, beside)


def _remove_staged(address: str, keep_hours: int) -> int:
    """Remove files that whoever was killed had begun to write below a local table so many hours ago, and return how many.

    delta-rs writes ``NAME#1`` and ``_commit_ID.json.tmp``, which then get their names; its vacuum does not see the former, and leaves the log alone.
    """
    if "://" in address:
        return 0
    before_s = SystemClock().now_ms() / 1000 - 3600 * keep_hours
    num = 0
    for path in Path(address).rglob("*"):
        with suppress(FileNotFoundError):  # It has its name by now.
            if _STAGED.search(path.name) and path.stat().st_mtime <= before_s:
                path.unlink()
                num += 1
    return num


def _sync_path(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
