import asyncio
import json
from concurrent.futures import Future

import numpy as np
import pytest

from serve.routes import Routes
from streamrec.errors import BrokerUnavailable
from streamrec.serving.checks import RequestLimits
from streamrec.serving.full_answers import FullAnswerer
from streamrec.serving.slot import ModelSlot
from streamrec.telemetry.numbers import Numbers


class FakeReplica:
    replica_id = "replica-1"
    answerer = FullAnswerer(None)
    shown = None
    histories = None

    def __init__(self, model):
        self.model = model
        self.numbers = Numbers(replica=self.replica_id)
        self.requests = []
        self.events = []
        self.broker_error = None
        self.log = []

    async def start(self):
        self.log.append("started")

    async def stop(self):
        self.log.append("stopped")

    def recommend(self, request, model, request_id):
        self.requests.append(request)
        return {"items": [], "model_version": model.version, "request_id": request_id}

    def submit_events(self, events, permit=None):
        if self.broker_error is not None:
            raise self.broker_error
        self.events.append(events)
        done = Future()
        done.set_result([{"status": "accepted" if isinstance(event, dict) else "rejected"} for event in events])
        return done

    def facts(self):
        return {"replica": self.replica_id, "offsets": {0: 5}}


@pytest.fixture
def replica(version):
    slot = ModelSlot()
    arrays, meta = version(5)
    return FakeReplica(slot.load({"version": "v1"}, arrays, meta))


def call(replica, method, path, body=b"", query=b"", headers=(), chunks=None):
    """Return status, headers and JSON body of one request."""
    routes = Routes(replica, RequestLimits(max_n=50), max_body_bytes=200)
    parts = list(chunks) if chunks is not None else [body]
    sent = []

    async def receive():
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    async def send(message):
        sent.append(message)

    length = [] if chunks is not None else [(b"content-length", str(len(body)).encode())]
    scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": query, "headers": [*headers, *length]}
    asyncio.run(routes(scope, receive, send))
    start, end = sent
    received = dict(start["headers"])
    assert int(received[b"content-length"]) == len(end["body"])
    return start["status"], received, json.loads(end["body"])


def test_a_recommendation_is_answered_with_its_version_and_replica(replica):
    status, headers, answer = call(replica, "POST", "/v1/recommend", b'{"user_id": "u", "n": 3}')
    assert (status, answer["model_version"]) == (200, "v1")
    assert (headers[b"x-streamrec-replica"], headers[b"x-streamrec-model"]) == (b"replica-1", b"v1")
    assert replica.requests[0].n == 3


def test_the_user_may_stand_in_the_path_percent_encoded(replica):
    call(replica, "GET", "/v1/recommend/a%2Fb%20%C3%A9", query=b"n=4")
    assert (replica.requests[0].user_id, replica.requests[0].n) == ("a/b é", 4)


def test_a_request_id_is_kept_or_made(replica):
    given = call(replica, "POST", "/v1/recommend", b'{"user_id": "u"}', headers=[(b"x-request-id", b"mine")])[2]
    made = call(replica, "POST", "/v1/recommend", b'{"user_id": "u"}')[2]
    assert given["request_id"] == "mine"
    assert made["request_id"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "field"),
    [
        ("POST", "/v1/recommend", b'{"user_id": "u", "n": 0}', 400, "n"),
        ("POST", "/v1/recommend", b"{", 400, "body"),
        ("POST", "/v1/recommend", b'{"user_id": "' + b"u" * 300 + b'"}', 413, "body"),
        ("GET", "/v1/recommend", b"", 405, "method"),
        ("POST", "/v1/recommend/u", b"", 405, "method"),
        ("GET", "/v1/recommend/%FF", b"", 400, "user_id"),
        ("GET", "/v1/recommend/", b"", 404, "path"),
        ("GET", "/v2/recommend", b"", 404, "path"),
        ("DELETE", "/healthz", b"", 405, "method"),
        ("POST", "/v1/events", b"[", 400, "body"),
    ],
)
def test_refusals_have_a_status_and_name_the_field(replica, method, path, body, status, field):
    got, _, answer = call(replica, method, path, body)
    assert (got, answer["error"]["field"]) == (status, field)
    assert answer["error"]["message"]


def test_a_wrong_method_is_told_the_right_one(replica):
    assert call(replica, "PUT", "/v1/models")[1][b"allow"] == b"GET, HEAD"


def test_a_body_in_chunks_is_joined_and_bounded(replica):
    assert call(replica, "POST", "/v1/recommend", chunks=[b'{"user', b'_id": "u"}'])[0] == 200
    assert call(replica, "POST", "/v1/recommend", chunks=[b"x" * 150, b"x" * 150])[0] == 413


def test_without_a_model_the_server_is_alive_but_not_ready(replica):
    replica.model = None
    assert call(replica, "GET", "/healthz")[0] == 200
    for method, path, body in (("GET", "/readyz", b""), ("POST", "/v1/recommend", b'{"user_id": "u"}')):
        status, headers, answer = call(replica, method, path, body)
        assert (status, headers[b"retry-after"]) == (503, b"1")
        assert "no model" in answer["error"]["message"]


def test_with_a_model_the_server_is_ready(replica):
    assert call(replica, "GET", "/readyz")[2]["model_version"] == "v1"


def test_facts_are_shown_with_partition_numbers_as_keys(replica):
    assert call(replica, "GET", "/v1/models")[2]["offsets"] == {"0": 5}


def test_one_event_or_a_list_of_events_is_handed_over(replica):
    assert call(replica, "POST", "/v1/events", b'{"event_id": "e"}')[2]["accepted"] == 1
    status, _, answer = call(replica, "POST", "/v1/events", b"[{}, 5]")
    assert (status, answer["accepted"], answer["rejected"]) == (200, 1, 1)
    assert replica.events == [[{"event_id": "e"}], [{}, 5]]


def test_events_that_are_all_refused_give_a_client_error(replica):
    assert call(replica, "POST", "/v1/events", b"[5]")[0] == 400


def test_a_broker_that_is_down_is_named(replica):
    replica.broker_error = BrokerUnavailable("Broker: nobody answers", got="127.0.0.1:9")
    status, headers, answer = call(replica, "POST", "/v1/events", b"{}")
    assert (status, headers[b"retry-after"]) == (503, b"1")
    assert "127.0.0.1:9" in answer["error"]["message"]


def test_a_client_that_leaves_gets_no_answer(replica):
    sent = []

    async def receive():
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/recommend", "headers": []}
    asyncio.run(Routes(replica, RequestLimits(), 100)(scope, receive, send))
    assert sent == []


def test_the_server_starts_and_stops_the_replica(replica):
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent = []

    async def receive():
        return messages.pop(0)

    async def send(message):
        sent.append(message["type"])

    asyncio.run(Routes(replica, RequestLimits(), 100)({"type": "lifespan"}, receive, send))
    assert (replica.log, sent) == (["started", "stopped"], ["lifespan.startup.complete", "lifespan.shutdown.complete"])


def test_an_answer_names_the_version_that_it_read_first(replica, version):
    slot = ModelSlot()
    arrays, meta = version(5)
    first, second = slot.load({"version": "v1"}, arrays, meta), slot.load({"version": "v2"}, arrays, meta)
    replica.model = first

    def recommend(request, model, request_id):
        replica.model = second
        return {"model_version": model.version, "rows": np.arange(2).tolist()}

    replica.recommend = recommend
    _, headers, answer = call(replica, "POST", "/v1/recommend", b'{"user_id": "u"}')
    assert (headers[b"x-streamrec-model"], answer["model_version"]) == (b"v1", "v1")


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/v1/models", "/v1/recommend/u"])
def test_head_answers_as_get_does_without_a_body(replica, path):
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    status, headers, _ = call(replica, "GET", path)
    scope = {"type": "http", "method": "HEAD", "path": path, "raw_path": path.encode(), "query_string": b"", "headers": []}
    asyncio.run(Routes(replica, RequestLimits(max_n=50), max_body_bytes=200)(scope, receive, send))
    assert (sent[0]["status"], status) == (200, 200)
    assert dict(sent[0]["headers"]).keys() == headers.keys()
    assert b"".join(message.get("body", b"") for message in sent[1:]) == b""
    assert call(replica, "HEAD", "/v1/events")[0] == 405
