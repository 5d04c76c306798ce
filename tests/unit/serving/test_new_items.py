"""Items that a catalogue announces are found by their words at once: before any version has them, and while nobody has used them."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
import torch

from streamrec.clock import ManualClock
from streamrec.config import EventsConfig
from streamrec.errors import ModelRejected
from streamrec.events.codec import EventCodec
from streamrec.events.schema import LOG_ROW
from streamrec.features.item_text import hash_words
from streamrec.models.student import StudentModel
from streamrec.serving import attributes, recommender
from streamrec.serving.bodies import RankBody, SimilarBody
from streamrec.serving.checks import RequestLimits
from streamrec.serving.content import Content
from streamrec.serving.full_answers import FullAnswerer
from streamrec.serving.history_view import HistoryView
from streamrec.serving.recommender import Recommender
from streamrec.serving.requests import parse_recommend
from streamrec.serving.slot import LiveModel, ModelSlot

CLOCK = ManualClock(10_000)
NUM, BUCKETS, W = 40, 64, 4
KINDS = ("lamp", "chair")


def worded(made: Any, *, unused: tuple[int, ...] = ()) -> Any:
    """The version with words: item n is a lamp or a chair, its own row points where its word does and somewhere of its own."""
    arrays, meta = made
    arrays = {**arrays, "popularity": np.maximum(arrays["popularity"], 1)}
    rng, dim = np.random.default_rng(4), meta["dim"]
    words = np.zeros((BUCKETS, dim), np.float32)
    lamp, chair = hash_words(["lamp chair"], W, BUCKETS)[0][:2]
    words[lamp], words[chair] = rng.normal(size=(2, dim)).astype(np.float32)
    item_words = hash_words([KINDS[row % 2] for row in range(len(arrays["item_bias"]))], W, BUCKETS).astype(np.int16)
    content = words[item_words[:, 0]]
    arrays["item_vectors"] = (0.5 * arrays["item_vectors"] + content).astype(np.float32)
    for row in unused:  # Its own row says the opposite of its words.
        arrays["popularity"][row], arrays["item_vectors"][row] = 0, -content[row]
    return {**arrays, "word_vectors": words, "item_words": item_words}, meta


@pytest.fixture
def view():
    config = EventsConfig()
    return HistoryView(6, 100, config.meanings, EventCodec(config), CLOCK)


@pytest.fixture
def answerer(view):
    return FullAnswerer(view, CLOCK)


@pytest.fixture
def slot(answerer):
    return ModelSlot(warm_up=answerer.prepare)


def load(slot, made, name="v1") -> LiveModel:
    return slot.load({"version": name, "created_ms": 4_000}, *made)


def say(view, item, **said):
    at = view.offsets.get(0, 0)
    event = {"kind": "item_update", "event_id": f"e{at}", "event_time": 1 + at, "item_id": item, **said}
    view.apply(pa.table([["t"], [0], [at], [0], [None], [orjson.dumps(event)]], schema=LOG_ROW))


def similar(answerer, model, *like, n=5, namespace="default", **more):
    return answerer.similar(SimilarBody(like=list(like), **more), namespace, n, model, "r")


def ids(answer):
    return [item["item_id"] for item in answer["items"]]


def lamps(items):
    return [int(item[5:]) % 2 == 0 for item in items]


def test_a_version_gives_the_content_that_the_student_adds():
    model = StudentModel(8, 6, BUCKETS, 9.0)
    with torch.no_grad():
        model.words.normal_()
    words = np.random.default_rng(0).integers(-1, BUCKETS, (30, W)).astype(np.int32)
    words[3] = -1
    content = Content({"word_vectors": model.words.detach().numpy(), "item_words": words.astype(np.int16)})
    expected = model.content(torch.from_numpy(words.astype(np.int64))).detach().numpy()
    np.testing.assert_allclose(content.of_rows(np.arange(30, dtype=np.int32)), expected, atol=1e-6)
    np.testing.assert_allclose(content.of_words(words), expected, atol=1e-6)
    assert not expected[3].any()


def test_a_new_item_with_a_title_is_found_at_once_both_ways(view, answerer, slot, version):
    model = load(slot, worded(version(NUM)))
    before = similar(answerer, model, "item-0", n=3)
    say(view, "fresh", title="River lamp")
    found = similar(answerer, model, "fresh", n=15)
    assert (found["source"], len(found["items"])) == ("content", 15)
    assert all(lamps(ids(found)))
    assert ("unknown" in found, [item.get("source") for item in found["items"]]) == (False, [None] * 15)
    others = similar(answerer, model, "item-0", n=20)
    assert others["source"] == "student"
    (new,) = [item for item in others["items"] if item["item_id"] == "fresh"]
    assert new["source"] == "content"
    assert "fresh" not in ids(similar(answerer, model, "item-1", n=20))
    assert [item for item in others["items"] if item["item_id"] != "fresh"][:3] == before["items"]
    scores = [item["score"] for item in others["items"]]
    assert scores == sorted(scores, reverse=True)
    mixed = similar(answerer, model, "fresh", "item-1", n=40)
    assert (mixed["source"], "fresh" in ids(mixed), "item-1" in ids(mixed)) == ("student", False, False)


def test_the_next_version_that_has_the_item_takes_over(view, answerer, slot, version):
    model = load(slot, worded(version(NUM)))
    say(view, f"item-{NUM}", title="A lamp")
    assert f"item-{NUM}" in ids(similar(answerer, model, "item-0", n=NUM))
    later = load(slot, worded(version(NUM + 1), unused=(NUM,)), "v2")
    found = {item["item_id"]: item for item in similar(answerer, later, "item-0", n=NUM)["items"]}
    assert "source" not in found[f"item-{NUM}"]
    assert len(found) == NUM
    before = {item["item_id"]: item for item in similar(answerer, model, "item-0", n=NUM)["items"]}
    assert before[f"item-{NUM}"]["source"] == "content"  # After a rollback, too.


def test_an_item_that_nobody_has_used_is_where_its_words_are(view, answerer, slot, version):
    model = load(slot, worded(version(NUM), unused=(6, 7)))
    assert all(lamps(ids(similar(answerer, model, "item-6", n=15))))
    assert "item-6" in ids(similar(answerer, model, "item-8", n=19))
    assert "item-7" not in ids(similar(answerer, model, "item-8", n=19))


def test_so_many_unused_items_are_placed(view, answerer, slot, version, monkeypatch):
    monkeypatch.setattr(recommender, "MAX_BY_WORDS", 1)
    model = load(slot, worded(version(NUM), unused=(6, 8)))
    found = ids(similar(answerer, model, "item-10", n=19))
    assert ("item-6" in found, "item-8" in found) == (False, True)


@pytest.mark.parametrize(
    ("asked", "is_found"),
    [
        ({}, True),
        ({"categories": ["home"]}, True),
        ({"categories": ["garden"]}, False),
        ({"max_price": 5}, True),
        ({"max_price": 4}, False),
        ({"locale": "en"}, True),
        ({"locale": "de"}, False),
        ({"items": ["fresh", "item-2"]}, True),
        ({"items": ["item-2"]}, False),
        ({"exclude": ["fresh"]}, False),
        ({"namespace": "elsewhere"}, False),
    ],
)
def test_new_items_pass_the_filters(view, answerer, slot, version, asked, is_found):
    model = load(slot, worded(version(NUM)))
    say(view, "fresh", title="Lamp", categories=["home"], price=5.0, locale="en-GB")
    assert ("fresh" in ids(similar(answerer, model, "item-0", n=NUM, **asked))) is is_found


def test_one_that_can_not_be_had_is_not_found_unless_asked_for(view, answerer, slot, version):
    model = load(slot, worded(version(NUM)))
    say(view, "fresh", title="Lamp", available=False)
    assert "fresh" not in ids(similar(answerer, model, "item-0", n=NUM))
    assert "fresh" in ids(similar(answerer, model, "item-0", n=NUM, available=False))
    say(view, "fresh", available=True)
    assert "fresh" in ids(similar(answerer, model, "item-0", n=NUM))


def test_another_title_moves_a_new_item(view, answerer, slot, version):
    model = load(slot, worded(version(NUM)))
    say(view, "fresh", title="Lamp")
    assert "fresh" in ids(similar(answerer, model, "item-0", n=20))
    say(view, "fresh", title="Chair")
    assert "fresh" not in ids(similar(answerer, model, "item-0", n=20))
    assert "fresh" in ids(similar(answerer, model, "item-1", n=20))


def test_words_that_nobody_has_learned_place_nothing(view, answerer, slot, version):
    model = load(slot, worded(version(NUM)))
    say(view, "fresh", title="Zither")
    say(view, "silent", price=3.0)
    for item in ("fresh", "silent", "nowhere"):
        answer = similar(answerer, model, item)
        assert (answer["items"], answer["unknown"]) == ([], [item])
        assert answer["why"] in answer["short"]
    assert not {"fresh", "silent"} & set(ids(similar(answerer, model, "item-0", n=NUM)))


def test_a_version_without_words_knows_no_new_items(view, answerer, slot, version):
    model = load(slot, version(NUM))
    say(view, "fresh", title="Lamp")
    assert similar(answerer, model, "fresh")["unknown"] == ["fresh"]
    assert len(ids(similar(answerer, model, "item-0", n=NUM))) == NUM - 1


@pytest.mark.parametrize("has_words", [True, False])
def test_an_item_that_nobody_has_used_and_whose_words_nobody_has_learned_is_like_nothing(view, answerer, slot, version, has_words):
    arrays, meta = worded(version(NUM), unused=(5,))
    if has_words:
        arrays["word_vectors"][arrays["item_words"][5]] = 0.0  # As before anything was learned of them.
    else:
        arrays = {name: array for name, array in arrays.items() if name not in {"word_vectors", "item_words"}}
    model = slot.load({"version": "v1"}, arrays, meta)
    alone = answerer.similar(SimilarBody(like=["item-5"]), "default", 5, model, "r")
    assert (alone["items"], alone["unknown"]) == ([], ["item-5"])
    assert "has learned none of their words" in alone["why"]
    both = answerer.similar(SimilarBody(like=["item-5", "item-6"]), "default", 5, model, "r")
    other = answerer.similar(SimilarBody(like=["item-6"], exclude=["item-5"]), "default", 5, model, "r")
    assert (both["items"], both["unknown"], both["source"]) == (other["items"], ["item-5"], "student")


def test_the_newest_told_are_found_when_there_are_many(view, answerer, slot, version, monkeypatch):
    monkeypatch.setattr(attributes, "MAX_RECENT", 3)
    model = load(slot, worded(version(NUM)))
    for number in range(5):
        say(view, f"fresh-{number}", title="Lamp")
    say(view, "fresh-2", title="A lamp")
    say(view, "fresh-0", price=3.0)  # Says nothing of its words.
    found = set(ids(similar(answerer, model, "item-0", n=60)))
    assert {item for item in found if item.startswith("fresh")} == {"fresh-2", "fresh-3", "fresh-4"}
    assert all(lamps(ids(similar(answerer, model, "fresh-0", n=10))[3:]))  # Asked for, each is placed.
    view.table = view.table.compacted(100)
    assert set(ids(similar(answerer, model, "item-0", n=60))) == found


def test_a_short_answer_counts_the_new_ones(view, answerer, slot, version):
    model = load(slot, worded(version(NUM)))
    say(view, "fresh", title="Lamp")
    answer = similar(answerer, model, "item-0", n=60)
    assert len(answer["items"]) == NUM
    assert answer["short"] == "40 of 60: 40 of the 40 items of this namespace and 1 newer ones can be had, 1 of them are seen or excluded"


@pytest.mark.parametrize("history", [["item-3"], ["item-3", "item-9", "item-3", "item-20"], [f"item-{n}" for n in range(10)]])
def test_what_moved_an_item_and_its_words_sum_to_its_score(answerer, slot, version, history):
    made = worded(version(NUM))
    model = load(slot, made)
    asked = {"history": history, "n": NUM, "exclude_seen": False, "explain": True}
    answer = answerer.answer(parse_recommend(orjson.dumps(asked), RequestLimits(max_n=500)), model, "r")
    assert "content_part" not in answer
    for item in answer["items"]:
        parts = sum(part["part"] for part in item["because"])
        assert parts + item["content"] + item["bias"] + item["own_history"] == pytest.approx(item["score"], abs=1e-4)
    # The words' part is what the score loses without them.
    arrays, meta = made
    rows = [int(item["item_id"][5:]) for item in answer["items"]]
    content, newest_first = arrays["word_vectors"][arrays["item_words"][:, 0]], [int(item[5:]) for item in history[::-1]]
    query = Recommender(arrays, meta).query(np.array(newest_first[:6], np.int32))
    np.testing.assert_allclose([item["content"] for item in answer["items"]], content[rows] @ query, atol=1e-4)
    ranked = answerer.rank(RankBody(history=history, candidates=["item-1", "item-2"], explain=True), "default", model, "r")
    assert ("content_part" in ranked, ["content" in item for item in ranked["items"]]) == (False, [True, True])


@pytest.mark.parametrize(
    "broken",
    [
        lambda a: a.pop("item_words"),
        lambda a: a.pop("word_vectors"),
        lambda a: a.update(word_vectors=a["word_vectors"][:, :3]),
        lambda a: a.update(item_words=a["item_words"][:3]),
        lambda a: a.update(item_words=a["item_words"] + np.int16(BUCKETS)),
        lambda a: a.update(item_words=a["item_words"] - np.int16(BUCKETS)),
        lambda a: a.update(word_vectors=np.full_like(a["word_vectors"], np.nan)),
    ],
)
def test_words_that_do_not_fit_are_refused(slot, version, broken):
    arrays, meta = worded(version(NUM))
    broken(arrays)
    with pytest.raises(ModelRejected, match="word"):
        load(slot, (arrays, meta))


def test_over_http_a_new_item_is_found_as_soon_as_its_update_was_read(serving, version):
    replica = serving(live=False, is_local=True)
    replica.load("v00000012", worded(version(NUM)))
    said = {"title": "River lamp", "categories": ["home"]}
    assert replica.ask("POST", "/v1/similar", {"like": ["fresh"]}).body["unknown"] == ["fresh"]
    assert replica.ask("PUT", "/v1/items/fresh", said).status == 200
    found = replica.ask("POST", "/v1/similar", {"like": ["fresh"], "n": 5}).body
    assert (found["source"], lamps(ids(found))) == ("content", [True] * 5)
    others = replica.ask("POST", "/v1/similar", {"like": ["item-2"], "n": 30}).body["items"]
    assert [item["source"] for item in others if item["item_id"] == "fresh"] == ["content"]
    assert replica.ask("GET", "/v1/items/fresh").body["in_model"] is False
