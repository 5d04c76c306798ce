"""A promoted version that is bad live although it passes the gate is rolled back by itself; one that is as good stays."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamrec.log.base import Record
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.report import StepReport
from streamrec.pipeline.switches import Flip, SwitchBoard
from streamrec.registry.gate import Reason, Verdict
from streamrec.storage import open_storage

World = Any
NOW_MS = 1_700_000_000_000
SETTINGS: dict[str, dict[str, Any]] = {
    "log": {"num_partitions": 1},
    "teachers": {"enabled": []},
    "student": {"control": False},
    "registry": {"gate_min_queries": 5, "worth_window_s": "2s", "guard_min_answers": 30, "guard_error": 0.05},
    "pipeline": {"publish_interval_s": "4s"},
}
NUM_USERS, ANSWERS = 12, 10
GOOD, BAD = 0.5, 0.0


class Shop:
    """A stream whose users get answers by what is live, and take something of it as often as the version deserves."""

    def __init__(self, world: World, rate_of: Callable[[str], float]) -> None:
        self.world, self.rate_of, self.rng = world, rate_of, np.random.default_rng(7)
        self.number = 0
        self.reports: list[StepReport] = []

    def _event(self, user: str, **values: Any) -> Record:
        self.number += 1
        return Record(user.encode(), json.dumps({"event_id": f"s{self.number}", "user_id": user, **values}).encode())

    def second(self, controller: Controller) -> StepReport:
        """Let a second pass: answers, what users take of them, what they do besides, and a step."""
        live, at_ms = self.world.registry().live(), self.world.clock.now_ms()
        records = []
        for place in range(ANSWERS if live is not None else 0):
            user, item = f"u{self.rng.integers(NUM_USERS)}", f"shown{self.rng.integers(10)}"
            context = {"student": "default", "model_version": live, "source": "student", "share": 1.0}
            shown = {"kind": "impression", "items": [item, "other"], "event_time": at_ms + place, "request_id": f"r{self.number}", "context": context}
            records.append(self._event(user, **shown))
            if self.rng.random() < self.rate_of(str(live)):
                records.append(self._event(user, item_id=item, event_type="click", event_time=at_ms + place + 100, request_id=f"r{self.number - 1}"))
        for place in range(8):
            user = f"u{place}"
            records.append(self._event(user, item_id=f"i{self.rng.integers(30)}", event_type="click", event_time=at_ms + 500 + place))
        self.world.append(records)
        report = controller.step()
        assert report is not None
        self.world.clock.advance(1.0)
        self.reports.append(report)
        return report

    def play(self, controller: Controller, seconds: int) -> StepReport | None:
        """Play until something is rolled back."""
        for _ in range(seconds):
            report = self.second(controller)
            if report.guarded:
                return report
        return None


@pytest.fixture
def make_shop(make_world: Callable[..., World], tmp_path: Path) -> Callable[..., Shop]:
    def make(rate_of: Callable[[str], float], registry: dict[str, Any] | None = None, name: str = "state") -> Shop:
        settings = {**SETTINGS, "registry": {**SETTINGS["registry"], **(registry or {})}}
        return Shop(make_world([], settings, folder=tmp_path / name), rate_of)

    return make


def bad_after(batch: int, until: int = 10**6) -> Callable[[str], float]:
    return lambda live: BAD if f"v{batch:08d}" < live < f"v{until:08d}" else GOOD


def test_a_version_that_is_bad_live_but_passes_the_gate_is_rolled_back_with_its_numbers_and_never_promoted_again(make_shop: Any) -> None:
    shop = make_shop(bad_after(25, 60))
    controller = shop.world.controller()
    report = shop.play(controller, 60)
    assert report is not None
    (guarded,) = report.guarded
    assert guarded.to <= "v00000025" < guarded.version
    move = shop.world.registry().history(1)[0]
    assert (move.action, move.version, move.reason) == ("rollback", guarded.to, guarded.reason)
    (decision,) = [each for each in shop.world.registry().decisions(guarded.version) if each.code is Reason.LIVE_WORSE]
    assert (decision.verdict, decision.live, dict(decision.numbers)) == (Verdict.REJECT, guarded.to, dict(guarded.numbers))
    assert controller.state.live == guarded.to == controller.state.good
    assert report.returned is not None
    assert (report.returned.return_to, report.returned.reason) == (guarded.to, guarded.reason)
    shop.rate_of = lambda live: GOOD
    assert shop.play(controller, 30) is None
    promoted = [move.version for move in shop.world.registry().history() if move.action == "promote"]
    assert len(promoted) == len(set(promoted))
    first_after = next(each.decision for each in shop.reports if each.plan.batch > report.plan.batch and each.decision and each.decision.promote)
    assert first_after.live == guarded.to


def test_versions_that_are_as_good_stay(make_shop: Any) -> None:
    shop = make_shop(lambda live: GOOD)
    controller = shop.world.controller()
    assert shop.play(controller, 70) is None
    assert controller.state.versions["promoted"] > 10
    assert controller.state.guard["num_before"] > 30


def test_a_guard_that_is_off_rolls_nothing_back(make_shop: Any) -> None:
    shop = make_shop(bad_after(25), {"guard_share": 0.0})
    assert shop.play(shop.world.controller(), 60) is None


def test_the_guard_waits_while_publishing_is_frozen_and_acts_when_it_is_not(make_shop: Any) -> None:
    shop = make_shop(bad_after(25))
    controller = shop.world.controller()
    switches = SwitchBoard(open_storage(str(shop.world.folder)))
    while (controller.state.live or "") <= "v00000025":
        shop.second(controller)
    turn = Flip(by="night", reason="sale", at_ms=NOW_MS)
    switches.turn("freeze", turn)
    assert shop.play(controller, 40) is None
    switches.turn("unfreeze", turn)
    assert shop.play(controller, 5) is not None


def test_an_operators_move_ends_the_watch(make_shop: Any) -> None:
    shop = make_shop(bad_after(25))
    controller = shop.world.controller()
    while not controller.state.guard.get("num"):
        shop.second(controller)
    shop.world.registry().rollback("fewer orders")
    shop.second(controller)
    assert controller.state.guard["vouched"] is None


def test_a_killed_run_rolls_back_once_and_ends_in_the_same_bits(make_shop: Any, make_world: Callable[..., World], tmp_path: Path) -> None:
    shop = make_shop(bad_after(25, 60))
    shop.world.change(pipeline={"checkpoint_interval_s": "25s"})
    first = shop.world.controller()
    report = shop.play(first, 60)
    assert report is not None
    again = shop.world.controller()
    replayed = []
    while (stored := again.planned()) is not None:
        replayed.append(again.run(stored))
    assert [each.guarded for each in replayed if each.guarded] == [report.guarded]
    assert {name: part.digest() for name, part in again.components().items()} == {name: part.digest() for name, part in first.components().items()}
    assert [move.action for move in shop.world.registry().history()].count("rollback") == 1
