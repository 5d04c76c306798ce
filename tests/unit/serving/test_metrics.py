"""What a replica counts, and the text that ``GET /metrics`` gives of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from serve.metrics import route_of
from serve.operations import OPERATIONS
from streamrec.config.keys import ApiKey, digest_of
from streamrec.telemetry.numbers import Numbers
from streamrec.telemetry.table import TABLE

Replica = Any


def text_of(replica: Replica, headers: tuple[tuple[bytes, bytes], ...] = (), method: str = "GET") -> tuple[int, dict[bytes, bytes], str]:
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": "/metrics", "raw_path": b"/metrics", "query_string": b"", "headers": headers}
    asyncio.run(replica.routes(scope, receive, send))
    start, body = sent
    return start["status"], dict(start["headers"]), body["body"].decode()


def series(text: str) -> dict[str, float]:
    return {name: float(value) for line in text.splitlines() if not line.startswith("#") for name, _, value in [line.rpartition(" ")]}


def test_requests_are_counted_by_route_and_status_whatever_was_asked(serving: Any) -> None:
    replica = serving()
    for user in ("u1", "u2", "u3"):
        replica.ask("GET", f"/v1/recommend/{user}")
    replica.ask("POST", "/v1/recommend", {"user_id": "u1", "n": -1})
    replica.ask("GET", "/v1/nothing/here")
    replica.ask("GET", "/wp-login.php")
    replica.ask("POST", "/v1/events", {"event_id": "e1", "user_id": "u1", "item_id": "i1", "event_type": "click", "event_time": 1_764_000_000_000})
    status, headers, text = text_of(replica)
    assert (status, headers[b"content-type"]) == (200, b"text/plain; version=0.0.4; charset=utf-8")
    found, ours = series(text), 'replica="replica-1"'
    assert {name: value for name, value in found.items() if name.startswith("streamrec_requests_total")} == {
        f'streamrec_requests_total{{{ours},route="recommend",status="200"}}': 3,
        f'streamrec_requests_total{{{ours},route="recommend",status="400"}}': 1,
        f'streamrec_requests_total{{{ours},route="other",status="404"}}': 2,
        f'streamrec_requests_total{{{ours},route="events",status="200"}}': 1,
    }
    assert found[f'streamrec_request_seconds_count{{{ours},route="recommend"}}'] == 4
    assert found[f'streamrec_answers_total{{{ours},source="popular"}}'] == 3
    assert found[f'streamrec_posted_events_total{{outcome="accepted",{ours}}}'] == 1
    assert found[f'streamrec_swaps_total{{outcome="swapped",{ours}}}'] == 1
    assert found[f"streamrec_history_users{{{ours}}}"] == 1
    assert found[f"streamrec_model_age_seconds{{{ours}}}"] > 0
    assert not {"u1", "i1", "e1"} & set(text.replace('"', " ").split())  # Of nobody in particular.


def test_what_the_others_have_told_the_board_is_in_the_text_of_any_replica(serving: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    replica, stream, other = serving(), Numbers(), Numbers(replica="replica-2")
    stream.put("streamrec_lag_records", 12)
    other.put("streamrec_history_users", 5)

    async def told() -> list[Any]:
        return [stream.taken(), other.taken()]

    monkeypatch.setattr(replica._subscription, "told", told)
    found = series(text_of(replica)[2])
    assert found["streamrec_lag_records"] == 12
    assert found['streamrec_history_users{replica="replica-2"}'] == 5
    assert 'streamrec_history_users{replica="replica-1"}' in found


def test_without_a_board_or_a_version_a_replica_speaks_for_itself(serving: Any) -> None:
    status, _, text = text_of(serving(live=False))
    assert status == 200
    assert "streamrec_model_age_seconds" not in text
    assert "streamrec_history_users" in text


def test_metrics_ask_for_a_key_that_reads_and_take_no_other_method(serving: Any) -> None:
    keys = {name: ApiKey(sha256=digest_of(name.encode()), scopes=(name,)) for name in ("read", "events")}
    replica = serving(keys=keys)
    assert text_of(replica)[0] == 401
    assert text_of(replica, ((b"x-api-key", b"events"),))[0] == 403
    assert text_of(replica, ((b"x-api-key", b"read"),))[0] == 200
    assert text_of(replica, ((b"x-api-key", b"read"),), "POST")[0] == 405
    status, headers, body = text_of(replica, ((b"x-api-key", b"read"),), "HEAD")
    assert (status, body) == (200, "")
    assert int(headers[b"content-length"]) > 0


def test_every_route_of_the_interface_has_a_name_of_its_own() -> None:
    assert "other" not in {route_of(operation.example_path.partition("?")[0]) for operation in OPERATIONS}


def test_all_that_a_replica_is_to_count_is_counted(serving: Any) -> None:
    replica = serving()
    replica.ask("GET", "/v1/recommend/u1")
    text = text_of(replica)[2]
    assert {metric.name for metric in TABLE if "replica" in metric.labels} == {
        line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")
    }
