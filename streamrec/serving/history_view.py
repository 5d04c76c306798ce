"""Follow the log and keep each user's recent items, and what catalogues say of items, so that an answer needs no other service.

The view resumes from the checkpoint's histories and applies the log from the checkpoint's offsets on; an offset that it has applied has no
effect when it is delivered again, nor has an event whose id it knows: those that the checkpoint remembers, and what came since.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import itemgetter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from streamrec.clock import Clock, SystemClock
from streamrec.config import Meaning
from streamrec.events.codec import EventCodec
from streamrec.events.meaning import NEGATIVE, roles_of
from streamrec.events.schema import Kind
from streamrec.events.tables import numpy_of, only
from streamrec.features.dedupe import Dedupe, EventKeys
from streamrec.features.item_attributes import FIELDS
from streamrec.features.tombstones import NEVER, Tombstones, with_same_user
from streamrec.serving.attributes import Attributes
from streamrec.serving.availability import Availability
from streamrec.state import ComponentState

User = tuple[str, str]
Item = tuple[str, str]
Codes = NDArray[np.int32]

_CODE_BYTES = 4
_TIME_BYTES = 8
_NO_CODES: Codes = np.empty(0, np.int32)
# Below twice so many codes nothing is won by looking which are in use.
_FEW_CODES = 4096
_REMEMBERED_IDS = 1_000_000


@dataclass(frozen=True)
class HistoryColumns:
    """Hold all histories of a checkpoint as columns, and what it knows of the items.

    Attributes:
        users: (namespace, user id), least recently updated first. [U]
        indptr: User u has the entries ``indptr[u]:indptr[u + 1]``. [U + 1] int64
        item_codes: Positions in ``item_ids``, oldest first in each user. [T] int32
        item_ids: (namespace, item id) of each code.
        offsets: {partition: next offset to apply, exclusive end of what the histories contain}.
        times: Event time of each entry in ms UTC [T] int64; None when not known, then every entry counts as older than what follows.
        tombstones: State of `streamrec.features.tombstones.Tombstones`, a base and its deltas.
        unavailable: Of each code, whether the item can't be had, and the event time of the update that says so or the opposite, 0 without
            one; None when nothing was said of any.
        attributes: Of each code what is known of the item as JSON, and when its fields were said; see `streamrec.serving.attributes`.
        event_ids: State of `streamrec.features.dedupe.Dedupe`, a base and its deltas.
    """

    users: list[User]
    indptr: NDArray[np.int64]
    item_codes: Codes
    item_ids: list[Item]
    offsets: dict[int, int]
    times: NDArray[np.int64] | None = None
    tombstones: tuple[ComponentState, ...] = (ComponentState(),)
    unavailable: tuple[NDArray[np.bool_], NDArray[np.int64]] | None = None
    attributes: tuple[list[str], NDArray[np.int64]] | None = None
    event_ids: tuple[ComponentState, ...] = (ComponentState(),)


@dataclass
class ViewCounters:
    """Count what the view did since it was last loaded."""

    applied: int = 0
    repeated: int = 0
    rejected: int = 0
    deletions: int = 0
    evicted: int = 0


class HistoryTable:
    """Hold each user's entries as two immutable byte strings, (codes int32, event times int64), oldest first.

    A change replaces the user's pair by one assignment, so that a reader in another thread sees the history before or after it.
    """

    def __init__(self, item_ids: list[Item] | None = None, availability: Availability | None = None, attributes: Attributes | None = None) -> None:
        self.item_ids: list[Item] = [] if item_ids is None else item_ids
        self.codes: dict[Item, int] = {item: code for code, item in enumerate(self.item_ids)}
        self.entries: OrderedDict[User, tuple[bytes, bytes]] = OrderedDict()
        self.availability = Availability() if availability is None else availability
        self.attributes = Attributes() if attributes is None else attributes

    def get(self, namespace: str, user_id: str) -> Codes:
        """Return the user's item codes, newest last; empty when unknown. Read-only."""
        entry = self.entries.get((namespace, user_id))
        return _NO_CODES if entry is None else np.frombuffer(entry[0], np.int32)

    def newest_ms(self, user: User) -> int:
        """Return the newest event time in the user's history, the smallest integer without any."""
        return int(np.frombuffer(self.entries.get(user, (b"", b""))[1], np.int64).max(initial=NEVER))

    def code_of(self, item: Item) -> int:
        """Return the item's code; a new item gets the next one."""
        code = self.codes.get(item)
        if code is None:
            code = len(self.item_ids)
            # The list first: whoever sees the code finds the item.
            self.item_ids.append(item)
            self.codes[item] = code
        return code

    def compacted(self, max_items: int) -> HistoryTable:
        """Return the same histories with codes for their items only, and for those that can't be had or are described, by the newest updates."""
        held = np.frombuffer(b"".join(codes for codes, _ in self.entries.values()), np.int32)
        used = np.union1d(held, np.union1d(self.availability.newest(max_items), self.attributes.newest(max_items)))
        result = HistoryTable([self.item_ids[code] for code in used.tolist()], self.availability.of(used), self.attributes.only(used))
        place = np.zeros(len(self.item_ids), np.int32)
        place[used] = np.arange(len(used), dtype=np.int32)
        result.entries.update((user, (place[np.frombuffer(codes, np.int32)].tobytes(), times)) for user, (codes, times) in self.entries.items())
        return result

    def add(self, user: User, code: int, time_ms: int, length: int) -> None:
        """Put an item at its event time; after those of the same time, and out with the oldest beyond ``length``."""
        codes, times = self.entries.get(user, (b"", b""))
        code_bytes, time_bytes = code.to_bytes(_CODE_BYTES, "little"), time_ms.to_bytes(_TIME_BYTES, "little", signed=True)
        if times and time_ms < int.from_bytes(times[-_TIME_BYTES:], "little", signed=True):
            at = int(np.searchsorted(np.frombuffer(times, np.int64), time_ms, side="right"))
            codes = codes[: at * _CODE_BYTES] + code_bytes + codes[at * _CODE_BYTES :]
            times = times[: at * _TIME_BYTES] + time_bytes + times[at * _TIME_BYTES :]
        else:
            codes, times = codes + code_bytes, times + time_bytes
        self.entries[user] = (codes[-length * _CODE_BYTES :], times[-length * _TIME_BYTES :])
        self.entries.move_to_end(user)

    def take(self, user: User, code: int, time_ms: int) -> None:
        """Take out the item's newest occurrence that is not after ``time_ms``, if there is one."""
        codes, times = self.entries.get(user, (b"", b""))
        found = np.flatnonzero((np.frombuffer(codes, np.int32) == code) & (np.frombuffer(times, np.int64) <= time_ms))
        if len(found):
            at = int(found[-1])
            codes = codes[: at * _CODE_BYTES] + codes[(at + 1) * _CODE_BYTES :]
            times = times[: at * _TIME_BYTES] + times[(at + 1) * _TIME_BYTES :]
            self.entries[user] = (codes, times)
            self.entries.move_to_end(user)


@dataclass
class HistoryView:
    """Keep the last ``history_length`` items of the ``max_users`` users that were updated last.

    Args:
        history_length: Entries kept per user.
        max_users: Users kept.
        meanings: What each event type means.
        codec: Decodes log rows.
        clock: Processing time, for the codec's bound on future times.
        tombstones: Who was deleted, so that old events that come again stay without effect; None remembers nobody.
        max_items: Of the items that can't be had so many are remembered at least, and as many of those that are described, by the newest updates.
        dedupe: Which event ids are known; one with the horizon 0 knows none.
        keeps_histories: Whether users' are kept; else only what is said of items, and who was deleted.

    **Contract.** One thread writes (`load`, `apply`), one other may read (`get`, ``table``). `apply` never raises on bad records and does not
    block. ``offsets`` are the next ones to apply; where to follow the log from after `load` or a pause. Whoever reads several times for
    one answer takes ``table`` once: `load` replaces it, and so does `apply` when most items that it has codes for are in no history any more
    and can be had.
    """

    history_length: int
    max_users: int
    meanings: Mapping[str, Meaning]
    codec: EventCodec
    clock: Clock = field(default_factory=SystemClock)
    tombstones: Tombstones | None = None
    max_items: int = 1_000_000
    dedupe: Dedupe = field(default_factory=lambda: Dedupe(_REMEMBERED_IDS))
    keeps_histories: bool = True
    table: HistoryTable = field(default_factory=HistoryTable)
    offsets: dict[int, int] = field(default_factory=dict)
    counters: ViewCounters = field(default_factory=ViewCounters)
    _codes_wanted: int = _FEW_CODES

    def __len__(self) -> int:
        return len(self.table.entries)

    def get(self, namespace: str, user_id: str) -> Codes:
        """Return the user's recent item codes, newest last; ``table.item_ids`` names them."""
        return self.table.get(namespace, user_id)

    def load(self, columns: HistoryColumns) -> None:
        """Replace all histories by a checkpoint's."""
        availability = None if columns.unavailable is None else Availability(*columns.unavailable)
        table = HistoryTable(list(columns.item_ids), availability, None if columns.attributes is None else Attributes(*columns.attributes))
        times = columns.times if columns.times is not None else np.zeros(len(columns.item_codes), np.int64)
        raw_codes = np.ascontiguousarray(columns.item_codes, np.int32).tobytes()
        raw_times = np.ascontiguousarray(times, np.int64).tobytes()
        first = max(0, len(columns.users) - self.max_users)
        ends = columns.indptr[first + 1 :]
        starts = np.maximum(columns.indptr[first:-1], ends - self.history_length)
        table.entries.update(
            (user, (raw_codes[start * _CODE_BYTES : end * _CODE_BYTES], raw_times[start * _TIME_BYTES : end * _TIME_BYTES]))
            for user, start, end in zip(columns.users[first:], starts.tolist(), ends.tolist(), strict=True)
        )
        self.counters = ViewCounters(evicted=first)
        if self.tombstones is not None:
            self.tombstones.restore(columns.tombstones[0], columns.tombstones[1:])
        self.dedupe.restore(columns.event_ids[0], columns.event_ids[1:])
        self.offsets = dict(columns.offsets)
        self.table = table
        self._codes_wanted = max(_FEW_CODES, len(table.item_ids))

    def apply(self, log_rows: pa.Table) -> int:
        """Apply log rows (schema LOG_ROW) in event-time order and return how many events changed a history.

        Rows below the applied offsets have no effect, nor have events whose ids are known. Impressions and item updates change no history; an item
        update may change ``table.availability`` and ``table.attributes``.
        """
        fresh = self._fresh(log_rows)
        if fresh.num_rows == 0:
            return 0
        decoded = self.codec.decode(fresh, self.clock.now_ms())
        self.counters.rejected += decoded.rejected.num_rows
        events = self._without_known(decoded.valid)
        self._reach_for(events)
        events = self._without_deleted(events)
        self.dedupe.remember(EventKeys.of(events))
        self._describe(events)
        applied = self._apply_events(events)
        self.counters.applied += applied
        partitions, next_offsets = fresh["partition"].to_numpy(), fresh["offset"].to_numpy() + 1
        ends = {int(partition): int(next_offsets[partitions == partition].max()) for partition in np.unique(partitions)}
        self.offsets = {**self.offsets, **ends}
        return applied

    def _fresh(self, log_rows: pa.Table) -> pa.Table:
        """Return the rows whose offsets have not been applied."""
        partitions = log_rows["partition"].to_numpy()
        applied_to = np.array([self.offsets.get(partition, 0) for partition in partitions.tolist()], np.int64)
        is_fresh = log_rows["offset"].to_numpy() >= applied_to
        self.counters.repeated += int(len(is_fresh) - is_fresh.sum())
        return log_rows if is_fresh.all() else log_rows.filter(pa.array(is_fresh))

    def _reach_for(self, events: pa.Table) -> None:
        """Have the histories of these events' users in ``table``: they always are, here."""

    def _without_known(self, valid: pa.Table) -> pa.Table:
        """Leave out impressions, which change nothing here, and events whose ids are known."""
        events = only(valid, ~numpy_of(pc.equal(valid["kind"], Kind.IMPRESSION.value)))
        fresh = self.dedupe.fresh(EventKeys.of(events), None)
        self.counters.repeated += int(len(fresh) - fresh.sum())
        return only(events, fresh)

    def _without_deleted(self, events: pa.Table) -> pa.Table:
        """Leave out what users did before they were deleted, and remember who is deleted here."""
        if self.tombstones is None:
            return events
        gone = self.tombstones.covers_events(events)
        self.counters.repeated += int(gone.sum())
        events = only(events, ~gone)
        asks = numpy_of(pc.equal(events["kind"], Kind.DELETION.value))
        if not asks.any():
            return events
        time, partition, offset = (numpy_of(events[name]) for name in ("event_time", "partition", "offset"))
        columns = ["namespace", "user_id", "event_id", "event_time", "partition", "offset"]
        asked = only(events.select(columns), asks).rename_columns({"event_time": "time_ms"}).to_pylist()
        for values, (row, mine) in zip(asked, with_same_user(events, np.flatnonzero(asks).tolist()), strict=True):
            before = mine[(partition[mine] == partition[row]) & (offset[mine] < offset[row])]
            newest_ms = self.table.newest_ms((values["namespace"], values["user_id"]))
            self.tombstones.add(**values, until_ms=max(newest_ms, int(time[before].max(initial=NEVER))))
            self.dedupe.delete_user(values["namespace"], values["user_id"])
        return only(events, ~self.tombstones.covers_events(events) | asks)

    def _describe(self, events: pa.Table) -> None:
        """Take what item updates say of items, in the log's order."""
        updates = events.filter(pc.equal(events["kind"], Kind.ITEM_UPDATE.value)) if events.num_rows else events
        for said in updates.select(["namespace", "item_id", "event_time", *FIELDS]).to_pylist():
            if any(said[name] is not None for name in FIELDS):
                self.table.attributes.say(self.table.code_of((said["namespace"], said["item_id"])), said["event_time"], said)
        self.table.attributes.publish()

    def _apply_events(self, events: pa.Table) -> int:
        roles, _ = roles_of(events, self.meanings)
        columns = (events[name].to_pylist() for name in ("event_time", "kind", "namespace", "user_id", "item_id", "available"))
        # Sorting by time alone keeps the log's order among events of one time.
        in_order = sorted(zip(*columns, roles.tolist(), strict=True), key=itemgetter(0))
        table, num_applied = self.table, 0
        for time_ms, kind, namespace, user_id, item_id, available, role in in_order:
            user = (namespace, user_id)
            if kind == Kind.DELETION:
                table.entries.pop(user, None)
                self.counters.deletions += 1
            elif kind != Kind.INTERACTION:
                if available is not None:
                    table.availability.say(table.code_of((namespace, item_id)), time_ms, available=available)
                continue
            elif not self.keeps_histories:
                continue
            elif role == NEGATIVE:
                table.take(user, table.code_of((namespace, item_id)), time_ms)
            else:
                table.add(user, table.code_of((namespace, item_id)), time_ms, self.history_length)
            num_applied += 1
        table.availability.publish()
        while len(table.entries) > self.max_users:
            table.entries.popitem(last=False)
            self.counters.evicted += 1
        if len(table.item_ids) > 2 * self._codes_wanted:  # Ids that came once would stay for ever.
            self.table = table.compacted(self.max_items)
            self._codes_wanted = max(_FEW_CODES, len(self.table.item_ids))
        return num_applied
