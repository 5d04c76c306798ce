"""Bring a batch of log rows into the state: decode, drop duplicates and late events, hand out rows, advance histories."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from streamrec.config import Config
from streamrec.environment import tombstone_key
from streamrec.evaluation.baselines import Popularity
from streamrec.evaluation.ranking import PerQuery, per_query_metrics
from streamrec.evaluation.shown import Outcome, Shown
from streamrec.evaluation.worth import Worth
from streamrec.events.codec import EventCodec
from streamrec.events.meaning import NEGATIVE, TARGET, roles_of
from streamrec.events.schema import Kind
from streamrec.events.tables import numpy_of, only, take
from streamrec.features.dedupe import Dedupe, EventKeys, hash_key
from streamrec.features.examples import Examples
from streamrec.features.floods import floods, without
from streamrec.features.histories import Histories, HistoryEvents
from streamrec.features.item_attributes import FIELDS, ItemAttributes
from streamrec.features.item_content import ItemContent
from streamrec.features.item_keys import ItemKeys
from streamrec.features.item_text import hash_words
from streamrec.features.recent_uses import RecentUses
from streamrec.features.tombstones import NEVER, Tombstones, with_same_user
from streamrec.features.vocabulary import Vocabulary
from streamrec.state import Component
from streamrec.teachers.window import EventWindow

POPULAR = "recent_popular"
"""The baseline that a version has to find more than."""


@dataclass(frozen=True)
class Ingested:
    """Hold what a batch became.

    Attributes:
        examples: Queries cut out of it.
        rejected: Records for the dead-letter topic, as `streamrec.events.codec.Decoded`.
        kept: Applied events for the lake, `streamrec.events.schema.EVENT`: no deletions, and nothing of what their users did before them.
        counts: received, applied, duplicate, rejected, late.
        num_interactions: Applied interactions.
        watermarks_ms: Highest event time of a valid interaction so far, per partition.
        targets: Target rows in time order [T] int32, the basket of each [T] int64 and its event time [T] int64.
        outcomes: What came of logged answers whose time is over.
        told: Whether words of items were told, so that the next version places these elsewhere.
    """

    examples: Examples
    rejected: pa.Table
    kept: pa.Table
    counts: Mapping[str, int]
    num_interactions: int
    watermarks_ms: Mapping[int, int]
    targets: tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]
    outcomes: Sequence[Outcome] = ()
    told: bool = False


@dataclass(frozen=True)
class Request:
    """Hold a deletion event: who asked, when by event time, where in the log that stands, and the newest event time that lay before it there."""

    namespace: str
    user_id: str
    event_id: str
    time_ms: int
    partition: int
    offset: int
    until_ms: int = NEVER

    @property
    def before(self) -> tuple[int, int, int]:
        """Return the place in the stream's order before which events are the user's old ones."""
        return max(self.time_ms, self.until_ms + 1), self.partition, self.offset


class Ingest:
    """Own the components that events go into before any model sees them.

    Args:
        config: The resolved configuration.
        stage: Measures the part of the work that it is given the name of.
    """

    def __init__(self, config: Config, stage: Callable[[str], AbstractContextManager[object]] = lambda _: nullcontext()) -> None:
        features = config.features
        self._config, self._stage = config, stage
        self._codec = EventCodec(config.events)
        self.tombstones = Tombstones(tombstone_key())
        self.dedupe = Dedupe(features.dedupe_horizon)
        self.vocabulary = Vocabulary(features.words_per_item, features.max_items, features.admit_after, features.max_namespaces)
        self.histories = Histories(features.history_length, features.max_users)
        self.popularity = Popularity()
        self.recent = RecentUses(features.popular_half_life_s)
        self.window = EventWindow(config.teachers.window_events)
        self.attributes = ItemAttributes(self.vocabulary.generation_of_rows)
        self.worth = Worth()
        self.shown = Shown(config.registry.worth_window_s, config.registry.worth_max_answers, self.worth)
        # Kept only for who reads it: titles take more memory than the words that are hashed out of them.
        self.content = ItemContent(self.vocabulary.generation_of_rows) if config.teachers.reads_content else None

    def components(self) -> list[Component]:
        """Return the state that events go into."""
        own: list[Component] = [self.tombstones, self.dedupe, self.vocabulary, self.histories, self.popularity, self.recent, self.window]
        own += [self.attributes, self.shown, self.worth]
        return own if self.content is None else [*own, self.content]

    def count(self, ingested: Ingested, now_ms: int) -> None:
        """Count a batch's targets, once nothing compares with the counts as they were."""
        rows, baskets, times_ms = ingested.targets
        self.recent.update(rows, times_ms, now_ms, self.popularity.counts(len(self.vocabulary)))
        self.popularity.update(rows, baskets)

    def take_back(self, rows: NDArray[np.int32], num: NDArray[np.int64]) -> None:
        """Count ``num`` [n] targets less of each of the rows [n], each once, and of their recent uses the same share."""
        before = self.popularity.counts(len(self.vocabulary))[rows]
        self.popularity.take_back(rows, num)
        self.recent.take_back(rows, np.minimum(1.0, num / np.maximum(before, 1)))

    def baselines(self, examples: Examples, seen: list[NDArray[np.int32]] | None = None) -> dict[str, PerQuery]:
        """Return what lists that nobody learns find of queries, by name; see `Popularity.ranks`."""
        ranks = self.popularity.ranks(examples, self.vocabulary.namespace_of_rows(), seen)
        return {name: per_query_metrics(each, examples) for name, each in ranks.items()}

    def apply(
        self,
        rows: pa.Table,
        now_ms: int,
        watermarks_ms: Mapping[int, int],
        delete_user: Callable[[Request], None],
        forget_rows: Callable[[NDArray[np.int32]], None],
    ) -> Ingested:
        """Apply a batch.

        Events are taken in the order (event time, partition, offset). A deletion removes what the user did before it, by that order or by the
        log's, also in this batch.

        Args:
            rows: Log rows.
            now_ms: Processing time that event times are validated against.
            watermarks_ms: Highest event time of an interaction in earlier batches of each partition. An interaction that is older by more than
                the lateness than one at a lower offset, of whichever batch, is late. Partitions are compared with themselves only, because one
                may be read far ahead of another. What says something about items, or asks for a deletion, is never late and makes nothing
                late: a catalogue carries another clock.
            delete_user: Removes a user from all components.
            forget_rows: Removes rows from all components, whose items have left.
        """
        with self._stage("decode"):
            decoded = self._codec.decode(rows, now_ms)
        watermarks_ms = self._believed(watermarks_ms, now_ms)
        on_time, advanced_ms = self._in_order(decoded.valid, watermarks_ms)
        keys = EventKeys.of(on_time)
        fresh = self.dedupe.fresh(keys, self._oldest_ms(watermarks_ms)) & ~self.tombstones.covers_events(on_time)
        events = only(on_time, fresh)
        is_interaction, is_deletion = _is_kind(events, Kind.INTERACTION), _is_kind(events, Kind.DELETION)
        stays, again = self._after_deletions(events, is_deletion, delete_user)
        counts = {
            "received": rows.num_rows,
            "applied": events.num_rows - again,
            "duplicate": on_time.num_rows - events.num_rows + again,
            "rejected": decoded.rejected.num_rows,
            "late": decoded.valid.num_rows - on_time.num_rows,
        }
        self.dedupe.remember(keys.select(np.flatnonzero(fresh)[stays | is_deletion]))
        updates, interactions = only(events, _is_kind(events, Kind.ITEM_UPDATE)), only(events, stays & is_interaction)
        users = ItemKeys.of(interactions["namespace"], interactions["user_id"])
        user_hashes = np.fromiter(map(hash_key, users.namespaces, users.ids), np.int64, len(users.ids))[users.index]
        announced, used = (ItemKeys.of(part["namespace"], part["item_id"]) for part in (updates, interactions))
        taken = self.vocabulary.take_in(announced, used, user_hashes)
        if len(taken.left):
            forget_rows(taken.left)
        told = self._describe(updates, taken.announced)
        batch, user_hashes = self._history_events(interactions, users, user_hashes, taken.used)
        examples = self.histories.advance(batch)
        flooded = floods(examples, self._config.features.max_repeats)
        is_flood = _events_of(examples, flooded, batch.rows, user_hashes)
        examples, learned = without(examples, flooded), (batch.roles != NEGATIVE) & ~is_flood
        self.window.add(user_hashes[learned], batch.rows[learned], batch.times[learned])
        targets = _baskets(batch, is_flood)
        outcomes = self._join(only(events, stays & _is_kind(events, Kind.IMPRESSION)), interactions)
        return Ingested(examples, decoded.rejected, only(events, stays), counts, interactions.num_rows, advanced_ms, targets, outcomes, told)

    def _in_order(self, events: pa.Table, watermarks_ms: Mapping[int, int]) -> tuple[pa.Table, dict[int, int]]:
        """Return the events that are not late, by (event time, partition, offset), and the watermarks after them all."""
        partition, offset, time = (numpy_of(events[name]) for name in ("partition", "offset", "event_time"))
        is_interaction = _is_kind(events, Kind.INTERACTION)
        lateness_ms = round(self._config.features.lateness_s * 1000)
        late, advanced_ms = np.zeros(len(time), bool), dict(watermarks_ms)
        logged = np.lexsort((offset, partition))
        logged = logged[is_interaction[logged]]
        starts = np.flatnonzero(np.diff(partition[logged], prepend=-1))
        for rows in np.split(logged, starts[1:]) if len(starts) else ():  # A partition each.
            number = int(partition[rows[0]])
            newest = np.maximum(np.maximum.accumulate(time[rows]), watermarks_ms.get(number, time[rows[0]]))
            late[rows] = time[rows] < newest - lateness_ms
            advanced_ms[number] = int(newest[-1])
        order = np.lexsort((offset, partition, time))
        order = order[~late[order]]
        return (events if np.array_equal(order, np.arange(len(time))) else take(events, order)), advanced_ms

    def _believed(self, watermarks_ms: Mapping[int, int], now_ms: int) -> dict[int, int]:
        """Return the watermarks without those that this plan could not take: the clock was ahead of it, and all that is right would be late.

        Such a partition goes on at the lowest watermark that ids were forgotten at, so that what is not known any more stays late, or begins anew.
        """
        latest_ms = now_ms + round(self._config.events.future_tolerance_s * 1000)
        oldest_ms = self.dedupe.oldest_ms
        lowest_ms = None if oldest_ms is None else oldest_ms + self._horizon_ms()
        held = {partition: newest_ms if newest_ms <= latest_ms else lowest_ms for partition, newest_ms in watermarks_ms.items()}
        return {partition: newest_ms for partition, newest_ms in held.items() if newest_ms is not None}

    def _horizon_ms(self) -> int:
        features = self._config.features
        return round(max(features.dedupe_horizon_s, features.lateness_s) * 1000)

    def _oldest_ms(self, watermarks_ms: Mapping[int, int]) -> int | None:
        """Return the event time before which ids are forgotten: one that is late in every partition, or None before the first event."""
        return min(watermarks_ms.values()) - self._horizon_ms() if watermarks_ms else None

    def _describe(self, updates: pa.Table, rows: NDArray[np.int32]) -> bool:
        """Keep what updates say of the items of rows: words, attributes, availability; a field that is absent changes nothing.

        Returns:
            Whether any of them says words.
        """
        updates, rows = only(updates, rows >= 0), rows[rows >= 0]
        if updates.num_rows == 0:
            return False
        times_ms, features = numpy_of(updates["event_time"]), self._config.features
        self.attributes.say(rows, updates.select(list(FIELDS)).to_pylist(), times_ms)
        says = numpy_of(pc.or_(pc.is_valid(updates["title"]), pc.is_valid(updates["categories"])))
        told = only(updates, says)
        titles, categories = told["title"].to_pylist(), told["categories"].to_pylist()
        texts = [" ".join([title or "", *(names or [])]) for title, names in zip(titles, categories, strict=True)]
        self.vocabulary.describe(rows[says], hash_words(texts, features.words_per_item, features.word_buckets), times_ms[says])
        if self.content is not None:
            self.content.say(rows[says], texts, times_ms[says])
            shows = numpy_of(pc.is_valid(updates["vectors"]))
            self.content.show(rows[shows], [dict(cell) for cell in only(updates, shows)["vectors"].to_pylist()], times_ms[shows])
        says = numpy_of(pc.is_valid(updates["available"]))
        self.vocabulary.set_available(rows[says], numpy_of(only(updates, says)["available"]), times_ms[says])
        return bool(told.num_rows)

    def _after_deletions(
        self, events: pa.Table, is_deletion: NDArray[np.bool_], delete_user: Callable[[Request], None]
    ) -> tuple[NDArray[np.bool_], int]:
        """Delete users that asked for it and put up their tombstones.

        Returns:
            Which events remain, neither deletions nor what these took away, and how many came again after one: duplicates, as in a later batch.
        """
        if not is_deletion.any():
            return np.ones(events.num_rows, bool), 0
        time, partition, offset = (numpy_of(events[name]) for name in ("event_time", "partition", "offset"))
        names = ["namespace", "user_id", "event_id", "event_time", "partition", "offset"]
        asked = take(events.select(names), np.flatnonzero(is_deletion)).rename_columns({"event_time": "time_ms"}).to_pylist()
        again = np.zeros(events.num_rows, bool)
        for values, (row, mine) in zip(asked, with_same_user(events, np.flatnonzero(is_deletion).tolist()), strict=True):
            user, here = (values["namespace"], values["user_id"]), partition[mine] == partition[row]
            newest_ms = int(time[mine[here & (offset[mine] < offset[row])]].max(initial=NEVER))
            until_ms = max(newest_ms, self.dedupe.newest_ms(*user), self.histories.newest_ms(*user))
            request = Request(**values, until_ms=until_ms)
            delete_user(request)
            self.tombstones.add(*user, request.time_ms, request.partition, request.offset, request.until_ms, values["event_id"])
            again[mine] |= here & (offset[mine] > offset[row]) & ((mine < row) | (time[mine] <= request.until_ms))
        return ~(self.tombstones.covers_events(events) | is_deletion), int(again.sum())

    def _join(self, impressions: pa.Table, interactions: pa.Table) -> list[Outcome]:
        """Put down to logged answers what came of them; a log that has none costs nothing."""
        if not impressions.num_rows and not len(self.shown):
            return []
        chosen = roles_of(interactions, self._config.events.meanings)[0] == TARGET
        return self.shown.join(impressions, only(interactions, chosen))

    def _history_events(
        self, interactions: pa.Table, users: ItemKeys, user_hashes: NDArray[np.int64], rows: NDArray[np.int32]
    ) -> tuple[HistoryEvents, NDArray[np.int64]]:
        """Return the interactions whose items have rows, and their users' hashes; the others have had their effect on the vocabulary."""
        held = np.flatnonzero(rows >= 0)
        if len(held) < len(rows):
            interactions, rows, user_hashes = interactions.take(pa.array(held)), rows[held], user_hashes[held]
        present, user_of_event = np.unique(users.index[held], return_inverse=True)
        roles, weights = roles_of(interactions, self._config.events.meanings)
        times = numpy_of(interactions["event_time"])
        pairs = [(users.namespaces[index], users.ids[index]) for index in present.tolist()]
        return HistoryEvents(pairs, user_of_event, rows, times, roles, weights, self.vocabulary.namespace_of_rows()[rows]), user_hashes


def _is_kind(events: pa.Table, kind: Kind) -> NDArray[np.bool_]:
    return numpy_of(pc.equal(events["kind"], kind.value))


def _events_of(examples: Examples, targets: NDArray[np.bool_], rows: NDArray[np.int32], user_hashes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which events, by item row and user, are those of some targets [T]; a user's others with the same item are, too. [E]."""
    if not targets.any():
        return np.zeros(len(rows), np.bool_)
    whose = examples.user[examples.query_of_target[targets]].tolist()
    pairs = set(zip(whose, examples.target_rows[targets].tolist(), strict=True))
    return np.fromiter((pair in pairs for pair in zip(user_hashes.tolist(), rows.tolist(), strict=True)), np.bool_, len(rows))


def _baskets(events: HistoryEvents, left_out: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
    """Return target rows ordered by (event time, user), a number that is equal within a basket, and their event times."""
    chosen = np.flatnonzero((events.roles == TARGET) & ~left_out)
    user = events.user_of_event[chosen]
    order = np.lexsort((user, events.times[chosen]))
    chosen, user = chosen[order], user[order]
    change = np.diff(events.times[chosen], prepend=-1).astype(bool) | np.diff(user, prepend=-1).astype(bool)
    return events.rows[chosen], np.cumsum(change), events.times[chosen]
