"""Write users' histories into Redis from the log, one replica for all.

The writer applies the log as a replica's own view does, by the same code, so that both ways give the same histories. Whoever takes over begins with
the newest checkpoint: it knows event ids and deletions up to there. Where Redis is behind the checkpoint, the histories of those who did something
between come from the checkpoint; where Redis is ahead, the log is applied to the checkpoint's histories until it is where Redis was. From there on
each user's history is read from Redis, changed and written back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streamrec.clock import Clock, SystemClock
from streamrec.errors import BrokerError, StorageError
from streamrec.events.schema import LOG_ROW, Kind
from streamrec.log.base import LogTail, TableReader
from streamrec.log.offsets import OffsetRange
from streamrec.serving.follower import FollowerState, LogFollower
from streamrec.serving.history_view import HistoryColumns, HistoryView, User
from streamrec.serving.stored_histories import Entries, Offsets

logger = logging.getLogger(__name__)

# More rows than these are not read to find out whose histories changed: all are written.
_MOST_ROWS = 500_000
_AT_ONCE = 5_000
_FRESH_S = 10.0
STANDBY = "standby"
CATCH_UP = "catch up"
WRITING = frozenset({CATCH_UP, "bootstrap", "open", "follow"})
"""What a writer does that has the lease."""
_NOTHING = HistoryColumns([], np.zeros(1, np.int64), np.zeros(0, np.int32), [], {}, np.zeros(0, np.int64))


class Store(Protocol):
    """What a writer needs of `streamrec.serving.stored_histories.StoredHistories`."""

    holds_lease: bool
    num_leases: int

    def offsets(self) -> Offsets | None:
        """Return how far the store reaches; None where nobody has filled it."""
        ...

    def fetch(self, users: list[User]) -> dict[User, Entries]:
        """Return users' histories, empty ones too."""
        ...

    def write(self, changed: Mapping[User, Entries], at: Offsets | None, then: Offsets | None = None) -> None:
        """Replace histories in one step, if the store is ``at``."""
        ...

    def clear(self) -> None:
        """Take out all histories; the store is filled by nobody then."""
        ...

    def forget(self, users: Iterable[User]) -> None:
        """Take users who were deleted out of what lineages before this one left."""
        ...


@dataclass(frozen=True)
class LogEnds:
    """Say what the log holds.

    Attributes:
        open_reader: Opens it.
        topic: Of events.
    """

    open_reader: Callable[[], TableReader]
    topic: str

    def between(self, start: Offsets, end: Offsets) -> pa.Table | None:
        """Return the rows of ``[start, end)``; None where some are gone, or there are more than are worth reading."""
        behind = [(partition, start.get(partition, 0), stop) for partition, stop in sorted(end.items()) if stop > start.get(partition, 0)]
        ranges = [OffsetRange(self.topic, *part) for part in behind]
        if not ranges:
            return LOG_ROW.empty_table()
        reader = self.open_reader()
        try:
            earliest = reader.earliest(self.topic)
            if any(part.start < earliest.get(part.partition, 0) for part in ranges) or sum(part.end - part.start for part in ranges) > _MOST_ROWS:
                return None
            return reader.read_table(ranges)
        finally:
            reader.close()

    def latest(self) -> Offsets:
        """Return the end of each partition."""
        reader = self.open_reader()
        try:
            return reader.latest(self.topic)
        finally:
            reader.close()


@dataclass
class StoredView(HistoryView):
    """Be the view whose histories are in a store; its ``table`` has those of the users of one batch.

    Args:
        store: Where histories are.
        log: What the log holds.

    **Contract.** That of `HistoryView`, but `load` and `apply` raise `StorageError` when the store does not answer or somebody else writes it, and
    `BrokerError` when the log does not answer. The view ``is_broken`` then, of no use any more; a fresh one begins with `load`.
    """

    store: Store = field(kw_only=True)
    log: LogEnds = field(kw_only=True)
    _at: Offsets = field(default_factory=dict)
    _until: Offsets | None = None
    _columns: HistoryColumns | None = None
    _place_of: dict[User, int] = field(default_factory=dict)
    _touched: set[User] = field(default_factory=set)
    _deleted: list[User] = field(default_factory=list)
    is_broken: bool = False

    @property
    def is_catching_up(self) -> bool:
        """Return whether the store has what this view has not applied yet."""
        return self._columns is not None

    def load(self, columns: HistoryColumns) -> None:
        """Begin with a checkpoint: bring the store up to it where it is behind."""
        with self._breaking():
            self._load(columns)

    def apply(self, log_rows: pa.Table) -> int:
        """Apply log rows, and write what they change."""
        with self._breaking():
            num = super().apply(log_rows)
            if self._columns is not None:
                self._go_on()
            elif log_rows.num_rows:
                self._write()
            return num

    @contextmanager
    def _breaking(self) -> Iterator[None]:
        try:
            yield
        except (StorageError, BrokerError):
            self.is_broken = True
            raise

    def _load(self, columns: HistoryColumns) -> None:
        at = self.store.offsets()
        nobody = replace(columns, users=[], indptr=np.zeros(1, np.int64), item_codes=np.zeros(0, np.int32), times=np.zeros(0, np.int64))
        super().load(nobody)
        self._columns, self._touched = columns, set()
        self._place_of = {user: place for place, user in enumerate(columns.users)}
        rows = None if at is None else self.log.between(at, columns.offsets)
        if rows is None:
            self.store.clear()
            at, stale = None, list(columns.users)
        else:
            between = self.codec.decode(rows, self.clock.now_ms()).valid
            stale = _users_of(between)
            self.store.forget(_deleted_in(between))
        for first in range(0, len(stale), _AT_ONCE):
            self.store.write({user: self._of_checkpoint(user) for user in stale[first : first + _AT_ONCE]}, at)
        known = at or {}
        reached = {partition: max(known.get(partition, 0), columns.offsets.get(partition, 0)) for partition in known.keys() | columns.offsets.keys()}
        if reached != at:
            self.store.write({}, at, reached)
        self._at, self._until = reached, None

    def _go_on(self) -> None:
        """Write what was caught up with, once it is as far as the store was."""
        if self._until is None:
            ends = self.log.latest()
            # A topic that was made anew is behind both: what it gets from now on is new.
            self._until = {partition: min(end, ends.get(partition, 0)) for partition, end in self._at.items()}
        if all(self.offsets.get(partition, 0) >= end for partition, end in self._until.items()):
            self._write()
            self._columns, self._place_of = None, {}

    def _write(self) -> None:
        entries = {user: self._entries(user) for user in self._touched}
        if self._deleted:
            self.store.forget(self._deleted)
        then = {**self._at, **self.offsets}
        if entries or then != self._at:
            self.store.write(entries, self._at, then)
        self._at = then
        self._touched, self._deleted = set(), []
        self.table.entries.clear()

    def _reach_for(self, events: pa.Table) -> None:
        self._deleted += _deleted_in(events)
        wanted = [user for user in _users_of(events) if user not in self._touched]
        self._touched.update(wanted)
        found = {user: self._of_checkpoint(user) for user in wanted} if self._columns is not None else self.store.fetch(wanted)
        for user, entries in found.items():
            if entries.item_ids:
                codes = np.array([self.table.code_of((user[0], item)) for item in entries.item_ids], np.int32)
                self.table.entries[user] = codes.tobytes(), np.array(entries.times, np.int64).tobytes()

    def _entries(self, user: User) -> Entries:
        codes, times = self.table.entries.get(user, (b"", b""))
        items = self.table.item_ids
        return Entries(tuple(items[code][1] for code in np.frombuffer(codes, np.int32).tolist()), tuple(np.frombuffer(times, np.int64).tolist()))

    def _of_checkpoint(self, user: User) -> Entries:
        columns, place = self._columns, self._place_of.get(user)
        if columns is None or place is None:
            return Entries()
        end = int(columns.indptr[place + 1])
        mine = slice(max(int(columns.indptr[place]), end - self.history_length), end)
        times = np.zeros(mine.stop - mine.start, np.int64) if columns.times is None else columns.times[mine]
        return Entries(tuple(columns.item_ids[code][1] for code in columns.item_codes[mine].tolist()), tuple(times.tolist()))


class HistoryWriter:
    """Write while this replica holds the lease, and stand by while another does.

    Args:
        store: Where histories are; somebody else asks it for the lease, often enough.
        make_view: Makes a fresh view of it.
        bootstrap: Loads the checkpoint's histories.
        open_tail: Opens the log at {partition: next offset}.
        heard: Is told the log rows that the store has just got.
        poll_s: Longest time that one step waits for rows.
        clock: Monotonic time.

    **Contract.** `step` is called in a loop by one thread; it blocks as `LogFollower.step` does, never sleeps and never raises on a failing broker,
    storage or store.
    """

    def __init__(
        self,
        store: Store,
        make_view: Callable[[], StoredView],
        bootstrap: Callable[[], HistoryColumns | None],
        open_tail: Callable[[Mapping[int, int]], LogTail],
        heard: Callable[[pa.Table], None],
        poll_s: float = 0.2,
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._loaded: tuple[float, HistoryColumns] | None = None
        self._store, self._make_view = store, make_view
        self._bootstrap, self._open_tail, self._heard, self._poll_s = bootstrap, open_tail, heard, poll_s
        self._view: StoredView
        self._follower: LogFollower | None = None
        self.num_begun = 0
        self._num_leases = 0
        self._failed = ""

    @property
    def state(self) -> str:
        """Return what the writer does: `STANDBY`, ``bootstrap``, ``open``, `CATCH_UP` or ``follow``."""
        if self._follower is None:
            return STANDBY
        state = self._follower.state
        return CATCH_UP if state is FollowerState.FOLLOW and self._view.is_catching_up else state.value

    @property
    def last_error(self) -> str:
        """Return what stood in the way last, "" where nothing does."""
        return self._failed if self._store.holds_lease else ""

    def step(self) -> bool:
        """Do the next thing; False when there is nothing to do, or it failed and should be tried again later."""
        num_leases = self._store.num_leases
        if not self._store.holds_lease:
            self.close()
            return False
        if num_leases != self._num_leases:
            self.close()
        if self._follower is None:
            self._num_leases = num_leases
            self.num_begun += 1
            logger.info("Histories: this replica writes them into Redis from now on")
            self._view = self._make_view()
            # It knows what failed last, so that the same is not told twice a second.
            self._follower = LogFollower(self._view, self._load, self._open_tail, self._poll_s, self._told, last_error=self._failed)
        is_well = self._follower.step()
        self._failed = self._follower.last_error
        if self._view.is_broken:
            self.close()
        elif self._follower.state is FollowerState.FOLLOW:
            self._loaded = None
        return is_well

    def close(self) -> None:
        """Let go of the log."""
        if self._follower is not None:
            self._follower.close()
            self._follower = None

    def _load(self) -> HistoryColumns:
        """Load a checkpoint; a broker that is away is asked again and again, and a checkpoint of a moment ago is as good as a newer one."""
        now_s = self._clock.monotonic_s()
        if self._loaded is None or now_s - self._loaded[0] > _FRESH_S:
            self._loaded = now_s, self._bootstrap() or _NOTHING
        return self._loaded[1]

    def _told(self, rows: pa.Table) -> None:
        if not self._view.is_catching_up:
            self._heard(rows)


def _deleted_in(events: pa.Table) -> list[User]:
    return _users_of(events.filter(pc.equal(events["kind"], Kind.DELETION.value)))


def _users_of(events: pa.Table) -> list[User]:
    """Return the users of events, each once; item updates have none."""
    users = dict.fromkeys(zip(events["namespace"].to_pylist(), events["user_id"].to_pylist(), strict=True))
    return [user for user in users if user[1] is not None]
