"""What a terminal shows of a stream, for any size of it, and what a pipe gets."""

from __future__ import annotations

import io
import logging
import sys
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from jobs.live_facts import facts_of, rate
from jobs.live_reader import LiveReader, messages
from jobs.live_view import LINE_EVERY_S, QUIET_EVERY_S, LiveView, Picture, Situation
from streamrec.clock import ManualClock

BOUNDS = {
    "streamrec_request_seconds": [0.001, 0.01, 0.1],
    "streamrec_state_freshness_seconds": [0.02, 0.1],
    "streamrec_model_freshness_seconds": [2.0, 4.0],
}


def frame(second: int, **changes: Any) -> dict[str, Any]:
    """What a server tells after so many seconds: 300 events and 20 requests each."""
    asked = {"replica": "r1", "route": "recommend"}
    scores = {"student": 0.27, "student_events_only": 0.26, "popular": 0.08, "teachers.transformer": 0.22}
    numbers = {
        "streamrec_events_total": [{"outcome": "applied", "value": 300 * second}],
        "streamrec_lag_records": [{"value": 12}],
        "streamrec_books_records": [{"column": "applied", "value": 50_000 + 300 * second}, {"column": "pending", "value": 7}],
        "streamrec_requests_total": [
            {**asked, "status": "200", "value": 20 * second},
            {**asked, "status": "503", "value": 40 + second // 10},
            {"replica": "r1", "route": "live", "status": "500", "value": 99},
        ],
        "streamrec_request_seconds": [{**asked, "value": 0.1 * second, "buckets": [10 * second, 10 * second, 0, 0]}],
        "streamrec_versions_total": [{"student": "student", "outcome": "promoted", "value": 41}],
        "streamrec_state_freshness_seconds": [{"replica": "r1", "value": 0.1 * second, "buckets": [10 * second, 0, 0]}],
        "streamrec_model_freshness_seconds": [{"replica": "r1", "value": 30.0 * second, "buckets": [0, 10 * second, 0]}],
        "streamrec_replicas": [{"value": 2}],
        "streamrec_score": [{"model": model, "measure": "recall@20", "value": value} for model, value in scores.items()],
        "streamrec_teachers_gain": [{"value": 0.01}],
        "streamrec_teachers_gain_error": [{"value": 0.002}],
        "streamrec_told_age_seconds": [{"source": "stream", "value": 0.4}],
        "streamrec_held": [{"switch": "pause", "value": 0}],
    }
    swaps = [{"version": "v41", "replicas": 2, "all_replicas_ms": 28.0}, {"version": "v42", "replicas": 0, "all_replicas_ms": None}]
    made = {
        "live": {"model_version": "v00000041", "created_ms": 1000 * second - 1200},
        "last_rejection": None,
        "course": {"swaps": swaps, "marks": []},
    }
    return {"at_ms": 1000 * second, **made, **changes, "numbers": {**numbers, **changes.get("numbers", {})}}


FRAMES = [frame(second) for second in range(30)]


def test_rates_are_what_counters_gained_and_errors_are_clients_own() -> None:
    facts = facts_of(FRAMES, BOUNDS)
    assert (facts.version, facts.age_s, facts.events_per_s, facts.lag, facts.learned) == ("v00000041", 1.2, 300.0, 12, 50_000 + 300 * 29)
    assert (facts.requests_per_s, facts.errors, facts.promoted, facts.rejected) == (20.1, 2, 41, None)
    assert (facts.swap_ms, facts.swap_version, facts.replicas) == (28.0, "v41", 2)
    assert facts.p50_ms == pytest.approx(1.0)
    assert facts.p99_ms == pytest.approx(9.82)
    assert facts.gain == (0.01, 0.002)
    assert (facts.state_s, facts.model_s) == (pytest.approx(0.01), pytest.approx(3.0))
    assert facts.notes == ()
    assert set(facts.course) == {300.0}


def test_a_counter_that_began_anew_counts_from_nothing_and_a_new_series_not_at_all() -> None:
    began = [frame(9), frame(10, numbers={"streamrec_events_total": [{"outcome": "applied", "value": 5}, {"outcome": "late", "value": 900}]})]
    assert rate(began, "streamrec_events_total") == 5.0
    assert rate(began[:1], "streamrec_events_total") is None
    assert rate(FRAMES, "streamrec_commits_total") is None


def test_what_holds_or_ails_the_stream_is_told() -> None:
    ails = {"streamrec_told_age_seconds": [{"source": "stream", "value": 40.0}], "streamrec_held": [{"switch": "pause", "value": 1}]}
    refused = {"version": "v7", "reason": "its probes differ", "at_ms": 0}
    facts = facts_of([frame(1, numbers=ails, live=None, last_rejection=refused)], BOUNDS)
    assert facts.notes == ("the stream has said nothing for 40 s", "the stream is paused", "a replica refused v7: its probes differ")
    assert facts.version is None
    assert facts_of([frame(100, last_rejection=refused)], BOUNDS).notes == ()


SITUATION = Situation("dev", {"API, dashboard": "http://127.0.0.1:8000/"}, happened=["   35 s  transformer v00000066 is used"])


def drawn(width: int, height: int, **options: Any) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, **options)
    console.print(Picture(facts_of(FRAMES, BOUNDS), SITUATION, 75.0))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def texts(width: int, height: int) -> list[str]:
    return [Text.from_ansi(line).plain for line in drawn(width, height)]


@pytest.mark.parametrize("width", [20, 40, 60, 79, 80, 120, 200])
def test_it_fits_any_width_and_ends_within_the_height_that_its_numbers_need(width: int) -> None:
    for height in (3, 8, 20, 50):
        lines = texts(width, height)
        assert max(map(len, lines)) <= width
        assert len(lines) <= max(height, 14)
        assert any("v0000" in line for line in lines)


def test_a_wide_one_has_all_and_a_low_one_leaves_out_what_matters_least() -> None:
    whole = "\n".join(texts(120, 50))
    for said in (
        "http://127.0.0.1:8000/",
        "v00000041",
        "10 ms, model 3.0 s",
        "28 ms to all 2 replicas",
        "+0.0100 ± 0.0020",
        "student, events only",
        "is used",
        "━",
    ):
        assert said in whole
    assert "dev · 1.2 min" in whole
    low = "\n".join(texts(120, 10))
    assert "v00000041" in low
    assert "student, events only" not in low
    assert "is used" not in low


def test_while_no_event_comes_freshness_is_the_age_of_what_answers() -> None:
    console = Console(file=io.StringIO(), width=120, height=50)
    console.print(Picture(facts_of(FRAMES[-1:], BOUNDS), SITUATION, 75.0))
    assert isinstance(console.file, io.StringIO)
    assert "made 1.2 s ago" in console.file.getvalue()


def test_addresses_are_whole_in_a_usual_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    places = {"API, dashboard": "http://127.0.0.1:8000/", "events": "streamrec.events at kafka://kafka.internal:42795"}
    monkeypatch.setattr(SITUATION, "places", places)
    for width in (80, 100):
        whole = "\n".join(texts(width, 50))
        assert [place for place in (*places, *places.values()) if place not in whole] == []
        assert "…" not in whole


def test_no_color_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in "\n".join(drawn(100, 40))
    monkeypatch.delenv("NO_COLOR")
    assert "\x1b[3" in "\n".join(drawn(100, 40, color_system="standard"))


def test_a_pipe_gets_plain_lines_when_something_is_new_and_once_a_minute() -> None:
    clock, seen = ManualClock(0), [FRAMES]
    console = Console(file=io.StringIO(), force_terminal=False, width=40)
    situation = Situation("dev", phase="waiting for events")
    with LiveView(lambda: facts_of(seen[-1], BOUNDS), situation, console, clock) as view:
        view.tick()
        view.tick()
        view.enter("learning")
        clock.advance(LINE_EVERY_S)
        view.tick()
        situation.phase = ""
        for _ in range(int(2 * QUIET_EVERY_S / LINE_EVERY_S)):
            clock.advance(LINE_EVERY_S)
            view.tick()
        view.happened("v9 rejected: worse")
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert lines[:2] == ["    0 s  waiting for events", "    0 s  learning"]
    fresh = "300 events/s, lag 12, learned and live in 3.0 s"
    told = f"{fresh}, live v00000041, recall@20 student 0.270, student_events_only 0.260, teachers add +0.0100 ± 0.0020"
    assert lines[2:4] == [f"   {at} s  {told}, 20 requests/s, 2 errors in the last minute" for at in (10, 70)]
    assert lines[4] == "  125 s  v9 rejected: worse"
    assert not any("\x1b" in line for line in lines)


def test_what_is_logged_meanwhile_comes_above_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    console, before = Console(file=io.StringIO(), force_terminal=True, width=60), sys.stderr
    handler = logging.StreamHandler(before)
    monkeypatch.setattr(logging.root, "handlers", [handler])
    with LiveView(lambda: facts_of(FRAMES, BOUNDS), SITUATION, console):
        logging.getLogger("streamrec.test").warning("told meanwhile")
        assert handler.stream is not before
    assert handler.stream is sys.stderr is before
    assert isinstance(console.file, io.StringIO)
    assert "told meanwhile" in console.file.getvalue()


def test_frames_and_marks_are_kept_once() -> None:
    reader = LiveReader("http://127.0.0.1:1")
    mark = {"at_ms": 5, "kind": "rollback", "what": "v3"}
    hello = b'event: hello\ndata: {"bounds": {}, "course": {"marks": []}}\n\n'
    for event, data in messages(hello.splitlines()):
        reader.take(event, data)
    reader.take("frame", frame(1, course={"marks": [mark], "swaps": []}))
    reader.take("frame", frame(2, course={"marks": [mark, {**mark, "at_ms": 6, "kind": "refresh"}], "swaps": []}))
    assert len(reader.frames) == 2
    assert reader.facts().marks == ((5, "rollback v3"),)
