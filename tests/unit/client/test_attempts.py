"""When the client sends again, how long it waits, and what it raises, on scripted answers and a clock that only moves when told to."""

from __future__ import annotations

import pickle
import random

import anyio
import httpx2
import orjson
import pytest

from streamrec.client import AsyncClient, Client, NoAnswer, Refused, RequestError, Retries, ServerFailed, TimedOut, TimeOuts, TryLater, calls
from streamrec.clock import ManualClock
from streamrec.errors import ClientError, ConfigError

URL = "http://shop.example:8000/edge"
HEALTHY = (200, {}, {"status": "ok", "replica": "r1"})
MOVED = {"number": 1, "action": "rollback", "version": "v1", "trail": [], "reason": "x", "at_ms": 1, "request_id": "r"}


def refusal(status, headers=None, **facts):
    """An answer as the server refuses."""
    error = {"code": "too_many", "field": "rate", "got": "more", "allowed": "2 requests a second", "message": "Access: too fast", **facts}
    return status, headers or {}, {"error": error}


def broken(kind):
    return kind("it broke")


class Script:
    """A transport that answers one after the other, the last one for ever, and keeps what it was asked."""

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), []

    def __call__(self, request):
        self.asked.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        status, headers, body = answer
        return httpx2.Response(status, headers=headers, content=body if isinstance(body, bytes) else orjson.dumps(body))


class Both:
    """Ask the same of both clients; what they wait is kept in `pauses`."""

    def __init__(self, kind, script, **options):
        self.kind, self.script, self.pauses, self.clock = kind, script, [], ManualClock()
        self.options = {"clock": self.clock, "rng": random.Random(1), "transport": httpx2.MockTransport(script), **options}

    def pause(self, seconds):
        self.pauses.append(seconds)
        self.clock.advance(seconds)

    async def pause_async(self, seconds):
        self.pause(seconds)

    def ask(self, ask):
        if self.kind is Client:
            with Client(URL, "srk_secret", sleep=self.pause, **self.options) as client:
                return ask(client)

        async def main():
            async with AsyncClient(URL, "srk_secret", sleep=self.pause_async, **self.options) as client:
                return await ask(client)

        return anyio.run(main)


@pytest.fixture(params=[Client, AsyncClient], ids=lambda one: one.__name__)
def client(request):
    """Return a function of the script, and of options, that returns something to ask."""
    return lambda *answers, **options: Both(request.param, Script(*answers), **options)


def test_a_request_has_the_key_the_path_and_an_id(client):
    asking = client(HEALTHY)
    assert asking.ask(lambda one: one.healthz()).replica == "r1"
    (request,) = asking.script.asked
    assert (str(request.url), request.headers["authorization"]) == (f"{URL}/healthz", "Bearer srk_secret")
    assert len(request.headers["x-request-id"]) == 32


def test_what_is_refused_for_load_is_sent_again_after_the_time_that_the_server_says(client):
    asking = client(refusal(429, {"retry-after": "2"}), refusal(429, {"retry-after": "3"}), HEALTHY)
    assert asking.ask(lambda one: one.healthz()).status == "ok"
    first, second = asking.pauses
    assert 2.05 <= first <= 2.1
    assert 3.1 <= second <= 3.2
    assert len({request.headers["x-request-id"] for request in asking.script.asked}) == 1


def test_pauses_grow_to_a_bound_and_differ_between_clients(client):
    retries = Retries(num_attempts=8, first_pause_s=1.0, longest_pause_s=4.0)
    seen = []
    for seed in (1, 2):
        asking = client(refusal(503), retries=retries, timeouts=TimeOuts(total_s=1000), rng=random.Random(seed))
        with pytest.raises(TryLater) as raised:
            asking.ask(lambda one: one.healthz())
        assert all(longest / 2 <= pause <= longest for pause, longest in zip(asking.pauses, (1, 2, 4, 4, 4, 4, 4), strict=True))
        assert (raised.value.num_attempts, raised.value.status, "sent 8 times" in str(raised.value)) == (8, 503, True)
        seen.append(asking.pauses)
    assert seen[0] != seen[1]


def test_a_connection_that_broke_is_tried_once_more(client):
    for kind in (httpx2.ReadError, httpx2.RemoteProtocolError, httpx2.WriteError):
        asking = client(broken(kind), HEALTHY)
        assert asking.ask(lambda one: one.healthz()).status == "ok"
        asking = client(broken(kind))
        with pytest.raises(NoAnswer, match=r"the connection broke during GET /healthz \(it broke\), sent 2 times"):
            asking.ask(lambda one: one.healthz())
        assert len(asking.script.asked) == 2


def test_a_proxy_that_lost_its_server_counts_as_a_broken_connection_and_the_servers_own_failure_does_not(client):
    asking = client((502, {}, b"<html>Bad gateway"), HEALTHY)
    assert asking.ask(lambda one: one.healthz()).status == "ok"
    asking = client((500, {}, b"Internal Server Error"))
    with pytest.raises(ServerFailed, match=r"by something that is not the server .Internal Server Error.*sent 2 times"):
        asking.ask(lambda one: one.healthz())
    asking = client(refusal(500, code="broken", field=None, got=None, allowed=None, message="Serving: something broke here"))
    with pytest.raises(ServerFailed, match=r"something broke here \(status 500, request [0-9a-f]{32}\)"):
        asking.ask(lambda one: one.healthz())
    assert len(asking.script.asked) == 1


def test_a_rollback_is_not_sent_twice_where_it_may_have_had_its_effect(client):
    for answer, kind in ((broken(httpx2.ReadError), NoAnswer), (broken(httpx2.ReadTimeout), TimedOut), (refusal(503), TryLater)):
        asking = client(answer)
        with pytest.raises(kind) as raised:
            asking.ask(lambda one: one.rollback(reason="complaints"))
        assert (len(asking.script.asked), raised.value.num_attempts) == (1, 1)
        assert ("look whether it had an effect" in str(raised.value)) == (kind is not TryLater)
    for answer in (refusal(429), broken(httpx2.ConnectError)):
        asking = client(answer, (200, {}, MOVED))
        assert asking.ask(lambda one: one.rollback()).version == "v1"


def test_what_is_not_answered_in_time_is_not_asked_again_because_the_server_may_be_at_it(client):
    for answer in (broken(httpx2.ReadTimeout), (504, {}, b"Gateway timeout")):
        asking = client(answer)
        with pytest.raises(TimedOut):
            asking.ask(lambda one: one.recommend(user_id="u1"))
        assert len(asking.script.asked) == 1


def test_nobody_at_the_address_is_tried_again_and_named(client):
    for kind, raises in ((httpx2.ConnectError, NoAnswer), (httpx2.ConnectTimeout, TimedOut)):
        asking = client(broken(kind))
        with pytest.raises(raises, match=r"http://shop.example:8000/edge can't be reached \(it broke\), sent 4 times"):
            asking.ask(lambda one: one.healthz())
        assert len(asking.script.asked) == 4


def test_a_call_does_not_wait_beyond_its_time_in_all(client):
    asking = client(refusal(429, {"retry-after": "60"}))
    with pytest.raises(TryLater, match="after the 30 s that the call may take") as raised:
        asking.ask(lambda one: one.healthz())
    assert (asking.pauses, raised.value.retry_after_s, len(asking.script.asked)) == ([], 60.0, 1)


def test_each_attempt_may_take_what_is_left(client):
    asking = client(refusal(429, {"retry-after": "7"}), HEALTHY, timeouts=TimeOuts(connect_s=2, read_s=9, total_s=10))
    asking.ask(lambda one: one.healthz())
    first, second = (request.extensions["timeout"] for request in asking.script.asked)
    assert (first["connect"], first["read"]) == (2, 9)
    assert (second["connect"], second["read"]) == (2, pytest.approx(3, abs=0.2))


def test_an_answer_that_drips_is_given_up():
    clock = ManualClock()

    class Drips(httpx2.SyncByteStream):
        def __iter__(self):
            for _ in range(100):
                clock.advance(1.0)
                yield b" "

    drips = httpx2.MockTransport(lambda request: httpx2.Response(200, stream=Drips()))
    with Client(URL, transport=drips, clock=clock) as client, pytest.raises(TimedOut):
        client.healthz()
    assert clock.monotonic_s() == 30


def test_an_asynchronous_call_ends_on_time():
    async def main():
        async def never(request):
            await anyio.sleep_forever()

        async with AsyncClient(URL, transport=httpx2.MockTransport(never), timeouts=TimeOuts(total_s=0.05)) as client:
            await client.healthz()

    with pytest.raises(TimedOut, match="GET /healthz was not answered in time"):
        anyio.run(main)


def test_a_date_says_when_to_come_again(client):
    asking = client((503, {"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, b""), (503, {"retry-after": "soon"}, b""), HEALTHY)
    assert asking.ask(lambda one: one.healthz()).status == "ok"
    assert max(asking.pauses) < 1


def test_an_answer_of_something_else_is_named(client):
    for answer in ((200, {}, b"<html>"), (200, {}, {"hello": 1})):
        with pytest.raises(ServerFailed, match="the answer to GET /healthz can't be read"):
            client(answer).ask(lambda one: one.healthz())
    with pytest.raises(Refused, match="status 301 by something that is not the server"):
        client((301, {"location": "https://else.example"}, b"")).ask(lambda one: one.healthz())


def test_a_refusal_is_typed_and_survives_pickling(client):
    facts = {"code": "invalid", "field": "n", "got": 9999, "allowed": "1 to 500", "message": "Request: n is out of bounds"}
    with pytest.raises(Refused) as raised:
        client(refusal(400, **facts)).ask(lambda one: one.recommend(user_id="u1", n=9999))
    again = pickle.loads(pickle.dumps(raised.value))
    assert (again.status, again.code, again.field, again.got, again.allowed) == (400, "invalid", "n", 9999, "1 to 500")
    assert (again.retry_after_s, again.num_attempts, again.request_id) == (None, 1, raised.value.request_id)
    assert isinstance(again, ClientError)


def test_what_is_wrong_by_itself_is_not_sent(client):
    asking = client(HEALTHY)
    for ask, field in (
        (lambda one: one.recommend(user_id=5), "user_id"),
        (lambda one: one.recommend(user_id="u", usr=1), "usr"),
        (lambda one: one.popular(n=0), "n"),
        (lambda one: one.get_item(""), "id"),
        (lambda one: one.events([{"event_id": object()}]), "events.0"),
        (lambda one: one.events({"event_id": "e"}), "events"),
        (lambda one: one.events('{"event_id": "e"}'), "events"),
        (lambda one: one.events(["e"]), "events.0"),
    ):
        with pytest.raises(RequestError) as raised:
            asking.ask(ask)
        assert raised.value.facts["field"] == field
    assert asking.script.asked == []


def event_answer(num):
    return 200, {}, {"results": [{"status": "accepted", "partition": 0, "offset": offset} for offset in range(num)], "accepted": num, "rejected": 0}


def test_events_go_in_batches_and_an_error_says_what_became_of_those_before(client):
    events = [{"event_id": f"e{number}", "note": "x" * number} for number in range(5)]
    asking = client(event_answer(2), event_answer(2), event_answer(1))
    assert len(asking.ask(lambda one: one.events(events, max_events=2))) == 5
    sent = [[orjson.loads(line) for line in request.content.splitlines()] for request in asking.script.asked]
    assert sent == [events[:2], events[2:4], events[4:]]
    assert {request.headers["content-type"] for request in asking.script.asked} == {"application/x-ndjson"}
    asking = client(event_answer(2), broken(httpx2.ReadError))
    with pytest.raises(NoAnswer) as raised:
        asking.ask(lambda one: one.events(events, max_events=2))
    assert [result.offset for result in raised.value.results] == [0, 1]
    assert [request.content for request in asking.script.asked][1:] == [asking.script.asked[1].content] * 2


def test_a_batch_has_its_bounds_and_a_long_event_a_batch_of_its_own():
    events = [{"id": "x" * size} for size in (10, 10, 10, 500, 10)]
    assert [len(lines.splitlines()) for lines in calls.batches(events, 100, 50)] == [2, 1, 1, 1]
    assert all(len(lines) <= 50 or len(lines.splitlines()) == 1 for lines in calls.batches(events, 100, 50))
    assert list(calls.batches([], 100, 60)) == []


def test_events_that_are_all_rejected_have_results_like_others(client):
    rejected = {"results": [{"status": "rejected", "reason": "not_json", "detail": "x"}], "accepted": 0, "rejected": 1}
    for status in (400, 403):
        (result,) = client((status, {}, rejected)).ask(lambda one: one.events([{}]))
        assert (result.is_accepted, result.reason) == (False, "not_json")


def test_the_key_comes_from_the_environment_and_is_shown_nowhere(monkeypatch):
    monkeypatch.setenv("STREAMREC_API_KEY", "srk_from_outside")
    script = Script(refusal(401))
    with Client(URL, transport=httpx2.MockTransport(script)) as client:
        with pytest.raises(Refused) as raised:
            client.healthz()
        assert "srk_from_outside" not in f"{raised.value!r} {raised.value.facts} {client._sending!r}"
    assert script.asked[0].headers["authorization"] == "Bearer srk_from_outside"
    with Client(URL, "", transport=httpx2.MockTransport(script)) as client, pytest.raises(Refused):
        client.healthz()
    assert "authorization" not in script.asked[1].headers


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_what_is_no_servers_url_or_no_key_is_refused_at_once(kind):
    for url in ("shop.example:8000", "", "ftp://shop.example", "http://", "file:///etc"):
        with pytest.raises(ConfigError, match="the URL is not a server's"):
            kind(url)
    for url in ("http://me:hidden@shop.example", "http://shop.example?key=hidden", "http://shop.example#hidden"):
        with pytest.raises(ConfigError, match="the URL has a user") as raised:
            kind(url)
        assert "hidden" not in str(raised.value)
    for key in ("srk_x\n", "srk x", "srk_é"):
        with pytest.raises(ConfigError, match="the key has characters") as raised:
            kind(URL, key)
        assert "srk" not in str(raised.value)
