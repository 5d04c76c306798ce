from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from streamrec.errors import BrokerUnavailable
from streamrec.features.dedupe import hash_key
from streamrec.log.base import Record
from streamrec.log.offsets import OffsetRange
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.publisher import Publisher
from streamrec.pipeline.report import StepReport
from streamrec.registry.gate import Decision, Reason, Verdict, Window
from streamrec.student.learner import CURRENT, Learner

World = Any
NO_TEACHERS: dict[str, dict[str, Any]] = {"teachers": {"enabled": []}, "student": {"control": False}}


def balance(books: dict[str, int]) -> int:
    return books["received"] - sum(value for name, value in books.items() if name != "received")


def dead(world: World) -> list[dict[str, Any]]:
    topic = world.config.log.dead_letter_topic
    rows = world.log.read_table([OffsetRange(topic, 0, 0, world.log.latest(topic)[0])])
    return [json.loads(value) for value in rows["value"].to_pylist()]


def test_the_books_balance_after_every_step_and_nothing_is_pending_at_the_end(world: World) -> None:
    controller = world.controller()
    reports = world.play(controller)
    assert all(balance(dict(report.books)) == 0 for report in reports)
    assert [report.books["pending"] == 0 for report in reports] == [report.committed or report.books["pending"] == 0 for report in reports]
    books = controller.books()
    assert books["received"] == sum(world.log.latest(world.config.log.events_topic).values())
    assert books["pending"] == 0
    assert min(books[name] for name in ("applied", "duplicate", "rejected", "late")) > 0
    learned = sum(int(report.learned.num_new) for report in reports if report.learned is not None)
    assert learned == sum(report.num_queries for report in reports)
    assert controller.ingest.popularity.counts(len(controller.ingest.vocabulary)).sum() > learned


def test_the_books_count_each_kind_of_record_as_it_was_sent(world: World, mixed: list[Record]) -> None:
    controller = world.controller()
    world.play(controller)
    seen: Counter[str] = Counter()
    expected: Counter[str] = Counter()
    for sent in mixed:
        try:
            event = json.loads(sent.value)
        except ValueError:
            expected["rejected"] += 1
            continue
        if "event_time" not in event:
            expected["rejected"] += 1
        elif event["event_id"].startswith("late"):
            expected["late"] += 1
        else:
            key = f"{event.get('namespace', 'default')} {event['event_id']}"
            expected["duplicate" if seen[key] else "applied"] += 1
            seen[key] += 1
    books = controller.books()
    assert {name: books[name] for name in expected} == expected


def test_what_is_read_is_pending_until_its_effect_is_committed(make_world: Callable[..., World], make_record: Any, tmp_path: Path) -> None:
    world = make_world([make_record("u1", f"i{number}", number) for number in range(9)], NO_TEACHERS, folder=tmp_path)
    controller = world.controller()
    assert dict(controller.step().books) | {"late": 0} == {
        "received": 9, "applied": 0, "duplicate": 0, "rejected": 0, "late": 0, "quarantined": 0, "pending": 9,
    }  # fmt: skip
    assert controller.finish().books["applied"] == 9
    assert controller.finish() is None


def test_every_rejected_record_reaches_the_dead_letter_topic_with_its_place_and_original_bytes(world: World, mixed: list[Record]) -> None:
    controller = world.controller()
    world.play(controller)
    letters = dead(world)
    assert len(letters) == controller.books()["rejected"]
    assert sorted(base64.b64decode(letter["value_base64"]) for letter in letters) == sorted(
        sent.value for sent in mixed if sent.value.startswith(b"{not json") or b"event_time" not in sent.value
    )
    for letter in letters:
        rows = world.log.read_table([OffsetRange(letter["topic"], letter["partition"], letter["offset"], letter["offset"] + 1)])
        assert base64.b64decode(letter["value_base64"]) == rows["value"][0].as_py()
        assert base64.b64decode(letter["key_base64"]) == rows["key"][0].as_py()
        assert letter["reason"]


def test_a_record_of_fifteen_megabytes_is_a_dead_letter_in_parts_and_does_not_stop_the_stream(
    make_world: Callable[..., World], make_record: Any, tmp_path: Path
) -> None:
    huge = json.dumps({"event_id": "x", "user_id": "u" * 15_000_000, "item_id": "i", "event_type": "click", "event_time": 1}).encode()
    world = make_world([Record(b"k", huge), make_record("u1", "i1", 1)], NO_TEACHERS, folder=tmp_path)
    controller = world.controller()
    world.play(controller)
    letters = dead(world)
    assert b"".join(base64.b64decode(letter["value_base64"]) for letter in letters) == huge
    assert [letter["part"] for letter in letters] == list(range(letters[0]["parts"]))
    assert controller.books()["rejected"] == 1
    assert controller.books()["applied"] == 1


def test_a_stream_that_begins_with_nothing_but_bad_records_goes_on(make_world: Callable[..., World], make_record: Any, tmp_path: Path) -> None:
    world = make_world([Record(b"k", b"nonsense")], NO_TEACHERS, folder=tmp_path)
    controller = world.controller()
    world.play(controller)
    world.append([make_record("u1", f"i{number}", number) for number in range(5)])
    world.play(controller)
    assert controller.books()["applied"] == 5
    assert controller.state.live is not None


def test_equal_ids_in_two_namespaces_are_two_users_and_two_items(make_world: Callable[..., World], make_record: Any, tmp_path: Path) -> None:
    records = [make_record("u1", f"i{number}", number, namespace=name) for number in range(6) for name in ("a", "b")]
    world = make_world(records, NO_TEACHERS, folder=tmp_path)
    controller = world.controller()
    world.play(controller)
    vocabulary, histories = controller.ingest.vocabulary, controller.ingest.histories
    assert controller.books()["applied"] == 12
    assert len(vocabulary) == 12
    for name in ("a", "b"):
        assert [vocabulary.key_of(row) for row in histories.get(name, "u1").tolist()] == [(name, f"i{number}") for number in range(6)]
    arrays, _ = controller.parts.publisher.load(controller.state.live)  # type: ignore[union-attr]
    assert arrays["item_namespace"].tolist() == controller.ingest.vocabulary.namespace_of_rows().tolist()


def test_an_item_update_gives_the_item_words_before_anyone_touched_it(make_world: Callable[..., World], make_record: Any, tmp_path: Path) -> None:
    world = make_world([make_record("u1", f"i{number}", number) for number in range(5)], NO_TEACHERS, folder=tmp_path)
    controller = world.controller()
    controller.step()
    learner: Learner = controller.parts.student.target  # type: ignore[attr-defined]
    before = learner.export()[0]["item_vectors"]
    update = {"kind": "item_update", "event_id": "t1", "item_id": "new", "title": "amber stone", "event_time": world.clock.now_ms()}
    world.append([Record(b"new", json.dumps(update).encode())])
    controller.step()
    row = controller.ingest.vocabulary.find("default", "new")
    assert row == 5
    assert (learner.tables.rows("words")[row] >= 0).sum() == 2
    assert len(learner.export()[0]["item_vectors"]) == len(before) + 1
    np.testing.assert_array_equal(learner.export()[0]["item_vectors"][:5], before)


def test_a_deleted_user_is_gone_from_all_components_also_after_a_restart(world: World) -> None:
    controller = world.controller()
    for _ in range(5):
        controller.step()
        world.clock.advance(1.0)
    gone = {"kind": "deletion", "event_id": "final", "user_id": "u7", "event_time": world.clock.now_ms()}
    world.append([Record(b"u7", json.dumps(gone).encode())])
    assert len(controller.ingest.histories.get("default", "u7"))
    world.play(controller)
    again = world.controller()
    again.finish()  # The promotion of an idle stream is not committed; its plan is.
    key, other = hash_key("default", "u7"), hash_key("shop", "u7")
    for one in (controller, again):
        replay = one.parts.student.target.replay.snapshot().arrays["user"]  # type: ignore[attr-defined]
        control = one.parts.control.target.replay.snapshot().arrays["user"]  # type: ignore[attr-defined, union-attr]
        window = one.ingest.window.snapshot().arrays["user"]
        assert not any((users == key).any() for users in (replay, control, window))
        assert (window == other).any()
        assert len(one.ingest.histories.get("default", "u7")) == 0
    assert {name: part.digest() for name, part in again.components().items()} == {
        name: part.digest() for name, part in controller.components().items()
    }


def test_a_catalogue_of_today_makes_no_event_of_last_year_late_and_is_never_late_itself(
    make_world: Callable[..., World], make_record: Any, tmp_path: Path
) -> None:
    now_ms, month_ms = json.loads(make_record("u", "i", 600).value)["event_time"], 30 * 86_400_000
    update = {"kind": "item_update", "event_id": "t1", "item_id": "i0", "title": "amber stone", "event_time": now_ms}
    world = make_world([Record(b"i0", json.dumps(update).encode())], NO_TEACHERS, folder=tmp_path)
    controller = world.controller()
    world.play(controller)
    old = [json.loads(make_record("u1", f"i{number}", number).value) for number in range(5)]
    world.append([Record(b"u1", json.dumps({**event, "event_time": event["event_time"] - month_ms}).encode()) for event in old])
    world.play(controller)
    assert controller.books()["late"] == 0
    world.append([make_record("u1", "i7", 100)])
    world.play(controller)
    world.append([Record(b"i0", json.dumps({**update, "event_id": "t2", "event_time": now_ms - 2 * month_ms}).encode())])
    world.append([Record(b"u1", json.dumps({**old[0], "event_id": "again", "event_time": now_ms - 2 * month_ms}).encode())])
    gone = {"kind": "deletion", "event_id": "d1", "user_id": "u1", "event_time": now_ms - 2 * month_ms}
    world.append([Record(b"u1", json.dumps(gone).encode())])
    world.play(controller)
    books = controller.books()
    assert (books["late"], books["applied"]) == (1, 9)


def test_events_after_a_deletion_in_the_same_batch_stay(make_world: Callable[..., World], make_record: Any, tmp_path: Path) -> None:
    gone = {"kind": "deletion", "event_id": "d", "user_id": "u1", "event_time": json.loads(make_record("u1", "i", 2).value)["event_time"] + 500}
    records = [make_record("u1", f"i{number}", number) for number in range(5)] + [Record(b"u1", json.dumps(gone).encode())]
    world = make_world(records, NO_TEACHERS, folder=tmp_path)
    controller = world.controller()
    world.play(controller)
    names = [controller.ingest.vocabulary.key_of(row)[1] for row in controller.ingest.histories.get("default", "u1").tolist()]
    assert names == ["i3", "i4"]
    assert controller.books()["applied"] == 6


def test_a_refresh_takes_effect_at_the_step_whose_plan_names_it_and_at_no_other(world: World) -> None:
    controller = world.controller()
    used: dict[str, str] = {}
    started: dict[str, list[str]] = {"linear": [], "transformer": []}
    for report in world.play(controller):
        assert dict(controller.parts.scorer.target._loaded).keys() >= set(report.plan.teachers) if report.num_queries else True  # type: ignore[attr-defined]
        for name, version in report.plan.teachers.items():
            assert version in started[name]
            used[name] = version
        for name, version in report.refreshes_started.items():
            started[name].append(version)
        assert report.metrics.keys() >= {f"teachers.{name}" for name in report.plan.teachers} or report.num_queries == 0
    assert all(started.values())
    assert {key.split()[1] for key in controller.state.labels} <= {version for versions in started.values() for version in versions}
    assert used == controller.state.teachers


def test_teacher_versions_that_no_kept_commit_can_need_are_removed(world: World) -> None:
    controller = world.controller()
    reports = world.play(controller)
    made = {version for report in reports for version in report.refreshes_started.values()}
    kept = {path.name for path in (world.folder / "teachers" / "linear").iterdir()}
    assert controller.state.teachers["linear"] in kept
    assert kept < made
    again = world.controller()
    assert again.state.teachers == controller.state.teachers


def test_two_teachers_are_refreshed_in_the_middle_of_the_stream_and_their_labels_count(world: World) -> None:
    controller = world.controller()
    reports = world.play(controller)
    assert any({"linear", "transformer"} <= report.plan.teachers.keys() and report.learned and report.learned.num_labelled for report in reports)
    assert sum(controller.state.labels.values()) > 0
    assert controller.parts.control.target._num_steps == controller.parts.student.target._num_steps  # type: ignore[attr-defined, union-attr]


class SpyPublisher(Publisher):
    """Notes which window each decision saw."""

    seen: list[tuple[str, str | None, Window]]

    def decide(self, candidate: str, live: str | None, window: Window, is_idle: bool) -> Decision:
        self.seen.append((candidate, live, window))
        return super().decide(candidate, live, window, is_idle)


def spied(world: World) -> tuple[Controller, SpyPublisher]:
    parts = world.controller().parts
    spy = parts.publisher
    spy.__class__ = SpyPublisher
    spy.seen = []
    return Controller(parts), spy


def test_a_candidate_published_at_one_step_is_decided_on_the_next_steps_events_before_they_are_learned(world: World) -> None:
    controller, _ = spied(world)
    learner: Learner = controller.parts.student.target  # type: ignore[attr-defined]
    controller.recover()
    published: StepReport | None = None
    num_checked = 0
    while (report := controller.step()) is not None:
        if published is not None and published.published is not None and report.decision is not None and report.num_queries:
            assert report.decision.candidate == published.published
            assert report.decision.batch == published.plan.batch + 1
            assert report.decision.numbers["num_queries"] == report.num_queries
            # The candidate is what the student was when the events came: learning comes after.
            assert report.decision.numbers["candidate"] == pytest.approx(report.metrics["student"]["recall@20"], abs=1e-6)
            num_checked += 1
        published = report if report.published else None
        world.clock.advance(1.0)
    assert num_checked >= 4
    assert learner._num_steps > 0


def test_nothing_is_published_while_a_version_waits_for_evidence_and_evidence_adds_up(
    make_world: Callable[..., World], mixed: list[Record], tmp_path: Path
) -> None:
    settings = {**NO_TEACHERS, "registry": {"gate_min_queries": 100}, "pipeline": {"max_batch_events": 40, "idle_promote_s": 1000.0}}
    world = make_world(mixed, settings, folder=tmp_path)
    controller, _ = spied(world)
    waiting, total = None, 0
    decided = []
    while (report := controller.step()) is not None:
        if waiting is not None and report.num_queries:
            total += report.num_queries
            assert report.decision is not None
            assert report.decision.numbers["num_queries"] == total
            if report.decision.verdict is Verdict.WAIT:
                assert report.published is None
                assert total < 100
            else:
                assert total >= 100
                decided.append(waiting)
                waiting = None
        if (report.published and report.decision is None) or (
            report.published and waiting is None and report.decision and report.decision.candidate != report.published
        ):
            waiting, total = report.published, 0
        world.clock.advance(1.0)
    assert decided


def test_a_worse_candidate_is_rejected_and_the_live_version_stays(world: World) -> None:
    controller = world.controller()
    for _ in range(4):
        controller.step()
    learner: Learner = controller.parts.student.target  # type: ignore[attr-defined]
    candidate, live = controller.state.candidate, controller.state.live
    assert candidate is not None
    assert live is not None
    arrays, meta = learner.export()
    num = len(arrays["item_bias"])
    # More impossible items than a ranking is long: what the worse version puts on top never comes.
    padding = {
        name: np.concatenate([arrays[name], np.zeros((60, *arrays[name].shape[1:]), arrays[name].dtype)]) for name in ("item_vectors", "item_bias")
    }
    namespaces = np.concatenate([arrays["item_namespace"], np.repeat([0, 1], 30).astype(np.int32)])
    padding["item_bias"][num:] = 1000.0
    learner.hold(candidate, {**arrays, **padding, "item_namespace": namespaces}, meta)
    learner.hold(live, arrays, meta)
    report = controller.step()
    assert report is not None
    assert report.decision is not None
    assert report.decision.code is Reason.WORSE
    assert controller.state.live == live
    assert controller.state.versions["rejected"] == 1


def test_weights_that_are_not_finite_are_never_promoted_and_the_stream_recovers_a_live_version(world: World) -> None:
    controller = world.controller()
    for _ in range(3):
        controller.step()
    live = controller.state.live
    learner: Learner = controller.parts.student.target  # type: ignore[attr-defined]
    learner.tables.rows("bias")[0] = float("nan")
    learner._held.pop(CURRENT, None)
    report = controller.step()
    assert report is not None
    assert report.published is not None
    after = controller.step()
    assert after is not None
    assert after.decision is not None
    assert after.decision.code is Reason.NOT_FINITE
    assert controller.state.live in {live, "v00000003"}
    assert controller.state.versions["rejected"] == 1


def test_an_idle_stream_promotes_the_waiting_version_and_then_has_nothing_to_do(world: World) -> None:
    controller = world.controller()
    world.play(controller)
    world.clock.advance(100.0)
    report = controller.step()
    if report is not None:
        assert report.decision is not None
        assert report.decision.code is Reason.IDLE
    assert controller.state.candidate is None
    assert controller.step() is None
    versions = controller.state.versions
    assert versions["published"] == versions["promoted"] + versions["rejected"]


def test_a_commit_needs_no_broker(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    controller = world.controller()
    for _ in range(3):
        controller.step()

    def away(*_: Any) -> NoReturn:
        what = "Broker: nobody answers"
        raise BrokerUnavailable(what)

    monkeypatch.setattr(world.log, "read_table", away)
    monkeypatch.setattr(world.log, "latest", away)
    report = controller.finish()
    assert report is not None
    assert report.committed
    assert controller.books()["pending"] == 0


def test_the_promotion_of_an_idle_stream_is_committed_though_no_event_follows(world: World) -> None:
    controller = world.controller()
    world.play(controller)
    controller.finish()
    assert controller.state.candidate is not None
    for _ in range(10):
        world.clock.advance(controller.config.pipeline.idle_promote_s + 1.0)
        controller.step()
    assert controller.state.candidate is None
    again = world.controller()
    assert (again.state.live, again.state.candidate) == (controller.state.live, None)
    assert again.planned() is None


def test_a_live_version_and_a_candidate_can_be_compared_after_many_publications(world: World) -> None:
    controller = world.controller()
    world.play(controller)
    held = set(controller.parts.student.target._held)  # type: ignore[attr-defined]
    assert len(held - {CURRENT}) <= 3
    assert controller.state.live in held


def test_a_stream_without_storage_keeps_nothing_and_still_learns(world: World) -> None:
    controller = world.controller(durable=False)
    while controller.step() is not None:
        world.clock.advance(1.0)
    assert controller.progressive.means()["student"]["recall@20"] > 0
    assert not (world.folder / "checkpoint").exists()
    assert not (world.folder / "plans").exists()
