from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from jobs import demo_report
from streamrec.registry.version import VersionManifest
from streamrec.storage.content import BlobRef

GOOD: dict[str, Any] = {
    "input": "toy",
    "broker": "files",
    "wall_s": 12.0,
    "events": {
        "bootstrapped": 50, "produced": 45, "probes": 5,
        "received": 50, "applied": 46, "duplicate": 1, "rejected": 1, "late": 1, "quarantined": 1, "pending": 0,
    },
    "capacity_events_per_s": 100.0,
    "rate_events_per_s": 30.0,
    "versions": {"published": 12, "promoted": 11, "rejected": 1},
    "swaps": {"count": 11, "to_nothing_new": 0, "all_replicas_ms_p50": 20.0, "all_replicas_ms_max": 40.0},
    "requests": {"sent": 1200, "failed": 0, "failures": [], "p50_ms": 4.0, "p99_ms": 9.0},
    "freshness": {"state_ms_p50": 10.0, "state_ms_p99": 90.0, "model_s_p50": 2.0, "model_s_p95": 4.0, "num_state": 5, "num_model": 5, "lost": 0,
                  "num_open": 1, "open_s_max": 1.0},
    "recall20": {
        "student": 0.3, "student_events_only": 0.29, "popular": 0.1, "recent_popular": 0.12, "own_history": 0.2,
        "teachers": {"linear": 0.25},
    },
    "refreshes": {"used": 2, "labels": {"linear v00000002": 30}},
    "ensemble_weights": {"linear": [1.0, 1.0, 1.0, 1.0]},
}  # fmt: skip


def changed(dotted: str, value: object) -> dict[str, Any]:
    summary = copy.deepcopy(GOOD)
    *parents, leaf = dotted.split(".")
    node = summary
    for name in parents:
        node = node[name]
    node[leaf] = value
    return summary


def test_a_good_run_has_no_problem_and_falls_short_of_nothing() -> None:
    assert demo_report.problems(GOOD) == []
    assert demo_report.shortfalls(GOOD) == []


@pytest.mark.parametrize(
    ("dotted", "value", "message"),
    [
        ("events.applied", 45, "the books do not balance: 50 received, 49 accounted for"),
        ("events.produced", 46, "51 events were produced, 50 received"),
        ("events.pending", 3, "3 events are pending"),
        ("requests.failed", 2, "2 requests failed"),
        ("swaps.to_nothing_new", 1, "1 swaps were to the same weights or to no later offsets"),
        ("freshness.lost", 1, "1 events never changed an answer"),
        ("recall20.popular", 0.3, "the student does not beat popular"),
        ("recall20.recent_popular", 0.31, "the student does not beat recent_popular"),
    ],
)
def test_what_is_wrong_is_named(dotted: str, value: object, message: str) -> None:
    assert any(message in problem for problem in demo_report.problems(changed(dotted, value)))


@pytest.mark.parametrize(("dotted", "value"), [("swaps.count", 9), ("refreshes.used", 1), ("requests.sent", 999)])
def test_what_a_bounded_demo_did_not_show_is_noted_and_no_failure(dotted: str, value: int) -> None:
    summary = changed(dotted, value)
    assert demo_report.problems(summary) == []
    assert [note.split(" ")[0] for note in demo_report.shortfalls(summary)] == [str(value)]


@pytest.mark.parametrize(
    ("dotted", "value", "message"),
    [
        ("recall20.own_history", 0.3, "the user's own history"),
        ("recall20.student_events_only", 0.3, "the teachers added nothing"),
        ("freshness.open_s_max", 31.0, "an event had waited 31 s"),
    ],
)
def test_what_is_no_failure_but_no_success_either_is_noted(dotted: str, value: object, message: str) -> None:
    summary = changed(dotted, value)
    assert demo_report.problems(summary) == []
    assert message in demo_report.shortfalls(summary)[0]


def test_events_that_others_posted_are_no_failure() -> None:
    summary = changed("events.received", 51)
    summary["events"]["applied"] += 1
    assert demo_report.problems(summary) == []


def manifest(number: int, digest: str, end: int) -> VersionManifest:
    blob = BlobRef(sha256="0" * 64, bytes=1)
    return VersionManifest(student="default", version=f"v{number}", created_ms=1, base=(blob,), digest=digest, offsets={"events": {0: end, 1: 7}})


def test_a_version_with_the_digest_before_or_no_later_offsets_is_stale() -> None:
    assert demo_report.num_stale([manifest(1, "a", 1), manifest(2, "b", 2), manifest(3, "c", 3)]) == 0
    assert demo_report.num_stale([manifest(1, "a", 1), manifest(2, "a", 2), manifest(3, "c", 2)]) == 2


def test_the_figures_are_printed_with_the_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo_report.show(GOOD, tmp_path / "summary.json", [])
    out = capsys.readouterr().out
    for text in (
        "50 received = 46 applied + 1 duplicate",
        "11 promoted",
        "p50 2.00 s, p95 4.00 s",
        "teacher linear",
        f"OK in 12 s, figures in {tmp_path}",
    ):
        assert text in out
    assert [line for line in out.splitlines() if line != line.rstrip()] == []
    demo_report.show(GOOD, tmp_path / "summary.json", ["1 request failed"])
    assert "wrong: 1 request failed" in (out := capsys.readouterr().out)
    assert "FAILED in 12 s" in out
