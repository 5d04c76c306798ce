"""``GET /v1/models/history``: what versions were made of, what the gate said of each, and who moved what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from streamrec.config import RegistryConfig
from streamrec.registry.gate import Gate, Health, Window
from streamrec.registry.registry import Registry
from streamrec.registry.version import VersionFacts
from streamrec.storage import open_storage


@pytest.fixture
def registry(tmp_path: Path, version: Any) -> Registry:
    """Three versions: one live by the gate, one rejected, one that waits."""
    made = Registry(open_storage(str(tmp_path / "registry")))
    for number, parent in ((11, None), (12, "v00000011"), (13, "v00000011")):
        facts = VersionFacts(
            offsets={"streamrec.events": {0: 100 * number}}, parent=parent, metrics={"student.recall@20": 0.2}, teachers={"linear": "v1"}
        )
        made.publish(f"v000000{number}", *version(40, prefix="i", seed=number), facts)
    return made


def decide(registry: Registry, candidate: str, scores: list[float], live: list[float] | None) -> Any:
    of = None if live is None else Health("v00000011")
    return registry.record_decision(Gate(RegistryConfig()).decide(Health(candidate), of, Window.from_scores(14, scores, live)))


def test_it_tells_what_the_gate_said_by_which_numbers_and_who_moved_what(serving: Any, registry: Registry) -> None:
    replica = serving(is_local=True)
    first = decide(registry, "v00000011", [0.0] * 10, None)
    registry.promote("v00000011", first.reason, first)
    decide(registry, "v00000012", [0.0] * 400, [1.0, 0.0] * 200)
    decide(registry, "v00000013", [0.0, 1.0], [0.0, 1.0])
    registry.pin("v00000012")
    told = replica.ask("GET", "/v1/models/history").body
    verdicts = {one["version"]: (one["decision"]["verdict"], one["decision"]["code"]) for one in told["versions"]}
    assert list(verdicts.items()) == [
        ("v00000013", ("wait", "too_few_queries")), ("v00000012", ("reject", "worse")), ("v00000011", ("promote", "first_version")),
    ]  # fmt: skip
    rejected = told["versions"][1]
    assert rejected["decision"]["numbers"]["evidence"] >= rejected["decision"]["numbers"]["needed"] > 1
    assert (rejected["offsets"], rejected["teachers"], rejected["parent"]) == ({"streamrec.events": {"0": 1200}}, {"linear": "v1"}, "v00000011")
    assert [(one["is_live"], one["is_pinned"]) for one in told["versions"]] == [(False, False), (False, True), (True, False)]
    assert [(move["version"], move["by_gate"]) for move in told["moves"]] == [("v00000011", True)]
    assert replica.ask("POST", "/v1/models/v00000012:promote", {"reason": "I know better"}).status == 200
    told = replica.ask("GET", "/v1/models/history?last=1").body
    assert ([one["version"] for one in told["versions"]], told["moves"][0]["reason"], told["moves"][0]["by_gate"]) == (
        ["v00000013"], "I know better", False,
    )  # fmt: skip


def test_what_is_decided_on_is_read_once_and_what_waits_is_looked_at_again(serving: Any, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    replica, read = serving(is_local=True), list[str]()
    decide(registry, "v00000012", [0.0] * 400, [1.0, 0.0] * 200)
    decide(registry, "v00000013", [0.0, 1.0], [0.0, 1.0])
    monkeypatch.setattr(Registry, "last_decision", lambda self, version, own=Registry.last_decision: (read.append(version), own(self, version))[1])
    for _ in range(2):
        assert len(replica.ask("GET", "/v1/models/history").body["versions"]) == 3
    assert read == ["v00000013", "v00000012", "v00000011", "v00000013", "v00000011"]


def test_a_version_whose_manifest_is_torn_is_left_out(serving: Any, registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "registry/default/versions/v00000012/manifest.json").write_bytes(b"{")
    assert [one["version"] for one in serving().ask("GET", "/v1/models/history").body["versions"]] == ["v00000013", "v00000011"]
