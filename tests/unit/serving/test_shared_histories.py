from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager

import pytest
from redis_server import RedisServer, needs_redis

pytestmark = needs_redis


@pytest.fixture
def redis(tmp_path):
    server = RedisServer(tmp_path)
    yield server
    server.kill()


@pytest.fixture
def replica(serving, redis):
    return serving(
        is_local=True, histories="redis", redis_url=redis.url, redis_timeout_s=1.0, accepts=["interaction", "deletion"], log_impressions=0.0
    )


@asynccontextmanager
async def follows(replica):
    """Do what the replica's threads do when it is asked; close what it reads by."""

    def catch_up():
        replica.histories.keep_lease()
        for _ in range(4):
            replica.histories.write()
        replica.histories.note()

    done = threading.Event()

    def answer():
        while not done.is_set():
            replica.histories.answer_reads()

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        catch_up()
        yield catch_up
    finally:
        done.set()
        thread.join()
        replica.histories.stop_writing()


def click(user, item, number):
    return {"event_id": f"{user}{number}", "user_id": user, "item_id": item, "event_type": "click", "event_time": 1_764_000_000_000 + number}


def test_an_event_makes_answers_personal_and_a_deletion_unknown(replica):
    async def play():
        async with follows(replica) as catch_up:
            before = await replica.asked("POST", "/v1/recommend", {"user_id": "u"})
            assert (before.body["source"], before.body["why"], before.body["user_events"]) == ("popular", "unknown user", 0)
            await replica.asked("POST", "/v1/events", [click("u", "i3", 0), click("u", "i7", 1), click("u", "nowhere", 2)])
            catch_up()
            assert len(replica._view) == 0  # It keeps none itself.
            for path in (("POST", "/v1/recommend", {"user_id": "u"}), ("GET", "/v1/recommend/u", None)):
                answer = (await replica.asked(*path)).body
                assert (answer["source"], answer["user_events"]) == ("student", 2)
                assert not {"i3", "i7"} & {item["item_id"] for item in answer["items"]}
                assert "missing" not in answer
            explained = (await replica.asked("POST", "/v1/recommend", {"user_id": "u", "explain": True, "lists": [{"name": "a"}]})).body
            assert [part["item_id"] for part in explained["lists"][0]["items"][0]["because"]] == ["i7", "i3"]
            ranked = (await replica.asked("POST", "/v1/rank", {"user_id": "u", "candidates": ["i1", "i2"]})).body
            assert (ranked["source"], ranked["user_events"]) == ("student", 2)
            user = (await replica.asked("GET", "/v1/users/u")).body
            assert [item["item_id"] for item in user["items"]] == ["nowhere", "i7", "i3"]
            assert (await replica.asked("DELETE", "/v1/users/u")).status == 200
            catch_up()
            after = await replica.asked("POST", "/v1/recommend", {"user_id": "u"})
            assert after.body["why"] == "unknown user"
            assert (await replica.asked("GET", "/v1/users/u")).body["why"] == "unknown user"
            facts = (await replica.asked("GET", "/v1/models")).body["history_view"]["shared"]
            assert (facts["writer"], facts["last_error"], facts["unread"]) == ("follow", None, 0)

    asyncio.run(play())


def test_while_redis_is_away_answers_go_on_and_say_what_they_lack_and_afterwards_all_is_there_again(replica, redis):
    async def play():
        async with follows(replica) as catch_up:
            await replica.asked("POST", "/v1/events", [click("u", "i3", 0)])
            catch_up()
            redis.kill()
            bare = (await replica.asked("POST", "/v1/recommend", {"user_id": "u"})).body
            assert bare["source"] == "popular"
            assert bare["why"] == "the user's history can't be known"
            assert "Redis does not answer" in bare["missing"]
            assert "127.0.0.1" not in bare["missing"]
            given = (await replica.asked("POST", "/v1/recommend", {"user_id": "u", "history": ["i5"]})).body
            assert (given["source"], given["user_events"]) == ("student", 1)
            assert "Redis does not answer" in given["missing"]
            lists = (await replica.asked("POST", "/v1/recommend", {"user_id": "u", "lists": [{"name": "a"}]})).body
            assert "Redis does not answer" in lists["missing"]
            ranked = (await replica.asked("POST", "/v1/rank", {"user_id": "u", "candidates": ["i1"]})).body
            assert "Redis does not answer" in ranked["missing"]
            user = await replica.asked("GET", "/v1/users/u")
            assert (user.status, user.body["error"]["code"]) == (503, "unavailable")
            assert dict(user.headers)[b"retry-after"] == b"1"
            anonymous = (await replica.asked("POST", "/v1/recommend", {"history": ["i5"]})).body
            assert "missing" not in anonymous
            assert (await replica.asked("POST", "/v1/events", [click("u", "i4", 1)])).status == 200
            catch_up()
            facts = replica.facts()["history_view"]["shared"]
            assert "does not answer" in facts["last_error"]
            assert facts["unread"] >= 5
            redis.start()
            catch_up()
            again = (await replica.asked("POST", "/v1/recommend", {"user_id": "u"})).body
            assert (again["source"], again["user_events"]) == ("student", 2)

    asyncio.run(play())


def test_namespaces_in_redis_never_see_each_other(replica):
    async def play():
        async with follows(replica) as catch_up:
            await replica.asked("POST", "/v1/events", [{**click("u", "i3", 0), "namespace": "other"}, click("v", "i4", 1)])
            catch_up()
            assert (await replica.asked("POST", "/v1/recommend", {"user_id": "u"})).body["why"] == "unknown user"
            there = (await replica.asked("GET", "/v1/users/u?namespace=other")).body
            assert [item["item_id"] for item in there["items"]] == ["i3"]
            hostile = (await replica.asked("GET", "/v1/users/7:default:v?namespace=other")).body
            assert hostile["items"] == []

    asyncio.run(play())
