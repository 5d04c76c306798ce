"""Spoil a stream on purpose: nothing that has learned from it goes live, and afterwards learning recovers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from streamrec.evaluation.ranking import per_query_metrics
from streamrec.features.examples import Examples
from streamrec.log.base import Record
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.report import StepReport
from streamrec.registry.gate import Reason, Verdict
from streamrec.state import unpack_strings
from streamrec.student.learner import CURRENT, Learner

World = Any
Event = tuple[str, str]
BATCH, NUM_BEFORE, NUM_SPOILED, NUM_AFTER = 300, 14, 5, 10
NUM_USERS, NUM_ITEMS, NUM_TASTES = 160, 120, 6
SETTINGS: dict[str, dict[str, Any]] = {
    "log": {"num_partitions": 1},
    "features": {"lateness_s": 36_000.0, "dedupe_horizon": 10_000, "max_repeats": 4},
    "teachers": {"enabled": []},
    "student": {"dim": 16, "batch_size": 64, "replay_capacity": 2000, "control": False},
    "registry": {"gate_min_queries": 50},
    "pipeline": {"max_batch_events": BATCH, "min_batch_events": BATCH},
}
BOUND = 0.95
"""What the last version must find of what the undisturbed one finds."""


def drawn(taste: int, rng: np.random.Generator) -> int:
    """An item, mostly of a taste, some of them far more popular."""
    taste = taste if rng.random() < 0.85 else int(rng.integers(NUM_TASTES))
    return taste + NUM_TASTES * min(int(rng.zipf(1.5)) - 1, NUM_ITEMS // NUM_TASTES - 1)


def honest(num: int) -> list[Event]:
    rng = np.random.default_rng(1)
    users = rng.integers(NUM_USERS, size=num).tolist()
    return [(f"u{user}", f"i{drawn(user % NUM_TASTES, rng)}") for user in users]


def permuted(events: list[Event]) -> list[Event]:
    """All labels are shuffled: each item still comes as often."""
    items = np.random.default_rng(3).permutation([item for _, item in events]).tolist()
    return [(user, item) for (user, _), item in zip(events, items, strict=True)]


def drowned(events: list[Event]) -> list[Event]:
    """One bot sends four of five events, all of one item."""
    return [event if number % 5 == 0 else ("bot", "i119") for number, event in enumerate(events)]


def same(events: list[Event]) -> list[Event]:
    return events


@dataclass
class Play:
    """What a played stream was worth: for each batch the live version, and its score on honest queries."""

    controller: Controller
    reports: list[StepReport] = field(default_factory=list)
    scores: dict[int, float] = field(default_factory=dict)
    lives: dict[int, str] = field(default_factory=dict)

    def by_batch(self, first: int, num: int) -> list[StepReport]:
        return [report for report in self.reports if first <= report.plan.batch < first + num]


def probes(controller: Controller) -> Examples:
    packed, rng, num = controller.ingest.vocabulary.packed_ids(), np.random.default_rng(5), 240
    rows = {item: row for row, item in enumerate(unpack_strings(packed.data, packed.offsets))}

    def known(taste: int) -> int:
        return next(rows[item] for item in iter(lambda: f"i{drawn(taste, rng)}", "") if item in rows)

    histories = np.full((num, 8), -1, np.int32)
    targets = np.zeros(num, np.int32)
    for query in range(num):
        histories[query, :6] = [known(query % NUM_TASTES) for _ in range(6)]
        targets[query] = known(query % NUM_TASTES)
    ones, number = np.ones(num, np.float32), np.arange(num + 1, dtype=np.int64)
    return Examples(histories, number, targets, ones, number[:-1], np.zeros(num, np.int32))


@pytest.fixture(scope="module")
def play(make_world: Callable[..., World], make_record: Callable[..., Record], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Play]:
    def played(
        spoil: Callable[[list[Event]], list[Event]],
        on_step: Callable[[Controller, StepReport], None] = lambda *_: None,
        num_spoiled: int = NUM_SPOILED,
        num_after: int = NUM_AFTER,
    ) -> Play:
        events = honest(BATCH * (NUM_BEFORE + num_spoiled + num_after))
        first, end = BATCH * NUM_BEFORE, BATCH * (NUM_BEFORE + num_spoiled)
        events = events[:first] + spoil(events[first:end]) + events[end:]
        records = [make_record(user, item, number) for number, (user, item) in enumerate(events)]
        world = make_world(records, {**SETTINGS, "events": {"future_tolerance_s": 36_000.0}}, folder=tmp_path_factory.mktemp(spoil.__name__))
        result = Play(world.controller())
        learner: Learner = result.controller.parts.student.target  # type: ignore[attr-defined]
        while (report := result.controller.step()) is not None and report.plan.num_records:
            world.clock.advance(1.0)
            result.reports.append(report)
            on_step(result.controller, report)
            live = result.controller.state.live
            if live is not None and report.plan.batch >= NUM_BEFORE:
                asked = probes(result.controller)
                ranks = learner.ranks(asked, [live])[live]
                result.scores[report.plan.batch] = float(per_query_metrics(ranks, asked)["ndcg@10"].mean())
                result.lives[report.plan.batch] = live
        return result

    return played


@pytest.fixture(scope="module")
def undisturbed(play: Callable[..., Play]) -> Play:
    return play(same)


def assert_recovers(spoiled: Play, undisturbed: Play) -> None:
    """A later version goes live, and is as good as the undisturbed one's."""
    last = max(undisturbed.scores)
    assert any(report.decision is not None and report.decision.promote for report in spoiled.by_batch(NUM_BEFORE + NUM_SPOILED + 1, NUM_AFTER))
    assert spoiled.scores[last] >= BOUND * undisturbed.scores[last]


def test_an_undisturbed_stream_promotes_every_version(undisturbed: Play) -> None:
    decided = [report.decision.code for report in undisturbed.reports if report.decision is not None]
    assert set(decided) == {Reason.FIRST_VERSION, Reason.NOT_WORSE}
    assert undisturbed.controller.state.counts["quarantined"] == 0


def test_while_labels_are_shuffled_nothing_is_promoted_and_what_was_learned_of_them_is_taken_back(
    play: Callable[..., Play], undisturbed: Play
) -> None:
    spoiled = play(permuted)
    during = spoiled.by_batch(NUM_BEFORE + 1, NUM_SPOILED)
    decisions = [report.decision for report in during if report.decision is not None]
    assert {decision.code for decision in decisions} == {Reason.UNLIKE}
    assert "the live version finds" in decisions[0].reason
    assert {spoiled.lives[report.plan.batch] for report in during} == {spoiled.lives[NUM_BEFORE]}
    later = [report.decision for report in spoiled.by_batch(NUM_BEFORE + NUM_SPOILED + 1, NUM_AFTER) if report.decision is not None]
    # Histories hold spoiled events for a while, so the first honest step may still be unlike those before.
    codes = [decision.code for decision in later if decision.code is not Reason.UNLIKE]
    assert codes[0] is Reason.TAINTED
    assert {*codes[1:]} == {Reason.NOT_WORSE}
    (record,) = [report.returned for report in spoiled.reports if report.returned is not None]
    assert record.first_batch <= NUM_BEFORE + 1
    assert record.last_batch >= NUM_BEFORE + NUM_SPOILED
    promoted = {report.decision.candidate for report in spoiled.reports if report.decision is not None and report.decision.promote}
    assert not promoted & {report.published for report in during}
    assert_recovers(spoiled, undisturbed)


def test_labels_that_stay_shuffled_are_not_taken_for_usual(play: Callable[..., Play]) -> None:
    spoiled = play(permuted, num_spoiled=11, num_after=0)
    decided = [report.decision for report in spoiled.by_batch(NUM_BEFORE + 2, 10) if report.decision is not None]
    assert {decision.verdict for decision in decided} == {Verdict.REJECT}
    assert any(report.returned is not None for report in spoiled.reports)  # Nor is what was learned of them.


def test_a_bot_that_floods_one_item_teaches_it_to_nobody(play: Callable[..., Play], undisturbed: Play) -> None:
    spoiled = play(drowned)
    controller = spoiled.controller
    decided = [report.decision.code for report in spoiled.reports if report.decision is not None]
    assert set(decided) <= {Reason.FIRST_VERSION, Reason.NOT_WORSE, Reason.TOO_FEW_QUERIES}
    packed = controller.ingest.vocabulary.packed_ids()
    row = unpack_strings(packed.data, packed.offsets).index("i119")
    counts = controller.ingest.popularity.counts(len(controller.ingest.vocabulary))
    honestly = undisturbed.controller.ingest.popularity.counts(len(undisturbed.controller.ingest.vocabulary))
    assert counts[row] <= honestly[row]  # The flood took the place of four fifths of the honest events, too.
    assert not (controller.ingest.window.rows_of("default", "bot") == row).sum() > SETTINGS["features"]["max_repeats"]
    assert min(spoiled.scores.values()) >= 0.9 * min(undisturbed.scores.values())
    assert_recovers(spoiled, undisturbed)


def test_a_version_that_answers_the_same_to_everybody_never_goes_live(play: Callable[..., Play], undisturbed: Play) -> None:
    """One that the scores alone would let wait: what it answers is looked at before any query."""

    def spoil(controller: Controller, report: StepReport) -> None:
        if report.plan.batch == NUM_BEFORE:
            learner: Learner = controller.parts.student.target  # type: ignore[attr-defined]
            learner.tables.rows("bias")[:20] = 100.0
            learner._held.pop(CURRENT, None)

    spoiled = play(same, spoil)
    (bad,) = [report.published for report in spoiled.by_batch(NUM_BEFORE + 1, 1)]
    (decision,) = [report.decision for report in spoiled.reports if report.decision is not None and report.decision.candidate == bad]
    assert decision.code is Reason.STRANGE
    assert decision.numbers["coverage"] < 0.5
    good = [report.decision.numbers for report in undisturbed.reports if report.decision is not None and "overlap" in report.decision.numbers]
    assert min(numbers["overlap"] for numbers in good) > 0.5
    assert min(numbers["coverage"] for numbers in good) > 0.8


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1e30])
def test_weights_gone_to_infinity_never_go_live_and_the_students_are_back_a_step_later(
    play: Callable[..., Play], undisturbed: Play, value: float
) -> None:
    def spoil(controller: Controller, report: StepReport) -> None:
        if report.plan.batch == NUM_BEFORE:
            learner: Learner = controller.parts.student.target  # type: ignore[attr-defined]
            learner.tables.rows("bias")[:] = value
            learner.tables.rows("vectors")[:] = value
            learner._held.pop(CURRENT, None)

    spoiled = play(same, spoil)
    promoted = {report.decision.candidate for report in spoiled.reports if report.decision is not None and report.decision.promote}
    (bad,) = [report.published for report in spoiled.by_batch(NUM_BEFORE + 1, 1)]
    assert bad not in promoted
    assert min(spoiled.scores.values()) >= 0.9 * min(undisturbed.scores.values())
    assert_recovers(spoiled, undisturbed)
