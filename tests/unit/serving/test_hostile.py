"""Requests of somebody who means harm, or knows no better: each gets a refusal that says what is wrong, none a 500, and the replica goes on."""

import gzip
import json
import zlib

import orjson
import pytest

from serve.operations import OPERATIONS
from streamrec.serving.replies import CODES, ErrorReply

DEEP = [b"[" * depth + b"]" * depth for depth in (200, 300, 900, 1023, 5000, 100_000)]
ODD = {
    "nan": b"NaN", "infinity": b"Infinity", "minus infinity": b"-Infinity", "huge int": b"1" + b"0" * 400, "int of 5000 digits": b"9" * 5000,
    "65 bits": b"18446744073709551616", "64 bits": b"18446744073709551615", "float overflow": b"1e400", "minus": b"-1",
    "lone surrogate": rb'"\ud800"', "lone low surrogate": rb'"a\udc00b"', "surrogates turned": rb'"\udc00\ud800"', "nul": rb'"\u0000"',
    "overlong": b'"\xc0\xaf"', "latin": '"é"'.encode("latin-1"), "bom": b"\xef\xbb\xbf1", "true": b"true", "null": b"null", "empty text": b'""',
    "empty list": b"[]", "empty object": b"{}", "long text": b'"' + b"x" * 100_000 + b'"',
    **{f"{deep.count(b'[')} deep": deep for deep in DEEP}, "deep objects": b'{"a":' * 900 + b"1" + b"}" * 900,
}  # fmt: skip
NAMES = {
    "recommend": "user_id history namespace n exclude exclude_seen context deadline_ms categories min_price lists x",
    "similar": "like n namespace exclude max_price",
    "rank": "candidates user_id n",
    "put_item": "title categories price vectors event_time event_id available",
    "replay_letters": "places",
    "events": "event_id user_id item_id event_time namespace context value kind unknown",
    **dict.fromkeys(("promote", "rollback", "pin", "unpin", "pause", "resume", "freeze_publishing", "unfreeze_publishing"), "reason"),
}
BODIES = [operation for operation in OPERATIONS if operation.method in {"POST", "PUT"}]
FIELDS = [(operation, name) for operation in BODIES for name in NAMES[operation.name].split()]
QUERIES = [
    "n=--5", "n=-", "n=%00", "n=%EF%BC%91", "n=1e3", "n=1_0", "n=%2B5", "n=99999999999999999999", "n=18446744073709551616", "n=" + "9" * 5000,
    "n=NaN", "n=", "n=5&n=6", "n=5&n=x", "n=5;namespace=x", "n[]=5", "n=5#x", "?n=5", "n=5&unknown=1", "namespace=a&namespace=b", "namespace=",
    "namespace=%ED%A0%80", "namespace=%00", "namespace=%FF", "namespace=" + "x" * 5000, "exclude_seen=%00", "exclude_seen=true&exclude_seen=maybe",
    "category=", "category=%ED%A0%80", "&".join(["category=a"] * 3000), "%00=%00", "=", "=&=", "&&&&", "%", "\xff",
]  # fmt: skip
IDS = [
    "%00", "%FF", "%ED%A0%80", "%2F", "%2e%2e", "..", ".", "%25%32%46", "%", "%zz", "a%2Fb%2Fc", "%E2%80%AE", "x" * 600, "%C3%A9" * 300, ";", "a;b=c",
    "a%3Fb", "%0d%0aset-cookie:%20x",
]  # fmt: skip
ALLOWED = {
    "/v1/recommend": "POST", "/v1/recommend/u1": "GET, HEAD", "/v1/similar": "POST", "/v1/rank": "POST", "/v1/popular": "GET, HEAD",
    "/v1/items/i1": "GET, PUT, DELETE, HEAD", "/v1/users/u1": "GET, DELETE, HEAD", "/v1/events": "POST", "/v1/models": "GET, HEAD",
    "/v1/models/v00000012:promote": "POST", "/v1/models:rollback": "POST", "/v1/models/history": "GET, HEAD",
    "/v1/stream/dead-letters": "GET, HEAD", "/v1/stream/dead-letters:replay": "POST", "/v1/system": "GET, HEAD",
    "/healthz": "GET, HEAD", "/readyz": "GET, HEAD",
}  # fmt: skip
KINDS = [
    b"application/json; charset=latin-1", b"application/json; charset=utf-16", b"text/plain", b"multipart/form-data", b"application/xml", b"\xff",
    b"", b"application/x-ndjson; charset=utf-16", b"application/x-www-form-urlencoded",
]  # fmt: skip
HEADERS = [
    (b"content-length", b"9" * 5000), (b"content-length", b"-1"), (b"content-length", b"\xb2"), (b"x-request-id", b"\xff" * 5000),
    (b"x-request-id", b"\xed\xa0\x80"), (b"authorization", b"\xff"), (b"x-api-key", b"\x00"),
    *((b"x-streamrec-deadline-ms", value) for value in (b"nan", b"inf", b"-1", b"1e400", b"\xff", b"", b"0", b"9" * 5000)),
]  # fmt: skip


@pytest.fixture
def replica(open_replica):
    return open_replica


def check(answer):
    """A refusal is well formed, and what is no refusal is an answer."""
    assert answer.status < 500, answer.body
    if answer.status >= 400 and "results" not in answer.body:
        error = ErrorReply.model_validate(answer.body, strict=True).error
        assert (error.code, error.message != "") == (CODES[answer.status], True)
    assert all(b"\n" not in value and b"\r" not in value for value in answer.headers.values())
    return answer


@pytest.mark.parametrize("operation", BODIES, ids=lambda one: one.name)
def test_an_odd_document_is_refused_and_not_a_failure(replica, operation):
    for name, odd in ODD.items():
        answer = check(replica.ask(operation.method, operation.example_path, odd))
        assert answer.status in {400, 409} or name in {"empty list", "empty object"}, name
    assert replica.ask("POST", "/v1/recommend", {"user_id": "u1", "n": 2}).status == 200


@pytest.mark.parametrize(("operation", "field"), FIELDS, ids=lambda one: getattr(one, "name", one))
def test_an_odd_value_is_refused_or_taken_and_not_a_failure(replica, operation, field):
    document = {**operation.body, field: "HERE"}
    for odd in ODD.values():
        body = orjson.dumps(document).replace(b'"HERE"', odd)
        check(replica.ask(operation.method, operation.example_path, body))
        if operation.name == "events":
            check(replica.ask("POST", "/v1/events", body + b"\n" + body, ((b"content-type", b"application/x-ndjson"),)))
    assert replica.ask("POST", "/v1/recommend", {"user_id": "u2", "n": 2, "explain": True, "categories": ["lamp"]}).status == 200


@pytest.mark.parametrize("path", ["/v1/recommend/u1", "/v1/popular", "/v1/items/i1", "/v1/users/u1", "/v1/models", "/healthz"])
def test_an_odd_query_is_refused_or_taken_and_not_a_failure(replica, path):
    for query in QUERIES:
        check(replica.ask("GET", f"{path}?{query}"))


PLACES = [("GET", "recommend"), ("GET", "items"), ("PUT", "items"), ("DELETE", "items"), ("GET", "users"), ("DELETE", "users")]


@pytest.mark.parametrize(("method", "place"), PLACES)
def test_an_odd_id_in_the_path_is_refused_or_taken_and_not_a_failure(replica, method, place):
    for segment in IDS:
        check(replica.ask(method, f"/v1/{place}/{segment}", {} if method == "PUT" else None))


def test_an_odd_version_is_not_there(replica):
    for version in ("%00", "..%2f..%2fetc", "x" * 5000, "%FF", "v00000012%0a", "v00000012:promote", "", "%2e", "*", "v*"):
        assert check(replica.ask("POST", f"/v1/models/{version}:promote")).status in {404, 409}


@pytest.mark.parametrize("mount", ["", "/edge"])
def test_a_method_that_a_path_does_not_take_is_told_all_that_it_takes(replica, mount):
    for path, allowed in ALLOWED.items():
        for method in {"OPTIONS", "TRACE", "get", "\x00", "G" * 3000, "GET", "PUT", "POST", "DELETE", "PATCH"} - set(allowed.split(", ")):
            answer = check(replica.ask(method, path, mount=mount))
            assert (answer.status, answer.headers[b"allow"].decode(), answer.body["error"]["allowed"]) == (405, allowed, allowed)
        if "HEAD" in allowed:
            assert replica.ask("HEAD", path, mount=mount).status in {200, 404, 409}


def test_a_compressed_body_is_refused_by_its_name(replica):
    body = orjson.dumps({"user_id": "u1"})
    for operation in BODIES:
        for coding in (b"gzip", b"deflate", b"br", b"GZIP", b"gzip, identity", b"\xff"):
            for data in (gzip.compress(body), zlib.compress(body), body):
                answer = check(replica.ask(operation.method, operation.example_path, data, ((b"content-encoding", coding),)))
                assert (answer.status, answer.body["error"]["field"], answer.body["error"]["allowed"]) == (415, "content-encoding", "identity")
    assert replica.ask("POST", "/v1/recommend", body, ((b"content-encoding", b"identity"),)).status == 200


def test_a_body_is_utf_8_whatever_its_type_says(replica):
    for operation in BODIES:
        for data, is_good in ((json.dumps(operation.body).encode(), True), (json.dumps({"user_id": "é", "n": 2}).encode("utf-16"), False)):
            for kind in KINDS:
                answer = check(replica.ask(operation.method, operation.example_path, data, ((b"content-type", kind),)))
                assert (answer.status != 400) == is_good


def test_odd_headers_are_refused_or_taken_and_not_a_failure(replica):
    for operation in OPERATIONS:
        for pair in HEADERS:
            check(replica.ask(operation.method, operation.example_path, operation.body, (pair,)))


@pytest.mark.parametrize("path", ["/v1/recommend/u1", "/v1/popular", "/v1/items/i1", "/v1/users/u1"])
def test_a_parameter_that_is_given_twice_is_refused_because_somebody_on_the_way_may_have_read_the_other(replica, path):
    answer = check(replica.ask("GET", f"{path}?namespace=default&namespace=other"))
    assert (answer.status, answer.body["error"]["field"], answer.body["error"]["allowed"]) == (400, "namespace", "one")
    assert replica.ask("GET", "/v1/popular?category=a&category=b").status == 200


def test_an_item_update_with_null_in_place_of_an_id_or_a_time_gets_new_ones(replica):
    answer = check(replica.ask("PUT", "/v1/items/i1", {"title": "x", "event_id": None, "event_time": None}))
    assert (answer.status, answer.body["event_id"]) == (200, f"http-{answer.body['request_id']}")
