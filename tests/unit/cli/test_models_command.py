from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from streamrec.cli import app
from streamrec.registry.gate import Decision, Reason, Verdict
from streamrec.registry.registry import Registry
from streamrec.registry.version import VersionFacts
from streamrec.state import pack_strings
from streamrec.storage import LocalStorage

Ask = Callable[..., Result]
NUMBERS = {"num_queries": 24.0, "candidate": 0.9167, "live": 0.7917}


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STREAMREC_CONFIG", raising=False)
    return lambda *words: CliRunner().invoke(app, ["models", *words, "--set", f"state={tmp_path / 'state'}"])


def arrays(ids: list[str], vectors: list[list[float]]) -> dict[str, np.ndarray]:
    packed, offsets = pack_strings(ids)
    return {
        "item_vectors": np.array(vectors, np.float32),
        "item_bias": np.zeros(len(ids), np.float32),
        "item_namespace": np.zeros(len(ids), np.int32),
        "item_id_bytes": packed,
        "item_id_offsets": offsets,
    }


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """Three versions: the first was live, the second is, the gate has not judged the third."""
    registry = Registry(LocalStorage(tmp_path / "state" / "registry"))
    weights = {
        "v1": arrays(["a", "b", "c"], [[1, 0], [0, 1], [1, 1]]),
        "v2": arrays(["a", "b", "d"], [[1, 0], [0, -2], [1, 1]]),
        "v3": arrays(["a"], [[1, 0]]),
    }
    for number, (version, made) in enumerate(weights.items(), 1):
        described: dict[str, Any] = {"offsets": {"t": {0: 10 * number}}, "teachers": {"linear": f"v{number}"}, "config": {"student": {"dim": number}}}
        facts = VersionFacts(**described, metrics={"student.recall@20": number / 10, "same": 1.0}, parent=f"v{number - 1}" if number > 1 else None)
        registry.publish(version, made, {}, facts)
    for version in ("v1", "v2"):
        decided: dict[str, Any] = {"verdict": Verdict.PROMOTE, "code": Reason.NOT_WORSE, "reason": "not worse", "live": None, "numbers": NUMBERS}
        decision = registry.record_decision(Decision(candidate=version, batch=7, **decided))
        registry.promote(version, "not worse", decision)
    return registry


def test_versions_are_listed_newest_first_with_lineage_and_what_the_gate_decided(ask: Ask, registry: Registry) -> None:
    registry.pin("v1")
    listed = ask("list")
    assert (listed.exit_code, listed.stderr) == (0, "")
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in listed.stdout.splitlines() if line.startswith("│")]
    assert [(row[0], row[1], *row[3:]) for row in rows] == [
        ("v3", "", "v2", "linear v3", "0.3000", "–"),
        ("v2", "live", "v1", "linear v2", "0.2000", "promote (not_worse) 0.9167 against 0.7917 on 24"),
        ("v1", "previous pinned", "–", "linear v1", "0.1000", "promote (not_worse) 0.9167 against 0.7917 on 24"),
    ]
    found = [json.loads(line) for line in ask("list", "--last", "2", "--json").stdout.splitlines()]
    assert [(row["version"], row["offsets"]["t"], row["is"]) for row in found] == [("v3", {"0": 30}, []), ("v2", {"0": 20}, ["live"])]
    assert found[1]["decision"]["numbers"] == NUMBERS


def test_a_student_without_versions_has_an_empty_list(ask: Ask) -> None:
    listed = ask("list")
    assert (listed.exit_code, listed.stdout, listed.stderr) == (0, "", "student default has no versions yet\n")


def test_a_torn_version_is_told_and_the_others_are_listed(ask: Ask, registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "state/registry/default/versions/v3/manifest.json").write_bytes(b"{")
    listed = ask("list", "--json")
    assert listed.exit_code == 1
    assert "v3/manifest.json" in listed.stderr
    assert [json.loads(line)["version"] for line in listed.stdout.splitlines()] == ["v2", "v1"]


def test_a_version_is_shown_with_decisions_and_moves(ask: Ask, registry: Registry) -> None:
    registry.rollback("fewer orders")
    shown = ask("show", "v1")
    assert shown.exit_code == 0, shown.stderr
    for line in (
        "version       v1 of student default, live",
        "continues     nothing before",
        "learned       t up to 0:10",
        "teachers      linear v1",
        "metric        student.recall@20 0.1000",
        "decision      batch 7: promote (not_worse), not worse",
        "              num_queries 24, candidate 0.9167, live 0.7917",
    ):
        assert line in shown.stdout.splitlines(), shown.stdout
    facts = json.loads(ask("show", "v1", "--json").stdout)
    moves = [(move["number"], move["action"], move["reason"]) for move in facts["moves"]]
    assert moves == [(1, "promote", "not worse"), (3, "rollback", "fewer orders")]
    assert facts["config"] == {"student": {"dim": 1}}
    unknown = ask("show", "v9")
    assert (unknown.exit_code, "student 'default' has no such version, got 'v9', allowed v1, v2, v3" in unknown.stderr) == (1, True)


def test_two_versions_are_compared(ask: Ask, registry: Registry) -> None:
    change = json.loads(ask("diff", "v1", "v2", "--json").stdout)
    assert change["learned"] == {"t": {"0": 10}}
    assert change["items"] == {"before": 3, "after": 3, "added": 1, "gone": 1}
    assert change["moved"] == {"items": 2, "changed": 1, "mean_cosine": 0.0, "least_cosine": -1.0}
    assert change["metrics"] == {"student.recall@20": [0.1, 0.2]}
    assert (change["config"], change["teachers"]) == ({"student.dim": [1, 2]}, {"linear": ["v1", "v2"]})
    said = ask("diff", "v1", "v2").stdout.splitlines()
    assert "vectors       1 of 2 changed, cosine 0.0000 on average, -1.0000 at the least" in said
    assert "learned       10 records of t (0:+10)" in said


def test_an_item_that_left_and_came_again_is_another_one(ask: Ask, registry: Registry) -> None:
    again = arrays(["a", "b", "d"], [[1, 0], [0, -2], [1, 1]]) | {"item_generation": np.array([0, 1, 0], np.int32)}
    registry.publish("v4", again, {})
    change = json.loads(ask("diff", "v2", "v4", "--json").stdout)
    assert (change["items"]["added"], change["items"]["gone"], change["moved"]["items"]) == (1, 1, 2)


def test_a_promotion_is_written_to_the_history_with_who_and_why(ask: Ask, registry: Registry) -> None:
    done = ask("promote", "v3", "--by", "ann", "--reason", "better on holdout")
    assert (done.exit_code, done.stdout) == (0, "v2 → v3\n"), done.stderr
    move = registry.history(1)[0]
    assert (registry.live(), move.action, move.reason) == ("v3", "promote", "better on holdout (by ann)")
    again = ask("promote", "v3")
    assert (again.exit_code, again.stderr) == (0, "nothing to promote: v3 is live already\n")
    assert len(registry.history()) == 3
    empty = ask("promote", "v2", "--reason", " ")
    assert (empty.exit_code, "Promotion: the reason is empty" in empty.stderr) == (1, True)


def test_a_promotion_is_refused_where_another_is_pinned_live_or_the_version_has_learned_from_somebody_deleted(
    ask: Ask, registry: Registry, tmp_path: Path
) -> None:
    where = ["--set", f"state={tmp_path / 'state'}"]
    CliRunner().invoke(app, ["pin", "v2", "--live", *where])
    assert "run `streamrec unpin v2` first" in ask("promote", "v3").stderr
    CliRunner().invoke(app, ["unpin", "v2", *where])
    registry.forget_before("v3", "d1")
    refused = ask("promote", "v1")
    assert (refused.exit_code, "d1" in refused.stderr, registry.live()) == (1, True, "v2")
    (tmp_path / "state/deletions").mkdir()
    (tmp_path / "state/deletions/one.json").write_text("{}")
    (tmp_path / "state/registry/default/forgotten").unlink()
    assert "the record of deletions is gone" in ask("promote", "v3").stderr
    assert registry.live() == "v2"


def test_versions_of_a_further_student_are_its_own(ask: Ask, registry: Registry, tmp_path: Path) -> None:
    edge = Registry(LocalStorage(tmp_path / "state" / "registry"), "edge")
    edge.publish("v1", arrays(["a"], [[1, 0]]), {})
    to = ("--student", "edge", "--set", "students.edge.dim=8")
    assert ask("promote", "v1", *to).stdout == "nothing → v1\n"
    assert (edge.live(), registry.live()) == ("v1", "v2")
    assert [json.loads(line)["version"] for line in ask("list", "--json", *to).stdout.splitlines()] == ["v1"]
    assert "there is no such student" in ask("list", "--student", "edge").stderr


def test_a_version_that_a_stream_removes_while_they_are_listed_is_passed_by(
    ask: Ask, registry: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    decisions = Registry.decisions

    def meanwhile(mine: Registry, version: str) -> list[Decision]:
        (tmp_path / "state/registry/default/versions/v1/manifest.json").unlink(missing_ok=True)
        return decisions(mine, version)

    monkeypatch.setattr(Registry, "decisions", meanwhile)
    listed = ask("list", "--json")
    assert (listed.exit_code, listed.stderr) == (0, "")
    assert [json.loads(line)["version"] for line in listed.stdout.splitlines()] == ["v3", "v2"]
