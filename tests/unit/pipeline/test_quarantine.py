from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamrec.log.base import Record
from streamrec.log.memory import MemoryLog
from streamrec.pipeline.checkpoint import CheckpointStore
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.lake_check import check_lake
from streamrec.pipeline.layout import checkpoint_url
from streamrec.pipeline.quarantined import quarantined
from streamrec.pipeline.report import StepReport
from streamrec.pipeline.skipping import skip_lost
from streamrec.registry.gate import Decision, Gate, Reason, Verdict
from streamrec.registry.guard import Watch
from streamrec.registry.usual import Usual
from streamrec.storage import LocalStorage, open_storage
from streamrec.student.learner import CURRENT

World = Any
NOW_MS = 1_700_000_000_000
SETTINGS: dict[str, dict[str, Any]] = {
    "teachers": {"enabled": []},
    "registry": {"gate_min_queries": 5, "max_rejections": 2},
    "pipeline": {"max_batch_events": 25},
}
REJECTED = range(5, 8)
"""Batches whose candidates are rejected, whatever they are worth: the third one is decided after the return."""


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    decide = Gate.decide

    def stricter(gate: Gate, candidate: Any, live: Any, window: Any, **options: Any) -> Decision:
        decision = decide(gate, candidate, live, window, **options)
        bad = {"verdict": Verdict.REJECT, "code": Reason.WORSE, "reason": "a test says so"}
        return decision.model_copy(update=bad) if window.batch in REJECTED else decision

    monkeypatch.setattr(Gate, "decide", stricter)


@pytest.fixture
def undeleted(mixed: list[Record]) -> list[Record]:
    return [one for one in mixed if b'"deletion"' not in one.value]


@pytest.fixture
def world(make_world: Callable[..., World], undeleted: list[Record], tmp_path: Path) -> World:
    return make_world(undeleted, SETTINGS, folder=tmp_path / "state")


def weights(controller: Controller) -> dict[str, Any]:
    learner = controller.parts.student.target  # type: ignore[attr-defined]
    return {name: np.array(array) for name, array in learner.snapshot().arrays.items()}


def until_the_return(world: World, controller: Controller) -> tuple[Any, dict[str, Any], list[Any]]:
    """Step until the students go back; return that step's report, the weights as of the last promoted version, and the reports before."""
    reports, published = [], {}
    for _ in range(20):
        report = controller.step()
        assert report is not None
        if report.returned is not None:
            return report, published.get(report.returned.return_to, {}), reports
        if report.published is not None:
            published[report.published] = weights(controller)
        reports.append(report)
        world.clock.advance(0.4)
    pytest.fail("nothing is quarantined")


def test_after_so_many_rejections_in_a_row_the_students_go_back_and_the_range_since_is_quarantined(world: World, strict: None) -> None:
    controller = world.controller()
    report, good, before = until_the_return(world, controller)
    record = report.returned
    assert report.plan.return_to == record.return_to == controller.state.live
    assert (record.first_batch, record.last_batch, record.num_rejections, record.reason) == (4, 6, 2, "a test says so")
    assert record.batch == 7
    since = [each.plan for each in before if each.plan.batch in {4, 5, 6}]
    assert {part.partition: (part.start, part.end) for part in record.ranges} == {
        part.partition: (part.start, since[-1].ranges[part.partition].end) for part in since[0].ranges
    }
    counts = controller.state.counts
    assert counts["quarantined"] == record.num_events > 0
    assert counts["received"] == sum(num for name, num in counts.items() if name != "received")
    assert list(quarantined(LocalStorage(world.folder))) == [record]
    assert controller.state.candidate is None or controller.state.candidate == report.published
    returned = controller.parts.student.target.returns.of(record.return_to)  # type: ignore[attr-defined]
    assert returned is not None
    for name, array in good.items():
        np.testing.assert_array_equal(returned.arrays[name], array)


def test_a_step_after_the_return_learns_from_the_promoted_weights_and_replays_nothing_that_is_quarantined(world: World, strict: None) -> None:
    controller = world.controller()
    learner = controller.parts.student.target  # type: ignore[attr-defined]
    taken: list[dict[str, Any]] = []
    go_back = learner.return_to

    def spy(version: str) -> bool:
        done = go_back(version)
        taken.append({name: np.array(array) for name, array in learner.snapshot().arrays.items()})
        return bool(done)

    type(learner).return_to, before = (lambda self, version: spy(version) if self is learner else go_back(version)), type(learner).return_to
    try:
        report, good, reports = until_the_return(world, controller)
    finally:
        type(learner).return_to = before
    num = len(good["table/bias"])
    for name, array in good.items():
        if name not in {"table/words", "table/namespace", "table/generation"}:
            np.testing.assert_array_equal(taken[0][name][:num] if name.startswith("table/") else taken[0][name], array)
    kept = sum(each.num_queries for each in reports if each.plan.batch < report.returned.first_batch)
    assert len(controller.labelling.store) == min(kept + report.num_queries, controller.config.student.replay_capacity)


@pytest.mark.parametrize("never_so", [{"max_rejections": 0}, {"max_rejections": 2, "max_return_items": 1}])
def test_histories_vocabulary_offsets_and_known_ids_do_not_go_back(
    world: World, strict: None, make_world: Callable[..., World], undeleted: list[Record], tmp_path: Path, never_so: dict[str, int]
) -> None:
    controller = world.controller()
    until_the_return(world, controller)
    never = make_world(undeleted, {**SETTINGS, "registry": {"gate_min_queries": 5, **never_so}}, folder=tmp_path / "never")
    other = never.controller()
    while other.state.batch < controller.state.batch:
        assert other.step().returned is None
        never.clock.advance(0.4)
    assert other.state.counts["quarantined"] == 0
    assert not other.components()["student.returns"].snapshot().arrays
    assert other.state.offsets == controller.state.offsets
    assert unchanged(controller) == unchanged(other)


def unchanged(controller: Controller) -> dict[str, str]:
    return {name: controller.components()[name].digest() for name in ("histories", "vocabulary", "popularity", "dedupe", "window")}


@pytest.mark.parametrize("num_steps", [4, 6, 7, 9])
def test_a_stream_that_is_killed_around_a_return_ends_in_the_same_bits(
    world: World, strict: None, make_world: Callable[..., World], undeleted: list[Record], tmp_path: Path, num_steps: int
) -> None:
    world.assert_killed_ends_alike(make_world(undeleted, SETTINGS, folder=tmp_path / "killed"), num_steps)


def test_the_lake_and_the_books_agree_after_a_return_and_learning_goes_on(world: World, strict: None) -> None:
    controller = world.controller()
    reports = world.play(controller)
    (record,) = [report.returned for report in reports if report.returned is not None]
    books = controller.books()
    assert books["quarantined"] == record.num_events
    assert books["pending"] == 0
    later = [report.decision for report in reports if report.plan.batch > max(REJECTED) and report.decision is not None]
    assert any(decision.promote for decision in later)
    checkpoints = CheckpointStore(open_storage(checkpoint_url(str(world.folder))))
    assert controller.parts.lake is not None
    assert check_lake(controller.parts.lake.lake, checkpoints).differences == []


def test_weights_that_are_not_finite_send_the_students_back_at_once(
    make_world: Callable[..., World], undeleted: list[Record], tmp_path: Path
) -> None:
    settings = {**SETTINGS, "registry": {"gate_min_queries": 5, "max_rejections": 50}}
    world = make_world(undeleted, settings, folder=tmp_path)
    controller = world.controller()
    for _ in range(5):
        controller.step()
    learner = controller.parts.student.target  # type: ignore[attr-defined]
    learner.tables.rows("vectors")[:] = float("inf")
    learner._held.pop(CURRENT, None)
    report, _, _ = until_the_return(world, controller)
    assert "not finite" in report.returned.reason
    assert np.isfinite(weights(controller)["table/vectors"]).all()
    after = world.play(controller)
    assert any(each.decision is not None and each.decision.promote for each in after)


@pytest.mark.parametrize("who", ["student", "control"])
def test_who_is_not_published_comes_back_from_weights_that_are_not_finite_too(
    make_world: Callable[..., World], undeleted: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    """The gate sees those alone of the one that is published: the control where teachers harm, else the student."""
    settings = {**SETTINGS, "student": {"control": True}, "registry": {"gate_min_queries": 5, "max_rejections": 50}}
    world = make_world(undeleted, settings, folder=tmp_path)
    controller = world.controller()
    monkeypatch.setattr(type(controller.gain), "is_harmful", property(lambda _: who == "student"))
    for _ in range(5):
        controller.step()
    learner = getattr(controller.parts, who).target
    learner.tables.rows("vectors")[:] = float("nan")
    learner._held.pop(CURRENT, None)
    report, _, _ = until_the_return(world, controller)
    assert report.returned.reason == f"the loss is not finite of {who}"
    assert np.isfinite(learner.snapshot().arrays["table/vectors"]).all()
    after = world.play(controller)
    assert any(each.decision is not None and each.decision.promote for each in after)
    assert not any(each.returned is not None for each in after)


def test_after_an_operator_has_moved_what_is_live_the_students_go_back_to_what_that_was_made_of(world: World, strict: None) -> None:
    controller = world.controller()
    published: dict[str | None, dict[str, Any]] = {}
    for _ in range(4):
        report = controller.step()
        assert report is not None
        published[report.published] = weights(controller)
        world.clock.advance(0.4)
    before = world.registry().history(1)[0].previous
    assert before is not None
    assert before != controller.state.good
    world.registry().rollback("fewer orders")
    assert until_the_return(world, controller)[0].returned.return_to == before
    returned = controller.parts.student.target.returns.of(before)  # type: ignore[attr-defined]
    assert returned is not None
    for name, array in published[before].items():
        np.testing.assert_array_equal(returned.arrays[name], array)
    while not ((report := controller.step()).decision is not None and report.decision.promote):
        world.clock.advance(0.4)
    assert controller.parts.student.target.returns.of(before) is not None  # type: ignore[attr-defined] # It is the version before the newest now.


@pytest.mark.parametrize(("code", "is_odd"), [(Reason.STRANGE, True), (Reason.TAINTED, True), (Reason.WORSE, False)])
def test_events_that_an_odd_candidate_is_judged_by_are_told_to_what_is_usual_as_such(
    world: World, monkeypatch: pytest.MonkeyPatch, code: Reason, is_odd: bool
) -> None:
    controller = world.controller()
    for _ in range(3):
        controller.step()
        world.clock.advance(0.4)
    told: list[bool] = []
    decide, after = Gate.decide, Usual.after

    def odd(gate: Gate, *parts: Any, **options: Any) -> Decision:
        return decide(gate, *parts, **options).model_copy(update={"verdict": Verdict.REJECT, "code": code, "reason": "a test says so"})

    def heard(usual: Usual, found: Any, share: float, *, is_odd: bool = False, **options: Any) -> Usual:
        told.append(is_odd)
        return after(usual, found, share, is_odd=is_odd, **options)

    monkeypatch.setattr(Gate, "decide", odd)
    monkeypatch.setattr(Usual, "after", heard)
    controller.step()
    assert told == [is_odd]


def test_nobody_goes_back_to_what_is_not_remembered(world: World, strict: None) -> None:
    controller = world.controller()
    for _ in range(4):
        controller.step()
        world.clock.advance(0.4)
    assert controller.state.good is not None
    controller.state.marks.pop(str(world.registry().history(1)[0].previous))
    world.registry().rollback("fewer orders")
    for _ in range(4):
        report = controller.step()
        assert report is not None
        assert report.returned is None


def test_nobody_goes_back_behind_a_deletion_and_the_copies_of_before_it_are_let_go(world: World, strict: None) -> None:
    controller = world.controller()
    for _ in range(4):
        controller.step()
        world.clock.advance(0.4)
    good = controller.state.good
    assert good is not None
    learner = controller.parts.student.target  # type: ignore[attr-defined]
    assert learner.returns.of(good) is not None
    gone = {"kind": "deletion", "event_id": "gone", "user_id": "u3", "event_time": NOW_MS}
    ends = world.log.latest(world.config.log.events_topic)
    world.append([Record(b"u3", json.dumps(gone).encode(), partition=partition) for partition in ends])
    while not controller.state.forgot_batch:
        report = controller.step()
        assert report is not None
        world.clock.advance(0.4)
    assert report.deletions
    assert learner.returns.of(good) is None
    assert controller.state.good is None or controller.state.good >= controller.state.not_before


def test_a_return_behind_an_earlier_one_takes_back_what_is_learned_still_alone(world: World, strict: None) -> None:
    controller = world.controller()
    state, reports = controller.state, [controller.step()]
    while state.live is None:
        world.clock.advance(0.4)
        reports.append(controller.step())
    older, vouched = state.live, Watch(live=state.live, vouched=state.live, first=None, num_before=1000, taken_before=500)
    state.guard, mark = dataclasses.asdict(vouched), dict(state.marks[state.live])
    report, _, others = until_the_return(world, controller)
    reports, earlier = [*reports, *others, report], report.returned
    later = StepReport(report.plan.model_copy(update={"batch": state.batch + 1, "return_to": older}))
    controller.quarantine.carry_out(later.plan, later)
    assert later.returned is not None
    assert (earlier.batches, later.returned.batches) == (((4, 6),), ((mark["batch"] + 1, 3), (7, 7)))
    assert list(quarantined(LocalStorage(world.folder))) == [earlier, later.returned]
    places = [(part.partition, place) for record in (earlier, later.returned) for part in record.ranges for place in range(part.start, part.end)]
    since = {(partition, place) for partition, end in state.offsets.items() for place in range(mark["offsets"][str(partition)], end)}
    assert (len(places), set(places)) == (len(since), since)
    assert state.counts["quarantined"] == earlier.num_events + later.returned.num_events
    assert state.counts["applied"] == mark["applied"]
    assert len(controller.labelling.store) == state.queries == sum(each.num_queries for each in reports if each.plan.batch <= mark["batch"])


def test_a_record_of_a_step_that_is_given_up_is_withdrawn(world: World, strict: None) -> None:
    world.change(pipeline={"checkpoint_interval_s": 1000.0})
    controller = world.controller()
    controller.step()
    controller.finish()
    until_the_return(world, controller)
    storage = LocalStorage(world.folder)
    (record,) = quarantined(storage)
    world.log.drop_before(world.config.log.events_topic, controller.state.offsets)
    again, said = world.controller(), []
    assert again.state.batch < record.batch
    assert skip_lost(again, said.append) is not None
    assert again.state.counts["quarantined"] == 0
    assert list(quarantined(storage)) == []
    assert [line for line in said if f"the record of what batch {record.batch} quarantined is withdrawn" in line]


def test_a_record_that_a_commit_knows_stays_when_something_is_lost(world: World, strict: None) -> None:
    controller = world.controller()
    until_the_return(world, controller)
    controller.finish()
    before, topic = list(quarantined(LocalStorage(world.folder))), world.config.log.events_topic
    world.log.drop_before(topic, world.log.latest(topic))
    assert skip_lost(world.controller(), lambda _: None) is not None
    assert list(quarantined(LocalStorage(world.folder))) == before != []


@pytest.mark.parametrize("num_after", [0, 40])
def test_of_a_topic_that_was_made_anew_a_record_says_what_was_read_there(world: World, strict: None, undeleted: list[Record], num_after: int) -> None:
    controller = world.controller()
    for _ in range(4):
        controller.step()
        world.clock.advance(0.4)
    controller.finish()
    topic, held, good = world.config.log.events_topic, controller.state.offsets, controller.state.good
    world.log = MemoryLog()
    world.log.ensure_topic(topic, 2)
    world.log.ensure_topic(world.config.log.dead_letter_topic, 1)
    world.append(undeleted[:num_after])
    skipping = world.controller()
    report = skip_lost(skipping, lambda _: None)
    assert report is not None
    assert sum(held.values()) > 0
    while num_after and skipping.lag():
        skipping.step()
        world.clock.advance(0.4)
    later = StepReport(report.plan.model_copy(update={"batch": skipping.state.batch + 1, "return_to": good}))
    skipping.quarantine.carry_out(later.plan, later)
    assert later.returned is not None
    assert [(part.partition, part.start, part.end) for part in later.returned.ranges] == [
        (partition, 0, end) for partition, end in world.log.latest(topic).items() if end
    ]
    assert later.returned.batches[0][-1] == report.plan.batch
