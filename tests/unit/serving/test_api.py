"""The whole HTTP interface of one replica, in this process: each route does what the OpenAPI document says of it."""

import re
import shlex
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import orjson
import pytest

import serve
from serve.access import Access
from serve.http import Refusal
from serve.operations import OPERATIONS
from streamrec.config import RegistryConfig
from streamrec.config.keys import ApiKey, digest_of
from streamrec.evaluation.worth import Giver, Worth
from streamrec.log.connect import open_admin, open_writer
from streamrec.pipeline.checkpoint import CheckpointStore
from streamrec.pipeline.dead_letters import dead_letters
from streamrec.pipeline.layout import checkpoint_url
from streamrec.pipeline.saving import Saver
from streamrec.pipeline.switches import Flip, SwitchBoard
from streamrec.registry.gate import Gate, Health, Window
from streamrec.registry.registry import Registry
from streamrec.registry.version import VersionFacts
from streamrec.storage import open_storage

PAGE = Path(serve.__file__).parents[1] / "docs" / "api.md"


def reject(replica, value, offset):
    """Let a record stand among the dead letters."""
    address, cfg = replica._settings.log_address, replica._settings.config.log
    open_admin(address, cfg).ensure_topic(cfg.dead_letter_topic, 1)
    row = {"topic": cfg.events_topic, "partition": 0, "offset": offset, "reason": "future_time", "detail": "", "key": b"u1", "value": value}
    open_writer(address, cfg).append(cfg.dead_letter_topic, dead_letters(row))


@pytest.fixture
def shop(serving, version, tmp_path):
    """A replica that takes all kinds, with a user, a described catalogue and two versions in the registry."""
    replica = serving(is_local=True, has_state=True, accepts=["interaction", "impression", "item_update", "deletion"])
    registry = Registry(open_storage(str(tmp_path / "registry")))
    facts = VersionFacts(offsets={"streamrec.events": {0: 1}}, parent="v00000012", metrics={"student.recall@20": 0.2}, teachers={"linear": "v1"})
    for number in (11, 12, 13):
        registry.publish(f"v000000{number}", *version(40, prefix="i", seed=number), facts)
    window = Window.from_scores(14, [0.0, 1.0], [0.0, 1.0])
    registry.record_decision(Gate(RegistryConfig()).decide(Health("v00000013"), Health("v00000011"), window))
    registry.promote("v00000011", "a test")
    registry.promote("v00000013", "a test")
    registry.pin("v00000012")
    happened = {"event_id": "e1", "user_id": "u1", "item_id": "i1", "event_type": "click", "event_time": 1_764_000_000_000}
    said = {"title": "River lamp", "categories": ["lamp", "home"], "price": 49.5, "locale": "en-GB", "available": True}
    updates = [{"kind": "item_update", "event_id": f"s{n}", "item_id": f"i{n}", "event_time": 1_764_000_000_000, **said} for n in range(2, 40, 2)]
    reject(replica, orjson.dumps({**happened, "event_id": "e7"}), 4711)
    assert replica.ask("POST", "/v1/events", [happened, *updates]).body["rejected"] == 0
    return replica


def shape(value):
    """What of an answer does not depend on the data: keys and types, of a list its first element."""
    if isinstance(value, dict):
        return {name: shape(part) for name, part in value.items()}
    if isinstance(value, list):
        return [shape(part) for part in value[:1]]
    return type(value).__name__


def within(documented, found):
    """Whether all that is documented is there, for answers that show more."""
    if isinstance(documented, dict):
        return isinstance(found, dict) and all(name in found and within(part, found[name]) for name, part in documented.items())
    return documented == found


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: one.name)
def test_every_documented_example_is_answered_as_documented(shop, operation):
    answer = shop.ask(operation.method, operation.example_path, operation.body)
    assert answer.status == 200, answer.body
    if operation.name == "models":
        assert within(shape(operation.answer), shape(answer.body))
    else:
        assert shape(answer.body) == shape(operation.answer)
    assert answer.headers[b"x-streamrec-replica"] == b"replica-1"


def test_the_document_has_every_route_and_every_route_is_in_the_document(shop):
    document = shop.ask("GET", "/openapi.json").body
    assert document["openapi"].startswith("3.1")
    documented = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert documented == {(operation.method, operation.path) for operation in OPERATIONS}
    for operation in OPERATIONS:
        described = document["paths"][operation.path][operation.method.lower()]
        assert described["responses"]["200"]["content"]["application/json"]["example"] == operation.answer
        in_path = {part["name"] for part in described.get("parameters", []) if part["in"] == "path"}
        assert in_path == set(re.findall(r"\{(\w+)\}", operation.path))
        if operation.body is not None:
            content = described["requestBody"]["content"]["application/json"]
            assert (content["example"], "schema" in content) == (operation.body, True)
    raw = {("GET", "/v1/recommend/{user_id}")} | {(method, path) for path, (method, _, _) in shop.routes._routes.items()}
    assert raw == {(operation.method, operation.path) for operation in OPERATIONS if operation.is_hot}


def commands():
    """The requests of the API page's curl commands: method, path, body, headers."""
    text = PAGE.read_text().replace("\\\n", " ")
    for line in re.findall(r"^    (curl .*)$", text, flags=re.MULTILINE):
        words = shlex.split(line)[1:]
        method, url, body, headers = "", "", None, []
        while words:
            word = words.pop(0)
            if word == "-X":
                method = words.pop(0)
            elif word in {"-d", "--data-binary"}:
                body = words.pop(0).encode().replace(b"\\n", b"\n")
            elif word == "-H":
                name, _, value = words.pop(0).partition(": ")
                headers.append((name.lower().encode(), value.encode()))
            else:
                url = word
        parts = urlsplit(f"//{url}")
        path = f"{parts.path}?{parts.query}" if parts.query else parts.path
        yield pytest.param(method or ("GET" if body is None else "POST"), path, body, tuple(headers), id=line[:80])


@pytest.mark.parametrize(("method", "path", "body", "headers"), list(commands()))
def test_every_command_of_the_api_page_is_answered(shop, method, path, body, headers):
    content_type = (
        () if body is None or any(name == b"content-type" for name, _ in headers) else ((b"content-type", b"application/x-www-form-urlencoded"),)
    )
    answer = shop.ask(method, path, body, (*headers, *content_type))
    assert answer.status == 200, answer.body


def test_the_api_page_has_every_route():
    assert {f"{operation.method} {operation.path}" for operation in OPERATIONS} <= set(
        re.findall(r"`((?:GET|POST|PUT|DELETE) [^`]+)`", PAGE.read_text())
    )


def test_what_is_put_is_shown_recommended_and_filtered_and_what_is_deleted_is_not(shop):
    put = shop.ask("PUT", "/v1/items/i7", {"title": "Chair", "categories": ["chair"], "price": 5})
    assert (put.status, put.body["status"], put.body["event_id"]) == (200, "accepted", f"http-{put.body['request_id']}")
    found = shop.ask("GET", "/v1/items/i7").body
    assert (found["title"], found["price"], found["available"], found["in_model"]) == ("Chair", 5, True, True)
    asked = {"user_id": "u1", "n": 5, "categories": ["chair"]}
    assert [item["item_id"] for item in shop.ask("POST", "/v1/recommend", asked).body["items"]] == ["i7"]
    assert shop.ask("DELETE", "/v1/items/i7").status == 200
    assert shop.ask("GET", "/v1/items/i7").body["available"] is False
    assert shop.ask("POST", "/v1/recommend", asked).body["items"] == []
    new = shop.ask("PUT", "/v1/items/new%2Fone%20%C3%A9", {"title": "New"})
    assert (new.status, shop.ask("GET", "/v1/items/new%2Fone%20%C3%A9").body["item_id"]) == (200, "new/one é")
    assert shop.ask("GET", "/v1/items/new%2Fone%20%C3%A9").body["in_model"] is False


def test_a_user_is_shown_and_forgotten(shop):
    assert shop.ask("GET", "/v1/users/u1").body["items"] == [{"item_id": "i1", "event_time": 1_764_000_000_000}]
    assert shop.ask("DELETE", "/v1/users/u1").status == 200
    gone = shop.ask("GET", "/v1/users/u1").body
    assert (gone["items"], gone["why"]) == ([], "unknown user")


def test_a_deletion_is_refused_where_it_is_not_accepted(serving):
    answer = serving(is_local=True).ask("DELETE", "/v1/users/u1")
    assert (answer.status, answer.body["error"]["field"], answer.body["error"]["got"]) == (403, "kind", "deletion")
    assert "serving.accepts" in answer.body["error"]["message"]


def test_models_are_moved_where_the_server_is_local_or_was_told_so(shop, serving, tmp_path):
    registry = Registry(open_storage(str(tmp_path / "registry")))
    moved = shop.ask("POST", "/v1/models/v00000012:promote", {"reason": "better"}).body
    assert (moved["version"], registry.live(), registry.alias().reason) == ("v00000012", "v00000012", "better")
    assert (shop.ask("POST", "/v1/models:rollback").status, registry.live()) == (200, "v00000013")
    missing = shop.ask("POST", "/v1/models/v00000099:promote")
    assert (missing.status, "v00000099" in missing.body["error"]["message"]) == (409, True)
    assert missing.body["error"]["got"] == "v00000099"
    for path in ("/v1/models/v00000012:promote", "/v1/models:rollback"):
        refused = serving().ask("POST", path)
        assert (refused.status, "serving.remote_promotion" in refused.body["error"]["message"]) == (403, True)
    assert registry.live() == "v00000013"
    assert serving(remote_promotion=True).ask("POST", "/v1/models:rollback").status == 200


def test_models_stay_where_one_is_pinned_live(shop, tmp_path):
    registry = Registry(open_storage(str(tmp_path / "registry")))
    held = Flip(by="ann", reason="fewer orders", at_ms=1_764_000_000_000, version="v00000013")
    SwitchBoard(open_storage(str(tmp_path))).turn("hold", held, "default")
    for path in ("/v1/models/v00000012:promote", "/v1/models:rollback"):
        refused = shop.ask("POST", path)
        assert (refused.status, "v00000013 is pinned live" in refused.body["error"]["message"]) == (409, True)
    assert registry.live() == "v00000013"
    assert shop.ask("POST", "/v1/models/v00000013:promote").status == 200


def test_a_time_in_seconds_is_rejected_and_says_so(shop):
    event = {"user_id": "u6", "item_id": "i5", "event_type": "click"}
    times = {"seconds": 1_795_901_562, "far": 99_999_999_999, "first": 100_000_000_000, "now": 1_764_000_000_000}
    answer = shop.ask("POST", "/v1/events", [{**event, "event_id": name, "event_time": time} for name, time in times.items()])
    assert [result.get("reason") for result in answer.body["results"]] == ["bad_time", "bad_time", None, None]
    assert "got 1795901562, allowed 100000000000 to" in answer.body["results"][0]["detail"]
    assert "milliseconds" in answer.body["results"][0]["detail"]
    deletion = {"kind": "deletion", "event_id": "d", "user_id": "u6", "event_time": 1_795_901_562}
    assert shop.ask("POST", "/v1/events", deletion).status == 400
    assert len(shop.ask("GET", "/v1/users/u6").body["items"]) == 2


def test_events_come_as_lines_and_each_stands_for_itself(shop):
    lines = [
        orjson.dumps({"event_id": f"n{n}", "user_id": "u5", "item_id": "i5", "event_type": "click", "event_time": 1_764_000_000_000})
        for n in range(2)
    ]
    answer = shop.ask(
        "POST", "/v1/events", b"\n".join([lines[0], b"{broken", b"", lines[1], b""]), ((b"content-type", b"application/x-ndjson; charset=utf-8"),)
    )
    assert (answer.status, answer.body["accepted"], answer.body["rejected"]) == (200, 2, 1)
    assert [result.get("reason") for result in answer.body["results"]] == [None, "not_json", None]
    assert len(shop.ask("GET", "/v1/users/u5").body["items"]) == 2


def test_a_share_of_the_answers_is_logged_as_impressions(serving, tmp_path):
    replica = serving(log_impressions=1.0, accepts=["interaction"])
    shown = [item["item_id"] for item in replica.ask("POST", "/v1/recommend", {"user_id": "u1", "n": 3}, ((b"x-request-id", b"mine"),)).body["items"]]
    replica.ask("POST", "/v1/recommend", {"history": ["i1"], "n": 3})  # To nobody in particular.
    assert replica.facts()["impressions"] == {"logged": 1, "dropped": 0}
    assert replica.append_impressions() == 1
    (path,) = [path for path in (tmp_path / "log").rglob("*") if path.is_file() and b"impression" in path.read_bytes()]
    assert all(name.encode() in path.read_bytes() for name in [*shown, '"request_id":"mine"'])
    assert serving().shown is None


def test_what_answers_came_to_is_shown_as_the_newest_commit_has_it(serving, tmp_path):
    keys = {name: ApiKey(sha256=digest_of(name.encode()), scopes=("read",), namespaces=only) for name, only in [("all", ()), ("shop", ("shop",))]}
    replica, given = serving(log_impressions=1.0, keys=keys), Worth()
    for version, source, actions in [("v00000012", "student", 1), ("v00000011", "popular", 0), ("v00000011", "student", 0)]:
        given.add(Giver("default", version, source), 1.0, actions)
    given.add(Giver("other", "v00000012", "student"), 1.0, 1)
    store = CheckpointStore(open_storage(checkpoint_url(str(tmp_path / "state"))))
    store.acquire()
    Saver(store, {"worth": given}).commit(1, {"counts": {}})
    replica._settings = replace(replica._settings, state_url=str(tmp_path / "state"))
    replica._stopping.set()  # Does not wait then.
    replica._look_at_worth()
    worth = replica.ask("GET", "/v1/models", headers=((b"x-api-key", b"all"),)).body["worth"]
    assert (worth["live"]["shown"], worth["live"]["rate"]) == (1, 1.0)
    assert {source: (found["shown"], found["taken"]) for source, found in worth["by_source"].items()} == {"popular": (1, 0), "student": (2, 1)}
    assert [(row["model_version"], row["source"]) for row in worth["versions"]] == [
        ("v00000012", "student"), ("v00000011", "popular"), ("v00000011", "student"),
    ]  # fmt: skip
    assert "worth" not in replica.ask("GET", "/v1/models", headers=((b"x-api-key", b"shop"),)).body
    assert serving().ask("GET", "/v1/models").body["worth"] is None


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "field"),
    [
        ("POST", "/v1/similar", {"like": []}, 400, "like"),
        ("POST", "/v1/similar", {"like": ["i1"], "n": 10_000}, 400, "n"),
        ("POST", "/v1/similar", {"like": ["i1"], "lik": 1}, 400, "lik"),
        ("POST", "/v1/similar", b"{", 400, "body"),
        ("POST", "/v1/rank", {"candidates": ["i1"], "user_id": ""}, 400, "user_id"),
        ("POST", "/v1/recommend", {"user_id": "u", "min_price": "x"}, 400, "min_price"),
        ("POST", "/v1/recommend", {"user_id": "u", "exclude_seen": {"last": 0}}, 400, "exclude_seen"),
        ("POST", "/v1/recommend", {"user_id": "u", "lists": [{"name": "a", "n": 9999}]}, 400, "n"),
        ("POST", "/v1/recommend", {"user_id": "u", "lists": [{"name": "a", "nn": 9}]}, 400, "lists.0.nn"),
        ("POST", "/v1/recommend?n=3", {"user_id": "u"}, 400, "query"),
        ("POST", "/v1/events?namespace=shop", {}, 400, "query"),
        ("POST", "/v1/similar?n=3", {"like": ["i1"]}, 400, "query"),
        ("POST", "/v1/recommend", {"categories": ["a"]}, 400, "user_id"),
        ("GET", "/v1/popular?n=0", None, 400, "n"),
        ("GET", "/v1/popular?m=1", None, 400, "m"),
        ("PUT", "/v1/items/i1", {"price": "x"}, 400, "price"),
        ("PUT", "/v1/items/%FF", {}, 400, "user_id"),
        ("GET", "/v1/items/a/b", None, 404, "path"),
        ("GET", "/v1/items/", None, 400, "item_id"),
        ("GET", "/v1/items/nobody-knows", None, 404, "item_id"),
        ("PATCH", "/v1/items/i1", {}, 405, "method"),
        ("GET", "/v1/rank", None, 405, "method"),
        ("GET", "/v9", None, 404, "path"),
        ("PUT", "/v1/items/i1", {"title": "x" * 300_000}, 413, "body"),
    ],
)
def test_refusals_name_the_field(shop, method, path, body, status, field):
    answer = shop.ask(method, path, body)
    assert (answer.status, answer.body["error"]["field"]) == (status, field)
    assert answer.body["error"]["message"]


def test_refusals_say_what_was_asked_and_what_there_is(shop):
    allowed = shop.ask("GET", "/v9").body["error"]["allowed"].split(", ")
    assert {"/v1/recommend", "/metrics", "/v1/live", "/openapi.json", "/"} <= set(allowed)
    assert {shop.ask("PATCH", path).status for path in allowed if "{" not in path} == {405}
    lacks = shop.ask("POST", "/v1/similar", {"n": 3}).body["error"]
    assert (lacks["message"], lacks["got"]) == ("Request: like is missing, allowed a value, add like", None)
    twice = shop.ask("POST", "/v1/similar", {"like": "i1"}).body["error"]
    assert (twice["field"], twice["got"]) == ("like", "i1")
    assert shop.ask("POST", "/v1/models/v00000099:promote").body["error"]["got"] == "v00000099"
    many = shop.ask("POST", "/v1/recommend", {"user_id": "u", "lists": [{"name": "a"}] * 21}).body["error"]
    assert (many["got"], many["allowed"]) == ("21 of them", "at most 20")
    scope = shop.ask("POST", "/v1/recommend", {"user_id": "u", "exclude_seen": {"last": 0}}).body["error"]
    assert scope["got"] == '{"last":0}'


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: one.name)
def test_every_route_asks_for_access_before_it_does_anything(shop, operation, monkeypatch):
    asked = []

    def refuse(_, scope, action):
        asked.append(action)
        raise Refusal(401, "authorization", "none", "a key", "Access: no key")

    monkeypatch.setattr(Access, "check", refuse)
    before = shop.facts()["history_view"]["offsets"]
    answer = shop.ask(operation.method, operation.example_path, operation.body)
    assert (answer.status, asked, shop.facts()["history_view"]["offsets"]) == (401, [operation.action], before)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: one.name)
def test_routes_answer_below_a_mount_point(shop, operation):
    assert shop.ask(operation.method, operation.example_path, operation.body, mount="/edge").status == 200
    assert shop.ask("GET", "/v1/items/a/b", mount="/edge").status == 404


def test_without_a_version_what_needs_one_says_so(serving):
    replica = serving(live=False)
    for method, path, body in (("POST", "/v1/similar", {"like": ["i1"]}), ("GET", "/v1/popular", None), ("POST", "/v1/rank", {"candidates": ["i1"]})):
        assert (replica.ask(method, path, body).status, replica.ask(method, path, body).headers[b"retry-after"]) == (503, b"1")
    assert replica.ask("GET", "/v1/users/u").body["model_version"] is None


def test_head_answers_as_get_does_without_a_body(shop):
    answer = shop.ask("HEAD", "/v1/items/i2")
    assert (answer.status, answer.body) == (200, None)
    assert shop.ask("HEAD", "/v1/rank").status == 405
