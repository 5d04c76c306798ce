"""Items that can't be had: what the view knows of them, and that no answer has one while it is full all the same."""

from __future__ import annotations

import numpy as np
import orjson
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrec.clock import ManualClock
from streamrec.config import EventsConfig
from streamrec.events.codec import EventCodec
from streamrec.events.schema import LOG_ROW
from streamrec.serving import history_view
from streamrec.serving.answers import Answerer
from streamrec.serving.availability import Availability
from streamrec.serving.history_view import HistoryColumns, HistoryView
from streamrec.serving.recommender import Recommender
from streamrec.serving.requests import RecommendRequest
from streamrec.serving.slot import ModelSlot
from streamrec.state import pack_strings

CLOCK = ManualClock(10**6)
INDEXES = [pytest.param(1_000_000, id="numpy"), pytest.param(0, id="faiss")]


def make_view(max_items: int = 100) -> HistoryView:
    config = EventsConfig()
    return HistoryView(6, 100, config.meanings, EventCodec(config), CLOCK, max_items=max_items)


@pytest.fixture
def view() -> HistoryView:
    return make_view()


def update(item, available, time_ms, **more):
    said = {} if available is None else {"available": available}
    return {"kind": "item_update", "event_id": f"{item}-{time_ms}-{available}", "item_id": item, "event_time": time_ms, **said, **more}


def click(user, item, time_ms=500):
    return {"event_id": f"{user}-{item}-{time_ms}", "user_id": user, "item_id": item, "event_type": "click", "event_time": time_ms}


def happen(view, *events):
    start, count = view.offsets.get(0, 0), len(events)
    rows = [["t"] * count, [0] * count, list(range(start, start + count)), [0] * count, [None] * count, [orjson.dumps(event) for event in events]]
    view.apply(pa.table(rows, schema=LOG_ROW))


def unavailable(view):
    return {view.table.item_ids[code] for code in view.table.availability.codes.tolist()}


def ids(answer):
    return [item["item_id"] for item in answer["items"]]


def test_the_newest_update_by_event_time_counts_and_of_equal_times_the_later(view):
    happen(view, update("a", False, 100), update("b", False, 100), update("b", True, 200), update("c", True, 5), update("c", False, 5))
    assert unavailable(view) == {("default", "a"), ("default", "c")}
    happen(view, update("a", True, 99), update("b", False, 150), update("c", None, 900, title="a lamp"))
    assert unavailable(view) == {("default", "a"), ("default", "c")}
    happen(view, update("a", True, 101))
    assert unavailable(view) == {("default", "c")}


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=12), st.data())
def test_however_the_log_is_cut_and_whatever_order_it_came_in_the_result_is_the_same(said, data):
    updates = [update(f"i{item}", available, 100 + number) for number, (item, available) in enumerate(said)]
    expected = {("default", f"i{item}") for item, available in dict(said).items() if not available}
    view = make_view()
    shuffled = data.draw(st.permutations(updates))
    while shuffled:
        num = data.draw(st.integers(1, len(shuffled)))
        happen(view, *shuffled[:num])
        shuffled = shuffled[num:]
    assert unavailable(view) == expected


def test_equal_ids_in_two_namespaces_are_two_items(view, version):
    arrays, meta = version(40, namespaces=("default", "shop"))
    data, offsets = pack_strings([f"item-{row // 2}" for row in range(40)])
    model = ModelSlot().load({"version": "v1", "created_ms": 1}, {**arrays, "item_id_bytes": data, "item_id_offsets": offsets}, meta)
    answerer, everything = Answerer(view, CLOCK), {f"item-{number}" for number in range(20)}
    happen(view, update("item-2", False, 100, namespace="shop"), update("item-7", False, 100))
    for namespace, missing in (("default", "item-7"), ("shop", "item-2")):
        assert set(ids(answerer.answer(RecommendRequest("u", namespace, n=40), model, "r"))) == everything - {missing}


def test_an_update_changes_the_next_answer_and_the_next_one_brings_the_item_back(view, version):
    model, answerer = ModelSlot().load({"version": "v1", "created_ms": 1}, *version(40)), Answerer(view, CLOCK)
    happen(view, click("u", "item-3"))
    for user in ("u", "nobody"):  # From the student, and from the popular ones.
        request = RecommendRequest(user, "default", n=5)
        before = answerer.answer(request, model, "r")
        first, second = ids(before)[:2]
        happen(view, update(first, False, CLOCK.now_ms()), update(second, False, CLOCK.now_ms()))
        without = answerer.answer(request, model, "r")
        assert not {first, second} & set(ids(without))
        assert ids(without)[:3] == ids(before)[2:]
        assert without["source"] == before["source"]
        CLOCK.advance(1)
        happen(view, update(first, True, CLOCK.now_ms()), update(second, True, CLOCK.now_ms()))
        assert answerer.answer(request, model, "r") == {**before, "model_age_s": before["model_age_s"] + 1}


def test_an_item_that_can_not_be_had_still_says_what_the_user_likes(view, version):
    model, answerer = ModelSlot().load({"version": "v1", "created_ms": 1}, *version(40)), Answerer(view, CLOCK)
    happen(view, click("u", "item-3"), click("u", "item-8", 501))
    request = RecommendRequest("u", "default", n=5, exclude_seen=False)
    before = ids(answerer.answer(request, model, "r"))
    happen(view, update("item-8", False, 600))
    after = answerer.answer(request, model, "r")
    assert after["user_events"] == 2
    assert [item for item in before if item != "item-8"] == ids(after)[: len(set(before) - {"item-8"})]


def test_a_new_version_and_the_one_before_leave_out_what_was_said_meanwhile(view, version):
    answerer = Answerer(view, CLOCK)
    slot = ModelSlot(warm_up=answerer.prepare)
    happen(view, update("item-1", False, 100))
    slot.load({"version": "v1", "created_ms": 1}, *version(30))
    happen(view, update("item-35", False, 100))  # Of which the live version does not know yet.
    slot.load({"version": "v2", "created_ms": 1}, *version(40, seed=1))
    request = RecommendRequest("u", "default", n=40)
    assert set(ids(answerer.answer(request, slot.current, "r"))) == {f"item-{row}" for row in range(40)} - {"item-1", "item-35"}
    happen(view, update("item-1", True, 200), update("item-2", False, 200))
    slot.rollback()
    assert set(ids(answerer.answer(request, slot.current, "r"))) == {f"item-{row}" for row in range(30)} - {"item-2"}


@pytest.mark.parametrize("exact_rows", INDEXES)
@pytest.mark.parametrize("num_left", [0, 1, 7, 20, 60, 700])
def test_exactly_n_available_items_are_found_however_few_there_are(version, naive, exact_rows, num_left):
    made = version(1500, namespaces=("default", "shop"))
    recommender = Recommender(*made, exact_rows=exact_rows)
    rng = np.random.default_rng(num_left)
    mine = np.arange(0, 1500, 2)
    for _ in range(3):  # The same index takes one mask after the other.
        left = rng.choice(mine, num_left, replace=False)
        recommender.leave_out(np.setdiff1d(np.arange(1500), left).astype(np.int32))
        history, excluded = rng.choice(mine, 5).astype(np.int32), rng.choice(mine, 300).astype(np.int32)
        scores = naive(made, history.tolist())
        for barred in (np.empty(0, np.int32), excluded):
            allowed = np.setdiff1d(left, barred)
            rows, values = recommender.rank(history, 20, barred)
            assert rows.tolist() == allowed[np.argsort(-scores[allowed])][:20].tolist()
            np.testing.assert_allclose(values, scores[rows], atol=1e-4)
            popular, counts = recommender.popular(20, barred)
            assert set(popular.tolist()) <= set(allowed.tolist())
            assert counts.tolist() == sorted(made[0]["popularity"][allowed].tolist(), reverse=True)[:20]
    recommender.leave_out(np.empty(0, np.int32))
    rows, values = recommender.rank(history, 750)
    assert sorted(rows.tolist()) == mine.tolist()
    np.testing.assert_allclose(values, scores[rows], atol=1e-4)


def test_a_checkpoints_availability_is_taken_over_with_its_times(view):
    columns = HistoryColumns(
        [], np.zeros(1, np.int64), np.zeros(0, np.int32), [("n", "a"), ("n", "b"), ("n", "c")], {0: 0},
        unavailable=(np.array([True, False, True]), np.array([100, 200, 300])),
    )  # fmt: skip
    happen(view, update("gone", False, 900))
    view.load(columns)
    assert unavailable(view) == {("n", "a"), ("n", "c")}
    happen(view, update("a", True, 99, namespace="n"), update("b", False, 150, namespace="n"), update("c", True, 300, namespace="n"))
    assert unavailable(view) == {("n", "a")}
    assert not columns.unavailable[0][1]


def test_what_is_remembered_is_bounded_and_the_newest_stay(monkeypatch):
    monkeypatch.setattr(history_view, "_FEW_CODES", 10)
    view = make_view(max_items=5)
    view._codes_wanted = 10
    happen(view, click("u", "kept", 600))
    for number in range(300):
        happen(view, update(f"i{number}", False, 1000 + number))
        assert len(view.table.item_ids) <= 21
        newest = {("default", f"i{at}") for at in range(max(0, number - 4), number + 1)}
        assert newest <= unavailable(view)
    happen(view, update("i299", True, 2000))
    assert ("default", "i299") not in unavailable(view)
    assert view.table.item_ids[view.get("default", "u")[0]] == ("default", "kept")


def test_available_items_of_which_something_was_said_are_not_remembered_for_ever(monkeypatch):
    monkeypatch.setattr(history_view, "_FEW_CODES", 10)
    view = make_view()
    view._codes_wanted = 10
    happen(view, update("sold-out", False, 100))
    for number in range(300):
        happen(view, update(f"i{number}", True, 1000 + number))
        assert len(view.table.item_ids) <= 21
    assert unavailable(view) == {("default", "sold-out")}


def test_readers_get_another_array_only_when_other_items_can_be_had():
    availability = Availability()
    before = availability.codes
    availability.say(3, 5, available=True)
    availability.publish()
    assert availability.codes is before
    availability.say(3, 6, available=False)
    assert availability.codes is before
    availability.publish()
    assert availability.codes.tolist() == [3]
