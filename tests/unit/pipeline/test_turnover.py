"""Items that turn over within minutes, as news do: a live version that has grown old is no sign that the events, or what follows, are bad."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamrec.log.base import Record
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.report import StepReport
from streamrec.pipeline.switches import LOOK_EVERY_S, Action, Flip, SwitchBoard
from streamrec.registry.gate import Reason, Verdict
from streamrec.storage import LocalStorage
from streamrec.student.learner import Learner

World = Any
BATCH, NUM_STEPS, FROZEN, THAWED = 300, 30, 6, 18
NUM_USERS, NUM_ITEMS, NUM_TASTES = 60, 120, 6
STEADY = (0.1,) * NUM_STEPS
FASTER = (0.02,) * 16 + (0.1,) * 3 + (0.3,) * 6 + (0.02,) * 11
SETTINGS: dict[str, dict[str, Any]] = {
    "log": {"num_partitions": 1},
    "events": {"future_tolerance_s": 36_000.0},
    "features": {"lateness_s": 36_000.0, "dedupe_horizon": 10_000},
    "teachers": {"enabled": []},
    "student": {"dim": 16, "batch_size": 64, "replay_capacity": 2000, "control": False},
    "registry": {"gate_min_queries": 50},
    "pipeline": {"max_batch_events": BATCH, "min_batch_events": BATCH},
}


def arriving(new_items: Sequence[float]) -> list[tuple[str, str]]:
    """Clicks on a window of items that moves on by so much a click, in each step; the newer of a taste are the more popular."""
    rng, num = np.random.default_rng(1), BATCH * len(new_items)
    users = rng.integers(NUM_USERS, size=num)
    age = np.minimum(rng.zipf(1.3, size=num) - 1, NUM_ITEMS // NUM_TASTES - 1) * NUM_TASTES
    taste = np.where(rng.random(num) < 0.9, users % NUM_TASTES, rng.integers(NUM_TASTES, size=num))
    item = np.cumsum(np.repeat(new_items, BATCH)).astype(int) + NUM_ITEMS - age
    item -= (item - taste) % NUM_TASTES
    return [(f"u{user}", f"i{one}") for user, one in zip(users.tolist(), item.tolist(), strict=True)]


@pytest.fixture
def made(make_world: Callable[..., World], make_record: Callable[..., Record], tmp_path: Path) -> Callable[..., World]:
    def make(new_items: Sequence[float], registry: dict[str, Any] | None = None) -> World:
        records = [make_record(user, item, number) for number, (user, item) in enumerate(arriving(new_items))]
        return make_world(records, {**SETTINGS, "registry": {**SETTINGS["registry"], **(registry or {})}}, folder=tmp_path / "state")

    return make


def turn(world: World, action: Action) -> None:
    SwitchBoard(LocalStorage(world.folder)).turn(action, Flip(by="ann@host", reason="a test", at_ms=1_700_000_000_000), "")
    world.clock.advance(LOOK_EVERY_S)


def played_with_a_freeze(world: World, controller: Controller, before_it_ends: Callable[[], None] = lambda: None) -> list[StepReport]:
    reports: list[StepReport] = []
    while (report := controller.step()) is not None and report.plan.num_records:
        world.clock.advance(1.0)
        reports.append(report)
        if report.plan.batch == FROZEN:
            turn(world, "freeze")
        if report.plan.batch == THAWED - 1:
            before_it_ends()
        if report.plan.batch == THAWED:
            turn(world, "unfreeze")
    return reports


def test_after_publishing_was_frozen_while_all_items_turned_over_the_newest_version_goes_live_and_no_event_is_given_up(
    made: Callable[[Sequence[float]], World],
) -> None:
    world = made(STEADY)
    controller = world.controller()
    reports = played_with_a_freeze(world, controller)
    decided = {each.plan.batch: each.decision for each in reports if each.decision is not None}
    # Shown to be the case: the items are all others, and the live version finds nothing any more.
    first = decided[THAWED + 2]
    assert first.numbers["live"] < 0.01 < 0.03 < first.numbers["candidate"]
    assert {each.code for batch, each in decided.items() if batch > THAWED} == {Reason.NOT_WORSE}
    assert controller.state.counts["quarantined"] == 0
    assert controller.state.counts["applied"] == BATCH * NUM_STEPS


def test_where_items_begin_to_turn_over_faster_the_live_version_follows_and_no_event_is_given_up(made: Callable[[Sequence[float]], World]) -> None:
    """What is usual is of a slower world: the newest version finds less than that, and much more than the live one."""
    world = made(FASTER)
    controller = world.controller()
    decided = []
    while (report := controller.step()) is not None and report.plan.num_records:
        world.clock.advance(1.0)
        if report.decision is not None:
            decided.append(report.decision.promote)
    assert controller.state.counts["quarantined"] == 0
    assert controller.state.counts["applied"] == BATCH * len(FASTER)
    assert sum(decided[16:]) >= 0.7 * len(decided[16:])
    assert all(decided[-5:])


def test_a_version_that_finds_nothing_does_not_go_live_because_the_one_of_before_a_freeze_finds_nothing_either(made: Callable[..., World]) -> None:
    world = made(STEADY, {"max_rejections": 3})
    controller = world.controller()
    learner: Learner = controller.parts.student.target

    def spoil() -> None:
        for name in ("vectors", "bias"):
            learner.tables.rows(name)[:] = 1e30

    reports = played_with_a_freeze(world, controller, spoil)
    (returned,) = [each.plan.batch for each in reports if each.returned is not None]
    decided = {each.plan.batch: each.decision for each in reports if each.decision is not None}
    broken = [each for batch, each in decided.items() if THAWED < batch <= returned]
    assert {each.verdict for each in broken} == {Verdict.REJECT}
    assert broken[0].numbers["live"] == broken[0].numbers["candidate"] == 0.0
    assert broken[0].numbers["overlap"] == 0.0
    assert decided[max(decided)].promote
