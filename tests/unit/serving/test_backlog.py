from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter

import orjson
import pytest
import uvicorn
import uvloop

from serve.guards import Guards
from serve.http import Refusal
from serve.limits import Backlog
from serve.routes import Routes
from streamrec.clock import ManualClock
from streamrec.serving.checks import RequestLimits

HEAD = b"POST /v1/recommend HTTP/1.1\r\nhost: here\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
PROBE = b"GET /healthz HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n"
BODY = orjson.dumps({"history": ["i1"]})


def answered_in_order(app, requests, backlog=512):
    """Return the status of each request; all wait in the socket, written in full, before the server reads the first."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=backlog)
    clients = []
    for request in requests:
        clients.append(socket.create_connection(listening.getsockname()))
        clients[-1].sendall(request)

    async def serve():
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            return await asyncio.gather(*(status_of(client) for client in clients))
        finally:
            server.should_exit = True
            await serving

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(serve())


async def status_of(client):
    client.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=client)
    try:
        return int((await reader.readline()).split()[1])
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@pytest.fixture
def slow(serving, monkeypatch):
    """Return a function of a bound that returns the routes of a replica whose answers take a tenth of a second each, by the clock that it returns."""
    replica, clock = serving(), ManualClock()
    answer = replica.answerer.answer

    def slowly(*asked):
        clock.advance(0.1)
        return answer(*asked)

    monkeypatch.setattr(replica.answerer, "answer", slowly)
    limits = RequestLimits("default", 500, 500, 256)
    return lambda most_s: (Routes(replica, limits, 1 << 20, guards=Guards(backlog=Backlog(most_s, clock))), clock)


def test_of_a_burst_that_waits_in_sockets_all_that_would_be_answered_too_late_is_refused(slow):
    app, clock = slow(1.0)
    statuses = answered_in_order(app, [HEAD % len(BODY) + BODY] * 200)
    # The loop takes one connection a turn: whoever asks only when it is taken has waited for nobody.
    assert Counter(statuses) == {200: 11, 429: 189}
    assert statuses[:11] == [200] * 11
    assert round(clock.monotonic_s(), 3) == 1.1


def test_who_looks_after_the_server_does_not_stand_in_the_line(slow):
    app, clock = slow(1000.0)
    asked_s, told_s, late = [], [], []

    async def watched(scope, receive, send):
        await app(scope, receive, send)
        if scope["path"] == "/healthz":
            told_s.append(clock.monotonic_s())
        elif clock.monotonic_s() > len(late) + 0.7:  # Among the others' answers.
            asked_s.append(clock.monotonic_s())
            late.append(socket.create_connection(scope["server"]))
            late[-1].sendall(PROBE)

    assert set(answered_in_order(watched, [HEAD % len(BODY) + BODY] * 100)) == {200}
    for client in late:
        client.close()
    assert clock.monotonic_s() == pytest.approx(10.0)
    assert len(told_s) == len(asked_s) == 10
    assert max(told - asked for told, asked in zip(told_s, asked_s, strict=True)) < 0.21  # Beside two of the answers.


def test_a_flood_does_not_keep_those_who_wait_from_their_answers():
    clock = ManualClock()
    backlog = Backlog(1.0, clock)

    async def play():
        first = asyncio.create_task(backlog.turn(backlog.come()))
        crowd = []
        while not first.done():
            crowd.append(asyncio.create_task(backlog.turn(backlog.come())))
            await asyncio.sleep(0)
            clock.advance(0.01)
        clock.advance(5.0)
        return await asyncio.gather(*crowd, return_exceptions=True)

    refused = asyncio.run(asyncio.wait_for(play(), 30))
    assert 5 < len(refused) < 20


def test_a_body_that_its_client_sends_slowly_has_waited_for_nobody(slow):
    app, clock = slow(1.0)
    sent = []

    async def receive():
        clock.advance(5.0)
        return {"type": "http.request", "body": BODY}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/recommend", "raw_path": b"/v1/recommend", "query_string": b"", "headers": []}
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 200


def test_who_leaves_while_all_wait_for_it_holds_nobody_up():
    backlog = Backlog(1.0, ManualClock())

    async def play():
        first, *others = [asyncio.create_task(backlog.turn(backlog.come())) for _ in range(3)]
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait_for(asyncio.gather(*others), 10)

    asyncio.run(play())
    assert backlog.num_refused == 0


def test_what_is_refused_says_how_long_it_waited():
    clock = ManualClock()
    backlog = Backlog(1.0, clock)

    async def answered(seconds):
        await backlog.turn(backlog.come())
        clock.advance(seconds)

    async def play():
        return await asyncio.gather(answered(1.5), answered(1.0), return_exceptions=True)

    first, second = asyncio.run(play())
    assert first is None
    assert isinstance(second, Refusal)
    assert (second.status, second.body["error"]["got"]) == (429, "waited 1.50 s")
