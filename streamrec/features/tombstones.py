"""Remember for ever who asked to be forgotten, so that an old event that is delivered again has no effect."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from streamrec.errors import ConfigError
from streamrec.events.schema import Kind
from streamrec.events.tables import numpy_of, take
from streamrec.features.item_keys import ItemKeys
from streamrec.state import ComponentState, digest_of

NEVER = np.iinfo(np.int64).min
"""The time of a user who never asked: no event is older."""

_COLUMNS = {"user": np.int64, "time": np.int64, "partition": np.int32, "offset": np.int64, "until": np.int64}

_NO_PARTITION = np.iinfo(np.int32).max
"""Every place of the same time comes before it, and none is in it."""

_Place = tuple[int, int, int, int]
"""Event time, partition and offset of a request, and the newest event time that lay before it in the log."""


def with_same_user(events: pa.Table, rows: Iterable[int]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Give each of the rows with the rows of its user's events, deletions left out."""
    users = ItemKeys.of(events["namespace"], pc.fill_null(events["user_id"], "")).index
    is_event = numpy_of(pc.not_equal(events["kind"], Kind.DELETION.value))
    for row in rows:
        yield row, np.flatnonzero((users == users[row]) & is_event)


class Tombstones:
    """Hold for each user who asked to be forgotten a keyed hash, the newest request's event time and where in the log it stands.

    An event of that user that comes before the request, in the stream's order of (event time, partition, offset), belongs to the life before
    it: it is dropped and counted, for ever. So is one up to the newest event time that lay before the request in the log, where that is no
    older than the request: a copy of what a fast clock had sent ahead can't be told from another event of that time. What the user does
    afterwards begins a new life. A request counts once, by its event id, whatever its time: one whose sender's clock is slow is carried out, a copy
    of one from years ago is not. 44 bytes a request; nothing in here can be read back without the key.

    **Contract.** A function of what was added, in order. `delta` holds what was added since the last snapshot or delta.

    Args:
        key: Of the hash; at most 64 bytes, the same as long as the state lives. Whoever lacks it can't tell by trying ids who has asked.
    """

    name = "tombstones"

    _places: dict[int, _Place]
    _requests: dict[int, None]
    _unsaved: list[tuple[int, *_Place]]
    _unsaved_requests: list[int]

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._check = hashlib.blake2b(b"tombstones", digest_size=8, key=key).hexdigest()
        self.restore(ComponentState())

    def __len__(self) -> int:
        return len(self._places)

    def hash_of(self, namespace: str, user_id: str) -> int:
        """Return the signed 64-bit keyed hash of (namespace, user)."""
        name = namespace.encode("utf-8", "surrogatepass")
        data = len(name).to_bytes(4, "little") + name + user_id.encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.blake2b(data, digest_size=8, key=self._key).digest(), "little", signed=True)

    def add(
        self, namespace: str, user_id: str, time_ms: int, partition: int, offset: int, until_ms: int = NEVER, event_id: str | None = None
    ) -> None:
        """Remember a request: its event time, its place in the log, the newest event time that lay before it there, and its id.

        Of several requests the newest counts, and the greatest ``until_ms``.
        """
        if event_id is not None and (request := self.hash_of(namespace, event_id)) not in self._requests:
            self._requests[request] = None
            self._unsaved_requests.append(request)
        user = self.hash_of(namespace, user_id)
        held = self._places.get(user, (NEVER, 0, 0, NEVER))
        place = (time_ms, partition, offset) if time_ms >= held[0] else held[:3]
        until_ms = max(until_ms, held[3])
        # When the user was last seen before asking says nothing that counts, and is nobody's business.
        self._places[user] = (*place, until_ms if until_ms >= place[0] else NEVER)
        self._unsaved.append((user, *self._places[user]))

    def until_ms(self, namespace: str, user_id: str) -> int:
        """Return the time up to which all that is delivered of a user belongs to the life before the newest request; `NEVER` of who never asked.

        Of that very time it may depend on the place in the log.
        """
        time_ms, _, _, until_ms = self._places.get(self.hash_of(namespace, user_id), (NEVER, 0, 0, NEVER))
        return max(time_ms, until_ms)

    def leave_places(self) -> None:
        """Let requests count by their times alone: the topic that they stand in is no more, and another one's offsets say nothing of them."""
        for user, (time_ms, _, _, until_ms) in self._places.items():
            self._places[user] = (time_ms, _NO_PARTITION, 0, until_ms)
            self._unsaved.append((user, *self._places[user]))

    def covers_record(self, namespace: str, user_id: str, time_ms: int, partition: int, offset: int) -> bool:
        """Return whether a record that was never applied is of before its user's newest request: as an event is, or at a place before it."""
        held = self._places.get(self.hash_of(namespace, user_id))
        if held is None:
            return False
        return (time_ms, partition, offset) < held[:3] or time_ms <= held[3] or (partition == held[1] and offset < held[2])

    def covers_events(self, events: pa.Table) -> NDArray[np.bool_]:
        """Return which valid events come before the deletion of their user, whenever they are delivered, and which requests were carried out. [E]."""
        if not self._places or not events.num_rows:
            return np.zeros(events.num_rows, bool)
        users = ItemKeys.of(events["namespace"], pc.fill_null(events["user_id"], ""))
        order = [numpy_of(events[name]) for name in ("event_time", "partition", "offset")]
        covered = self.covers(list(zip(users.namespaces, users.ids, strict=True)), users.index, order)
        asks = np.flatnonzero(numpy_of(pc.equal(events["kind"], Kind.DELETION.value)))
        if len(asks):
            named = take(events.select(["namespace", "event_id"]), asks).to_pylist()
            covered[asks] = [self.hash_of(*each.values()) in self._requests for each in named]
        return covered

    def covers(self, users: Sequence[tuple[str, str]], user_of_event: NDArray[np.int64], order: Sequence[NDArray[Any]]) -> NDArray[np.bool_]:
        """Return which events, none of them requests, belong to their user's life before the newest request. [E].

        Args:
            users: (namespace, user id), each once. [U]
            user_of_event: Position of each event's user. [E]
            order: What a stream is ordered by: event time, partition and offset of each event. [E] each
        """
        if not self._places:
            return np.zeros(len(user_of_event), bool)
        never = (NEVER, 0, 0, NEVER)
        places = np.asarray([self._places.get(self.hash_of(*user), never) for user in users], np.int64).reshape(-1, 4)[user_of_event]
        time, partition, offset = (np.asarray(part, np.int64) for part in order)
        same_time, same_partition = time == places[:, 0], partition == places[:, 1]
        earlier = (partition < places[:, 1]) | (same_partition & (offset < places[:, 2]))
        return np.asarray((time < places[:, 0]) | (same_time & earlier) | (time <= places[:, 3]))

    def snapshot(self) -> ComponentState:
        """Return everything, in the order of the first request."""
        self._unsaved, self._unsaved_requests = [], []
        return self._whole()

    def _whole(self) -> ComponentState:
        return self._state(((user, *place) for user, place in self._places.items()), self._requests)

    def delta(self) -> ComponentState:
        """Return what was added since the last snapshot or delta."""
        state = self._state(self._unsaved, self._unsaved_requests)
        self._unsaved, self._unsaved_requests = [], []
        return state

    def _state(self, rows: Iterable[tuple[int, *_Place]], requests: Iterable[int]) -> ComponentState:
        columns = list(zip(*rows, strict=True)) or [()] * len(_COLUMNS)
        arrays = {name: np.asarray(column, kind) for (name, kind), column in zip(_COLUMNS.items(), columns, strict=True)}
        return ComponentState({**arrays, "request": np.asarray([*requests], np.int64)}, {"check": self._check})

    def restore(self, base: ComponentState, deltas: Iterable[ComponentState] = ()) -> None:
        """Replace the state; see `streamrec.state.Component`.

        Raises:
            ConfigError: The state was made with another key.
        """
        self._places, self._requests = {}, {}
        for state in (base, *deltas):
            if len(state.arrays.get("user", ())) and state.meta.get("check", self._check) != self._check:
                what = "Config: STREAMREC_TOMBSTONE_KEY is not the key that this state's deletions were remembered with"
                raise ConfigError(what, do="set the environment variable to what it was, else deleted users could come back")
            if "user" not in state.arrays:
                continue
            unknown = np.full(len(state.arrays["user"]), NEVER)  # States of older releases don't say how far ahead events lay, nor name requests.
            self._requests.update(dict.fromkeys(state.arrays.get("request", np.zeros(0, np.int64)).tolist()))
            for user, *place in zip(*(state.arrays.get(name, unknown).tolist() for name in _COLUMNS), strict=True):
                self._places[user] = (place[0], place[1], place[2], place[3])
        self._unsaved, self._unsaved_requests = [], []

    def delete_user(self, namespace: str, user_id: str) -> int:
        """Return 0: that a user has asked is what must stay."""
        return 0

    def forget_rows(self, rows: NDArray[np.int32]) -> int:
        """Return 0: tombstones carry no items."""
        return 0

    def digest(self) -> str:
        """Return the SHA-256 of the state, in hex."""
        return digest_of(self._whole())
