"""Load shedding, deadlines, pages of other origins, and what breaks: one replica, in this process."""

import asyncio
import json
import logging
import time
from concurrent.futures import Future

import pytest

from serve.access import Access
from serve.cors import Cors
from serve.guards import Guards
from serve.http import Refusal
from serve.limits import Deadlines, Gate, TokenBucket
from streamrec.clock import ManualClock
from streamrec.config import parse_config
from streamrec.config.keys import ApiKey, digest_of
from streamrec.errors import BrokerUnavailable, ConfigError
from streamrec.telemetry.logs import JsonFormatter

EVENT = {"event_id": "e1", "user_id": "u1", "item_id": "i1", "event_type": "click", "event_time": 1_764_000_000_000}


def test_a_bucket_gives_its_burst_then_its_rate_and_keeps_no_more():
    bucket = TokenBucket(4.0, 2)
    assert [bucket.take(5.0), bucket.take(5.0), bucket.take(5.0)] == [0.0, 0.0, 0.25]
    assert [bucket.take(5.25), bucket.take(5.25)] == [0.0, 0.25]
    assert [bucket.take(1000.0), bucket.take(1000.0), bucket.take(1000.0)] == [0.0, 0.0, 0.25]


def test_so_many_requests_may_wait_and_one_more_is_told_when_to_come_again(serving):
    replica = serving(max_waiting=2)
    waiting = []

    def submit(events, permit=None):
        waiting.append(Future())
        return waiting[-1]

    replica.submit_events = submit

    async def ask(method, path, body):
        return await replica.asked(method, path, body)

    async def all_at_once():
        held = [asyncio.create_task(ask("POST", "/v1/events", EVENT)), asyncio.create_task(ask("PUT", "/v1/items/i1", {"title": "x"}))]
        while len(waiting) < 2:
            await asyncio.sleep(0)
        refused = [await ask("POST", "/v1/events", EVENT), await ask("DELETE", "/v1/items/i1", None)]
        read = await ask("POST", "/v1/recommend", {"user_id": "u1"})
        for done in waiting:
            done.set_result([{"status": "accepted", "partition": 0, "offset": 1}])
        held = [await task for task in held]
        again = asyncio.create_task(ask("POST", "/v1/events", EVENT))
        while len(waiting) < 3:
            await asyncio.sleep(0)
        waiting[2].set_result([{"status": "accepted", "partition": 0, "offset": 2}])
        return refused, read, [*held, await again]

    refused, read, held = asyncio.run(all_at_once())
    for answer in refused:
        assert (answer.status, answer.headers[b"retry-after"], answer.body["error"]["allowed"]) == (
            429,
            b"1",
            "at most 2 at once (serving.max_waiting)",
        )
    assert (read.status, [answer.status for answer in held]) == (200, [200, 200, 200])
    assert replica.ask("GET", "/v1/models").body["limits"] == {"late": 0, "waiting": 0, "shed": 2}


def test_a_broker_that_is_away_is_503_and_leaves_the_gate_open(serving):
    replica = serving(max_waiting=1)

    def away(events, permit=None):
        msg = "Broker: nobody answers"
        raise BrokerUnavailable(msg, got="127.0.0.1:9")

    replica.submit_events = away
    answers = [replica.ask("POST", "/v1/events", EVENT) for _ in range(3)]
    assert [(answer.status, answer.headers[b"retry-after"]) for answer in answers] == [(503, b"1")] * 3


def test_the_bound_on_what_waits_is_the_sinks_too(serving):
    assert serving(max_waiting=7)._sink.max_waiting == 7


@pytest.mark.parametrize(
    ("settings", "method", "path", "body", "status", "field", "got", "allowed"),
    [
        ({"max_body_bytes": 300}, "POST", "/v1/recommend", b"x" * 301, 413, "body", "more", "at most 300 bytes"),
        ({"max_body_bytes": 300}, "POST", "/v1/events", b"x" * 301, 413, "body", "more", "at most 300 bytes"),
        ({"max_body_bytes": 300}, "POST", "/v1/similar", b"x" * 301, 413, "body", "more", "at most 300 bytes"),
        ({"max_n": 9}, "POST", "/v1/recommend", {"user_id": "u", "n": 10}, 400, "n", 10, "1 to 9"),
        ({"max_n": 9}, "GET", "/v1/recommend/u?n=10", None, 400, "n", 10, "1 to 9"),
        ({"max_n": 9}, "POST", "/v1/similar", {"like": ["i1"], "n": 10}, 400, "n", 10, "1 to 9"),
        ({"max_history": 2}, "POST", "/v1/recommend", {"history": ["a", "b", "c"]}, 400, "history", "3 ids", "at most 2 ids"),
        ({"max_history": 2}, "POST", "/v1/rank", {"history": ["a", "b", "c"], "candidates": ["a"]}, 400, "history", "3 ids", "at most 2 ids"),
        ({}, "POST", "/v1/recommend", {"user_id": "u", "deadline_ms": 0}, 400, "deadline_ms", 0, "more than 0, up to 3600000"),
        ({}, "POST", "/v1/recommend", {"user_id": "u", "deadline_ms": True}, 400, "deadline_ms", True, "more than 0, up to 3600000"),
    ],
)
def test_what_is_out_of_bounds_is_told_with_field_got_and_allowed(serving, settings, method, path, body, status, field, got, allowed):
    answer = serving(**settings).ask(method, path, body)
    error = answer.body["error"]
    assert (answer.status, error["field"], error["got"], error["allowed"]) == (status, field, got, allowed)


@pytest.mark.parametrize("more", [{}, {"explain": True, "categories": None}])
def test_what_would_come_too_late_is_popular_and_says_so(serving, more):
    replica = serving()
    body = {"history": ["i1"], "n": 3, **more}
    in_time = replica.ask("POST", "/v1/recommend", {**body, "deadline_ms": 60_000}).body
    late = replica.ask("POST", "/v1/recommend", {**body, "deadline_ms": 0.000_1}).body
    assert (in_time["source"], late["source"], late["why"], late["user_events"]) == ("student", "popular", "deadline", 0)
    assert [item["item_id"] for item in late["items"]] == [
        item["item_id"] for item in replica.ask("GET", "/v1/popular?n=4").body["items"] if item["item_id"] != "i1"
    ][:3]
    assert replica.ask("POST", "/v1/recommend", {"user_id": "nobody", "deadline_ms": 0.000_1}).body["why"] == "unknown user"
    assert replica.ask("GET", "/v1/models").body["limits"]["late"] == 2


def test_a_deadline_may_stand_in_a_header(serving):
    replica = serving()
    replica.ask("POST", "/v1/events", EVENT)

    def ask(given):
        return replica.ask("GET", "/v1/recommend/u1", None, ((b"x-streamrec-deadline-ms", given),))

    assert (ask(b"60000").body["source"], ask(b"0.0001").body["why"]) == ("student", "deadline")
    for wrong in (b"soon", b"-1", b"nan", b"\xff"):
        assert (ask(wrong).status, "deadline" in ask(wrong).body["error"]["field"]) == (400, True)


def test_a_request_is_late_by_what_it_waited_and_what_an_answer_takes():
    clock = ManualClock()
    deadlines = Deadlines(clock)

    async def judge(deadline_ms, taken_s):
        return deadlines.is_late(deadline_ms, taken_s)

    assert not asyncio.run(judge(5, 0.0))
    clock.advance(0.004)
    deadlines.took(0.0)  # 4 ms.
    assert [asyncio.run(judge(5, at_s)) for at_s in (0.004, 0.002)] == [False, True]
    # After slow answers every request is late; in the end one is tried again.
    clock.advance(1.0)
    deadlines.took(0.004)
    num_late = 0
    while asyncio.run(judge(50, clock.monotonic_s())):
        num_late += 1
    assert 10 < num_late < 100


def test_a_loop_that_is_behind_makes_requests_late():
    deadlines = Deadlines()

    async def judge():
        before = deadlines.is_late(100, deadlines.now_s())
        loop = asyncio.get_running_loop()
        until = loop.time() + 0.3
        while loop.time() < until:  # As a row of other requests does.
            pass
        asked = loop.create_future()
        loop.call_soon(loop.call_soon, lambda: asked.set_result(deadlines.is_late(100, deadlines.now_s())))
        return before, await asked

    assert asyncio.run(judge()) == (False, True)


def test_pages_of_other_origins_may_not_ask_unless_they_are_named(serving):
    asked = ((b"origin", b"https://shop.example"),)
    preflight = (*asked, (b"access-control-request-method", b"POST"))
    off = serving()
    assert b"access-control-allow-origin" not in off.ask("GET", "/v1/models", headers=asked).headers
    assert off.ask("OPTIONS", "/v1/recommend", headers=preflight).status == 405
    keys = {"web": ApiKey(sha256=digest_of(b"k"), scopes=("read",))}
    shop = serving(cors_origins=["https://shop.example"], keys=keys)
    allowed = shop.ask("OPTIONS", "/v1/recommend", headers=preflight)
    assert (allowed.status, allowed.headers[b"access-control-allow-origin"]) == (204, b"https://shop.example")
    assert b"authorization" in allowed.headers[b"access-control-allow-headers"]
    for answer in (shop.ask("GET", "/v1/models", headers=asked), shop.ask("GET", "/v1/popular", headers=(*asked, (b"x-api-key", b"k")))):
        assert answer.headers[b"access-control-allow-origin"] == b"https://shop.example"
        assert b"access-control-allow-credentials" not in answer.headers
    other = shop.ask("OPTIONS", "/v1/recommend", headers=((b"origin", b"https://shop.example.evil"), preflight[1]))
    assert b"access-control-allow-origin" not in other.headers
    assert serving(cors_origins=["*"]).ask("GET", "/v1/models", headers=asked).headers[b"access-control-allow-origin"] == b"https://shop.example"


def test_an_origin_that_no_browser_sends_is_refused():
    for origin in ("shop.example", "https://shop.example/", "https://a b"):
        with pytest.raises(ConfigError, match=r"cors_origins is not valid, .* allowed origins as browsers send them"):
            parse_config({"serving": {"cors_origins": [origin]}})


@pytest.mark.parametrize(("method", "path", "broken"), [("GET", "/v1/recommend/u1", "answer"), ("GET", "/v1/popular", "popular")])
def test_what_breaks_is_a_500_with_the_requests_id_and_one_line_in_the_log(serving, monkeypatch, caplog, method, path, broken):
    replica = serving()

    def fail(*_, **__):
        msg = "the inside\nof it"
        raise ZeroDivisionError(msg)

    monkeypatch.setattr(replica.answerer, broken, fail)
    with caplog.at_level(logging.INFO):
        answer = replica.ask(method, path, headers=((b"x-request-id", b"r-7"),))
    assert (answer.status, answer.body["error"]["request_id"]) == (500, "r-7")
    assert all(word not in str(answer.body) for word in ("inside", "Zero", "Traceback", ".py"))
    (line,) = [record.getMessage() for record in caplog.records]
    assert ("r-7" in line, "ZeroDivisionError" in line, "test_limits.py" in line, "\n" in line) == (True, True, True, False)
    assert caplog.records[0].exc_info is None


def test_guards_let_everybody_read_and_write_by_default():
    guards = Guards()
    assert isinstance(guards.access, Access)
    assert (guards.access.keys, guards.cors.is_on) == ({}, Cors().is_on)
    with pytest.raises(Refusal), Gate(0).entered():
        pass


@pytest.mark.parametrize("hostile", [b"", b"two\nlines", b"a\r\nset-cookie: x", b"\xff\xfe", b"with space", b"\x1b[31m", b"x" * 129])
def test_a_request_id_that_is_not_well_formed_is_not_taken_and_one_of_its_own_stands_in_answer_and_log(serving, monkeypatch, caplog, hostile):
    replica = serving()
    good = replica.ask("GET", "/v1/recommend/u1", headers=((b"x-request-id", b"x" * 128),))
    assert good.body["request_id"] == "x" * 128
    asked = [replica.ask("GET", "/v1/recommend/u1", headers=((b"x-request-id", hostile),)).body["request_id"] for _ in range(2)]
    assert len({*asked, hostile.decode("latin-1")}) == 3
    monkeypatch.setattr(replica.answerer, "popular", None)
    answer = replica.ask("GET", "/v1/popular", headers=((b"x-request-id", hostile),))
    (record,) = caplog.records
    line = json.loads(JsonFormatter("replica").format(record))
    assert line["request_id"] == answer.body["error"]["request_id"]
    assert hostile.decode("latin-1") not in line["request_id"] or not hostile


def test_an_answer_writes_no_line(serving, caplog):
    replica = serving(accepts=["interaction"])
    with caplog.at_level(logging.INFO):
        for method, path in (("GET", "/v1/recommend/u1"), ("GET", "/v1/popular"), ("GET", "/v1/recommend/u1?n=0"), ("GET", "/nowhere")):
            replica.ask(method, path)
    assert caplog.records == []


def test_what_has_waited_too_long_for_those_before_it_is_told_to_come_again_and_the_others_are_answered(serving, monkeypatch):
    replica = serving(shed_after_s=0.2)
    answer = replica.answerer.answer

    def slowly(*asked):
        until = time.perf_counter() + 0.02
        while time.perf_counter() < until:
            pass
        return answer(*asked)

    monkeypatch.setattr(replica.answerer, "answer", slowly)
    paths = [("POST", "/v1/recommend", {"history": ["i1"]}), ("GET", "/v1/recommend/u1", None), ("GET", "/v1/popular", None)]

    async def crowd():
        return await asyncio.gather(*(replica.asked(*paths[number % 3]) for number in range(120)), replica.asked("GET", "/v1/models"))

    *answers, models = asyncio.run(crowd())
    shed = [one for one in answers if one.status != 200]
    assert 0 < len(shed) < 120
    assert answers[0].status == 200
    assert models.status == 200  # Who looks after the server is not sent away.
    for one in shed:
        error = one.body["error"]
        assert (one.status, error["code"], error["allowed"]) == (429, "too_many", "at most 0.2 s (serving.shed_after_s)")
        assert dict(one.headers)[b"retry-after"] == b"1"
    assert {one.status for one in asyncio.run(asked_one_by_one(replica, paths))} == {200}
    assert replica.ask("GET", "/v1/models").body["limits"]["shed"] == len(shed)


def test_nothing_is_shed_where_the_bound_is_off(serving):
    assert serving(shed_after_s=0).ask("POST", "/v1/recommend", {"history": ["i1"]}).status == 200


async def asked_one_by_one(replica, paths):
    answers = []
    for path in paths:
        answers.append(await replica.asked(*path))
        await asyncio.sleep(0)  # The loop's next turn.
    return answers


def test_lists_together_hold_so_many_items_at_most(serving):
    replica = serving(max_n=50)
    lists = [{"name": "a", "n": 50}, {"name": "b"}]
    assert replica.ask("POST", "/v1/recommend", {"history": ["i1"], "n": 50, "lists": lists}).status == 200
    error = replica.ask("POST", "/v1/recommend", {"history": ["i1"], "n": 50, "lists": [*lists, {"name": "c", "n": 1}]}).body["error"]
    assert (error["field"], error["got"], error["allowed"]) == ("lists", "101 items", "at most 100 in all lists of a request")
