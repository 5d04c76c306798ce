from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from streamrec.log.base import Record
from streamrec.pipeline.driver import Driver
from streamrec.pipeline.stream_numbers import TELL_EVERY_S, StreamNumbers
from streamrec.registry import gate
from streamrec.registry.gate import Window, held_back
from streamrec.teachers.policy import Reason, RefreshDecision
from streamrec.telemetry.numbers import Series, Taken
from streamrec.telemetry.table import TABLE

World = Any


class Ear:
    """A board: it hears."""

    def __init__(self) -> None:
        self.heard: list[Taken] = []

    def __call__(self, numbers: Taken) -> None:
        self.heard.append(numbers)

    def value(self, name: str, *labels: str) -> float:
        return self.heard[-1][name][labels].value


@pytest.fixture
def played(world: World) -> tuple[World, Any, Ear, list[Any]]:
    """A stream that was played to its end and told of, each step."""
    ear, controller, reports = Ear(), world.controller(), []
    numbers = StreamNumbers([ear])
    numbers(controller, None, lambda: None)  # As a driver does at its start.
    while (report := controller.step()) is not None:
        reports.append(report)
        numbers(controller, report, lambda: 3)
        world.clock.advance(TELL_EVERY_S)
    numbers(controller, None, lambda: 0)
    return world, controller, ear, reports


def test_a_stream_that_goes_on_and_gets_nothing_tells_its_counters_and_when_it_committed_last(
    make_world: Callable[..., World], mixed: list[Record], tmp_path: Path
) -> None:
    fresh = make_world(mixed[:100], folder=tmp_path / "state")
    new, again = Ear(), Ear()
    controller = fresh.controller()
    StreamNumbers([new])(controller, None, lambda: None)
    assert new.value("streamrec_commits_total") == new.value("streamrec_returns_total") == 0
    assert "streamrec_last_commit_timestamp_seconds" not in new.heard[-1]
    fresh.play(controller)
    controller.finish()
    fresh.clock.advance(60.0)
    restored = fresh.controller()
    StreamNumbers([again])(restored, None, lambda: None)
    assert again.value("streamrec_commits_total") == 0
    assert again.value("streamrec_last_commit_timestamp_seconds") == restored.state.planned_ms / 1000 < fresh.clock.now_ms() / 1000 - 59


def test_what_is_told_is_what_the_books_and_the_steps_say(played: tuple[World, Any, Ear, list[Any]]) -> None:
    _, controller, ear, reports = played
    books = controller.books()
    told = {labels[0]: one.value for labels, one in ear.heard[-1]["streamrec_events_total"].items()}
    assert told == {name: num for name, num in books.items() if name in told}
    assert {labels[0]: one.value for labels, one in ear.heard[-1]["streamrec_books_records"].items()} == {
        name: num for name, num in books.items() if name != "received"
    }
    assert sum(told.values()) == books["received"] - books["pending"] > 0
    assert told["duplicate"] > 0 < told["rejected"]
    assert ear.value("streamrec_steps_total") == len(reports)
    assert ear.value("streamrec_queries_total") == sum(report.num_queries for report in reports) > 0
    assert ear.value("streamrec_commits_total") == sum(report.committed for report in reports) > 0
    assert ear.value("streamrec_deletions_total") == sum(report.deletions for report in reports)
    assert ear.value("streamrec_items") == controller.ingest.vocabulary.num_items > 0
    assert ear.value("streamrec_users") == len(controller.ingest.histories) > 0
    assert ear.value("streamrec_score", "student", "recall@20") == controller.progressive.recent()["student"]["recall@20"]
    assert ear.value("streamrec_versions_total", "default", "published") == controller.state.versions["published"] > 0
    assert sum(ear.heard[-1]["streamrec_step_seconds"][()].buckets) == len(reports)
    assert ear.value("streamrec_stage_seconds_total", "learn") == pytest.approx(sum(report.seconds["learn"] for report in reports))
    used = sum(one.value for (_, outcome), one in ear.heard[-1]["streamrec_refreshes_total"].items() if outcome == "used")
    assert used == sum(len(report.activated) for report in reports) > 0
    assert ear.value("streamrec_lag_records") == 0
    topic, known = controller.config.log.events_topic, controller.intake.known()
    assert known
    for partition, (next_, end) in known.items():
        told_of = [ear.value(name, topic, str(partition)) for name in ("streamrec_read_offset", "streamrec_end_offset")]
        assert told_of == [next_, end] == [controller.state.offsets[partition]] * 2


def test_counters_begin_with_the_process_and_never_fall(world: World) -> None:
    first = world.controller()
    while (report := first.step()) is not None and report.plan.num_records:
        world.clock.advance(1.0)
    first.finish()
    again, ear = world.controller(), Ear()
    numbers = StreamNumbers([ear])

    def told() -> dict[str, float]:
        world.clock.advance(TELL_EVERY_S)
        numbers(again, None, lambda: 0)
        return {labels[0]: one.value for labels, one in ear.heard[-1]["streamrec_events_total"].items()}

    assert again.state.counts["applied"] > 10
    assert set(told().values()) == {0}
    counts = again.state.counts
    counts["applied"] += 7
    assert told()["applied"] == 7
    counts["applied"], counts["quarantined"] = counts["applied"] - 5, counts["quarantined"] + 5
    assert (told()["applied"], told()["quarantined"]) == (7, 5)
    counts["applied"] -= 2  # A failure: the stream goes on from its last commit, and does the same again.
    assert told()["applied"] == 7
    counts["applied"] += 4
    assert told()["applied"] == 9


def test_the_last_commit_of_a_stream_that_ends_is_told(world: World) -> None:
    controller, ear = world.controller(), Ear()
    numbers = StreamNumbers([ear])
    numbers(controller, controller.step(), lambda: 0)
    numbers.ended(controller, controller.finish())
    assert ear.value("streamrec_commits_total") == 1
    assert ear.value("streamrec_last_commit_timestamp_seconds") == world.clock.now_ms() / 1000


def test_the_boards_are_told_once_a_second_also_while_nothing_comes(world: World) -> None:
    ears, controller = (Ear(), Ear()), world.controller()
    numbers = StreamNumbers(ears)
    asked: list[int] = []

    def lag() -> int:
        asked.append(1)
        return 0

    for _ in range(5):
        numbers(controller, None, lag)
        world.clock.advance(TELL_EVERY_S / 2)
    assert [len(ear.heard) for ear in ears] == [3, 3]
    assert len(asked) == 3  # The broker is not asked for more.


def test_a_lag_that_nobody_knows_keeps_its_last_value(world: World) -> None:
    ear, controller, known = Ear(), world.controller(), [7, None]
    numbers = StreamNumbers([ear])
    while known:
        numbers(controller, None, lambda: known.pop(0))
        world.clock.advance(TELL_EVERY_S)
    assert ear.value("streamrec_lag_records") == 7


def test_a_teacher_that_is_gone_and_a_switch_that_is_turned_back_are_told(world: World) -> None:
    ear, controller = Ear(), world.controller()
    numbers = StreamNumbers([ear])
    numbers._put_weights({"linear": [0.2, 0.4], "old": [0.5, 0.5]})
    numbers._put_weights({"linear": [0.2, 0.4]})
    numbers(controller, None, lambda: 0)
    assert ear.heard[-1]["streamrec_teacher_weight"] == {("linear",): Series(pytest.approx(0.3))}
    assert {labels: one.value for labels, one in ear.heard[-1]["streamrec_held"].items()} == {("pause",): 0, ("freeze-publishing",): 0, ("pin",): 0}


def test_all_that_a_stream_is_to_count_is_counted(played: tuple[World, Any, Ear, list[Any]]) -> None:
    rare = {"streamrec_teachers_gain", "streamrec_teachers_gain_error"}  # Of streams of more queries.
    others = {metric.name for metric in TABLE if {"replica", "source"} & set(metric.labels)} | {"streamrec_replicas", "streamrec_swap_seconds"}
    assert set(played[2].heard[-1]) | rare == {metric.name for metric in TABLE} - others


def test_the_driver_tells_of_each_step_and_of_each_look_that_found_nothing(make_world: Callable[..., World], mixed: Any, tmp_path: Any) -> None:
    world = make_world(mixed, folder=tmp_path / "state")
    told: list[tuple[bool, int | None]] = []
    driver = Driver(lambda: world.controller(), world.clock.advance, lambda _: None, lambda _, report, lag: told.append((report is not None, lag())))
    while driver.step() is not None:
        pass
    assert told[0] == (False, None)  # At its start, when it is not known whether the broker answers.
    assert told[1][0] is True
    assert told[-1] == (False, 0)
    assert len(told) > 3


def test_what_begins_a_refresh_because_something_is_wrong_is_an_alarm_and_what_puts_one_off_is_none(world: World) -> None:
    controller, ear = world.controller(), Ear()
    report = controller.step()
    wishes = [(Reason.DRIFT, True), (Reason.DRIFT, True), (Reason.AGE, True), (Reason.BUDGET, False), (Reason.HARM, True)]
    decisions = tuple(RefreshDecision(teacher="linear", refresh=refresh, code=code, reason="", numbers={}) for code, refresh in wishes)
    unlike = held_back("v2", "v1", Window(1), "").model_copy(update={"code": gate.Reason.UNLIKE})
    alarming = replace(report, plan=report.plan.model_copy(update={"decisions": decisions}), decision=unlike)
    numbers = StreamNumbers([ear])
    numbers(controller, report, lambda: 0)
    assert {one.value for one in ear.heard[-1]["streamrec_alarms_total"].values()} == {0}
    numbers.ended(controller, alarming)
    told = {what: one.value for (what,), one in ear.heard[-1]["streamrec_alarms_total"].items()}
    assert told == {"choices_moved": 1, "teacher_fell": 0, "labels_harm": 1, "unlike_events": 1}
