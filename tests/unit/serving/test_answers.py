import numpy as np
import orjson
import pyarrow as pa
import pytest

from streamrec.clock import ManualClock
from streamrec.config import EventsConfig
from streamrec.events.codec import EventCodec
from streamrec.events.schema import LOG_ROW
from streamrec.serving.answers import Answerer
from streamrec.serving.history_view import HistoryColumns, HistoryView
from streamrec.serving.requests import RecommendRequest
from streamrec.serving.slot import ModelSlot

CLOCK = ManualClock(10_000)


@pytest.fixture
def view():
    config = EventsConfig()
    return HistoryView(6, 100, config.meanings, EventCodec(config), CLOCK)


@pytest.fixture
def answerer(view):
    return Answerer(view, CLOCK)


@pytest.fixture
def model(version):
    return ModelSlot().load({"version": "v1", "created_ms": 4_000}, *version(40))


def happen(view, user, *items):
    start = view.offsets.get(0, 0)
    values = [
        orjson.dumps({"event_id": f"{start + n}", "user_id": user, "item_id": item, "event_type": "click", "event_time": start + n})
        for n, item in enumerate(items)
    ]
    count = len(values)
    rows = [["t"] * count, [0] * count, list(range(start, start + count)), [0] * count, [None] * count, values]
    view.apply(pa.table(rows, schema=LOG_ROW))


def ask(user_id=None, **more):
    return RecommendRequest(user_id, more.pop("namespace", "default"), **more)


def ids(answer):
    return [item["item_id"] for item in answer["items"]]


def test_a_known_user_is_answered_by_the_student_newest_item_first(answerer, view, model):
    happen(view, "u", "item-3", "item-9")
    answer = answerer.answer(ask("u", n=5), model, "r1")
    expected, scores = model.recommender.recommend(np.array([9, 3], np.int32), 5, np.array([9, 3], np.int32))
    assert ids(answer) == expected
    np.testing.assert_allclose([item["score"] for item in answer["items"]], scores, atol=1e-6)
    assert {name: answer[name] for name in answer if name != "items"} == {
        "model_version": "v1", "model_age_s": 6.0, "source": "student", "user_events": 2, "request_id": "r1",
    }  # fmt: skip


def test_an_event_changes_the_next_answer(answerer, view, model):
    happen(view, "u", "item-3")
    before = answerer.answer(ask("u"), model, "r")
    happen(view, "u", "item-20")
    after = answerer.answer(ask("u"), model, "r")
    assert (before["user_events"], after["user_events"]) == (1, 2)
    assert before["items"] != after["items"]


def test_seen_items_stay_out_unless_they_are_asked_for(answerer, view, model):
    happen(view, "u", "item-3", "item-9")
    assert not {"item-3", "item-9"} & set(ids(answerer.answer(ask("u", n=40), model, "r")))
    assert {"item-3", "item-9"} <= set(ids(answerer.answer(ask("u", n=40, exclude_seen=False), model, "r")))


def test_a_given_history_takes_the_place_of_the_known_one(answerer, view, model):
    happen(view, "u", "item-3")
    answer = answerer.answer(ask("u", history=("item-5", "nowhere", "item-6"), n=40), model, "r")
    alone = answerer.answer(ask(history=("item-5", "item-6"), n=40), model, "r")
    assert answer["user_events"] == 2
    assert not {"item-3", "item-5", "item-6"} & set(ids(answer))
    assert [item for item in ids(alone) if item != "item-3"] == ids(answer)


def test_excluded_items_stay_out_even_when_seen_ones_may_come(answerer, view, model):
    happen(view, "u", "item-3")
    answer = answerer.answer(ask("u", n=40, exclude=("item-1", "unheard"), exclude_seen=False), model, "r")
    assert "item-1" not in ids(answer)
    assert len(ids(answer)) == 39


def test_an_unknown_user_gets_popular_items_and_is_told_so(answerer, model, version):
    answer = answerer.answer(ask("nobody", n=3), model, "r")
    popularity = version(40)[0]["popularity"]
    assert ids(answer) == [f"item-{row}" for row in np.argsort(-popularity, kind="stable")[:3]]
    assert (answer["source"], answer["why"], answer["user_events"]) == ("popular", "unknown user", 0)


@pytest.mark.parametrize("request_of", [{"history": ("nowhere",)}, {"history": ()}, {"user_id": "u"}])
def test_a_history_of_unknown_items_gets_popular_items(answerer, view, model, request_of):
    happen(view, "u", "brand-new")
    answer = answerer.answer(ask(**request_of), model, "r")
    assert (answer["source"], answer["why"]) == ("popular", "no known items in history")


def test_a_namespace_without_items_gets_an_empty_answer_with_the_reason(answerer, model):
    answer = answerer.answer(ask("u", namespace="elsewhere"), model, "r")
    assert (answer["items"], answer["why"]) == ([], "the model has no items in this namespace")


def test_a_server_without_a_log_says_that_it_knows_no_users(model):
    answer = Answerer(None, CLOCK).answer(ask("u"), model, "r")
    assert answer["why"] == "no log is followed and no history was given"
    assert Answerer(None, CLOCK).answer(ask("u", history=("item-3",)), model, "r")["source"] == "student"


def test_a_histories_reload_and_a_new_version_do_not_mix_codes(answerer, view, model, version):
    happen(view, "u", "item-3", "item-9")
    answerer.answer(ask("u"), model, "r")
    view.load(
        HistoryColumns([("default", "u")], np.array([0, 2]), np.array([1, 0], np.int32), [("default", "item-7"), ("default", "item-8")], {0: 2})
    )
    assert answerer.answer(ask("u", n=5), model, "r") == answerer.answer(ask("u", history=("item-8", "item-7"), n=5), model, "r")

    slot = ModelSlot(warm_up=answerer.prepare)
    other = slot.load({"version": "v2", "created_ms": 4_000}, *version(40, prefix="other"))
    assert answerer.answer(ask("u"), other, "r")["why"] == "no known items in history"
    happen(view, "u", "other-1")
    assert answerer.answer(ask("u"), other, "r")["user_events"] == 1
    assert answerer.answer(ask("u"), model, "r")["user_events"] == 2


def test_popular_items_say_how_uses_are_counted(answerer, model, version):
    answer = answerer.answer(ask("nobody", n=3), model, "r")
    assert answer["popularity"] == {"half_life_s": 604_800.0, "as_of_ms": 1_764_000_000_000}
    arrays, meta = version(40)
    faded = ModelSlot().load({"version": "v2", "created_ms": 1}, arrays, {**meta, "popularity": {**meta["popularity"], "factor": 0.75}})
    scores = [item["score"] for item in answer["items"]]
    assert [item["score"] for item in answerer.answer(ask("nobody", n=3), faded, "r")["items"]] == [0.75 * score for score in scores]
    older = ModelSlot().load({"version": "v3", "created_ms": 1}, arrays, {name: meta[name] for name in ("scale", "history_length", "dim")})
    answer = answerer.answer(ask("nobody", n=3), older, "r")
    assert (answer["popularity"], [item["score"] for item in answer["items"]]) == ({"half_life_s": None, "as_of_ms": None}, scores)
