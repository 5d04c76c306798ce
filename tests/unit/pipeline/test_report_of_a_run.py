"""Reports of a small run that the real local loop made, and of a backtest."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from streamrec.cli import app
from streamrec.errors import DatasetError, OperatorError
from streamrec.log.base import Record
from streamrec.pipeline.bootstrap import bootstrap
from streamrec.report.of_backtest import report_of_backtest
from streamrec.report.of_run import report_of_run
from streamrec.report.page import to_html, to_json

World = Any
MADE_MS = 1_764_000_000_000
NOW_MS = 1_700_000_000_000
HOSTILE = '</script><script>window.hurt=1</script><img src=x onerror="window.hurt=1">'


class Read(HTMLParser):
    """What a page holds: exact numbers, text, and the names of its elements."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.numbers: list[float] = []
        self.elements: set[str] = set()
        self.addresses: list[str] = []
        self.said = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        values = dict(attrs)
        self.addresses += [values[name] or "" for name in ("src", "href", "action", "data") if name in values]
        if tag == "data":
            self.numbers.append(json.loads(values["value"] or ""))

    def handle_data(self, data: str) -> None:
        self.said += data


def numbers_in(value: Any) -> Iterator[float]:
    if isinstance(value, dict | list):
        for held in value.values() if isinstance(value, dict) else value:
            yield from numbers_in(held)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


@pytest.fixture(scope="module")
def recorded(make_world: Callable[..., World], mixed: list[Record], tmp_path_factory: pytest.TempPathFactory) -> World:
    """A run with teachers; the item that it recommends most means harm."""
    world = make_world(mixed[:200], folder=tmp_path_factory.mktemp("report") / "run <b>one")
    controller = world.controller()
    bootstrap(controller, world.log.latest(world.config.log.events_topic))
    told = {"kind": "item_update", "title": HOSTILE, "event_time": NOW_MS - 1000}
    world.append(Record(b"i", json.dumps({**told, "event_id": f"h{number}", "item_id": f"i{number}"}).encode()) for number in range(40))
    world.append(mixed[200:400])
    world.play(controller)
    return world


@pytest.fixture(scope="module")
def report(recorded: World) -> Any:
    return report_of_run(of(recorded), MADE_MS)


def of(world: World) -> Any:
    return world.config.model_copy(update={"state": str(world.folder)})


def test_a_run_is_told_as_its_state_has_it(recorded: World, report: Any) -> None:
    controller = recorded.controller()
    means = controller.progressive.means()
    assert [score.model for score in report.scores][:2] == ["student", "student_events_only"]
    assert {score.model: score.metrics for score in report.scores} == means
    assert {score.kind for score in report.scores} == {"student", "control", "teacher", "baseline"}
    assert report.came_in.books["received"] == controller.state.counts["received"] == sum(report.course.num_events)
    assert sum(report.came_in.books.values()) == 2 * report.came_in.books["received"]
    assert 1 < report.came_in.num_users <= len(controller.ingest.histories)
    assert report.course.at[-1] == report.came_in.books["received"]
    student = next(line for line in report.course.lines if line.model == "student")
    known = [(mean, low, high) for mean, low, high in zip(student.mean, student.low, student.high, strict=True) if mean is not None]
    assert known
    assert all(0 <= low <= mean <= high <= 1 for mean, low, high in known)
    assert sum(report.course.num_queries) == controller.progressive.num_queries()["student"]
    num, total, _ = controller.progressive.curve.total("gain")
    found = {name: means[name]["recall@20"] for name in ("student", "student_events_only")}
    assert total / num == pytest.approx(found["student"] - found["student_events_only"], abs=1e-6)
    assert report.course.gain.low[-1] <= report.course.gain.mean[-1] <= report.course.gain.high[-1]
    moves = recorded.registry().history()
    assert [one.version for one in report.decisions if one.at_ms is not None] == [move.version for move in moves]
    assert all(one.reason for one in report.decisions)
    assert (report.costs.num_steps > 1, set(report.costs.seconds) >= {"read", "learn", "checkpoint"}) == (True, True)
    assert {one.teacher for one in report.costs.refreshes} == {"linear", "transformer"}
    assert sum(report.freshness.learned.counts) > 0
    assert report.exposure.recommended.coverage > 0.2
    assert report.exposure.top[0].title == HOSTILE
    assert set(report.missing) == {"forgetting", "outside", "worth"}
    assert report.versions["run"] == report.versions["streamrec"]
    assert report.config["student"]["dim"] == 8


def test_each_number_of_the_page_is_one_of_the_json_and_main_ones_are_there(report: Any) -> None:
    page, held = Read(to_html(report)), json.loads(to_json(report))
    known = set(numbers_in(held))
    derived = {score["error"] * 1.96 for score in held["scores"]} | {one["numbers"].get("standard_error", 0.0) * 1.96 for one in held["decisions"]}
    assert {value for score in held["scores"] for value in (score["metrics"]["recall@20"], score["metrics"]["mrr@20"])} <= set(page.numbers)
    assert {one for name, one in held["came_in"]["books"].items() if name != "lost"} <= set(page.numbers)
    assert set(held["costs"]["seconds"].values()) <= set(page.numbers)
    assert {one["numbers"]["difference"] for one in held["decisions"] if one["live"] and "difference" in one["numbers"]} <= set(page.numbers)
    # Not one that is neither told by JSON nor a share or sum of what it tells.
    shares = [number for number in page.numbers if number not in known and number not in derived]
    total, seconds = held["came_in"]["books"]["received"], sum(held["costs"]["seconds"].values())
    spreads = [part["counts"] for part in (held["freshness"]["learned"], held["freshness"]["promoted"])]
    parts = {num / total for num in held["came_in"]["books"].values()} | {num / sum(counts) for counts in spreads for num in counts}
    steps, spent = held["costs"]["num_steps"], list(held["costs"]["seconds"].values())
    parts |= {value / seconds for value in spent} | {value / steps for value in [*spent, seconds]}
    verdicts = [one["verdict"] for one in held["decisions"]]
    parts |= {verdicts.count(name) for name in set(verdicts)} | {seconds, 1.0, round(held["gain"]["num_queries"]) if held["gain"] else 0}
    drawn = [one["verdict"] for one in held["decisions"] if one["live"] and one["numbers"].get("difference") is not None]
    parts |= {drawn.count(name) for name in ("promote", "reject", "wait")}
    assert [number for number in shares if number not in parts] == []


def test_a_state_always_gives_the_same_bytes_but_for_the_time_of_the_making(recorded: World, report: Any) -> None:
    page = to_html(report)
    assert to_html(report_of_run(of(recorded), MADE_MS)) == page
    later = to_html(report_of_run(of(recorded), MADE_MS + 3_600_000))
    assert later != page
    assert later.replace("2025-11-24T17:00:00Z", "2025-11-24T16:00:00Z").replace("2025-11-24 17:00:00", "2025-11-24 16:00:00") == page


def test_what_means_harm_stays_text_and_nothing_is_fetched(report: Any) -> None:
    page = to_html(report)
    read = Read(page)
    assert HOSTILE in read.said
    assert "run <b>one" in read.said
    assert not read.elements & {"script", "img", "b-", "iframe", "link", "object", "form"}
    assert read.addresses == []
    assert not re.search(r"https?://|url\(|@import", page)
    assert "default-src 'none'" in page


def test_a_run_without_teachers_or_a_stream_since_says_what_is_not_there(plain: World) -> None:
    found = report_of_run(of(plain), MADE_MS)
    assert found.gain is None
    assert {score.kind for score in found.scores} == {"student", "baseline"}
    said = Read(to_html(found)).said
    assert "A stream asks nothing twice" in said
    assert "No answer was logged" in said


def test_a_state_of_a_release_that_kept_no_course_says_so(recorded: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one reads that release's commit."""
    monkeypatch.setattr("streamrec.evaluation.curve.Curve.restore", lambda *_: None)
    found = report_of_run(of(recorded), MADE_MS)
    assert found.course is None
    assert all(score.error is None for score in found.scores)
    assert "Not recorded by the release that made this run" in Read(to_html(found)).said


def test_where_there_is_no_run_the_error_says_what_to_name(tmp_path: Path, plain: World) -> None:
    with pytest.raises(OperatorError, match=r"there is no such run, got .*nowhere, name the folder of a run"):
        report_of_run(of(plain).model_copy(update={"state": str(tmp_path / "nowhere")}), MADE_MS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(OperatorError, match="has committed nothing yet"):
        report_of_run(of(plain).model_copy(update={"state": str(tmp_path / "empty")}), MADE_MS)
    assert list((tmp_path / "empty").iterdir()) == []


def test_the_verb_writes_a_page_or_prints_json(recorded: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STREAMREC_CONFIG", raising=False)
    made = CliRunner().invoke(app, ["report", str(recorded.folder)])
    assert (made.exit_code, made.stdout, made.stderr) == (0, "report.html\n", "")
    assert Path("report.html").read_text().startswith("<!doctype html>")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    shown = CliRunner().invoke(app, ["report", "--set", f"state={recorded.folder}", "--json", "--out", "other.html"])
    assert json.loads(shown.stdout)["kind"] == "run"
    assert not Path("other.html").exists()
    missing = CliRunner().invoke(app, ["report", "nowhere"])
    assert (missing.exit_code, missing.stdout) == (1, "")
    assert missing.stderr.startswith("Report: there is no such run, got ")
    (tmp_path / "file").touch()
    refused = CliRunner().invoke(app, ["report", str(recorded.folder), "--out", "file/report.html"])
    assert (refused.exit_code, refused.stderr.startswith("Report: file/report.html can't be written")) == (1, True)
    refused = CliRunner().invoke(app, ["report", str(recorded.folder), "--out", "."])
    assert refused.stderr == "Report: . can't be written, got a folder, allowed a file, name a file in it, such as NAME, with --out\n"
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "file"}


RESULT = {
    "protocol": "progressive",
    "metrics": {
        name: dict.fromkeys(("recall@20", "recall@50", "mrr@20", "ndcg@10", "ndcg@20"), score)
        for name, score in {"student": 0.25, "student_events_only": 0.2, "linear": 0.22, "popular": 0.1}.items()
    },
    "blocks": 2,
    "queries": 300,
    "seconds": {"teachers": 2.0, "student": 1.0, "evaluation": 0.5},
    "forgetting": {"student": {"la": 0.5, "ra": 0.25, "h_mean": 1 / 3}},
    "per_block": {
        "queries": [100, 200],
        "recall@20": {"student": [0.2, 0.3], "student_events_only": [0.2, 0.2], "linear": [None, 0.22], "popular": [0.1, 0.1]},
        "errors": {
            "student": [0.03, 0.04],
            "student_events_only": [0.03, 0.04],
            "linear": [None, 0.04],
            "popular": [0.03, 0.04],
            "gain": [0.03, 0.04],
        },
    },
    "dataset": {"name": HOSTILE, "events": 5000},
    "config": {"student": {"dim": 8}},
    "code": "1.2.3-abc",
}


def test_a_backtest_is_told_as_it_was_printed(tmp_path: Path) -> None:
    path = tmp_path / "backtest.json"
    path.write_text('{"block": 1}\n' + json.dumps(RESULT) + "\n")
    found = report_of_backtest(path, MADE_MS)
    assert [(score.model, score.kind) for score in found.scores] == [
        ("student", "student"),
        ("student_events_only", "control"),
        ("teachers.linear", "teacher"),
        ("popular", "baseline"),
    ]
    assert found.scores[0].error == pytest.approx(0.025)
    assert (found.gain.mean, found.gain.error) == (pytest.approx(0.05), pytest.approx(0.025))
    assert found.course.gain.mean == pytest.approx((0.0, 0.1))
    assert found.course.gain.high == pytest.approx((1.96 * 0.03, 0.1 + 1.96 * 0.04))
    assert found.course.lines[0].low == pytest.approx((0.2 - 1.96 * 0.03, 0.3 - 1.96 * 0.04))
    read = Read(to_html(found))
    assert {0.5, 0.25, 1 / 3, 0.2, 0.3, 2.0, 5000} <= set(read.numbers)
    assert HOSTILE in read.said
    assert "script" not in read.elements
    assert "A backtest publishes nothing" not in read.said


def test_what_an_older_release_printed_is_told_with_what_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text(json.dumps({name: value for name, value in RESULT.items() if name not in {"per_block", "dataset", "config", "code"}}))
    found = report_of_backtest(path, MADE_MS)
    assert (found.course, found.came_in, found.scores[0].error) == (None, None, None)
    assert "Not recorded by the release that printed this backtest" in Read(to_html(found)).said


@pytest.mark.parametrize("held", ["", "{", "[]", '{"block": 1, "metrics": {}}'])
def test_a_file_that_is_no_result_is_named(tmp_path: Path, held: str) -> None:
    path = tmp_path / "torn.json"
    path.write_text(held)
    with pytest.raises(DatasetError, match=r"torn.json is no backtest's result, got .*, give the file that"):
        report_of_backtest(path, MADE_MS)
