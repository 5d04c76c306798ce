"""A capped share of each list's places is drawn by the chances that the answer states; all else holds as without it."""

from __future__ import annotations

import itertools
from collections import Counter

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
from streamrec.serving.answers import Answerer
from streamrec.serving.checks import RequestLimits
from streamrec.serving.exploring import MAX_SHARE, Exploration
from streamrec.serving.full_answers import FullAnswerer
from streamrec.serving.history_view import HistoryView
from streamrec.serving.recommender import Recommender
from streamrec.serving.requests import parse_recommend
from streamrec.serving.slot import LiveModel

CLOCK = ManualClock(10_000)
NUM = 60
HIGHEST = {2: 13.82, 4: 18.47, 19: 43.82}
"""Chi-square that by chance one of a thousand exceeds, by degrees of freedom."""


@pytest.fixture
def view():
    config = EventsConfig()
    made = HistoryView(6, 100, config.meanings, EventCodec(config), CLOCK)
    events = [{"user_id": "u", "item_id": f"item-{n}", "event_type": "click"} for n in (3, 9)]
    events += [{"kind": "item_update", "item_id": f"item-{n}", "categories": ["lamp"]} for n in range(0, NUM, 2)]
    events += [{"kind": "item_update", "item_id": f"item-{n}", "available": False} for n in range(20, 24)]
    values = [orjson.dumps({"event_id": f"e{at}", "event_time": 1 + at, **event}) for at, event in enumerate(events)]
    num = len(values)
    made.apply(pa.table([["t"] * num, [0] * num, list(range(num)), [0] * num, [None] * num, values], schema=LOG_ROW))
    return made


@pytest.fixture(params=[1_000_000, 0], ids=["numpy", "faiss"])
def model(request, version):
    return LiveModel("v1", Recommender(*version(NUM), exact_rows=request.param), "", 4_000, {}, {})


def ask(answerer, model, request_id="r", **values):
    return answerer.answer(parse_recommend(orjson.dumps({"user_id": "u", **values}), RequestLimits(max_n=500)), model, request_id)


def ids(one):
    return [item["item_id"] for item in one["items"]]


def explored(one):
    return {item["item_id"]: item["propensity"] for item in one["items"] if item.get("explored")}


@given(st.floats(0, 1), st.integers(1, 60), st.integers(1, 30), st.integers(0, 80))
def test_never_more_than_the_share_and_the_rest_is_the_best(share, n, among, num):
    exploration = Exploration(share, among, 1.0)
    scores = np.linspace(3, 0, 80).astype(np.float32)[: min(num, exploration.num_ranked(n))]
    drawn = exploration.draw(np.arange(len(scores), dtype=np.int32), scores, n, "seed")
    assert len(drawn.rows) == min(n, len(scores))
    assert len(set(drawn.rows.tolist())) == len(drawn.rows)
    assert len(drawn.propensities) <= min(share, MAX_SHARE) * n + 1e-6
    kept = [row for place, row in enumerate(drawn.rows.tolist()) if place not in drawn.propensities]
    assert kept == list(range(len(kept)))
    assert all(0 < chance <= 1 for chance in drawn.propensities.values())
    assert np.array_equal(drawn.scores, scores[drawn.rows])


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_items_are_drawn_as_often_as_is_stated(temperature):
    """Of one draw by the chances, of two by those given the first; chi-square, with seeds that stay."""
    scores = np.asarray([5, 4, 2.0, 1.5, 1.0, 0.5, 0.0], np.float32)
    rows, times = np.arange(7, dtype=np.int32), 4000
    exploration = Exploration(0.2, 5, temperature)
    firsts = Counter(draw(exploration, rows, scores, 5, str(number)) for number in range(times))
    chances = np.exp(scores[4:].astype(float) / temperature)
    chances /= chances.sum()
    found = np.asarray([firsts[((row, round(float(chance), 6)),)] for row, chance in zip((4, 5, 6), chances, strict=True)])
    assert found.sum() == times
    assert ((found - times * chances) ** 2 / (times * chances)).sum() < HIGHEST[2]
    scores = np.concatenate([np.full(8, 9), np.asarray([2.0, 1.5, 1.0, 0.5, 0.0])]).astype(np.float32)
    pairs = Counter(draw(exploration, np.arange(13, dtype=np.int32), scores, 10, str(number)) for number in range(times))
    weights = np.exp(scores[8:].astype(float) / temperature)
    expected = {}
    for first, second in itertools.permutations(range(5), 2):
        a, b = weights[first] / weights.sum(), weights[second] / (weights.sum() - weights[first])
        expected[(first + 8, round(a, 6)), (second + 8, round(b, 6))] = times * a * b
    assert pairs.keys() <= expected.keys()
    assert sum((pairs[pair] - wanted) ** 2 / wanted for pair, wanted in expected.items()) < HIGHEST[19]


def draw(exploration, rows, scores, n, seed):
    """Rows and propensities in the order in which they were drawn."""
    drawn = exploration.draw(rows, scores, n, seed)
    return tuple((int(drawn.rows[place]), round(chance, 6)) for place, chance in drawn.propensities.items())


def test_places_are_drawn_evenly():
    rows, scores = np.arange(20, dtype=np.int32), np.linspace(2, 0, 20).astype(np.float32)
    places = Counter(next(iter(Exploration(0.2, 10, 1.0).draw(rows, scores, 5, str(number)).propensities)) for number in range(2000))
    assert sum((places[place] - 400) ** 2 / 400 for place in range(5)) < HIGHEST[4]


def test_without_exploration_nothing_changes(view, model):
    plain = ask(Answerer(view, CLOCK), model, n=10)
    assert ask(FullAnswerer(view, CLOCK), model, n=10) == plain
    short = ask(FullAnswerer(view, CLOCK, exploration=Exploration(0.1, 20, 1.0)), model, n=9)
    assert short == plain | {"items": plain["items"][:9]}  # There is no whole place to give away.


def test_the_same_request_has_the_same_answer_and_another_one_another(view, model):
    answerer = FullAnswerer(view, CLOCK, exploration=Exploration(0.2, 30, 5.0))
    first = ask(answerer, model, "r1", n=10)
    assert ask(answerer, model, "r1", n=10) == first
    others = {tuple(ids(ask(answerer, model, f"r{number}", n=10))) for number in range(2, 22)}
    assert len(others) > 10
    assert len(explored(first)) == 2


@pytest.mark.parametrize("asked", [{}, {"categories": ["lamp"]}, {"exclude": ["item-1", "item-5"]}, {"items": [f"item-{n}" for n in range(30)]}])
def test_what_may_not_come_is_not_drawn(view, model, asked):
    answerer = FullAnswerer(view, CLOCK, exploration=Exploration(0.2, 100, 50.0))
    may = set(ids(ask(FullAnswerer(view, CLOCK), model, n=NUM, **asked)))
    assert not may & {"item-3", "item-9", "item-20", "item-23"}
    drawn = set()
    for number in range(200):
        answer = ask(answerer, model, str(number), n=10, **asked)
        assert len(answer["items"]) == len(set(ids(answer))) == 10
        assert set(ids(answer)) <= may
        assert len(explored(answer)) == 2
        drawn |= explored(answer).keys()
    assert len(drawn) > len(may) // 2


def test_each_list_has_its_own_places_and_shares_no_item(view, model):
    answerer = FullAnswerer(view, CLOCK, exploration=Exploration(0.2, 100, 50.0))
    lists = [{"name": "lamps", "categories": ["lamp"], "n": 5}, {"name": "all", "n": 10}, {"name": "few", "n": 4}]
    for number in range(50):
        answer = ask(answerer, model, str(number), lists=lists)
        lamps, everything, few = answer["lists"]
        assert [len(explored(one)) for one in (lamps, everything, few)] == [1, 2, 0]
        assert len({*ids(lamps), *ids(everything), *ids(few)}) == 19
        assert all(int(item[5:]) % 2 == 0 for item in ids(lamps))


def test_when_all_are_shown_none_is_drawn(view, model):
    answerer = FullAnswerer(view, CLOCK, exploration=Exploration(0.2, 100, 1.0))
    assert ask(answerer, model, n=NUM) == ask(FullAnswerer(view, CLOCK), model, n=NUM)


def test_popular_items_are_not_explored(view, model):
    answerer = FullAnswerer(view, CLOCK, exploration=Exploration(0.2, 100, 1.0))
    assert explored(ask(answerer, model, user_id="nobody", n=20)) == {}


def test_explanations_stay_with_their_items(view, model):
    answerer = FullAnswerer(view, CLOCK, exploration=Exploration(0.2, 100, 50.0))
    for item in ask(answerer, model, n=20, explain=True)["items"]:
        assert sum(part["part"] for part in item["because"]) + item["bias"] + item["own_history"] == pytest.approx(item["score"], abs=1e-4)


def test_over_http_the_answer_and_the_impression_tell_what_was_drawn(serving, tmp_path):
    replica = serving(explore_share=0.2, explore_among=20, explore_temperature=3.0, log_impressions=1.0)
    click = {"event_id": "e1", "user_id": "u1", "item_id": "i1", "event_type": "click", "event_time": 1_764_000_000_000}
    replica.ask("POST", "/v1/events", click)
    answer = replica.ask("POST", "/v1/recommend", {"user_id": "u1", "n": 10}, ((b"x-request-id", b"mine"),)).body
    chances = explored(answer)
    assert len(chances) == 2
    assert answer == replica.ask("GET", "/v1/recommend/u1?n=10", None, ((b"x-request-id", b"mine"),)).body | {"model_age_s": answer["model_age_s"]}
    assert explored(serving(explore_share=0.2, explore_among=1).ask("POST", "/v1/recommend", {"history": ["i1"], "n": 5}).body) != {}
    assert explored(serving().ask("POST", "/v1/recommend", {"history": ["i1"], "n": 10}).body) == {}
    replica.append_impressions()
    (path,) = [path for path in (tmp_path / "log").rglob("*") if path.is_file() and b"impression" in path.read_bytes()]
    assert all(f'"propensity/{item}":{orjson.dumps(chance).decode()}'.encode() in path.read_bytes() for item, chance in chances.items())
