from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import httpx2
import pytest
from typer.testing import CliRunner, Result

from streamrec.cli import app
from streamrec.cli.answers import print_answer
from streamrec.client import Client

FACTS = {"model_version": "v00000012", "model_age_s": 1.5, "request_id": "r1", "source": "student", "user_events": 1}
RANKED = {"item_id": "i2", "score": 3.25, "because": [{"item_id": "i1", "part": 3.0}], "bias": 0.25, "own_history": 0.0}
Asked = list[tuple[str, object]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """What a server was asked that recommends i2, a lamp; of i1 it knows nothing."""
    requests: Asked = []

    def handle(request: httpx2.Request) -> httpx2.Response:
        requests.append((request.url.raw_path.decode(), json.loads(request.content or b"null")))
        if request.url.path == "/v1/items/i2":
            known = {"item_id": "i2", "namespace": "default", "title": "River lamp", "available": True, "in_model": True}
            return httpx2.Response(200, json={**known, "model_version": "v00000012", "model_age_s": 1.5, "request_id": "r2"})
        if request.url.path.startswith("/v1/items"):
            error = {"code": "not_found", "field": "item_id", "got": "i1", "allowed": "one that is known", "message": "Item: unknown"}
            return httpx2.Response(404, json={"error": error})
        return httpx2.Response(200, json={"items": [RANKED], **FACTS, **({"left_out": []} if request.url.path == "/v1/rank" else {})})

    monkeypatch.setattr("streamrec.cli.ask_server.Client", partial(Client, transport=httpx2.MockTransport(handle)))
    return requests


@pytest.fixture
def ask() -> Callable[..., Result]:
    return lambda *words: CliRunner().invoke(app, [*words, "--url", "http://server:8000"])


def test_a_server_is_asked_with_what_was_said_and_for_titles(ask: Callable[..., Result], asked: Asked) -> None:
    shown = ask("recommend", "u1", "-n", "3", "--with-seen", "--namespace", "shop")
    assert shown.exit_code == 0, shown.stderr
    assert asked[0] == ("/v1/recommend", {"user_id": "u1", "n": 3, "exclude_seen": False, "namespace": "shop"})
    assert asked[1] == ("/v1/items/i2?namespace=shop", None)
    assert "River lamp" in shown.stdout
    assert "v00000012, made 1.5 s ago; source: student; 1 items" in shown.stderr


def test_a_servers_explanation_is_shown_and_as_json_it_is_the_servers(ask: Callable[..., Result], asked: Asked) -> None:
    shown = ask("explain", "--item", "i1")
    assert shown.stdout == "  1  i2 River lamp: 3.2500 = 0.2500 bias + 0.0000 own history + 3.0000 history\n       +3.0000  i1\n", shown.stderr
    assert asked[0] == ("/v1/recommend", {"history": ["i1"], "n": 5, "explain": True})
    assert json.loads(ask("explain", "--item", "i1", "--json").stdout) == {"items": [{**RANKED, "title": "River lamp"}], **FACTS}
    ask("explain", "u1", "--of", "i2")
    assert ("/v1/rank", {"user_id": "u1", "candidates": ["i2"], "explain": True}) in asked


def test_a_server_that_asks_for_a_key_is_told_of_with_what_to_do(ask: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    error = {"code": "unauthorized", "field": "authorization", "got": "no key", "allowed": "x-api-key: KEY", "message": "Access: asks for a key"}
    refusal = httpx2.MockTransport(lambda _: httpx2.Response(401, json={"error": error}))
    monkeypatch.setattr("streamrec.cli.ask_server.Client", partial(Client, transport=refusal))
    refused = ask("recommend", "u1")
    assert refused.exit_code == 1
    assert "this server asks for a key, got no key, set STREAMREC_API_KEY to one that may ask for answers" in " ".join(refused.stderr.split())


def test_what_was_popular_long_ago_is_not_shown_as_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    popular = [{"item_id": name, "score": score} for name, score in (("new", 1.25), ("old", 2.5e-7), ("none", 0.0))]
    for explain in (True, False):
        options = SimpleNamespace(json=False, explain=explain)
        print_answer(options, {**FACTS, "items": popular, "source": "popular"}, {})  # type: ignore[arg-type]
        words = capsys.readouterr().out.replace("│", " ").split()
        assert [words[words.index(name) + 1] for name in (("new:", "old:", "none:") if explain else ("new", "old", "none"))] == [
            "1.2500",
            "2.5e-07",
            "0.0000",
        ]


def test_asking_a_server_loads_nothing_heavy() -> None:
    code = "import sys, streamrec.cli.ask_server; print([name for name in sys.argv[1:] if name in sys.modules])"
    heavy = ("torch", "ray", "pyarrow", "numpy", "faiss")
    assert subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True).stdout.strip() == "[]"
