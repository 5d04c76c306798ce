"""Gather applied events from one checkpoint to the next, and bring them into the lake right before the checkpoint's pointer moves."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streamrec.config import Config, LakeConfig
from streamrec.errors import Damaged, StorageError, StreamrecError
from streamrec.log.lake import EventLake
from streamrec.log.lake_deletion import Asked, Deleted
from streamrec.log.lake_table import BESIDE_HOURS, lake_address, lake_rows
from streamrec.pipeline.checkpoint import CheckpointStore
from streamrec.pipeline.lake_merging import LIMIT_S, merge_apart
from streamrec.pipeline.layout import checkpoint_url, lake_url
from streamrec.pipeline.lineage import lineage_of, named_lineage, note_lake
from streamrec.pipeline.plan import LONGEST_INTERVAL
from streamrec.state import ComponentState, digest_of
from streamrec.storage import open_storage

logger = logging.getLogger(__name__)

_NEW: dict[str, Any] = {
    "address": None,  # as configured; None: the lake was never written to
    "batch": 0,  # the last batch with rows
    "rows": {},  # partition, as text → rows appended, ever
    "left_out": {"earlier": 0, "deletion": 0},  # applied, but not among the rows: before the lake was there; deletions and what they undid
    "commits": 0,  # since small files were merged
    "vacuum_at_ms": None,  # when files that are not needed any more are to go
    "rounds": 2,  # how often they are to go before all are gone
    "vacuum_until_ms": 0,  # and not before then: further ahead only where a clock was
}


class LakeWriter:
    """Keep what the lake must hold, as a component of the state, and write it.

    **Contract.** After `commit` the table has every row recorded so far, once; the checkpoint that follows says how many. The table may be ahead
    of the checkpoint: after a crash the steps are executed again, and what the table has is not appended again. When `commit` raises, nothing
    is lost: the checkpoint does not move, and the same steps bring the same rows.

    Args:
        lake: The table.
        config: When to commit early, to merge and to vacuum.
        topic: Where events are read.
    """

    name = "lake"

    def __init__(self, lake: EventLake, config: LakeConfig, topic: str) -> None:
        self.lake = lake
        self._config = config
        self._topic = topic
        self._manifest = copy.deepcopy(_NEW)
        self._is_checked = False
        self._waiting: list[pa.Table] = []
        self._back: tuple[int, int, dict[int, int]] | None = None
        self._clear()

    def record(self, batch: int, kept: pa.Table, num_applied: int, num_earlier: int) -> None:
        """Take a step's events.

        Args:
            batch: Its number.
            kept: See `streamrec.pipeline.ingest.Ingested`.
            num_applied: Events that the step applied; those that are not kept are counted.
            num_earlier: Events that earlier steps applied.
        """
        if self._manifest["address"] != self._config.address:
            self._begin(batch - 1, num_earlier)
        self._manifest["left_out"]["deletion"] += num_applied - kept.num_rows
        if not kept.num_rows:
            return
        rows = self._manifest["rows"]
        for group in kept.group_by("partition").aggregate([([], "count_all")]).to_pylist():
            name = str(group["partition"])
            rows[name] = rows.get(name, 0) + group["count_all"]
        self._waiting.append(lake_rows(kept, self._topic, batch))
        self._waiting_bytes += self._waiting[-1].nbytes
        self._last = batch
        if self._waiting_bytes > self._config.max_buffer_bytes:
            self._flush()

    def give_back(self, batch: int, by: int, num_applied: int) -> None:
        """Let the next `commit` give back the rows between ``batch`` and ``by``, after it has appended ``by``: at no moment is a row in no batch.

        Args:
            batch: The state's last step.
            by: The step that applies what of the steps between the log does not have any more.
            num_applied: Events that steps up to ``batch`` applied.
        """
        if self.lake.last_batch() <= batch:
            return
        if self._manifest["address"] != self._config.address:
            self._begin(batch, num_applied)
        self._back = (batch, by, {int(partition): num for partition, num in self._manifest["rows"].items()})

    def commit(self, now_ms: int) -> None:
        """Append what waits, as one commit, give back what `give_back` has said, and tidy the table if that is due.

        Args:
            now_ms: Processing time, as planned.

        Raises:
            StorageError: The storage refused; the table has the rows or does not, and the checkpoint must not move.
        """
        self._flush()
        if self._back is not None:
            logger.warning("lake: %d rows of steps that were given up are taken back", self.lake.take_back(*self._back))
            self._back, self._has_garbage = None, True
        every = self._config.optimize_every
        if every and self._manifest["commits"] >= every and self._tidy("optimize", lambda: merge_apart(self.lake)):
            self._manifest["commits"] = 0
            self._has_garbage = True
        due_ms = self._manifest["vacuum_at_ms"]
        is_due = due_ms is not None and now_ms >= due_ms
        done = is_due and self._tidy("vacuum", lambda: self.lake.vacuum(self._config.keep_for_s))
        rounds = Rounds(due_ms, self._manifest["rounds"], self._manifest["vacuum_until_ms"])
        rounds = rounds.after(now_ms, keep_ms(self._config), done=done, garbage=self._has_garbage)
        self._manifest |= {"vacuum_at_ms": rounds.at_ms, "rounds": rounds.left, "vacuum_until_ms": rounds.until_ms}
        self._has_garbage = False

    @property
    def vacuum_at_ms(self) -> int | None:
        """Return when the next commit that tidies is due."""
        return None if self._manifest["vacuum_at_ms"] is None else int(self._manifest["vacuum_at_ms"])

    def delete_user(self, namespace: str, user_id: str) -> int:
        """Remove the user's rows of all recorded steps; see `delete_users`."""
        return self._delete([Deleted(namespace, user_id)], max(self._last, self._manifest["batch"]) + 1, None)[0]

    def delete_users(self, users: Sequence[Deleted], batch: int) -> list[int]:
        """Remove users' rows of the steps before ``batch`` and return how many of each went from the table; their files go with a later vacuum.

        What waits is appended first: so the table alone knows what was removed, also when the step is executed again.
        """
        return self._delete(users, batch, Asked("", batch))

    def _delete(self, users: Sequence[Deleted], batch: int, asked: Asked | None) -> list[int]:
        self._has_garbage = True
        self._flush()
        is_begun = self._manifest["address"] == self._config.address
        return self.lake.delete_users(users, batch, asked) if is_begun and self._manifest["batch"] else [0] * len(users)

    def forget_rows(self, rows: NDArray[np.int32]) -> int:
        """Return 0: the table names items by their ids."""
        return 0

    def snapshot(self) -> ComponentState:
        """Return what the table must hold."""
        return ComponentState({}, copy.deepcopy(self._manifest))

    def delta(self) -> ComponentState | None:
        """Return None: the whole is small."""
        return None

    def restore(self, base: ComponentState, deltas: Iterable[ComponentState] = ()) -> None:
        """Replace the state; see `streamrec.state.Component`. What waited belongs to steps that are executed again."""
        self._manifest = copy.deepcopy({**_NEW, **base.meta})
        self._is_checked = False
        self._clear()
        if self._manifest["address"] == self._config.address:
            self._check_age()

    def digest(self) -> str:
        """Return the SHA-256 of the state, in hex."""
        return digest_of(self.snapshot())

    def _clear(self) -> None:
        self._waiting, self._waiting_bytes = [], 0
        self._last = 0
        self._back = None
        self._has_garbage = False

    def _begin(self, batch: int, num_applied: int) -> None:
        """Start to count a table that this state has not written to; rows that it has of earlier steps are taken as they are."""
        held = self.lake.held(batch, {}) if batch else {}
        rows = {str(partition): there.rows + there.removed for partition, there in held.items() if there.rows or there.removed}
        left_out = {"earlier": num_applied - sum(rows.values()), "deletion": 0}
        last = min(batch, self.lake.last_batch()) if rows else 0
        self._has_garbage |= bool(rows)  # Whoever wrote to it before may not have tidied it.
        self._manifest = {**copy.deepcopy(_NEW), "address": self._config.address, "batch": last, "rows": rows, "left_out": left_out}

    def _flush(self) -> None:
        if not self._waiting:
            return
        if not self._is_checked:
            self._check_age()
        self.lake.append(pa.concat_tables(self._waiting), self._last)
        self._manifest["batch"] = self._last
        self._manifest["commits"] += 1
        self._waiting, self._waiting_bytes = [], 0

    def _check_age(self) -> None:
        """Raise `Damaged` where rows are gone that the checkpoint counts on; one that can't be looked at yet is looked at by the first append."""
        try:
            held = self.lake.last_batch()
        except StorageError as error:
            if isinstance(error, Damaged) or self._waiting:
                raise
            return
        if held < self._manifest["batch"]:
            what = f"Lake: the table at {self.lake.address} is older than the checkpoint"
            got, allowed = f"rows up to batch {held}, no entry {self.lake.next_entry()}", f"{self._manifest['batch']} or later"
            do = "restore that entry of its log, and those after it, from a copy, or give `lake.address` a new folder"
            raise Damaged(what, got=got, allowed=allowed, do=do, address=self.lake.address)
        self._is_checked = True

    def _tidy(self, action: str, work: Callable[[], object]) -> bool:
        """Do what can wait for the next commit if it fails."""
        try:
            logger.info("lake: %s: %s", action, work())
        except StorageError as error:
            logger.warning("the lake's rows are safe, but its files could not be tidied (%s): %s", action, error)
            return False
        return True


_LEAST_MS = 3_600_000 * BESIDE_HOURS + round(1000 * LIMIT_S)
"""From what became garbage to the second round at least: a merge that was under way may have written for so long, and never committed it."""


@dataclass(frozen=True)
class Rounds:
    """Say when to vacuum: twice, since what became garbage less than the time to keep before the first round is taken by the second.

    Attributes:
        at_ms: The next round; None when there is nothing to do.
        left: Rounds until everything is gone.
        until_ms: Nor is it gone before then: the table's log has the time at which a file went, so one that went while a clock was ahead is kept
            until the time to keep has passed after that.
    """

    at_ms: int | None = None
    left: int = 0
    until_ms: int = 0

    def after(self, now_ms: int, keep_ms: int, *, done: bool, garbage: bool) -> Rounds:
        """Return the rounds after a commit.

        Args:
            now_ms: Its processing time.
            keep_ms: The time to keep.
            done: The due round took place.
            garbage: There is more that is not needed.
        """
        left, next_ms = max(self.left - done, int(now_ms < self.until_ms)), now_ms + _between_ms(keep_ms)
        # Further ahead only where a clock was: see `streamrec.pipeline.plan_time`.
        due_ms = None if self.at_ms is None else min(self.at_ms, next_ms)
        at_ms = (next_ms if left > 0 else None) if done else due_ms
        if not garbage:
            return Rounds(at_ms, left, self.until_ms)
        first_ms = now_ms + keep_ms if at_ms is None else min(at_ms, now_ms + keep_ms)
        return Rounds(first_ms, 2, max(self.until_ms, first_ms + _between_ms(keep_ms)))


def _between_ms(keep_ms: int) -> int:
    return max(keep_ms, _LEAST_MS - keep_ms)


def keep_ms(config: LakeConfig) -> int:
    """Return the time to keep, in the whole hours that a vacuum knows."""
    return -int(-config.keep_for_s // 3600) * 3_600_000


def gone_by_ms(now_ms: int, config: Config) -> int:
    """Return by when files are gone that are not needed from ``now_ms`` on: after two rounds, which wait for a commit each, like their plan."""
    return now_ms + 2 * _between_ms(keep_ms(config.lake)) + 3 * LONGEST_INTERVAL * round(1000 * config.pipeline.checkpoint_interval_s)


def build_lake(config: Config, state_url: str) -> LakeWriter | None:
    """Wire the lake of a state; None when the configuration wants none.

    Raises:
        Damaged: The lineage's name or an entry of the table's log is torn or lost: better now than after a step whose events can't be written.
    """
    if not config.lake.enabled:
        return None
    named_lineage(state_url)

    def named() -> str:
        name = lineage_of(state_url)
        note_lake(open_storage(state_url), config.lake.address, name)
        return name

    lake = open_lake(config, state_url, named)
    lake.check_log()
    return LakeWriter(lake, config.lake, config.log.events_topic)


def open_lake(config: Config, state_url: str, lineage: Callable[[], str]) -> EventLake:
    """Open the table of a state; see `streamrec.log.lake.EventLake`."""
    address = config.lake.address

    def counted_on() -> int | None:
        with suppress(StreamrecError):  # Of the checkpoint; whoever needs it says so.
            loaded = CheckpointStore(open_storage(checkpoint_url(state_url))).load_newest(only=("lake",))
            base = None if loaded is None else loaded.components.get("lake", (None,))[0]
            return int(base.meta["batch"]) if base is not None and base.meta.get("address") == address else 0
        return None

    return EventLake(lake_address(lake_url(state_url, address)), lineage, config.lake.target_file_bytes, counted_on)
