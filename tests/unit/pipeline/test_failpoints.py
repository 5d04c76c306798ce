from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from streamrec.log.base import LogWriter, Record
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.layout import registry_url
from streamrec.pipeline.plan import Plan
from streamrec.pipeline.plan_store import PlanStore
from streamrec.registry.registry import Registry
from streamrec.storage import open_storage
from streamrec.testing.chaos.compare import letter_places, receipts_of
from streamrec.testing.failpoints import Failpoint, Reach, observed

World = Any
AT_ONCE: dict[str, Any] = {"lake": {"keep_for_s": 0.0}}
"""The lake's files go with the commit after a deletion."""


class Crash(BaseException):
    """The process is gone; nothing in the code catches it."""


class CrashAt:
    """Crash at the n-th time that a failpoint is passed, and count all that are passed."""

    def __init__(self, failpoint: Failpoint | None = None, number: int = 1) -> None:
        self.failpoint, self.number = failpoint, number
        self.passed: Counter[Failpoint] = Counter()

    def __call__(self, failpoint: Failpoint, batch: int) -> None:
        del batch
        self.passed[failpoint] += 1
        if failpoint is self.failpoint and self.passed[failpoint] == self.number:
            raise Crash


def watched(world: World, reach: Reach) -> Controller:
    parts = world.controller().parts
    controller = Controller(observed(parts, str(world.folder), world.board, reach))
    controller.recover()
    return controller


def outcome(controller: Controller, world: World) -> dict[str, Any]:
    registry = Registry(open_storage(registry_url(str(world.folder))))
    return {
        "digests": {name: component.digest() for name, component in controller.components().items()},
        "books": controller.books(),
        "versions": {version: registry.manifest(version).digest for version in registry.versions()},
        "promotions": [(move.version, move.action) for move in registry.history()],
        "live": registry.live(),
        "dead letters": letter_places(world.log, world.config.log.dead_letter_topic),
        "receipts": receipts_of(str(world.folder)),
    }


@pytest.fixture
def world(make_world: Callable[..., World], mixed: list[Record], tmp_path: Path) -> World:
    return make_world(mixed, AT_ONCE, folder=tmp_path / "state")


@pytest.fixture(scope="module")
def undisturbed(make_world: Callable[..., World], mixed: list[Record], tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[Plan], Any]:
    """The outcome of a run that nothing disturbs, its plans, and how often it passes each failpoint."""
    folder = tmp_path_factory.mktemp("calm")
    calm = make_world(mixed, AT_ONCE, folder=folder)
    reach = CrashAt()
    controller = watched(calm, reach)
    reports = calm.play(controller)
    return outcome(controller, calm), [report.plan for report in reports], reach.passed


def test_an_undisturbed_run_passes_every_failpoint(undisturbed: tuple[Any, list[Plan], Counter[Failpoint]]) -> None:
    assert set(undisturbed[2]) == set(Failpoint)


def test_watching_changes_nothing(world: World, undisturbed: tuple[Any, list[Plan], Any]) -> None:
    write_plans(world, undisturbed[1])
    controller = world.controller()
    world.play(controller)
    assert outcome(controller, world) == undisturbed[0]


def write_plans(world: World, plans: list[Plan]) -> None:
    store = PlanStore(open_storage(str(world.folder)))
    for plan in plans:
        store.write(plan.model_dump(mode="json"), plan.batch)


@pytest.mark.parametrize("failpoint", list(Failpoint), ids=lambda failpoint: failpoint.name.lower())
def test_a_crash_at_the_failpoint_the_first_and_a_later_time_loses_and_repeats_nothing(
    world: World, undisturbed: tuple[Any, list[Plan], Counter[Failpoint]], failpoint: Failpoint
) -> None:
    calm, plans, passed = undisturbed
    write_plans(world, plans)
    for number in (1, max(1, passed[failpoint] - 2)):
        reach = CrashAt(failpoint, number)
        with pytest.raises(Crash):
            world.play(watched(world, reach))
        assert reach.passed[failpoint] == number  # Else the window was missed.
    last = world.controller()
    world.play(last)
    assert outcome(last, world) == calm


class SentLate:
    """Keep dead letters to itself until a step has committed."""

    def __init__(self, inner: LogWriter) -> None:
        self._inner = inner
        self._waiting: list[tuple[str, Sequence[Record]]] = []

    def append(self, topic: str, records: Sequence[Record]) -> list[tuple[int, int]]:
        self._waiting.append((topic, records))
        return []

    def send(self) -> None:
        while self._waiting:
            self._inner.append(*self._waiting.pop(0))

    def close(self) -> None:
        """The inner one is closed by whoever opened it."""


@pytest.mark.parametrize("failpoint", [Failpoint.HEAD_MOVED, Failpoint.PRUNED])
def test_the_comparison_sees_that_letters_which_are_sent_behind_the_commit_are_lost(
    world: World, undisturbed: tuple[Any, list[Plan], Counter[Failpoint]], failpoint: Failpoint
) -> None:
    calm, plans, passed = undisturbed
    write_plans(world, plans)

    def play_late(reach: Reach) -> Controller:
        late = SentLate(world.log)
        parts = observed(replace(world.controller().parts, dead_letters=late), str(world.folder), world.board, reach)
        controller = Controller(parts)
        controller.recover()
        while controller.step() is not None:
            late.send()
        return controller

    with pytest.raises(Crash):
        play_late(CrashAt(failpoint, passed[failpoint] - 2))
    got = outcome(play_late(CrashAt()), world)
    assert {name for name in calm if got[name] != calm[name]} == {"dead letters"}
    assert set(got["dead letters"]) < set(calm["dead letters"])
