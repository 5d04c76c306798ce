"""Keep applied events in a Delta Lake table, through delta-rs (https://delta.io, https://github.com/delta-io/delta-rs).

In come Arrow tables of events with the batch that applied them. Out goes a table that any reader of Delta Lake opens without us, partitioned
by namespace and event date (UTC).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import takewhile
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable, QueryBuilder, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError
from numpy.typing import NDArray

from streamrec.errors import Damaged, StorageError
from streamrec.events.schema import EVENT
from streamrec.events.tables import take
from streamrec.log.lake_deletion import DELETED_BY, Asked, Deleted, Place, owners, rows_of
from streamrec.log.lake_files import (
    Counted,
    damaged_file,
    damaged_log,
    damaged_unopened,
    moved_on,
    remove_unneeded,
    sync_commit,
    sync_commits,
    sync_log,
    unknown,
    weighed,
)
from streamrec.log.lake_table import BESIDE_HOURS, COLUMNS, EXTENT, PARTITION_BY, PROPERTIES, Held, places_of, recount
from streamrec.migrations import migrated, number_of

# A commit that loses against another process reads what that one wrote and tries again.
_ATTEMPTS = 5

ROWS_AT_ONCE = 20_000
"""Rows that one commit deletes at most: its predicate names each by some 20 bytes, in the log too."""

REOPEN_AFTER = 20
"""An open table keeps what each commit brings, 0.1 MB a commit. Opened anew, which takes some 10 ms, it keeps its files alone."""

# A merge that takes longer commits what it has: what no commit names for `BESIDE_HOURS` is taken for nobody's.
_MERGED_AFTER_S = 300
_FORMAT = "streamrec.format"
_KEPT_LOG = "delta.logRetentionDuration"
# delta-rs knows the protocol's own properties only, and takes others when told.
_NUMBERED: dict[str, Any] = {"configuration": {_FORMAT: str(number_of("lake")), **PROPERTIES}, "raise_if_key_not_exists": False}
# delta-rs draws the causes of some errors as a tree, the reason in its last line.
_DECORATION = re.compile(r"\x1b\[\d*m|↳")
_BACKTRACE = re.compile(r"\d+: ")

R = TypeVar("R")


class EventLake:
    """Append to, shorten and tidy the table of one stream.

    **Contract.** Rows of a batch are in the table once, whoever appends them how often: a commit carries the number of its last batch, and what
    is not above the newest such number is left out. A commit is there as a whole or not at all; when a call returns, it outlives a crash of
    the machine. Every refusal is a `StorageError` that names the address. One thread uses an object; several processes may use a table.

    Args:
        address: A folder, ``s3://…`` or ``gs://…``; credentials come from the environment, as for any state.
        lineage: Names the line of states whose events these are; it is asked at the first use. A table of another lineage is refused.
        target_bytes: Size towards which `optimize` merges files.
        counted_on: Returns the last batch whose rows the checkpoint counts on; it is asked where that says what to do about damage.
    """

    def __init__(self, address: str, lineage: Callable[[], str], target_bytes: int = 128 << 20, counted_on: Counted = unknown) -> None:
        self.address = address
        self._lineage = lineage
        self.target_bytes = target_bytes
        self._counted_on = counted_on
        self._opened: DeltaTable | None = None
        self._num_updates = 0

    @cached_property
    def app(self) -> str:
        """Return the application id of the lineage's transactions, which is the table's name, too."""
        return f"streamrec/{self._lineage()}"

    def last_batch(self) -> int:
        """Return the number of the last batch in the table, 0 when it has none."""
        table = self._table()
        with self._explained("read"):
            return 0 if table is None else table.transaction_version(self.app) or 0

    def check_log(self) -> None:
        """Raise `Damaged` where what every reader of a local table needs of its log is damaged."""
        if (damaged := damaged_unopened(self.address)) is not None:
            raise self._weighed(damaged)

    def next_entry(self) -> str:
        """Return where the log's entry after the newest one would be: the first that is lost, when the newest ones are."""
        table = self._table()
        return f"{self.address}/_delta_log/{0 if table is None else table.version() + 1:020d}.json"

    def append(self, events: pa.Table, batch: int) -> int:
        """Append those of the events that the table does not have, as one commit, and return how many.

        Args:
            events: Rows of `COLUMNS` up to ``batch``, in an order that stays.
            batch: Their last batch; it is remembered even if it has no rows.
        """
        return self._retried("append to", lambda: self._append(events, batch))

    def is_there(self) -> bool:
        """Return whether there is a table, of whomever."""
        with self._explained("look for"):
            return bool(DeltaTable.is_deltatable(self.address, self._options))

    def delete_user(self, namespace: str, user_id: str, before_batch: int | None = None, before: Place | None = None) -> int:
        """Remove a user's rows and return how many went; see `delete_users`."""
        return self.delete_users([Deleted(namespace, user_id, before)], before_batch)[0]

    def delete_users(self, users: Sequence[Deleted], before_batch: int | None = None, asked: Asked | None = None) -> list[int]:
        """Remove rows of users, by one scan and one commit for each 20,000 rows that go, and return how many went of each.

        Readers that hold an older version finish undisturbed: the old files go with the first `vacuum` whose time to keep has passed. The
        table's log says which rows went by their place, and never names a user.

        Args:
            users: What of whom; a row that two of them name counts for the first.
            before_batch: Only rows of earlier batches; a step that is executed again must not remove what a user did after it.
            asked: The step. Executed again it names the same users, and gets the counts of its first time, though nothing is left to delete.
        """
        counts = np.zeros(len(users), np.int64)
        while users:
            before, went = self._retried("delete from", lambda: self._delete(users, before_batch, asked))
            counts = (counts if asked is None else before) + went
            if went.sum() < ROWS_AT_ONCE:
                break
        return [int(num) for num in counts]

    def held(self, batch: int, partitions: Mapping[int, int], since: int = 0) -> dict[int, Held]:
        """Recount the table: per partition that has rows or is asked for, what it holds up to ``batch`` and beyond it.

        Offsets of rows up to the batch ``since`` are another topic's than those of later rows.
        """
        table = self._table()
        if table is None:
            return {partition: Held() for partition in partitions}
        with self._explained("read"):
            rows = pa.table(QueryBuilder().register("lake", table).execute(recount(batch, since)).read_all()).to_pylist()
            removed = {partition: self._removed(table, partition) for partition in {*(row["partition"] for row in rows), *partitions}}
        found = {row["partition"]: row for row in rows}
        result = {}
        for partition in sorted(removed):
            row = {name: value for name, value in found.get(partition, {}).items() if name != "partition" and value is not None}
            result[partition] = Held(removed=removed[partition], **row)
        return result

    def extent(self) -> dict[int, tuple[int, int]]:
        """Return per partition with rows the lowest offset, and how many batches begin at or below offsets of earlier ones."""
        table = self._table()
        if table is None:
            return {}
        with self._explained("read"):
            rows = pa.table(QueryBuilder().register("lake", table).execute(EXTENT).read_all()).to_pylist()
        return {row["partition"]: (row["first"], row["repeated"]) for row in rows}

    def rows(self, partition: int, start: int, end: int) -> pa.Table:
        """Return a partition's events with offsets in ``[start, end)``, ascending, in `EVENT`; deletions may have taken some away since."""
        return self._events(f'"partition" = {int(partition)} and "offset" >= {int(start)} and "offset" < {int(end)}')

    def between(self, after: int, last: int) -> pa.Table:
        """Return the events of batches above ``after`` up to ``last`` in `EVENT`, by place, each place once: a batch may repeat those of another."""
        found = self._events(f"batch > {int(after)} and batch <= {int(last)}")
        places = np.stack([found[name].to_numpy() for name in ("partition", "offset")])
        return take(found, np.unique(places, axis=1, return_index=True)[1])

    def take_back(self, after: int, before: int, appended: Mapping[int, int]) -> int:
        """Remove the rows of the batches in between (both exclusive) as if they had never been appended, and return how many went.

        Rows of them that a deletion took count as removed no more.

        Args:
            after: The last batch that stays.
            before: The first one that stays after it.
            appended: Partition to the rows that were ever appended up to ``after``.
        """
        return self._retried("take rows back from", lambda: self._take_back(after, before, appended))

    def _events(self, chosen: str) -> pa.Table:
        table = self._table()
        if table is None:
            return EVENT.empty_table()
        with self._explained("read"):
            names = [name for name in EVENT.names if name in {field.name for field in table.schema().fields}]
            found = pa.table(table.scan(columns=names, predicate=chosen).read_all())
        # A table that was begun before a field was there lacks its column.
        columns = [
            found[name].cast(kind) if name in names else pa.nulls(found.num_rows, kind) for name, kind in zip(EVENT.names, EVENT.types, strict=True)
        ]
        return take(pa.table(columns, schema=EVENT), np.argsort(found["offset"].to_numpy(), kind="stable"))

    def optimize(self) -> dict[str, int]:
        """Merge small files of each partition; return how many files were replaced by how many."""
        return self._retried("optimize", self._compact)

    def vacuum(self, keep_for_s: float) -> int:
        """Delete files that the table has not needed for so long, rounded up to hours, and return how many.

        Files of commits that were never finished go, too, and what the table's log says of versions so old, but not before an hour: another writer
        may be at it. They can't be read afterwards.
        """
        return self._retried("vacuum", lambda: self._vacuum(-int(-keep_for_s // 3600)))

    def info(self) -> dict[str, Any]:
        """Return address, version, last batch, rows, files and bytes of the table."""
        table = self._table()
        if table is None:
            return {"address": self.address, "version": None, "last_batch": 0, "rows": 0, "files": 0, "bytes": 0}
        files = pa.table(table.get_add_actions())
        rows, size = (pc.sum(files[name]).as_py() or 0 for name in ("num_records", "size_bytes"))
        last = self.last_batch()
        return {"address": self.address, "version": table.version(), "last_batch": last, "rows": rows, "files": files.num_rows, "bytes": size}

    def _table(self) -> DeltaTable | None:
        """Return the table as it is now; None while nothing was ever written."""
        with self._explained("open"):
            if self._opened is not None and self._num_updates < REOPEN_AFTER:
                self._num_updates += 1
                self._opened.update_incremental()
            elif self._opened is not None or DeltaTable.is_deltatable(self.address, self._options):  # One that was open must still be there.
                self._opened, self._num_updates = None, 0
                self.check_log()  # An empty entry would be taken for a commit of nothing.
                self._opened = self._checked(DeltaTable(self.address, storage_options=self._options))
        return self._opened

    def _checked(self, table: DeltaTable) -> DeltaTable:
        if table.metadata().name != self.app:
            what = f"Lake: the table at {self.address} belongs to another state"
            do = "give `lake.address` a folder of this state's own"
            raise StorageError(what, got=table.metadata().name, allowed=self.app, do=do, address=self.address, table=table.metadata().name)
        written = table.metadata().configuration.get(_FORMAT)
        migrated("lake", None, written if written is None or not written.isdigit() else int(written))
        return table

    def _append(self, events: pa.Table, batch: int) -> int:
        last = self.last_batch()
        if batch <= last:
            return 0
        new = events.filter(pc.greater(events["batch"], last)) if last else events
        if self._opened is None:
            values: dict[str, Any] = {"partition_by": PARTITION_BY, "name": self.app, "storage_options": self._options, **_NUMBERED}
            self._opened = self._checked(DeltaTable.create(self.address, COLUMNS, mode="ignore", **values))
        mark = CommitProperties(app_transactions=[Transaction(self.app, batch)])
        write_deltalake(self._opened, new, mode="append", schema_mode="merge", commit_properties=mark)
        sync_commit(self.address, self._opened.version())
        return int(new.num_rows)

    def _delete(self, users: Sequence[Deleted], before_batch: int | None, asked: Asked | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Delete so many rows as one commit takes; return how many had gone of each user in this step, and how many went now."""
        none, table = np.zeros(len(users), np.int64), self._table()
        if table is None:
            return none, none
        before = none if asked is None else np.array([self._gone(table, asked, number) for number in range(len(users))], np.int64)
        self._set(table, PROPERTIES)
        # The counts and the deletion see the same version, and become visible in one commit.
        found = pa.table(table.scan(columns=DELETED_BY, predicate=rows_of(users, before_batch)).read_all())
        whose = owners(found, users)
        chosen = np.flatnonzero(whose >= 0)[:ROWS_AT_ONCE]
        if not len(chosen):
            return before, none
        found = found.select(["partition", "offset", "batch"]).take(pa.array(chosen))
        counts = found["partition"].value_counts().to_pylist()
        marks = [Transaction(self._removed_app(row["values"]), row["counts"] + self._removed(table, row["values"])) for row in counts]
        went = np.bincount(whose[chosen], minlength=len(users))
        if asked is not None:
            said = [asked.mark(number, int(before[number] + went[number])) for number in np.flatnonzero(went).tolist()]
            marks += [Transaction(f"{self.app}/{name}", value) for name, value in said]
        table.delete(places_of(found), commit_properties=CommitProperties(app_transactions=marks))
        sync_commit(self.address, table.version())
        return before, went

    def _take_back(self, after: int, before: int, appended: Mapping[int, int]) -> int:
        table, held = self._table(), self.held(after, dict.fromkeys(appended, 0))
        if table is None:
            return 0
        between = f"batch > {int(after)} and batch < {int(before)}"
        num: int = pa.table(table.scan(columns=["batch"], predicate=between).read_all()).num_rows
        beyond = {partition: there.rows + there.removed - appended.get(partition, 0) for partition, there in held.items()}
        marks = [Transaction(self._removed_app(partition), held[partition].removed - more) for partition, more in beyond.items() if more > 0]
        if num:
            table.delete(between, commit_properties=CommitProperties(app_transactions=marks))
        elif marks:  # A deletion of nothing is no commit.
            write_deltalake(table, COLUMNS.empty_table(), mode="append", commit_properties=CommitProperties(app_transactions=marks))
        sync_commit(self.address, table.version())
        return num

    def _gone(self, table: DeltaTable, asked: Asked, number: int) -> int:
        return asked.rows(table.transaction_version(f"{self.app}/{asked.mark(number, 0)[0]}"))

    def _compact(self) -> dict[str, int]:
        table = self._table()
        if table is None:
            return {"files_before": 0, "files_after": 0}
        before, version = table.get_add_actions().num_rows, table.version()
        try:
            table.optimize.compact(target_size=self.target_bytes, min_commit_interval=_MERGED_AFTER_S)
        finally:  # Some of its commits may stand where a later one lost.
            sync_commits(self.address, version + 1)
        return {"files_before": before, "files_after": table.get_add_actions().num_rows}

    def _vacuum(self, keep_hours: int) -> int:
        table = self._table()
        if table is None:
            return 0
        num = remove_unneeded(self.address, table, keep_hours)
        self._set(table, {_KEPT_LOG: f"interval {max(keep_hours, BESIDE_HOURS)} hours"})
        table.create_checkpoint()
        sync_log(self.address, table.version())  # What it stands for goes next.
        table.cleanup_metadata()
        return num

    def _set(self, table: DeltaTable, properties: Mapping[str, str]) -> None:
        """Give the table properties that it lacks; one that was made by an earlier streamrec does."""
        if properties.items() - table.metadata().configuration.items():
            table.alter.set_table_properties(dict(properties))
            sync_commit(self.address, table.version())

    @property
    def _options(self) -> dict[str, str]:
        if "://" not in self.address:
            return {}
        patience = {"max_retries": "5", "retry_timeout": "30s"}
        # Two commits of one version: the second must fail, not win.
        return {**patience, "conditional_put": "etag"} if self.address.startswith("s3://") else patience

    def _removed_app(self, partition: int) -> str:
        return f"{self.app}/removed/{partition}"

    def _removed(self, table: DeltaTable, partition: int) -> int:
        return table.transaction_version(self._removed_app(partition)) or 0

    def _retried(self, action: str, attempt: Callable[[], R]) -> R:
        """Commit, and look again and repeat when another process committed what this one had not seen."""
        lost: Exception | None = None
        for _ in range(_ATTEMPTS):
            try:
                with self._explained(action):
                    return attempt()
            except CommitFailedError as error:
                self._opened, lost = None, error
            except StorageError as error:
                if not error.facts.get("overtaken"):
                    raise
                lost = error
        assert lost is not None
        raise lost if isinstance(lost, StorageError) else self._refused(action, lost) from lost

    @contextmanager
    def _explained(self, action: str) -> Iterator[None]:
        try:
            yield
        except CommitFailedError:
            raise
        except Exception as error:
            # delta-rs raises the bare class for what a reader of its rows meets.
            if not isinstance(error, (DeltaError, OSError, ValueError)) and type(error) is not Exception:
                raise
            opened, self._opened = self._opened, None
            raise self._refused(action, error, opened) from error

    def _refused(self, action: str, error: Exception, opened: DeltaTable | None = None) -> StorageError:
        lines = (_DECORATION.sub("", line).strip() for line in str(error).splitlines())
        told = takewhile(lambda line: not _BACKTRACE.match(line), (line for line in lines if line))
        reason = ": ".join(told)[:500] or type(error).__name__
        if (damaged := damaged_log(self.address, reason)) is not None:
            return self._weighed(damaged)
        # A disk's own error, with its number, may come after our commit, which is not to be taken for nothing to do when tried again.
        is_overtaken = moved_on(opened) and getattr(error, "errno", None) is None
        if (damaged := damaged_file(self.address, opened, reason)) is not None:
            return damaged
        what = f"Lake: could not {action} the table at {self.address} ({reason})"
        do = "restore what is gone from a copy" if "not found" in reason.lower() else "free space there or restore access"
        if is_overtaken and (".parquet" in reason or "not found" in reason.lower()):
            do = "another process has changed it meanwhile; a longer `lake.keep_for_s` gives readers more time"
        return StorageError(what, do=f"{do}, then start again", address=self.address, overtaken=is_overtaken)

    def _weighed(self, damaged: Damaged) -> Damaged:
        return weighed(damaged, lambda: self.app, self._counted_on) if damaged.facts.get("append") else damaged
