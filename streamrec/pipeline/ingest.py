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
from streamrec.features.item_text import hash_words
from streamrec.features.vocabulary import Vocabulary
from streamrec.teachers.window import EventWindow


@dataclass(frozen=True)
class Ingested:
    """Hold what a batch became.

    Attributes:
        examples: Queries cut out of it.
        rejected: Records for the dead-letter topic, as `streamrec.events.codec.Decoded`.
        kept: Applied events for the lake, `streamrec.events.schema.EVENT`: no deletions, and nothing of what their users did before them.
        counts: received, applied, duplicate, rejected, late.
        num_interactions: Applied interactions.
        watermarks_ms: Highest event time of an interaction so far, per partition.
        targets: Target rows in time order [T] int32 and the basket of each [T] int64.
    """

    examples: Examples
    rejected: pa.Table
    kept: pa.Table
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
        self.vocabulary = Vocabulary(features.words_per_item)
        self.histories = Histories(features.history_length, features.max_users)
        self.popularity = Popularity()
        self.window = EventWindow(config.teachers.window_events)

    def apply(self, rows: pa.Table, now_ms: int, watermarks_ms: Mapping[int, int], delete_user: Callable[[str, str], None]) -> Ingested:
        """Apply a batch.

        Events are taken in the order (event time, partition, offset). A deletion removes what the user did before it, also in this batch.

        Args:
            rows: Log rows.
            now_ms: Processing time that event times are validated against.
            watermarks_ms: Highest event time of an interaction in earlier batches of each partition; an interaction that is older by more than
                the lateness is late. Partitions are compared with themselves only, because one may be read far ahead of another. What says
                something about items, or asks for a deletion, is never late and makes nothing late: a catalogue carries another clock.
            delete_user: Removes a user from all components.
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
        self._describe(events.filter(pc.equal(events["kind"], Kind.ITEM_UPDATE.value)))
        kept = self._after_deletions(events, delete_user)
        interactions = kept.filter(_is_interaction(kept))
        batch = self._history_events(interactions)
        examples = self.histories.advance(batch)
        targets = _baskets(batch)
        watermarks_ms = _advance(watermarks_ms, events.filter(_is_interaction(events)))
        return Ingested(examples, decoded.rejected, kept, counts, interactions.num_rows, watermarks_ms, targets)

    def _is_late(self, events: pa.Table, watermarks_ms: Mapping[int, int]) -> NDArray[np.bool_]:
        partition, time = _numpy(events["partition"]), _numpy(events["event_time"])
        late = np.zeros(len(time), bool)
        for number, watermark_ms in watermarks_ms.items():
            late |= (partition == number) & (time < watermark_ms - round(self._config.features.lateness_s * 1000))
        late &= _numpy(_is_interaction(events))
        return late

    def _describe(self, updates: pa.Table) -> None:
        """Give items a row and the words of their titles and categories."""
        if updates.num_rows == 0:
            return
        rows = self.vocabulary.rows_for(updates["namespace"].to_pylist(), updates["item_id"].to_pylist())
        titles, categories = updates["title"].to_pylist(), updates["categories"].to_pylist()
        texts = [" ".join([title or "", *(names or [])]) for title, names in zip(titles, categories, strict=True)]
        features = self._config.features
        self.vocabulary.describe(rows, hash_words(texts, features.words_per_item, features.word_buckets))

    def _after_deletions(self, events: pa.Table, delete_user: Callable[[str, str], None]) -> pa.Table:
        """Delete users that asked for it and return the events that remain, without the deletions."""
        kinds = events["kind"].to_pylist()
        if Kind.DELETION.value not in kinds:
            return events
        users = list(zip(events["namespace"].to_pylist(), events["user_id"].to_pylist(), strict=True))
        deleted_at = {users[index]: index for index, kind in enumerate(kinds) if kind == Kind.DELETION.value}
        for user in deleted_at:
            delete_user(*user)
        stays = [deleted_at.get(user, -1) < index and kinds[index] != Kind.DELETION for index, user in enumerate(users)]
        return events.filter(pa.array(stays))

    def _history_events(self, interactions: pa.Table) -> HistoryEvents:
        namespaces, items = interactions["namespace"].to_pylist(), interactions["item_id"].to_pylist()
        users = list(zip(namespaces, interactions["user_id"].to_pylist(), strict=True))
        roles, weights = roles_of(interactions, self._config.events.meanings)
        rows = self.vocabulary.rows_for(namespaces, items)
        times = _numpy(interactions["event_time"])
        codes = {name: self.vocabulary.namespace_code(name) for name in dict.fromkeys(namespaces)}
        hashes = {user: hash_key(*user) for user in dict.fromkeys(users)}
        positive = roles != NEGATIVE
        user_hashes = np.fromiter((hashes[user] for user in users), np.int64, len(users))
        self.window.add(user_hashes[positive], rows[positive], times[positive])
        namespace = np.fromiter((codes[name] for name in namespaces), np.int32, len(namespaces))
        return HistoryEvents(users, rows, times, roles, weights, namespace)


def _numpy(column: pa.ChunkedArray) -> NDArray[Any]:
    values: NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return values


def _is_interaction(events: pa.Table) -> pa.ChunkedArray:
    return pc.equal(events["kind"], Kind.INTERACTION.value)


def _advance(watermarks_ms: Mapping[int, int], events: pa.Table) -> dict[int, int]:
    newest = events.group_by("partition").aggregate([("event_time", "max")])
    seen = dict(zip(newest["partition"].to_pylist(), newest["event_time_max"].to_pylist(), strict=True))
    return {number: max(watermarks_ms.get(number, 0), seen.get(number, 0)) for number in {*watermarks_ms, *seen}}


def _baskets(events: HistoryEvents) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return target rows ordered by (event time, user) and a number that is equal within a basket."""
    chosen = np.flatnonzero(events.roles == TARGET)
    numbers = {user: number for number, user in enumerate(dict.fromkeys(events.users))}
    user = np.fromiter((numbers[events.users[index]] for index in chosen.tolist()), np.int64, len(chosen))
    order = np.lexsort((user, events.times[chosen]))
    chosen, user = chosen[order], user[order]
    change = np.diff(events.times[chosen], prepend=-1).astype(bool) | np.diff(user, prepend=-1).astype(bool)
    return events.rows[chosen], np.cumsum(change)
