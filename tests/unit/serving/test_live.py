"""``GET /v1/live``: what it tells, to whom, to how many, and that it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from serve.live import MOST_READERS, Live, series
from streamrec.config.keys import ApiKey, digest_of
from streamrec.telemetry.numbers import Numbers, Series

EVERY_S = 0.01


class Reader:
    """A client that reads until it has enough, and then goes."""

    def __init__(self, replica: Any, enough: Callable[[list[tuple[str, Any]]], bool], key: bytes = b"", method: str = "GET") -> None:
        self.status, self.headers, self.bodies, self.events = 0, {}, [], []
        self._replica, self._enough = replica, enough
        self._gone = asyncio.Event()
        self._is_read = False
        self._scope = {
            "type": "http",
            "method": method,
            "path": "/v1/live",
            "raw_path": b"/v1/live",
            "query_string": b"",
            "headers": ((b"x-api-key", key),) if key else (),
        }

    async def read(self) -> Reader:
        await asyncio.wait_for(self._replica.routes(self._scope, self._receive, self._send), 10)
        return self

    async def _receive(self) -> dict[str, Any]:
        if not self._is_read:
            self._is_read = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], dict(message["headers"])
            return
        body = message.get("body", b"")
        self.bodies.append((body, message.get("more_body", False)))
        if body.startswith(b"event: "):
            name, data = body.decode().removesuffix("\n\n").split("\ndata: ")
            self.events.append((name.removeprefix("event: "), orjson.loads(data)))
        if self._enough(self.events):
            self._gone.set()


def frames(num: int) -> Callable[[list[tuple[str, Any]]], bool]:
    return lambda events: len(events) > num


def quick(replica: Any, lasts_s: float = 100.0) -> Any:
    replica.routes._live = Live(replica, replica.access, [], every_s=EVERY_S, lasts_s=lasts_s)
    return replica


def test_it_says_hello_and_then_what_is_counted_and_live_again_and_again(serving: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    replica, stream = quick(serving(is_local=True)), Numbers()
    stream.put("streamrec_lag_records", 12)

    async def told() -> list[Any]:
        return [stream.taken()]

    async def course(after_ms: int) -> dict[str, Any]:
        return {"at_ms": [1, 2], "series": {"lag": [3, 4]}, "marks": [], "swaps": []} if after_ms == 0 else {"at_ms": [], "asked": after_ms}

    monkeypatch.setattr(replica._subscription, "told", told)
    monkeypatch.setattr(replica._subscription, "course", course)
    replica.ask("GET", "/v1/recommend/u1")
    reader = asyncio.run(Reader(replica, frames(3)).read())
    assert (reader.status, reader.headers[b"content-type"], reader.headers[b"cache-control"]) == (
        200,
        b"text/event-stream; charset=utf-8",
        b"no-store",
    )
    (first, hello), *rest = reader.events
    assert first == "hello"
    assert hello["may"] == {"move": True, "why": ""}
    assert hello["course"]["series"] == {"lag": [3, 4]}
    assert hello["bounds"]["streamrec_request_seconds"][0] == 0.0005
    assert [name for name, _ in rest] == ["frame"] * 3
    frame = rest[-1][1]
    assert frame["live"]["model_version"] == "v00000012"
    assert frame["previous"] is None
    assert frame["numbers"]["streamrec_lag_records"] == [{"value": 12}]
    assert {"replica": "replica-1", "source": "popular", "value": 1} in frame["numbers"]["streamrec_answers_total"]
    times = frame["numbers"]["streamrec_request_seconds"]
    assert [sum(one["buckets"]) for one in times if one["route"] == "recommend"] == [1]
    assert frame["at_ms"] - 10_000 == frame["course"]["asked"]
    assert reader.bodies[-1] == (b"", False)


def test_without_a_version_and_a_board_it_tells_that(serving: Any) -> None:
    reader = asyncio.run(Reader(quick(serving(live=False)), frames(1)).read())
    assert reader.events[0][1]["course"] == {}
    assert reader.events[1][1]["live"] is None


def test_it_takes_a_key_that_reads_and_tells_whether_the_key_moves_models(serving: Any) -> None:
    keys = {name: ApiKey(sha256=digest_of(name.encode()), scopes=(name,)) for name in ("read", "events")}
    keys["both"] = ApiKey(sha256=digest_of(b"both"), scopes=("read", "admin"))
    keys["some"] = ApiKey(sha256=digest_of(b"some"), scopes=("read", "admin"), namespaces=("shop",))
    replica = quick(serving(keys=keys))

    def ask(key: bytes) -> Reader:
        return asyncio.run(Reader(replica, frames(0), key).read())

    assert (ask(b"").status, ask(b"events").status, ask(b"other").status) == (401, 403, 401)
    assert {key: ask(key).events[0][1]["may"]["move"] for key in (b"read", b"both", b"some")} == {b"read": False, b"both": True, b"some": False}
    assert "scope" in ask(b"read").events[0][1]["may"]["why"]


def test_no_more_than_a_few_read_at_once_and_who_goes_makes_room(serving: Any) -> None:
    replica = quick(serving())

    async def many() -> tuple[list[Reader], Reader, Reader]:
        leave = asyncio.Event()
        readers = [Reader(replica, lambda events: leave.is_set()) for _ in range(MOST_READERS)]
        tasks = [asyncio.create_task(reader.read()) for reader in readers]
        while any(not reader.events for reader in readers):
            await asyncio.sleep(0.001)
        refused = await Reader(replica, frames(0)).read()
        leave.set()
        await asyncio.gather(*tasks)
        return readers, refused, await Reader(replica, frames(1)).read()

    readers, refused, later = asyncio.run(many())
    assert {reader.status for reader in readers} == {200}
    assert refused.status == 429
    assert int(refused.headers[b"retry-after"]) > 0
    assert orjson.loads(refused.bodies[0][0])["error"]["field"] == "readers"
    assert later.status == 200
    assert replica.routes._live.num_readers == 0


def test_it_ends_by_itself_so_that_the_key_is_asked_for_again(serving: Any) -> None:
    reader = asyncio.run(Reader(quick(serving(), lasts_s=3 * EVERY_S), lambda events: False).read())
    assert reader.events
    assert reader.bodies[-1] == (b"", False)


def test_an_answer_that_breaks_makes_room_too(serving: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    replica = quick(serving())

    async def broken() -> list[Any]:
        msg = "the board is mad"
        raise ValueError(msg)

    monkeypatch.setattr(replica, "all_numbers", broken)
    reader = asyncio.run(Reader(replica, frames(5)).read())
    assert [name for name, _ in reader.events] == ["hello"]
    assert replica.routes._live.num_readers == 0


def test_readers_of_the_same_moment_share_a_frame(serving: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    replica, num_made = serving(), 0
    made = replica.all_numbers

    async def counted() -> Any:
        nonlocal num_made
        num_made += 1
        return await made()

    monkeypatch.setattr(replica, "all_numbers", counted)

    async def several() -> list[Reader]:
        return list(await asyncio.gather(*(Reader(replica, frames(1)).read() for _ in range(8))))

    assert all(reader.events[1][0] == "frame" for reader in asyncio.run(several()))
    assert num_made == 1


def test_how_long_it_lasted_is_no_time_of_an_answer(serving: Any) -> None:
    replica = quick(serving())
    asyncio.run(Reader(replica, frames(1)).read())
    numbers = replica.numbers.taken()
    assert numbers["streamrec_requests_total"]["replica-1", "live", "200"].value == 1
    assert ("replica-1", "live") not in numbers.get("streamrec_request_seconds", {})


def test_head_ends_at_once_and_other_methods_are_refused(serving: Any) -> None:
    replica = quick(serving())
    reader = asyncio.run(Reader(replica, lambda events: False, method="HEAD").read())
    assert (reader.status, reader.bodies) == (200, [(b"", False)])
    assert asyncio.run(Reader(replica, lambda events: False, method="POST").read()).status == 405


def test_series_of_another_release_are_left_out() -> None:
    assert series([{"streamrec_of_tomorrow": {(): Series(1.0)}}]) == {}
