from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streamrec.log.base import Record
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.layout import registry_url
from streamrec.pipeline.plan import Plan
from streamrec.pipeline.plan_store import PlanStore
from streamrec.registry.registry import Registry
from streamrec.storage import open_storage
from streamrec.testing.failpoints import Failpoint, Reach, observed

World = Any


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


def outcome(controller: Controller, folder: Path) -> dict[str, Any]:
    registry = Registry(open_storage(registry_url(str(folder))))
    return {
        "digests": {name: component.digest() for name, component in controller.components().items()},
        "books": controller.books(),
        "versions": {version: registry.manifest(version).digest for version in registry.versions()},
        "promotions": [(move.version, move.action) for move in registry.history()],
        "live": registry.live(),
    }


@pytest.fixture(scope="module")
def undisturbed(make_world: Callable[..., World], mixed: list[Record], tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[Plan], Any]:
    """The outcome of a run that nothing disturbs, its plans, and how often it passes each failpoint."""
    folder = tmp_path_factory.mktemp("calm")
    calm = make_world(mixed, folder=folder)
    reach = CrashAt()
    controller = watched(calm, reach)
    reports = calm.play(controller)
    return outcome(controller, folder), [report.plan for report in reports], reach.passed


def test_an_undisturbed_run_passes_every_failpoint(undisturbed: tuple[Any, list[Plan], Counter[Failpoint]]) -> None:
    assert set(undisturbed[2]) == set(Failpoint)


def test_watching_changes_nothing(world: World, undisturbed: tuple[Any, list[Plan], Any]) -> None:
    write_plans(world, undisturbed[1])
    controller = world.controller()
    world.play(controller)
    assert outcome(controller, world.folder) == undisturbed[0]


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
    assert outcome(last, world.folder) == calm
