import numpy as np
import orjson
import pyarrow as pa
import pytest

from streamrec.clock import ManualClock
from streamrec.config import DEFAULT_MEANINGS, EventsConfig, Meaning
from streamrec.events.codec import EventCodec
from streamrec.events.schema import LOG_ROW
from streamrec.features.dedupe import Dedupe
from streamrec.features.tombstones import Tombstones
from streamrec.serving import history_view
from streamrec.serving.history_view import HistoryColumns, HistoryView
from streamrec.serving.recommender import Recommender
from streamrec.serving.row_map import RowMap

MEANINGS = {**DEFAULT_MEANINGS, "rating": Meaning(role="target", negative_below=3.0)}


def make_view(history_length=4, max_users=100, **kept):
    return HistoryView(history_length, max_users, MEANINGS, EventCodec(EventsConfig(meanings=MEANINGS)), ManualClock(10**12), **kept)


@pytest.fixture
def view():
    return make_view()


def rows_of(*events, partition=0, start=0):
    values = [event if isinstance(event, bytes) else orjson.dumps(event) for event in events]
    columns = {
        "topic": ["events"] * len(values),
        "partition": [partition] * len(values),
        "offset": list(range(start, start + len(values))),
        "timestamp": [0] * len(values),
        "key": [b"u"] * len(values),
        "value": values,
    }
    return pa.table(columns, schema=LOG_ROW)


def event(user, item, time=1000, kind="click", **more):
    return {"event_id": f"{user}-{item}-{time}-{kind}", "user_id": user, "item_id": item, "event_type": kind, "event_time": time, **more}


def deletion(user, time=1000):
    return {"kind": "deletion", "event_id": f"d-{user}-{time}", "user_id": user, "event_time": time}


def items(view, user, namespace="default"):
    return [view.table.item_ids[code][1] for code in view.get(namespace, user).tolist()]


def test_a_history_is_newest_last_and_bounded(view):
    view.apply(rows_of(*(event("u", f"i{time}", time) for time in range(1000, 1006))))
    assert items(view, "u") == ["i1002", "i1003", "i1004", "i1005"]
    assert view.offsets == {0: 6}


def test_an_unknown_user_has_an_empty_history(view):
    assert view.get("default", "nobody").tolist() == []


def test_events_are_applied_in_event_time_order_within_and_across_calls(view):
    view.apply(rows_of(event("u", "b", 2000), event("u", "a", 1000)))
    view.apply(rows_of(event("u", "late", 1500), start=2))
    assert items(view, "u") == ["a", "late", "b"]


def test_an_event_older_than_a_full_history_changes_nothing_in_it(view):
    view.apply(rows_of(*(event("u", f"i{time}", time) for time in range(2000, 2004))))
    view.apply(rows_of(event("u", "old", 1000), start=4))
    assert items(view, "u") == ["i2000", "i2001", "i2002", "i2003"]


def test_context_enters_and_a_negative_takes_the_newest_occurrence_out(view):
    view.apply(
        rows_of(event("u", "a", 1), event("u", "b", 2, "search"), event("u", "a", 3), event("u", "a", 4, "return"), event("u", "x", 5, "remove"))
    )
    assert items(view, "u") == ["a", "b"]


def test_a_low_rating_is_negative_by_its_value(view):
    view.apply(rows_of(event("u", "a", 1, "rating", value=5.0), event("u", "b", 2, "rating", value=4.0), event("u", "a", 3, "rating", value=1.0)))
    assert items(view, "u") == ["b"]


def test_a_negative_takes_only_what_is_not_after_it(view):
    view.apply(rows_of(event("u", "a", 1), event("u", "a", 5)))
    view.apply(rows_of(event("u", "a", 3, "return"), start=2))
    assert items(view, "u") == ["a"]
    view.apply(rows_of(event("u", "b", 4), start=3))
    assert items(view, "u") == ["b", "a"]


def test_a_deletion_forgets_the_user_and_later_events_begin_anew(view):
    view.apply(rows_of(event("u", "a", 1), event("v", "b", 1), deletion("u", 2), event("u", "c", 3)))
    assert (items(view, "u"), items(view, "v")) == (["c"], ["b"])
    assert view.counters.deletions == 1


def test_offsets_that_were_applied_have_no_effect_again(view):
    both = rows_of(event("u", "a", 1), event("u", "b", 2))
    view.apply(both)
    assert view.apply(both) == 0
    view.apply(rows_of(event("u", "b", 2), event("u", "c", 3), start=1))
    assert items(view, "u") == ["a", "b", "c"]
    assert view.counters.repeated == 3


def test_partitions_have_offsets_of_their_own(view):
    view.apply(rows_of(event("u", "a"), partition=0))
    view.apply(rows_of(event("v", "b"), partition=1))
    assert view.offsets == {0: 1, 1: 1}
    assert items(view, "v") == ["b"]


def test_bad_records_are_counted_and_passed_over(view):
    view.apply(rows_of(b"\xff", event("u", "a"), b"[]", {"event_id": "e"}))
    assert items(view, "u") == ["a"]
    assert (view.counters.rejected, view.offsets) == (3, {0: 4})


def test_impressions_and_item_updates_change_no_history(view):
    shown = {"kind": "impression", "event_id": "e1", "user_id": "u", "items": ["a"], "event_time": 1}
    described = {"kind": "item_update", "event_id": "e2", "item_id": "a", "title": "A", "event_time": 1}
    assert view.apply(rows_of(shown, described)) == 0
    assert len(view) == 0


def test_namespaces_keep_their_users_apart(view):
    view.apply(rows_of(event("u", "a", namespace="shop"), event("u", "b")))
    assert (items(view, "u", "shop"), items(view, "u")) == (["a"], ["b"])


def test_users_that_were_updated_longest_ago_leave_first():
    view = make_view(max_users=2)
    view.apply(rows_of(event("a", "x", 1), event("b", "x", 2), event("a", "y", 3), event("c", "x", 4)))
    assert (items(view, "a"), items(view, "b"), items(view, "c")) == (["x", "y"], [], ["x"])
    assert view.counters.evicted == 1


def columns(times=None):
    return HistoryColumns(
        users=[("default", "old"), ("default", "u"), ("default", "empty")],
        indptr=np.array([0, 1, 6, 6], np.int64),
        item_codes=np.array([2, 0, 1, 2, 1, 0], np.int32),
        item_ids=[("default", "a"), ("default", "b"), ("default", "c")],
        offsets={0: 10, 1: 4},
        times=times,
    )


def test_a_checkpoint_is_loaded_bounded_and_followed_from_its_offsets(view):
    view.apply(rows_of(event("gone", "z")))
    view.load(columns())
    assert (items(view, "u"), items(view, "old"), items(view, "gone"), items(view, "empty")) == (["b", "c", "b", "a"], ["c"], [], [])
    assert view.offsets == {0: 10, 1: 4}
    view.apply(rows_of(event("u", "x", 50), event("u", "d", 60), start=9))
    assert items(view, "u") == ["c", "b", "a", "d"]


def test_a_checkpoint_with_times_takes_late_events_at_their_place(view):
    view.load(columns(times=np.array([5, 10, 20, 30, 40, 50], np.int64)))
    view.apply(rows_of(event("u", "late", 35), start=10))
    assert items(view, "u") == ["c", "late", "b", "a"]


def test_a_checkpoint_keeps_the_users_that_were_updated_last():
    view = make_view(max_users=1)
    view.load(HistoryColumns([("n", "a"), ("n", "b")], np.array([0, 1, 2]), np.array([0, 0], np.int32), [("n", "x")], {}))
    assert (len(view), view.get("n", "b").tolist()) == (1, [0])


def test_codes_become_the_rows_of_each_version(view, version):
    view.apply(rows_of(event("u", "item-3", 1), event("u", "item-7", 2), event("u", "new", 3)))
    small = Recommender(*version(5))
    codes = view.get("default", "u")
    first = RowMap(view.table, small)
    assert first.rows(codes).tolist() == [3, -1, -1]

    grown = version(9)
    assert small.catalog.follow(grown[0])
    large = Recommender(*grown, catalog=small.catalog)
    second = RowMap(view.table, large, first)
    assert second.rows(codes).tolist() == [3, 7, -1]
    assert RowMap(view.table, small, second).rows(codes).tolist() == [3, -1, -1]


def test_items_that_come_after_the_map_was_made_are_found(view, version):
    row_map = RowMap(view.table, Recommender(*version(200)))
    view.apply(rows_of(*(event("u", f"item-{number}", number) for number in range(150))))
    assert row_map.rows(view.get("default", "u")).tolist() == [146, 147, 148, 149]


def test_ids_that_came_once_do_not_stay_in_a_replicas_memory(monkeypatch):
    monkeypatch.setattr(history_view, "_FEW_CODES", 20)
    view = make_view()
    view.load(columns())
    assert items(view, "old") == ["c"]
    for start in range(0, 400, 10):
        view.apply(rows_of(*(event("bot", f"once{number}", number) for number in range(start, start + 10)), start=1000 + 11 * start))
        view.apply(rows_of(event("u", f"i{start % 30}", start), start=1100 + 11 * start))
        assert len(view.table.item_ids) <= 2 * 20 + 12
        assert [view.table.codes[item] for item in view.table.item_ids] == list(range(len(view.table.item_ids)))
    assert items(view, "u") == [f"i{start % 30}" for start in (360, 370, 380, 390)]
    assert items(view, "bot") == [f"once{number}" for number in range(396, 400)]
    assert items(view, "old") == ["c"]


def test_a_replica_holds_no_more_than_some_eight_thousand_ids_that_nobody_uses():
    view = make_view()
    for start in range(0, 10_000, 1000):
        view.apply(rows_of(*(event("bot", f"once{number}", number) for number in range(start, start + 1000)), start=start))
        assert len(view.table.item_ids) <= 8192 + 1000
    assert items(view, "bot") == [f"once{number}" for number in range(9996, 10_000)]


@pytest.mark.parametrize("calls", [1, 2])
def test_events_that_lay_ahead_of_a_deletion_do_not_come_back(calls):
    view = make_view()
    view.tombstones = Tombstones(b"key")
    log = [event("u", "a", 5000), deletion("u", 2000), event("u", "a", 5000), event("u", "b", 5001)]
    for start, end in [(0, 4)] if calls == 1 else [(0, 1), (1, 4)]:
        view.apply(rows_of(*log[start:end], start=start))
    assert items(view, "u") == ["b"]


def test_old_events_of_a_deleted_user_that_come_again_have_no_effect_also_after_a_restart():
    first, second = make_view(), make_view()
    for view in (first, second):
        view.tombstones = Tombstones(b"key")
    first.apply(rows_of(event("u", "a", 1000), event("v", "a", 1000), deletion("u", 2000)))
    first.apply(rows_of(event("u", "a", 1000), event("u", "b", 3000), start=3))
    assert items(first, "u") == ["b"]
    assert first.counters.repeated == 1
    columns = HistoryColumns([], np.zeros(1, np.int64), np.zeros(0, np.int32), [], {}, tombstones=(first.tombstones.snapshot(),))
    second.load(columns)
    second.apply(rows_of(event("u", "a", 1000), event("v", "a", 1000)))
    assert items(second, "u") == []
    assert items(second, "v") == ["a"]


def test_an_event_that_is_sent_again_counts_once(view):
    sent = event("u", "a", 1)
    view.apply(rows_of(sent, event("u", "b", 2), sent))
    assert view.apply(rows_of(sent, event("v", "a", 3), start=3)) == 1
    assert (items(view, "u"), items(view, "v")) == (["a", "b"], ["a"])
    assert view.counters.repeated == 2
    assert view.offsets == {0: 5}


def test_a_deletion_that_is_sent_again_does_not_take_what_came_after_it():
    view = make_view(tombstones=Tombstones(b"key"))
    view.apply(rows_of(event("u", "a", 1), deletion("u", 2)))
    view.apply(rows_of(event("u", "b", 3), deletion("u", 2), start=2))
    assert items(view, "u") == ["b"]
    assert view.counters.deletions == 1
    assert view.dedupe.newest_ms("default", "u") == 3  # Of the deleted user no id is kept.


def test_ids_that_the_checkpoint_remembers_are_known_to_the_replica():
    learner = Dedupe(100)
    sent = event("u", "a", 1)
    before = make_view()
    before.dedupe = learner
    before.apply(rows_of(sent))
    columns = HistoryColumns(
        [("default", "u")], np.array([0, 1]), np.zeros(1, np.int32), [("default", "a")], {0: 1}, np.array([1]), event_ids=(learner.snapshot(),)
    )
    replica = make_view()
    replica.load(columns)
    assert replica.apply(rows_of(sent, event("u", "b", 2), start=1)) == 1
    assert items(replica, "u") == ["a", "b"]
