"""What the demo says while it streams: in a pipe the lines that README shows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from jobs.demo_view import View
from streamrec.pipeline.plan import Plan, PlannedRange
from streamrec.pipeline.report import StepReport

PLAN = Plan(batch=3, ranges=(PlannedRange(topic="t", partition=0, start=0, end=1500),), now_ms=0, seed=0)
OUTSIDE = {"state_ms_p50": 9.8, "model_s_p50": 1.967, "sent": 3152, "failed": 1, "p99_ms": 15.5}


class Driver:
    """One that has read all, and whose student finds something."""

    def __init__(self) -> None:
        scores = {"student": {"recall@20": 0.27}, "student_events_only": {"recall@20": 0.265}, "popular": {"recall@20": 0.0803}, "linear": {}}
        self.controller: Any = SimpleNamespace(progressive=SimpleNamespace(recent=lambda: scores), state=SimpleNamespace(live="v00000042"))

    def lag(self) -> int | None:
        return None


def test_a_pipe_gets_a_line_at_once_and_then_every_few_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    with View("ml-100k", 300.0, "http://127.0.0.1:1", "embedded") as view:
        for _ in range(3):
            view.update(Driver(), StepReport(PLAN), OUTSIDE)  # type: ignore[arg-type]
    told = "live v00000042, recall@20 student 0.270, student_events_only 0.265, popular 0.080"
    freshness = "state 10 ms, model 1.97 s, 3152 requests, 1 failed"
    assert capsys.readouterr().err == f"    0 s  300 events/s, lag -, {told}, {freshness}\n"


def test_a_terminal_gets_what_was_measured_from_outside_beside_what_the_server_tells() -> None:
    view = View("ml-100k", 300.0, "http://127.0.0.1:1", "embedded")
    view.update(Driver(), None, OUTSIDE)  # type: ignore[arg-type]
    shown = view._view.situation
    assert shown.title == "demo · ml-100k"
    assert shown.places["events"] == "300 a second to embedded"
    assert (shown.extra["state freshness"], shown.extra["model freshness"]) == ("10 ms", "1.97 s")
