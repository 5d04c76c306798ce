"""Filters, lists and explanations: each answer is the best of what is allowed, n of it while there are n, and says why it is short."""

import json

import numpy as np
import orjson
import pyarrow as pa
import pytest

from streamrec.clock import ManualClock
from streamrec.config import EventsConfig
from streamrec.errors import RequestError
from streamrec.events.codec import EventCodec
from streamrec.events.schema import LOG_ROW
from streamrec.serving import approximate_index
from streamrec.serving.bodies import RankBody, SimilarBody
from streamrec.serving.checks import RequestLimits
from streamrec.serving.filters import Filters
from streamrec.serving.full_answers import FullAnswerer
from streamrec.serving.history_view import HistoryColumns, HistoryView
from streamrec.serving.recommender import Recommender
from streamrec.serving.requests import parse_recommend
from streamrec.serving.shelf import Among
from streamrec.serving.slot import LiveModel, ModelSlot

CLOCK = ManualClock(10_000)
NUM = 40


@pytest.fixture
def view():
    config = EventsConfig()
    return HistoryView(6, 100, config.meanings, EventCodec(config), CLOCK)


@pytest.fixture
def answerer(view):
    return FullAnswerer(view, CLOCK)


@pytest.fixture(params=[1_000_000, 0], ids=["numpy", "faiss"])
def model(request, version, monkeypatch):
    monkeypatch.setattr(approximate_index, "BY_HAND_ROWS", request.param)
    arrays, meta = version(NUM)
    return LiveModel("v1", Recommender(arrays, meta, exact_rows=request.param), "", 4_000, {}, {})


def happen(view, *events):
    start, count = view.offsets.get(0, 0), len(events)
    values = [orjson.dumps({"event_id": f"e{start + n}", "event_time": start + n, **event}) for n, event in enumerate(events)]
    rows = [["t"] * count, [0] * count, list(range(start, start + count)), [0] * count, [None] * count, values]
    view.apply(pa.table(rows, schema=LOG_ROW))


def click(user, item):
    return {"user_id": user, "item_id": item, "event_type": "click"}


def say(item, **said):
    return {"kind": "item_update", "item_id": item, **said}


def ask(answerer, model, **values):
    return answerer.answer(parse_recommend(json.dumps(values).encode(), RequestLimits(max_n=500)), model, "r")


def ids(answer):
    return [item["item_id"] for item in answer["items"]]


@pytest.fixture
def described(view):
    """Items by number: even ones are lamps, every third costs its number, every fifth is English."""
    happen(view, *(say(f"item-{n}", categories=["lamp"] if n % 2 == 0 else ["chair", "oak"]) for n in range(NUM)))
    happen(view, *(say(f"item-{n}", price=float(n)) for n in range(0, NUM, 3)))
    happen(view, *(say(f"item-{n}", locale="en-GB") for n in range(0, NUM, 5)))
    happen(view, click("u", "item-3"), click("u", "item-9"))
    return view


@pytest.mark.parametrize(
    ("asked", "passes"),
    [
        ({"categories": ["lamp"]}, lambda n: n % 2 == 0),
        ({"categories": ["oak", "lamp"]}, lambda n: True),
        ({"categories": ["nothing"]}, lambda n: False),
        ({"min_price": 10}, lambda n: n % 3 == 0 and n >= 10),
        ({"max_price": 9.0}, lambda n: n % 3 == 0 and n <= 9),
        ({"min_price": 6, "max_price": 20, "categories": ["lamp"]}, lambda n: n % 6 == 0 and 6 <= n <= 20),
        ({"locale": "en"}, lambda n: n % 5 == 0),
        ({"locale": "en-GB", "min_price": 0}, lambda n: n % 15 == 0),
        ({"locale": "e"}, lambda n: False),
        ({"items": ["item-1", "item-2", "gone"]}, lambda n: n in {1, 2}),
        ({"items": ["item-1", "item-2"], "categories": ["lamp"]}, lambda n: n == 2),
    ],
)
@pytest.mark.parametrize("user", ["u", "nobody"])
def test_an_answer_is_the_whole_order_less_what_does_not_pass(described, answerer, model, asked, passes, user):
    everything = ids(ask(answerer, model, user_id=user, n=NUM, exclude_seen=False))
    expected = [item for item in everything if passes(int(item[5:]))]
    answer = ask(answerer, model, user_id=user, n=NUM + 1, exclude_seen=False, **asked)
    assert ids(answer) == expected
    assert f"{len(expected)} of {NUM + 1}: {len(expected)} of the {NUM} items of this namespace pass the filters" in answer["short"]
    assert ids(ask(answerer, model, user_id=user, n=2, exclude_seen=False, **asked)) == expected[:2]
    assert set(ids(ask(answerer, model, user_id=user, n=NUM, **asked))) == set(expected) - ({"item-3", "item-9"} if user == "u" else set())


def test_filters_never_break_n_beside_what_can_not_be_had_and_is_excluded(described, answerer, model):
    order = [item for item in ids(ask(answerer, model, user_id="u", n=NUM, exclude_seen=False)) if int(item[5:]) % 2 == 0]
    happen(described, say(order[0], available=False), say(order[1], available=False))
    answer = ask(answerer, model, user_id="u", n=5, exclude_seen=False, categories=["lamp"], exclude=[order[2]])
    assert ids(answer) == order[3:8]
    assert "short" not in answer
    assert ids(ask(answerer, model, user_id="u", n=5, exclude_seen=False, categories=["lamp"], available=False)) == order[:5]


def test_an_update_changes_the_next_filtered_answer(described, answerer, model):
    asked = {"user_id": "u", "n": 40, "categories": ["lamp"], "exclude_seen": False}
    assert "item-7" not in ids(ask(answerer, model, **asked))
    happen(described, say("item-7", categories=["lamp"]), say("item-8", categories=[]))
    after = ids(ask(answerer, model, **asked))
    assert ("item-7" in after, "item-8" in after) == (True, False)


def test_a_short_plain_answer_says_why(described, answerer, model):
    happen(described, say("item-1", available=False))
    assert (
        ask(answerer, model, user_id="u", n=NUM)["short"]
        == "37 of 40: 39 of the 40 items of this namespace can be had, 2 of them are seen or excluded"
    )


def test_only_the_newest_items_count_as_seen_when_the_request_says_so(described, answerer, model):
    assert {"item-3"} == set(ids(ask(answerer, model, user_id="u", n=NUM, exclude_seen={"last": 1}))) & {"item-3", "item-9"}


def test_of_a_history_that_is_given_the_newest_items_count_as_seen_too(answerer, model):
    history = ["item-3", "item-9", "item-20"]
    shown = set(ids(ask(answerer, model, history=history, n=NUM, exclude_seen={"last": 1})))
    assert shown & set(history) == {"item-3", "item-9"}


def test_a_list_may_say_by_itself_what_counts_as_seen(described, answerer, model):
    lists = [{"name": "again", "exclude_seen": False}, {"name": "last", "exclude_seen": {"last": 1}}, {"name": "as the request"}]
    again, last, same = ask(answerer, model, user_id="u", n=NUM, lists=lists, repeat_items=True)["lists"]
    seen = {"item-3", "item-9"}
    assert [set(ids(one)) & seen for one in (again, last, same)] == [seen, {"item-3"}, set()]
    with pytest.raises(RequestError) as refused:
        ask(answerer, model, user_id="u", lists=[{"name": "x", "exclude_seen": {"last": 0}}])
    assert refused.value.facts["field"] == "lists.0.exclude_seen"


def test_lists_have_filters_and_numbers_of_their_own_and_share_no_item_unless_asked(described, answerer, model):
    lists = [{"name": "lamps", "categories": ["lamp"], "n": 3}, {"name": "all"}, {"name": "none", "items": []}]
    answer = ask(answerer, model, user_id="u", n=5, lists=lists)
    lamps, everything, none = answer["lists"]
    assert [one["name"] for one in answer["lists"]] == ["lamps", "all", "none"]
    assert (len(lamps["items"]), len(everything["items"]), none["items"]) == (3, 5, [])
    assert "0 of 5: 0 of the 40 items" in none["short"]
    assert not set(ids(lamps)) & set(ids(everything))
    repeated = ask(answerer, model, user_id="u", n=40, lists=lists, repeat_items=True)["lists"]
    assert set(ids(repeated[0])) < set(ids(repeated[1]))
    assert (answer["source"], answer["model_version"], answer["user_events"]) == ("student", "v1", 2)


@pytest.mark.parametrize("history", [["item-3"], ["item-3", "item-9", "item-3", "item-20"], [f"item-{n}" for n in range(10)]])
def test_what_moved_an_item_sums_to_its_score(answerer, model, history):
    answer = ask(answerer, model, history=history, n=NUM, exclude_seen=False, explain=True)
    assert [part["item_id"] for part in answer["items"][0]["because"]] == history[::-1][:6]
    for item in answer["items"]:
        assert sum(part["part"] for part in item["because"]) + item["bias"] + item["own_history"] == pytest.approx(item["score"], abs=1e-4)
    assert "carries no words" in answer["content_part"]
    own = {item["item_id"]: item["own_history"] for item in answer["items"]}
    assert {item for item, part in own.items() if part} == set(history[-6:])


def test_what_moved_it_is_what_is_lost_without_it(answerer, model, version):
    """Of a history with one changed item, by the formula written out: the parts are additive before the norm."""
    answer = ask(answerer, model, history=["item-4", "item-8"], n=1, explain=True)
    arrays, meta = version(NUM)
    row = int(answer["items"][0]["item_id"][5:])
    weights = np.exp(arrays["position_logits"][:2]) / np.exp(arrays["position_logits"][:2]).sum()
    older = weights[1] * arrays["item_vectors"][4] @ arrays["pool_projection"]
    newer = weights[0] * arrays["item_vectors"][8] @ arrays["pool_projection"] + arrays["item_vectors"][8] @ arrays["last_projection"]
    scale = meta["scale"] / np.linalg.norm(older + newer)
    wanted = [float(scale * arrays["item_vectors"][row] @ part) for part in (newer, older)]
    assert [part["part"] for part in answer["items"][0]["because"]] == pytest.approx(wanted, abs=1e-4)


def test_similar_items_are_those_of_the_nearest_direction(described, answerer, model, version):
    vectors = version(NUM)[0]["item_vectors"]
    mean = vectors[[3, 9]].mean(0)
    order = np.argsort(-(vectors @ mean))
    found = answerer.similar(SimilarBody(like=["item-3", "item-9", "gone"]), "default", 5, model, "r")
    assert ids(found) == [f"item-{row}" for row in order if row not in {3, 9}][:5]
    assert (found["unknown"], found["source"]) == (["gone"], "student")
    lamps = answerer.similar(SimilarBody(like=["item-3"], categories=["lamp"], exclude=["item-0"]), "default", NUM, model, "r")
    assert set(ids(lamps)) == {f"item-{n}" for n in range(2, NUM, 2)}
    assert "19 of 40" in lamps["short"]
    assert "nobody has used these items" in answerer.similar(SimilarBody(like=["gone"]), "default", 5, model, "r")["why"]


def test_candidates_come_in_the_order_of_their_scores(described, answerer, model):
    happen(described, say("item-6", available=False))
    order = ids(ask(answerer, model, user_id="u", n=NUM, exclude_seen=False))
    body = RankBody(user_id="u", candidates=["item-1", "item-2", "item-3", "gone", "item-6", "item-2"], explain=True)
    answer = answerer.rank(body, "default", model, "r")
    assert ids(answer) == [item for item in order if item in {"item-1", "item-2", "item-3"}]
    assert answer["left_out"] == [{"item_id": "gone", "why": "unknown to the version"}, {"item_id": "item-6", "why": "can't be had"}]
    first = answer["items"][0]
    assert sum(part["part"] for part in first["because"]) + first["bias"] + first["own_history"] == pytest.approx(first["score"], abs=1e-4)
    assert "item-6" in ids(answerer.rank(RankBody(history=["item-3"], candidates=["item-6"], available=False), "default", model, "r"))
    assert answerer.rank(RankBody(user_id="nobody", candidates=["item-1"]), "default", model, "r")["why"] == "unknown user"


def test_popular_items_pass_the_filters_too(described, answerer, model):
    everything = ids(answerer.popular(NUM, "default", Filters(), model, "r"))
    assert ids(answerer.popular(NUM, "default", Filters(categories=("lamp",)), model, "r")) == [n for n in everything if int(n[5:]) % 2 == 0]


def test_without_a_log_a_filter_says_that_nothing_is_known(model):
    answer = ask(FullAnswerer(None, CLOCK), model, history=["item-3"], categories=["lamp"])
    assert (ids(answer), "without a log nothing is known of items" in answer["short"]) == ([], True)
    popular = FullAnswerer(None, CLOCK).popular(3, "default", Filters(locale="en"), model, "r")
    assert (ids(popular), "without a log nothing is known of items" in popular["short"]) == ([], True)


def test_a_large_index_under_a_mask_agrees_with_a_small_one(version, monkeypatch):
    monkeypatch.setattr(approximate_index, "BY_HAND_ROWS", 30)
    made, rng = version(300, dim=16, history_length=10, seed=5), np.random.default_rng(1)
    small, large = Recommender(*made, exact_rows=1_000_000), Recommender(*made, exact_rows=0)
    for num in [5, 31, 150, 299] * 5:
        among = Among(rng.permutation(300)[:num].astype(np.int32))
        history, excluded = (rng.integers(0, 300, size).astype(np.int32) for size in (8, 40))
        for recommender in (small, large):
            recommender.leave_out(np.arange(0, 40, dtype=np.int32))
        (rows, scores), (others, values) = (one.rank(history, 20, excluded, among=among) for one in (small, large))
        assert rows.tolist() == others.tolist()
        np.testing.assert_allclose(scores, values, atol=1e-4)
        assert set(rows.tolist()) <= set(among.rows.tolist()) - set(excluded.tolist()) - set(range(40))


def test_a_checkpoints_attributes_are_there_at_the_start_and_the_log_goes_on(view, answerer, model):
    said = np.zeros((2, 4), np.int64)
    said[0, :2] = 50
    known = ['{"categories":["lamp"],"title":"A lamp"}', ""]
    indptr, nothing = np.zeros(1, np.int64), np.zeros(0, np.int32)
    view.load(HistoryColumns([], indptr, nothing, [("default", "item-5"), ("default", "item-6")], {0: 10}, attributes=(known, said)))
    assert ids(ask(answerer, model, history=["item-1"], n=3, categories=["lamp"])) == ["item-5"]
    happen(view, say("item-5", categories=["chair"], price=2.0, event_time=49), say("item-6", categories=["lamp"], event_time=49))
    assert view.table.attributes.of(0) == {"categories": ["lamp"], "title": "A lamp", "price": 2.0}
    assert set(ids(ask(answerer, model, history=["item-1"], n=3, categories=["lamp"]))) == {"item-5", "item-6"}


def test_described_items_are_bounded_and_their_codes_stay_right(monkeypatch, model):
    monkeypatch.setattr("streamrec.serving.history_view._FEW_CODES", 10)
    config = EventsConfig()
    view = HistoryView(6, 100, config.meanings, EventCodec(config), CLOCK, max_items=8)
    view._codes_wanted = 10
    happen(view, click("u", "item-3"), *(say(f"item-{n}", title=f"title {n}", categories=["lamp"]) for n in range(NUM)))
    table = view.table
    assert len(table.attributes) <= 9
    titles = {table.item_ids[code][1]: table.attributes.of(code).get("title") for code in range(len(table.item_ids))}
    assert titles["item-39"] == "title 39"
    assert set(ids(ask(FullAnswerer(view, CLOCK), model, history=["item-1"], n=NUM, categories=["lamp"]))) == {
        item for item, title in titles.items() if title
    }


def test_a_version_of_a_slot_answers_as_well(version, described):
    model = ModelSlot().load({"version": "v1", "created_ms": 1}, *version(NUM))
    assert len(ask(FullAnswerer(described, CLOCK), model, user_id="u", n=4, categories=["oak"])["items"]) == 4
