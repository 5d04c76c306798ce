"""`streamrec.client` against the HTTP interface of one replica, in this process: every route, and the examples of the API page."""

import inspect
import re
from pathlib import Path

import anyio
import httpx2
import orjson
import pytest

import serve
from serve.document import REPLIES
from serve.operations import OPERATIONS
from streamrec.client import AsyncClient, Client, ItemBody, ListBody, Refused, SeenScope
from streamrec.config.keys import ApiKey, digest_of
from streamrec.registry.registry import Registry
from streamrec.serving.bodies import PopularQuery, RankBody, RecommendBody, SimilarBody
from streamrec.storage import open_storage

URL = "http://localhost:8000"
EVENT = {"event_id": "e2", "user_id": "u2", "item_id": "i2", "event_type": "click", "event_time": 1_764_000_001_000}
ASK = {
    "recommend": lambda one: one.recommend(user_id="u1", n=1, categories=["lamp"], max_price=100, explain=True),
    "recommend_to_user": lambda one: one.recommend_to_user("u1", n=1, exclude_seen=False),
    "similar": lambda one: one.similar(like=["i1"], n=1),
    "rank": lambda one: one.rank(user_id="u1", candidates=["i2", "i3", "gone"]),
    "popular": lambda one: one.popular(n=1, category=["lamp", "home"]),
    "get_item": lambda one: one.get_item("i2"),
    "put_item": lambda one: one.put_item("i2", ItemBody(title="River lamp", price=49.5)),
    "delete_item": lambda one: one.delete_item("i3"),
    "get_user": lambda one: one.get_user("u1"),
    "delete_user": lambda one: one.delete_user("u9"),
    "events": lambda one: one.events([EVENT, {"event_id": "bad"}]),
    "models": lambda one: one.models(),
    "promote": lambda one: one.promote("v00000012", reason="better on holdout"),
    "rollback": lambda one: one.rollback(reason="complaints"),
    "pin": lambda one: one.pin("v00000012", reason="incident 12"),
    "unpin": lambda one: one.unpin("v00000012" if isinstance(one, Client) else "v00000013"),
    "switches": lambda one: one.switches(),
    "pause": lambda one: one.pause(),
    "resume": lambda one: one.resume(),
    "freeze_publishing": lambda one: one.freeze_publishing(),
    "unfreeze_publishing": lambda one: one.unfreeze_publishing(reason="over"),
    "history": lambda one: one.history(last=5),
    "dead_letters": lambda one: one.dead_letters(last=20),
    "replay_letters": lambda one: one.replay_letters(places=["streamrec.events/0/4711"]),
    "system": lambda one: one.system(),
    "healthz": lambda one: one.healthz(),
    "readyz": lambda one: one.readyz(),
}


class ToReplica(httpx2.BaseTransport, httpx2.AsyncBaseTransport):
    """Carry requests to a replica in this process."""

    def __init__(self, replica):
        self.replica = replica

    def handle_request(self, request):
        return self._response(self.replica.ask(*self._asked(request, request.read())))

    async def handle_async_request(self, request):
        return self._response(await self.replica.asked(*self._asked(request, await request.aread())))

    @staticmethod
    def _asked(request, body):
        headers = tuple((name.lower(), value) for name, value in request.headers.raw)
        return request.method, request.url.raw_path.decode(), body or None, headers

    @staticmethod
    def _response(answer):
        headers = {name.decode(): value.decode() for name, value in answer.headers.items()}
        return httpx2.Response(answer.status, headers=headers, content=orjson.dumps(answer.body))


@pytest.fixture
def shop(serving, version, tmp_path):
    replica = serving(is_local=True, has_state=True, accepts=["interaction", "impression", "item_update", "deletion"])
    registry = Registry(open_storage(str(tmp_path / "registry")))
    for number in (11, 12, 13):
        registry.publish(f"v000000{number}", *version(40, prefix="i", seed=number))
    for number in (11, 12, 13):
        registry.promote(f"v000000{number}", "a test")
    registry.pin("v00000012")
    registry.pin("v00000013")
    said = {"kind": "item_update", "event_time": 1_764_000_000_000, "title": "River lamp", "categories": ["lamp"], "price": 49.5, "locale": "en-GB"}
    events = [{**EVENT, "event_id": "e1", "user_id": "u1", "item_id": "i1"}]
    events += [{**said, "event_id": f"s{number}", "item_id": f"i{number}"} for number in range(2, 40, 2)]
    assert replica.ask("POST", "/v1/events", events).body["rejected"] == 0
    return replica


def ask(replica, how, key=None):
    """What both clients are answered."""

    async def asynchronously():
        async with AsyncClient(URL, key, transport=ToReplica(replica)) as client:
            return await how(client)

    with Client(URL, key, transport=ToReplica(replica)) as client:
        return how(client), anyio.run(asynchronously)


def unknown(model):
    """The names of what an answer holds beyond its model."""
    parts = [part for value in dict(model).values() for part in (value if isinstance(value, list) else [value])]
    return {*(model.model_extra or {}), *(name for part in parts if hasattr(part, "model_extra") for name in unknown(part))}


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: one.name)
def test_every_route_has_a_method_whose_answer_is_typed(shop, operation):
    for answer in ask(shop, ASK[operation.name]):
        if operation.name == "events":
            assert [result.status for result in answer] == ["accepted", "rejected"]
            continue
        assert type(answer) is REPLIES[operation.name]
        assert operation.name == "models" or unknown(answer) == set()
        assert operation.answer.keys() >= {"items", "source"} & set(dict(answer))


def test_every_answer_of_a_full_request_is_typed(shop):
    lists = [ListBody(name="lamps", categories=["lamp"]), ListBody(name="for you", n=3)]
    for found in ask(shop, lambda one: one.recommend(user_id="u1", lists=lists, exclude_seen=SeenScope(last=3), context={"page": "home"})):
        assert [(one.name, len(one.items) > 0) for one in found.lists] == [("lamps", True), ("for you", True)]
        assert (found.items, found.source, unknown(found)) == ([], "student", set())
    for found in ask(shop, lambda one: one.recommend(history=["i1"], n=2, explain=True)):
        assert found.items[0].score == pytest.approx(found.items[0].because[0].part + found.items[0].bias + found.items[0].own_history, abs=1e-5)
    for found in ask(shop, lambda one: one.similar(like=["i1", "gone"], n=2)):
        assert (found.unknown, len(found.items)) == (["gone"], 2)
    assert all("paths" in document for document in ask(shop, lambda one: one.openapi()))


@pytest.mark.parametrize("item_id", ["a/b", "..", ".", "é ?#&", "%2F", "a;b", "\u202ex", "x\x00y"])
def test_any_id_reaches_its_item(shop, item_id):
    ask(shop, lambda one: one.put_item(item_id, ItemBody(title="odd"), namespace="default"))
    assert [(found.item_id, found.title) for found in ask(shop, lambda one: one.get_item(item_id, namespace="default"))] == [(item_id, "odd")] * 2


def test_a_write_that_is_sent_again_has_the_event_id_of_the_first(shop):
    seen = []

    class Breaks(ToReplica):
        def handle_request(self, request):
            seen.append(orjson.loads(super().handle_request(request).content)["event_id"])
            if len(seen) == 1:
                msg = "the node was killed"
                raise httpx2.ReadError(msg)
            return super().handle_request(request)

    with Client(URL, transport=Breaks(shop), sleep=lambda _: None) as client:
        assert client.put_item("i7", ItemBody(price=5.0)).event_id == seen[0] == seen[1]


def test_refusals_are_typed(serving):
    keys = {"web": ApiKey(sha256=digest_of(b"srk_web"), scopes=("read",), namespaces=("default",))}
    replica = serving(keys=keys, max_n=50)
    for how, key, status, code, field in (
        (ASK["models"], None, 401, "unauthorized", "authorization"),
        (ASK["models"], "srk_guess", 401, "unauthorized", "authorization"),
        (ASK["put_item"], "srk_web", 403, "forbidden", "authorization"),
        (lambda one: one.recommend(user_id="u", namespace="other"), "srk_web", 403, "forbidden", "namespace"),
        (lambda one: one.get_item("nobody-knows"), "srk_web", 404, "not_found", "item_id"),
        (lambda one: one.recommend(user_id="u", n=51), "srk_web", 400, "invalid", "n"),
    ):
        with pytest.raises(Refused) as raised:
            ask(replica, how, key)
        assert (raised.value.status, raised.value.code, raised.value.field) == (status, code, field)
    assert (raised.value.got, raised.value.allowed) == (51, "1 to 50")


def test_a_version_that_is_not_there_is_a_conflict(shop):
    with pytest.raises(Refused, match="v00000099") as raised:
        ask(shop, lambda one: one.promote("v00000099"))
    assert (raised.value.status, raised.value.code) == (409, "conflict")


@pytest.mark.parametrize(("name", "model"), [("recommend", RecommendBody), ("similar", SimilarBody), ("rank", RankBody), ("popular", PopularQuery)])
def test_the_keywords_of_a_method_are_the_fields_of_the_servers_model(name, model):
    for client in (Client, AsyncClient):
        assert list(inspect.signature(getattr(client, name)).parameters) == list(model.model_fields)
        assert getattr(client, name).__doc__


PAGE = (Path(serve.__file__).parents[1] / "docs" / "api.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda one: one.splitlines()[0])
def test_the_examples_of_the_api_page_run(shop, monkeypatch, example):
    real, real_async = httpx2.Client, httpx2.AsyncClient
    monkeypatch.setattr(httpx2, "Client", lambda transport: real(transport=ToReplica(shop)))
    monkeypatch.setattr(httpx2, "AsyncClient", lambda transport: real_async(transport=ToReplica(shop)))
    exec(compile(example, "docs/api.md", "exec"), {"__name__": "__main__"})


def test_the_api_page_has_examples_of_both_clients():
    assert len(EXAMPLES) >= 2
    assert {"AsyncClient(", " Client("} <= {word for word in ("AsyncClient(", " Client(") if any(word in example for example in EXAMPLES)}
