"""Bring a batch of log rows into the state: decode, drop duplicates and late events, hand out rows, advance histories."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from streamrec.config import Config
from streamrec.evaluation.baselines import Popularity
from streamrec.events.codec import EventCodec
from streamrec.events.meaning import NEGATIVE, TARGET, roles_of
from streamrec.events.schema import Kind
from streamrec.features.dedupe import Dedupe, hash_key
from streamrec.features.examples import Examples
from streamrec.features.histories import Histories, HistoryEvents
from streamrec.features.item_keys import ItemKeys
from streamrec.features.item_text import hash_words
from streamrec.features.vocabulary import Vocabulary
from streamrec.teachers.window import EventWindow


@dataclass(frozen=True)
class Ingested:
    """Hold what a batch became.

    Attributes:
        examples: Queries cut out of it.
        rejected: Records for the dead-letter topic, as `streamrec.events.codec.Decoded`.
        counts: received, applied, duplicate, rejected, late.
        num_interactions: Applied interactions.
        watermarks_ms: Highest event time of an interaction so far, per partition.
        targets: Target rows in time order [T] int32 and the basket of each [T] int64.
    """

    examples: Examples
    rejected: pa.Table
    counts: Mapping[str, int]
    num_interactions: int
    watermarks_ms: Mapping[int, int]
    targets: tuple[NDArray[np.int32], NDArray[np.int64]]


class Ingest:
    """Own the components that events go into before any model sees them."""

    def __init__(self, config: Config) -> None:
        features = config.features
        self._config = config
        self._codec = EventCodec(config.events)
        self.dedupe = Dedupe(features.dedupe_horizon)
        self.vocabulary = Vocabulary(features.words_per_item, features.max_items, features.admit_after)
        self.histories = Histories(features.history_length, features.max_users)
        self.popularity = Popularity()
        self.window = EventWindow(config.teachers.window_events)

    def apply(
        self,
        rows: pa.Table,
        now_ms: int,
        watermarks_ms: Mapping[int, int],
        delete_user: Callable[[str, str], None],
        forget_rows: Callable[[NDArray[np.int32]], None],
    ) -> Ingested:
        """Apply a batch.

        Events are taken in the order (event time, partition, offset). A deletion removes what the user did before it, also in this batch.

        Args:
            rows: Log rows.
            now_ms: Processing time that event times are validated against.
            watermarks_ms: Highest event time of an interaction in earlier batches of each partition; an interaction that is older by more than
                the lateness is late. Partitions are compared with themselves only, because one may be read far ahead of another. What says
                something about items, or asks for a deletion, is never late and makes nothing late: a catalogue carries another clock.
            delete_user: Removes a user from all components.
            forget_rows: Removes rows from all components, whose items have left.
        """
        decoded = self._codec.decode(rows, now_ms)
        valid = decoded.valid.sort_by([("event_time", "ascending"), ("partition", "ascending"), ("offset", "ascending")])
        late = pa.array(self._is_late(valid, watermarks_ms))
        on_time = valid.filter(pc.invert(late))
        fresh = self.dedupe.fresh(on_time["namespace"].to_pylist(), on_time["event_id"].to_pylist())
        events = on_time.filter(pa.array(fresh))
        counts = {
            "received": rows.num_rows,
            "applied": events.num_rows,
            "duplicate": on_time.num_rows - events.num_rows,
            "rejected": decoded.rejected.num_rows,
            "late": valid.num_rows - on_time.num_rows,
        }
        updates = events.filter(pc.equal(events["kind"], Kind.ITEM_UPDATE.value))
        interactions = self._after_deletions(events, delete_user)
        users = _pairs(interactions["namespace"], interactions["user_id"])
        hashes = np.fromiter((hash_key(*user) for user in users[0]), np.int64, len(users[0]))
        announced, used = (ItemKeys.of(part["namespace"], part["item_id"]) for part in (updates, interactions))
        taken = self.vocabulary.take_in(announced, used, hashes[users[1]])
        if len(taken.left):
            forget_rows(taken.left)
        self._describe(updates, taken.announced)
        batch = self._history_events(interactions, users, hashes, taken.used)
        examples = self.histories.advance(batch)
        targets = _baskets(batch)
        watermarks_ms = _advance(watermarks_ms, events.filter(_is_interaction(events)))
        return Ingested(examples, decoded.rejected, counts, interactions.num_rows, watermarks_ms, targets)

    def _is_late(self, events: pa.Table, watermarks_ms: Mapping[int, int]) -> NDArray[np.bool_]:
        partition, time = _numpy(events["partition"]), _numpy(events["event_time"])
        late = np.zeros(len(time), bool)
        for number, watermark_ms in watermarks_ms.items():
            late |= (partition == number) & (time < watermark_ms - round(self._config.features.lateness_s * 1000))
        late &= _numpy(_is_interaction(events))
        return late

    def _describe(self, updates: pa.Table, rows: NDArray[np.int32]) -> None:
        """Give the items of rows the words of their titles and categories."""
        updates, rows = updates.filter(pa.array(rows >= 0)), rows[rows >= 0]
        if updates.num_rows == 0:
            return
        titles, categories = updates["title"].to_pylist(), updates["categories"].to_pylist()
        texts = [" ".join([title or "", *(names or [])]) for title, names in zip(titles, categories, strict=True)]
        features = self._config.features
        self.vocabulary.describe(rows, hash_words(texts, features.words_per_item, features.word_buckets))

    def _after_deletions(self, events: pa.Table, delete_user: Callable[[str, str], None]) -> pa.Table:
        """Delete users that asked for it and return the interactions that remain."""
        interactions = events.filter(_is_interaction(events))
        kinds = events["kind"].to_pylist()
        if Kind.DELETION.value not in kinds:
            return interactions
        users = list(zip(events["namespace"].to_pylist(), events["user_id"].to_pylist(), strict=True))
        deleted_at = {users[index]: index for index, kind in enumerate(kinds) if kind == Kind.DELETION.value}
        for user in deleted_at:
            delete_user(*user)
        stays = [deleted_at.get(user, -1) < index for index, user in enumerate(users)]
        return events.filter(pc.and_(pa.array(stays), _is_interaction(events)))

    def _history_events(
        self, interactions: pa.Table, users: tuple[list[tuple[str, str]], NDArray[np.int64]], hashes: NDArray[np.int64], rows: NDArray[np.int32]
    ) -> HistoryEvents:
        """Return the interactions whose items have rows; the others have had their effect on the vocabulary."""
        distinct, user_of_event = users
        held = np.flatnonzero(rows >= 0)
        if len(held) < len(rows):
            interactions, rows, user_of_event = interactions.take(pa.array(held)), rows[held], user_of_event[held]
            present, user_of_event = np.unique(user_of_event, return_inverse=True)  # A user of whom nothing is kept gets no history.
            distinct, hashes = [distinct[index] for index in present.tolist()], hashes[present]
        roles, weights = roles_of(interactions, self._config.events.meanings)
        times = _numpy(interactions["event_time"])
        positive = roles != NEGATIVE
        self.window.add(hashes[user_of_event][positive], rows[positive], times[positive])
        return HistoryEvents(distinct, user_of_event, rows, times, roles, weights, self.vocabulary.namespace_of_rows()[rows])


def _numpy(column: pa.ChunkedArray) -> NDArray[Any]:
    values: NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return values


def _pairs(namespaces: pa.ChunkedArray, ids: pa.ChunkedArray) -> tuple[list[tuple[str, str]], NDArray[np.int64]]:
    """Return each (namespace, id) once, in the order of first appearance, and the place of each event's pair. [E] int64."""
    outer, inner = (pc.dictionary_encode(column.combine_chunks()) for column in (namespaces, ids))
    keys = outer.indices.to_numpy().astype(np.int64) * len(inner.dictionary) + inner.indices.to_numpy()
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    place = np.empty(len(first), np.int64)
    place[np.argsort(first)] = np.arange(len(first))
    seen_at = pa.array(np.sort(first))
    return list(zip(namespaces.take(seen_at).to_pylist(), ids.take(seen_at).to_pylist(), strict=True)), place[inverse]


def _is_interaction(events: pa.Table) -> pa.ChunkedArray:
    return pc.equal(events["kind"], Kind.INTERACTION.value)


def _advance(watermarks_ms: Mapping[int, int], events: pa.Table) -> dict[int, int]:
    newest = events.group_by("partition").aggregate([("event_time", "max")])
    seen = dict(zip(newest["partition"].to_pylist(), newest["event_time_max"].to_pylist(), strict=True))
    return {number: max(watermarks_ms.get(number, 0), seen.get(number, 0)) for number in {*watermarks_ms, *seen}}


def _baskets(events: HistoryEvents) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return target rows ordered by (event time, user) and a number that is equal within a basket."""
    chosen = np.flatnonzero(events.roles == TARGET)
    user = events.user_of_event[chosen]
    order = np.lexsort((user, events.times[chosen]))
    chosen, user = chosen[order], user[order]
    change = np.diff(events.times[chosen], prepend=-1).astype(bool) | np.diff(user, prepend=-1).astype(bool)
    return events.rows[chosen], np.cumsum(change)
