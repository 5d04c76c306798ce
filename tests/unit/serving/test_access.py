"""Keys of the HTTP interface: who is let in, to do what, in which namespaces, how often, and what is written down."""

import logging

import numpy as np
import orjson
import pytest

from serve.access import Access, Action
from serve.http import Refusal
from serve.operations import OPERATIONS
from streamrec.clock import ManualClock
from streamrec.config.keys import ApiKey, digest_of
from streamrec.registry.registry import Registry
from streamrec.state import pack_strings
from streamrec.storage import open_storage

EVERYTHING = ["interaction", "impression", "item_update", "deletion"]
SCOPES = {Action.ASK: "answers", Action.READ: "read", Action.WRITE: "events", Action.DELETE_USERS: "admin", Action.MOVE_MODELS: "admin"}


def key(secret, *scopes, **more):
    return ApiKey(sha256=digest_of(secret.encode()), scopes=scopes, **more)


KEYS = {
    "page": key("k-answers", "answers"),
    "reader": key("k-read", "read"),
    "sender": key("k-events", "events"),
    "boss": key("k-admin", "admin"),
    "all": key("k-all", "read", "events", "admin"),
}


def bearer(secret):
    return ((b"authorization", f"Bearer {secret}".encode()),)


@pytest.fixture
def guarded(serving, version, tmp_path):
    replica = serving(keys=KEYS, accepts=EVERYTHING)
    registry = Registry(open_storage(str(tmp_path / "registry")))
    for number in (11, 12, 13):
        registry.publish(f"v000000{number}", *version(40, prefix="i", seed=number))
    registry.promote("v00000011", "a test")
    registry.promote("v00000013", "a test")
    return replica


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: one.name)
def test_every_route_but_the_probes_takes_a_key_with_its_scope(guarded, operation):
    def status(headers):
        return guarded.ask(operation.method, operation.example_path, operation.body, headers).status

    if operation.action is Action.PROBE:
        assert status(()) == 200
        return
    assert [status(headers) for headers in ((), bearer("guess"), bearer(""), ((b"authorization", b"Basic azpr"),))] == [401] * 4
    wanted = SCOPES[operation.action]
    for name in ("answers", "read", "events", "admin"):
        includes = {"answers": {"answers"}, "read": {"read", "answers"}, "events": {"events"}, "admin": {"admin", "read", "answers"}}
        assert (status(bearer(f"k-{name}")) != 403) == (wanted in includes[name])


@pytest.mark.parametrize(("method", "path"), [("GET", "/openapi.json"), ("GET", "/v9"), ("PATCH", "/v1/items/i1"), ("DELETE", "/v1/recommend")])
def test_without_a_key_nothing_is_told_of_what_there_is(guarded, method, path):
    answer = guarded.ask(method, path)
    assert (answer.status, answer.headers[b"www-authenticate"], answer.body["error"]["field"]) == (401, b"Bearer", "authorization")
    assert guarded.ask(method, path, headers=bearer("k-read")).status in {200, 404, 405}


def test_a_body_is_not_read_without_a_key(guarded):
    for path in ("/v1/recommend", "/v1/events", "/v1/similar"):
        assert guarded.ask("POST", path, b"x" * 300_000).status == 401


def test_a_key_may_come_in_either_header(guarded):
    for headers in (bearer("k-read"), ((b"authorization", b"bearer k-read"),), ((b"x-api-key", b"k-read"),)):
        assert guarded.ask("GET", "/v1/models", headers=headers).status == 200


def test_a_refusal_and_the_log_do_not_show_the_key(guarded, caplog):
    with caplog.at_level(logging.DEBUG):
        answers = [guarded.ask("GET", "/v1/models", headers=bearer("srk_mistyped")), guarded.ask("POST", "/v1/events", b"[]", bearer("k-read"))]
        answers.append(guarded.ask("POST", "/v1/models:rollback", None, bearer("k-admin")))
    told = b"".join(orjson.dumps(answer.body) for answer in answers).decode() + caplog.text
    assert all(secret not in told and digest_of(secret.encode()) not in told for secret in ("srk_mistyped", "k-read", "k-admin"))


def test_a_deletion_among_events_takes_the_scope_that_deletes(guarded):
    event = {"event_id": "e1", "user_id": "u1", "item_id": "i1", "event_type": "click", "event_time": 1_764_000_000_000}
    deletion = {"kind": "deletion", "event_id": "d1", "user_id": "u1", "event_time": 1_764_000_000_001}
    mixed = guarded.ask("POST", "/v1/events", [event, deletion], bearer("k-events"))
    assert (mixed.status, [result.get("reason") for result in mixed.body["results"]]) == (200, [None, "forbidden"])
    # The line's last word counts for the codec, so it counts here.
    twice = b'{"kind": "interaction", "kind": "deletion", "event_id": "d2", "user_id": "u1", "event_time": 1764000000001}'
    for body, headers in ((deletion, ()), (twice, ((b"content-type", b"application/x-ndjson"),))):
        refused = guarded.ask("POST", "/v1/events", body, (*bearer("k-events"), *headers))
        assert (refused.status, refused.body["results"][0]["reason"]) == (403, "forbidden")
    assert len(guarded.ask("GET", "/v1/users/u1", headers=bearer("k-read")).body["items"]) == 1
    assert guarded.ask("POST", "/v1/events", deletion, bearer("k-all")).status == 200
    assert guarded.ask("GET", "/v1/users/u1", headers=bearer("k-read")).body["items"] == []


def test_off_loopback_and_without_keys_nobody_deletes_users(serving):
    replica = serving(accepts=EVERYTHING)
    deletion = {"kind": "deletion", "event_id": "d1", "user_id": "u1", "event_time": 1_764_000_000_001}
    assert [replica.ask("DELETE", "/v1/users/u1").status, replica.ask("POST", "/v1/events", deletion).status] == [403, 403]
    assert "serving.keys_file" in replica.ask("DELETE", "/v1/users/u1").body["error"]["message"]
    local = serving(accepts=EVERYTHING, is_local=True)
    assert [local.ask("DELETE", "/v1/users/u1").status, local.ask("POST", "/v1/events", deletion).status] == [200, 200]


def test_moves_carry_the_keys_name_into_the_registrys_history_and_the_log(guarded, tmp_path, caplog):
    registry = Registry(open_storage(str(tmp_path / "registry")))
    named = (*bearer("k-admin"), (b"x-request-id", b"r-1"))
    assert guarded.ask("POST", "/v1/models/v00000012:promote", {"reason": "better"}, named).status == 200
    assert registry.alias().reason == "better (key boss)"
    assert guarded.ask("POST", "/v1/models:rollback", None, named).status == 200
    assert registry.alias().reason == "asked by HTTP (key boss)"
    assert guarded.ask("DELETE", "/v1/users/u1", headers=named).status == 200
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("Audit")]
    assert [line.split(", ")[0] for line in lines] == ["Audit: promotion of 'v00000012'", "Audit: rollback", "Audit: deletions of users: 1"]
    assert all("key 'boss', request 'r-1'" in line for line in lines)
    assert "u1" not in caplog.text


def test_a_key_for_namespaces_moves_no_models(serving):
    replica = serving(keys={"shop": key("k", "admin", namespaces=("default",))})
    answer = replica.ask("POST", "/v1/models:rollback", None, bearer("k"))
    assert (answer.status, answer.body["error"]["allowed"]) == (403, "a key for all namespaces")


def test_a_key_asks_at_its_rate_and_others_are_not_slowed():
    clock = ManualClock()
    access = Access({"slow": key("k", "read", rate=2.0, burst=3), "fast": key("f", "read")}, clock=clock)

    def ask(secret):
        access.check({"headers": bearer(secret), "path": "/v1/models"}, Action.READ)

    for _ in range(3):
        ask("k")
    with pytest.raises(Refusal) as refused:
        ask("k")
    assert (refused.value.status, refused.value.headers, refused.value.body["error"]["allowed"]) == (
        429,
        [(b"retry-after", b"1")],
        "2 requests a second",
    )
    for _ in range(20):
        ask("f")
    clock.advance(0.5)
    ask("k")
    with pytest.raises(Refusal):
        ask("k")


def test_a_request_is_counted_once_whatever_asks_on_its_way(serving):
    replica = serving(keys={"slow": key("k", "read", rate=0.001, burst=2)})
    assert [replica.ask("GET", "/v1/popular", headers=bearer("k")).status for _ in range(3)] == [200, 200, 429]


# Two tenants with all that could be mistaken for something else; their items and users have equal ids, and each an item that only it has.
IDS = ["a/b", "..", ".", "%2e%2e", "../../b", "é", "\u202ex", "a\x00b", "ns\x1fid", '"', "{}", "i1"]
TENANTS = ["shop", "../shop", "shop/é"]


@pytest.fixture(params=[(0, 1), (0, 2), (1, 2)], ids=str)
def tenants(request, serving, version):
    ours, theirs = (TENANTS[number] for number in request.param)
    replica = serving(
        live=False, keys={name: key(f"k-{name}", "read", "events", "admin", namespaces=(name,)) for name in (ours, theirs)}, accepts=EVERYTHING
    )
    arrays, meta = version(2 * (len(IDS) + 1), namespaces=(ours, theirs))
    names = [name for pair in zip([*IDS, "only ours"], [*IDS, "only theirs"], strict=True) for name in pair]
    arrays["item_id_bytes"], arrays["item_id_offsets"] = pack_strings(names)
    arrays["popularity"] = np.where(np.arange(len(names)) % 2, 7, 5).astype(np.float32)
    replica.load("v00000012", (arrays, meta))
    for tenant, word in ((ours, "ours"), (theirs, "theirs")):
        base = {"namespace": tenant, "event_time": 1_764_000_000_000}
        events = [
            {"kind": "item_update", "event_id": f"{word}{n}", "item_id": name, "title": word, **base} for n, name in enumerate([*IDS, f"only {word}"])
        ]
        events += [{"event_id": f"{word}-{user}", "user_id": user, "item_id": f"only {word}", "event_type": "click", **base} for user in IDS]
        answer = replica.ask("POST", "/v1/events", events, bearer(f"k-{tenant}"))
        assert answer.body["rejected"] == 0, answer.body
    return replica, ours, theirs


def quoted(text):
    return "".join(f"%{byte:02X}" for byte in text.encode())


def test_tenants_never_see_each_others_items_or_users(tenants):
    replica, ours, _ = tenants
    own = bearer(f"k-{ours}")
    there = f"namespace={quoted(ours)}"
    answers = [
        replica.ask("POST", "/v1/similar", {"like": ["only ours"], "n": 50, "namespace": ours}, own),
        replica.ask("GET", f"/v1/popular?n=50&{there}", headers=own),
        replica.ask("POST", "/v1/rank", {"user_id": "..", "candidates": [*IDS, "only theirs"], "namespace": ours}, own),
        replica.ask("GET", "/v1/models", headers=own),
    ]
    for user in IDS:
        answers += [
            replica.ask("POST", "/v1/recommend", {"user_id": user, "n": 50, "exclude_seen": False, "namespace": ours}, own),
            replica.ask("POST", "/v1/recommend", {"user_id": user, "n": 50, "items": [*IDS, "only theirs"], "namespace": ours}, own),
            replica.ask("GET", f"/v1/recommend/{quoted(user)}?n=50&{there}", headers=own),
            replica.ask("GET", f"/v1/users/{quoted(user)}?{there}", headers=own),
            replica.ask("GET", f"/v1/items/{quoted(user)}?{there}", headers=own),
        ]
    assert [answer.status for answer in answers] == [200] * len(answers)
    assert all("only theirs" not in orjson.dumps(shown(answer.body)).decode() for answer in answers)
    assert {item["score"] for item in answers[1].body["items"]} == {5.0}
    assert answers[3].body["live"]["namespaces"] == [ours]
    assert answers[3].body["live"]["index"] == {ours: {"kind": "exact", "overlap": 1.0}}
    assert all(answer.body["items"] == [{"item_id": "only ours", "event_time": 1_764_000_000_000}] for answer in answers[7::5])
    assert {answer.body["title"] for answer in answers[8::5]} == {"ours"}
    assert replica.ask("GET", f"/v1/items/only%20theirs?{there}", headers=own).status == 404


def shown(body):
    """An answer without the ids that the question itself named as unknown."""
    return {name: part for name, part in body.items() if name != "left_out"}


def test_a_key_is_refused_in_another_tenants_namespace_by_query_and_body(tenants):
    replica, ours, theirs = tenants
    own, there = bearer(f"k-{ours}"), f"namespace={quoted(theirs)}"
    before = replica.facts()["history_view"]["offsets"]
    event = {"event_id": "x", "user_id": "..", "item_id": "i1", "event_type": "click", "event_time": 1_764_000_000_001, "namespace": theirs}
    asked = [
        ("POST", "/v1/recommend", {"user_id": "..", "namespace": theirs}),
        ("POST", "/v1/recommend", {"user_id": "..", "namespace": theirs, "explain": True}),
        ("POST", "/v1/recommend", {"user_id": ".."}),  # In the default namespace, which is neither's.
        ("GET", f"/v1/recommend/%2e%2e?{there}", None),
        ("POST", "/v1/similar", {"like": ["i1"], "namespace": theirs}),
        ("POST", "/v1/rank", {"candidates": ["i1"], "namespace": theirs}),
        ("GET", f"/v1/popular?{there}", None),
        ("GET", f"/v1/items/i1?{there}", None),
        ("PUT", f"/v1/items/i1?{there}", {"title": "mine now"}),
        ("DELETE", f"/v1/items/i1?{there}", None),
        ("GET", f"/v1/users/%2e%2e?{there}", None),
        ("DELETE", f"/v1/users/%2e%2e?{there}", None),
        ("POST", "/v1/events", event),
        ("POST", "/v1/events", [{**event, "namespace": None}]),
        ("POST", "/v1/events", {"kind": "deletion", "event_id": "y", "user_id": "..", "event_time": 1_764_000_000_001, "namespace": theirs}),
    ]
    assert [(path, replica.ask(method, path, body, own).status) for method, path, body in asked] == [(path, 403) for _, path, _ in asked]
    assert replica.facts()["history_view"]["offsets"] == before
    two_words = f'{{"namespace": {orjson.dumps(ours).decode()}, "namespace": {orjson.dumps(theirs).decode()}, "user_id": ".."}}'.encode()
    assert replica.ask("POST", "/v1/recommend", two_words, own).status == 403


@pytest.mark.parametrize("site", [b"cross-site", b"same-site"])
def test_without_keys_no_page_of_another_site_has_the_browser_change_anything(serving, version, tmp_path, site):
    Registry(open_storage(str(tmp_path / "registry"))).publish("v00000012", *version(40, prefix="i"))
    local = serving(is_local=True, has_state=True, cors_origins=["https://Ops.example"])
    here = (b"host", b"127.0.0.1:8000")
    told = ((b"sec-fetch-site", site), (b"origin", b"https://evil.example"), (b"content-type", b"text/plain"), here)
    plain = (*told[1:],)  # To a plain HTTP host browsers send no more.
    asked = [("/v1/models/v00000012:promote", None), ("/v1/stream:pause", None), ("/v1/stream/dead-letters:replay", {"places": ["a/0/0"]})]
    event = {"event_id": "e1", "user_id": "u1", "item_id": "i1", "event_type": "click", "event_time": 1_764_000_000_000}
    own = (
        (),
        ((b"sec-fetch-site", b"same-origin"), (b"origin", b"https://of-a-proxy.example"), here),
        ((b"sec-fetch-site", site), (b"origin", b"https://ops.example")),
        ((b"origin", b"http://127.0.0.1:8000"), here),
    )
    for path, body in [*asked, ("/v1/events", event)]:
        for headers, field in ((told, "sec-fetch-site"), (plain, "origin"), ((here, (b"origin", b"null")), "origin")):
            refused = local.ask("POST", path, body, headers)
            assert (refused.status, refused.body["error"]["field"]) == (403, field)
        assert [local.ask("POST", path, body, headers).status for headers in own] == [200] * len(own)
    assert local.ask("POST", "/v1/stream:pause", None, ((b"origin", b"http://127.0.0.1:9000"), here)).status == 403
    for elsewhere in (told, plain):
        assert [local.ask(method, path, None, elsewhere).status for method, path in (("DELETE", "/v1/users/u1"), ("DELETE", "/v1/items/i1"))] == [
            403
        ] * 2
        assert local.ask("GET", "/v1/recommend/u1", None, elsewhere).status == 200
        guarded = serving(has_state=True, keys=KEYS)  # A key is nothing that a browser sends by itself.
        assert guarded.ask("POST", "/v1/stream:resume", None, (*elsewhere, *bearer("k-admin"))).status == 200


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: one.name)
def test_a_name_that_was_made_to_lead_to_loopback_is_none_of_the_servers(open_replica, operation):
    rebound = ((b"host", b"evil.example:8000"), (b"origin", b"http://evil.example:8000"))
    refused = open_replica.ask(operation.method, operation.example_path, operation.body, rebound)
    if operation.action is Action.PROBE:  # Whoever looks after a process calls it what they like.
        assert refused.status == 200
    else:
        assert (refused.status, refused.body["error"]["field"], refused.body["error"]["got"]) == (403, "host", "evil.example:8000")


def test_a_server_on_loopback_without_keys_goes_by_loopbacks_names_addresses_and_those_of_its_origins(serving):
    def status(replica, host, headers=()):
        asked = (("GET", "/v1/recommend/u1"), ("HEAD", "/metrics"), ("GET", "/openapi.json"))
        return [replica.ask(method, path, headers=((b"host", host), *headers)).status for method, path in asked]

    shop = {"cors_origins": ["https://Recs.example:8443", "http://[fd00::1]:80"]}
    local = serving(is_local=True, **shop)
    own = (b"localhost", b"LOCALHOST:8000", b"127.0.0.1", b"127.0.0.1:80", b"[::1]", b"[::1]:8000", b"10.1.2.3:8000", b"[fd00::2]")
    for host in (*own, b"recs.example", b"recs.example:9000"):
        assert (host, status(local, host)) == (host, [200, 200, 200])
    for host in (
        b"",
        b"evil.example",
        b"localhost.evil.example",
        b"127.0.0.1.evil.example",
        b"127.0.0.1:80.evil.example",
        b"evil.example:",
        b"[",
        b"\xff",
    ):
        assert (host, status(local, host)) == (host, [403, 403, 403])
    strange = b"evil.example:8000"
    assert status(serving(is_local=True, cors_origins=["*"]), strange) == [200, 200, 200]
    assert status(serving(), strange) == [200, 200, 200]  # Others reach it, by names that it doesn't know.
    assert status(serving(is_local=True, keys=KEYS), strange, bearer("k-read")) == [200, 200, 200]


def test_a_key_for_answers_asks_for_items_and_reads_nothing_else(serving):
    replica = serving(keys={"page": key("k-page", "answers"), "reads": key("k-reads", "read")})
    for operation in OPERATIONS:
        if operation.method == "GET" or operation.action is Action.ASK:
            status = replica.ask(operation.method, operation.example_path, operation.body, bearer("k-page")).status
            assert (status == 403) == (operation.action is Action.READ or operation.action is Action.MOVE_MODELS), operation.path
            if operation.action is Action.ASK:
                assert replica.ask(operation.method, operation.example_path, operation.body, bearer("k-reads")).status == 200
    for path in ("/metrics", "/v1/live", "/v1/users/u1", "/v1/system", "/v1/models"):
        assert replica.ask("GET", path, headers=bearer("k-page")).status == 403, path


def test_what_tells_of_the_machine_takes_a_key_for_all_namespaces(serving):
    replica = serving(keys={"shop": key("k-shop", "read", namespaces=("default",)), "all": key("k-all", "read")})
    for path in ("/metrics", "/v1/system"):
        refused = replica.ask("GET", path, headers=bearer("k-shop"))
        assert (refused.status, refused.body["error"]["allowed"]) == (403, "a key for all namespaces")
    assert replica.ask("GET", "/v1/system", headers=bearer("k-all")).status != 403
