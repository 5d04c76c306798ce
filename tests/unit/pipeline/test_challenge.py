from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamrec.config import parse_config
from streamrec.log.base import Record
from streamrec.pipeline.bootstrap import plan_of
from streamrec.pipeline.challenge import ChallengeDecision, Outcome, decide_challenge
from streamrec.pipeline.plan import Measured, Plan, StreamFacts, next_plan
from streamrec.pipeline.report import StepReport
from streamrec.registry.gate import Window
from streamrec.soft_labels.scorer import LoadedTeacher, Scorer
from streamrec.teachers.policy import Reason, RefreshFacts
from streamrec.testing.spoiled import SpoiledTeacher
from streamrec.workers import LocalWorker

World = Any
ONLY_LINEAR: dict[str, dict[str, Any]] = {"teachers": {"enabled": ["linear"], "linear_refresh_events": 50}, "student": {"control": False}}


def window(new: float, old: float, num: int, spread: float = 0.5) -> Window:
    """Paired scores whose differences have that standard deviation."""
    difference = new - old
    return Window(0, num, new * num, old * num, num * difference**2 + (num - 1) * spread**2)


CASES = [
    ("too few queries", window(0.9, 0.1, 31), False, None),
    ("surely better", window(0.40, 0.20, 99), False, Outcome.TAKES_OVER),
    ("surely not worse by a tenth", window(0.20, 0.20, 99, spread=0.08), False, Outcome.TAKES_OVER),
    ("perhaps worse by a tenth", window(0.20, 0.20, 99, spread=0.09), False, None),
    ("surely worse", window(0.05, 0.20, 99), False, Outcome.DROPPED),
    ("surely worse, though by less than a tenth", window(0.19, 0.20, 99, spread=0.04), False, Outcome.DROPPED),
    ("perhaps worse", window(0.10, 0.20, 99), False, None),
    ("better", window(0.30, 0.20, 100), False, Outcome.TAKES_OVER),
    ("equal", window(0.20, 0.20, 100), False, Outcome.TAKES_OVER),
    ("worse within noise", window(0.12, 0.20, 100), False, Outcome.TAKES_OVER),
    ("worse beyond noise", window(0.11, 0.20, 100), False, Outcome.DROPPED),
    ("a little worse on many", window(0.19, 0.20, 10_000), False, Outcome.DROPPED),
    ("no evidence, and the old one must go", Window(0), True, Outcome.TAKES_OVER),
    ("worse, and the old one must go", window(0.01, 0.20, 100), True, Outcome.TAKES_OVER),
]


@pytest.mark.parametrize(("scores", "must_forget", "outcome"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_new_version_takes_over_unless_it_is_worse_by_more_than_its_noise(scores: Window, must_forget: bool, outcome: Outcome | None) -> None:
    decision = decide_challenge("linear", "v2", "v1", scores, 100, must_forget=must_forget)
    assert (decision.outcome if decision is not None else None) is outcome
    if decision is not None:
        assert decision.takes_over == (outcome is Outcome.TAKES_OVER)
        assert decision.numbers["num_queries"] == scores.num_queries
        assert f"on {scores.num_queries} queries" in decision.reason
        assert ChallengeDecision.model_validate_json(decision.model_dump_json()) == decision


def planned(state: StreamFacts, settings: dict[str, Any] | None = None, **seen: Any) -> Plan | None:
    config = parse_config({"teachers": {"challenge_queries": 100, **(settings or {})}})
    usual: dict[str, Any] = {"ends": {0: 12}, "finished": {}, "now_ms": 10**9, "since_publish_s": 0.0, "since_checkpoint_s": 0.0}
    return next_plan(state, Measured(**{**usual, **seen}), config)


IN_USE = StreamFacts(4, {0: 10}, {"linear": "v1"}, {}, {}, None, has_uncommitted=False)
MADE = replace(IN_USE, pending={"linear": "v3"})
COMPARED = replace(IN_USE, challengers={"linear": "v3"})


def versions(plan: Plan | None) -> tuple[dict[str, str], dict[str, str]]:
    assert plan is not None
    return plan.teachers, plan.challengers


def test_a_finished_version_is_compared_and_used_once_the_scores_of_earlier_steps_say_so() -> None:
    finished = {"linear": "v3"}
    assert versions(planned(MADE, finished=finished)) == ({"linear": "v1"}, {"linear": "v3"})
    assert versions(planned(COMPARED)) == ({"linear": "v1"}, {"linear": "v3"})
    better = planned(replace(COMPARED, windows={"linear": window(0.3, 0.2, 100)}))
    assert versions(better) == ({"linear": "v3"}, {})
    worse = planned(replace(COMPARED, windows={"linear": window(0.1, 0.2, 100)}))
    assert versions(worse) == ({"linear": "v1"}, {})
    assert better is not None
    assert worse is not None
    assert [verdict.takes_over for plan in (better, worse) for verdict in plan.verdicts] == [True, False]


def test_a_version_is_used_at_once_where_there_is_none_where_nothing_is_to_be_compared_and_where_the_old_one_must_go() -> None:
    at_once: list[tuple[StreamFacts, dict[str, Any]]] = [
        (replace(MADE, teachers={}), {}),
        (MADE, {"challenge_queries": 0}),
        (replace(MADE, forget_since_ms={"linear": 0}), {}),
        (replace(MADE, refreshes={"linear": RefreshFacts("linear", serves_ms=0)}), {}),
    ]
    for state, settings in at_once:
        assert versions(planned(state, settings, finished={"linear": "v3"})) == ({"linear": "v3"}, {})
    waiting = replace(MADE, refreshes={"linear": RefreshFacts("linear", serves_ms=10**9 - 1)})
    assert versions(planned(waiting, finished={"linear": "v3"})) == ({"linear": "v1"}, {"linear": "v3"})


def test_an_idle_stream_ends_a_comparison_for_a_deleted_user_and_for_nothing_else() -> None:
    assert planned(COMPARED, ends={0: 10}) is None
    for overdue in (replace(COMPARED, forget_since_ms={"linear": 0}), replace(COMPARED, refreshes={"linear": RefreshFacts("linear", serves_ms=0)})):
        assert versions(planned(overdue, ends={0: 10})) == ({"linear": "v3"}, {})


def test_a_comparison_ends_when_the_next_refresh_is_due_by_the_queries_there_are() -> None:
    few = replace(COMPARED, windows={"linear": window(0.2, 0.2, 40)})
    assert versions(planned(few)) == ({"linear": "v1"}, {"linear": "v3"})
    assert versions(planned(replace(few, events_since={"linear": 8000}))) == ({"linear": "v3"}, {})
    none = replace(few, events_since={"linear": 8000}, windows={"linear": window(0.2, 0.2, 31)})
    assert versions(planned(none)) == ({"linear": "v1"}, {"linear": "v3"})


def test_no_refresh_begins_while_a_version_is_compared() -> None:
    busy = planned(replace(COMPARED, events_since={"linear": 10**6}))
    free = planned(replace(IN_USE, events_since={"linear": 10**6}))
    assert busy is not None
    assert free is not None
    assert (busy.start_refresh, free.start_refresh) == ((), ("linear",))
    assert [(decision.teacher, decision.code) for decision in free.decisions] == [("linear", Reason.EVENTS)]


class CountingScorer(Scorer):
    """Counts what it loads; versions in ``bad`` answer the opposite of what they know."""

    bad: bool = False

    def _teacher(self, name: str, version: str) -> LoadedTeacher:
        if version not in self._loaded.get(name, {}):
            self.loads = [*getattr(self, "loads", []), version]
            self.first = getattr(self, "first", version)
        teacher = super()._teacher(name, version)
        return SpoiledTeacher(teacher, "inverted", 0) if self.bad and version != self.first else teacher


def played(world: World, *, bad: bool) -> tuple[Any, list[StepReport], CountingScorer]:
    controller = world.controller()
    scorer = CountingScorer(str(world.folder), world.config.soft_labels.top_k)
    scorer.bad = bad
    controller.parts.scorer = LocalWorker(scorer)
    return controller, world.play(controller), scorer


@pytest.fixture
def linear_world(make_world: Callable[..., World], mixed: list[Record], tmp_path: Path) -> World:
    return make_world(mixed, ONLY_LINEAR, folder=tmp_path / "state")


def test_a_new_version_labels_only_after_both_were_scored_on_events_that_neither_had_seen(linear_world: World) -> None:
    controller, reports, scorer = played(linear_world, bad=False)
    taken = [(report, verdict) for report in reports for verdict in report.plan.verdicts]
    assert taken
    for report, verdict in taken:
        compared = [each for each in reports if each.plan.challengers.get("linear") == verdict.version]
        assert sum(each.num_queries for each in compared) >= verdict.numbers["num_queries"] >= 20
        assert all(each.plan.teachers["linear"] == verdict.against for each in compared)
        assert max(each.plan.batch for each in compared) < report.plan.batch
        assert verdict.reason in "\n".join(report.about_teachers())
        assert report.activated == ({"linear": verdict.version} if verdict.takes_over else {})
    assert any(verdict.takes_over for _, verdict in taken)
    # What was compared is not loaded again when it takes over, nor is the one in use between two steps.
    assert len(scorer.loads) == len(set(scorer.loads))
    in_use, compared_now = controller.state.teachers["linear"], controller.state.challengers.get("linear")
    assert {in_use} <= set(scorer._loaded["linear"]) <= {in_use, compared_now}


def test_a_worse_version_is_dropped_with_its_numbers_and_the_old_one_goes_on_labelling(linear_world: World) -> None:
    controller, reports, scorer = played(linear_world, bad=True)
    verdicts = [verdict for report in reports for verdict in report.plan.verdicts]
    assert verdicts
    assert {verdict.outcome for verdict in verdicts} == {Outcome.DROPPED}
    assert all(verdict.numbers["difference"] < 0 for verdict in verdicts)
    assert controller.state.teachers == {"linear": scorer.first}
    assert {key for key in controller.state.labels if key.startswith("linear")} == {f"linear {scorer.first}"}


def test_a_dropped_version_leaves_the_promise_to_forget_a_user_open(linear_world: World) -> None:
    controller = linear_world.controller()
    while "linear" not in controller.state.teachers:
        assert controller.step() is not None
    asked = {"kind": "deletion", "event_id": "gone", "user_id": "u1", "event_time": linear_world.clock.now_ms()}
    linear_world.append([Record(b"u1", json.dumps(asked).encode())])
    while not controller.state.forget_since_ms:
        assert controller.step() is not None
    since_ms = dict(controller.state.forget_since_ms)
    linear_world.clock.advance(5.0)
    if not controller.state.pending:
        controller.run(plan_of(controller, start_refresh=("linear",)))
    assert controller.state.forget_since_ms == {}
    in_use, version = controller.state.teachers["linear"], controller.state.pending["linear"]
    controller.run(plan_of(controller, challengers={"linear": version}))
    verdict = decide_challenge("linear", version, in_use, window(0.1, 0.3, 100), 100)
    assert verdict is not None
    assert not verdict.takes_over
    controller.run(plan_of(controller, challengers={}, verdicts=(verdict,)))
    assert controller.state.forget_since_ms == since_ms
    assert (controller.state.teachers, controller.state.challengers) == ({"linear": in_use}, {})


def test_only_a_sample_of_a_batch_is_asked_of_a_new_version(linear_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamrec.pipeline.labelling.CHALLENGE_QUERIES", 7)
    _, reports, _ = played(linear_world, bad=False)
    verdicts = [verdict for report in reports for verdict in report.plan.verdicts]
    assert verdicts
    assert all(verdict.numbers["num_queries"] in np.arange(20, 27) for verdict in verdicts)


def test_a_version_that_a_person_asked_for_ends_the_comparison_with_an_older_one(linear_world: World) -> None:
    controller = linear_world.controller()
    while not controller.state.challengers:
        assert controller.step() is not None
        linear_world.clock.advance(1.0)
    controller.run(plan_of(controller, start_refresh=("linear",)))
    assert controller.state.challengers
    controller.run(plan_of(controller, teachers={**controller.state.teachers, **controller.state.pending}))
    assert controller.state.challengers == {}
    assert controller.state.pending == {}
