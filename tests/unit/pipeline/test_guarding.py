"""A promoted version that is bad live although it passes the gate is rolled back by itself; one that is as good stays."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamrec.features.hashes import hash_id
from streamrec.log.base import Record
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.report import StepReport
from streamrec.pipeline.stream_numbers import StreamNumbers
from streamrec.pipeline.switches import Flip, SwitchBoard
from streamrec.pipeline.worth_view import load_worth
from streamrec.registry.gate import Reason, Verdict
from streamrec.serving.impressions import ImpressionLog
from streamrec.serving.requests import RecommendRequest
from streamrec.storage import open_storage
from streamrec.telemetry.numbers import Taken

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


def test_a_deletion_ends_the_watch_because_nothing_goes_back_behind_it(make_shop: Any) -> None:
    shop = make_shop(bad_after(25))
    controller = shop.world.controller()
    while not controller.state.guard.get("num"):
        shop.second(controller)
    before = controller.state.guard["vouched"]
    shop.world.append([shop._event("u3", kind="deletion", event_time=shop.world.clock.now_ms() + 900)])
    assert shop.second(controller).deletions == 1
    watch = controller.state.guard
    assert watch["vouched"] is None or watch["vouched"] >= controller.state.not_before > before
    assert not controller.ingest.shown._of_user.get(hash_id("default", "u3"))


def test_what_a_server_logs_is_what_the_stream_counts(make_shop: Any) -> None:
    """From an answer to the sums, over the log."""
    world = make_shop(lambda live: GOOD).world
    controller, now_ms = world.controller(), world.clock.now_ms()
    sent: list[Any] = []
    log = ImpressionLog(0.5, lambda events: sent.extend(events) or Future(), world.clock, draw=lambda: 0.0)
    answer = {"items": [{"item_id": "a"}, {"item_id": "b"}], "model_version": "v00000007", "source": "student", "request_id": "r1"}
    log.shown(RecommendRequest("u1", "default"), answer)
    log.shown(RecommendRequest("u2", "default"), {**answer, "source": "popular", "request_id": "r2"})
    clicks = [{"event_id": "c1", "user_id": "u1", "item_id": "a", "event_type": "click", "event_time": now_ms + 500, "request_id": "r1"}]
    world.append([Record(event["user_id"].encode(), json.dumps(event).encode()) for event in [*sent, *clicks]])
    controller.step()
    world.clock.advance(3.0)
    sent.clear()
    log.shown(RecommendRequest("u9", "default"), answer)
    world.append([Record(b"u9", json.dumps(sent[0]).encode())])
    report = controller.step()
    assert [(row["source"], row["shown"], row["taken"], row["answers"]) for row in controller.ingest.worth.facts()] == [
        ("popular", 1, 0, 2), ("student", 1, 1, 2),
    ]  # fmt: skip
    assert (report.worth.shown, report.worth.taken) == (2, 1)
    numbers: list[Taken] = []
    StreamNumbers([numbers.append])(controller, report, lambda: 0)
    told = {labels: one.value for labels, one in numbers[-1]["streamrec_worth_answers"].items()}
    default = {("default", source, outcome): 0.0 for source in ("popular", "student") for outcome in ("taken", "passed")}
    assert told == {**default, ("default", "popular", "passed"): 2.0, ("default", "student", "taken"): 2.0}
    controller.finish()
    assert load_worth(str(world.folder)).facts() == controller.ingest.worth.facts()
