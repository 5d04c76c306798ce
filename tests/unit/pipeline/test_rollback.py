from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from streamrec.errors import Damaged
from streamrec.log.base import Record
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.layout import registry_url
from streamrec.pipeline.report import StepReport
from streamrec.registry.registry import Registry
from streamrec.storage import open_storage

World = Any


@pytest.fixture
def world(make_world: Any, undeleted: list[Record], tmp_path: Path) -> World:
    """Nothing goes back behind a deletion."""
    return make_world(undeleted, folder=tmp_path / "state")


@pytest.fixture
def undeleted(mixed: list[Record]) -> list[Record]:
    return [one for one in mixed if b'"deletion"' not in one.value]


def registry_of(world: World) -> Registry:
    return Registry(open_storage(registry_url(str(world.folder))), clock=world.clock)


def steps(world: World, controller: Controller, num: int) -> list[StepReport]:
    reports = []
    for _ in range(num):
        report = controller.step()
        assert report is not None
        reports.append(report)
        world.clock.advance(0.1)  # Too little for a commit.
    return reports


def digests(controller: Controller) -> dict[str, str]:
    return {name: component.digest() for name, component in controller.components().items()}


def test_after_a_rollback_candidates_are_compared_with_the_version_that_is_live_again(world: World) -> None:
    controller, registry = world.controller(), registry_of(world)
    steps(world, controller, 4)
    rolled_back, candidate = controller.state.live, controller.state.candidate
    move = registry.rollback("fewer orders")
    assert move.version not in {rolled_back, candidate}
    (report,) = steps(world, controller, 1)
    assert report.plan.live == move.version
    assert report.decision is not None
    assert (report.decision.candidate, report.decision.live) == (candidate, move.version)
    assert report.decision.numbers["num_queries"] == report.num_queries > 0


def test_evidence_against_a_version_that_was_rolled_back_does_not_count(make_world: Any, undeleted: list[Record], tmp_path: Path) -> None:
    world = make_world(undeleted, {"registry": {"gate_min_queries": 70}}, folder=tmp_path)
    controller, registry = world.controller(), registry_of(world)
    while not (controller.state.evidence and len(registry.history()) > 1):
        steps(world, controller, 1)
    registry.rollback("fewer orders")
    (report,) = steps(world, controller, 1)
    assert report.decision is not None
    assert report.decision.numbers["num_queries"] == report.num_queries


def test_a_restart_after_a_rollback_promotes_nothing_again_and_ends_in_the_same_bits(world: World) -> None:
    controller, registry = world.controller(), registry_of(world)
    steps(world, controller, 4)
    rolled_back = controller.state.live
    held = registry.rollback("fewer orders").version
    again = world.controller()
    assert again.state.batch == 0  # Nothing was committed: all four plans are executed again.
    steps(world, again, 4)
    assert registry.live() == held
    assert again.state.live == rolled_back
    assert digests(again) == digests(controller)
    after, undisturbed = steps(world, again, 1), registry.live()
    assert after[0].plan.live == held
    third = world.controller()
    steps(world, third, 5)
    assert registry.live() == undisturbed
    assert digests(third) == digests(again)


def damage(world: World, version: str) -> None:
    """Flip a byte of each blob that this version alone has."""
    registry = registry_of(world)
    others = {blob.sha256 for other in registry.versions() if other != version for blob in registry.manifest(other).blobs}
    own = [blob.sha256 for blob in registry.manifest(version).blobs if blob.sha256 not in others]
    assert own
    for name in own:
        path = Path(registry_url(str(world.folder))) / "default" / "blobs" / name
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)


def test_damaged_weights_of_what_is_live_stop_the_stream_until_an_operator_has_rolled_back(world: World, caplog: pytest.LogCaptureFixture) -> None:
    controller, registry = world.controller(), registry_of(world)
    steps(world, controller, 4)
    controller.finish()
    bad = controller.state.live
    assert bad == registry.live()
    damage(world, bad)
    with pytest.raises(Damaged, match=r"restore that file from a copy, .*or make the state anew: python -m jobs\.rebuild --anew"):
        world.controller()
    held = registry.rollback("damaged").version
    again = world.controller()
    assert again.state.live == held
    assert f"going on without {bad}, which is damaged" in caplog.text
    (report,) = steps(world, again, 1)
    assert report.plan.live == held
    again.finish()
    caplog.clear()
    assert world.controller().state.live == again.state.live != bad
    assert caplog.text == ""


def test_a_damaged_candidate_is_given_up_and_the_next_one_is_published(world: World, caplog: pytest.LogCaptureFixture) -> None:
    controller = world.controller()
    while controller.state.candidate is None or controller.state.live is None:
        steps(world, controller, 1)
    controller.finish()
    bad, rejected = controller.state.candidate, controller.state.versions["rejected"]
    assert bad is not None
    damage(world, bad)
    again = world.controller()
    assert (again.state.candidate, again.state.versions["rejected"]) == (None, rejected + 1)
    assert f"going on without {bad}, which is damaged" in caplog.text
    reports = steps(world, again, 2)
    assert any(report.published for report in reports)


def test_a_rollback_in_the_middle_of_a_step_is_not_overridden_by_that_steps_promotion(world: World) -> None:
    controller, registry = world.controller(), registry_of(world)
    steps(world, controller, 3)
    plan = controller._new_plan()
    assert plan is not None
    held = registry.rollback("fewer orders").version
    report = controller.run(plan)
    assert report.decision is not None
    assert report.decision.promote
    assert registry.live() == held
    (following,) = steps(world, controller, 1)
    assert following.plan.live == held
    assert following.decision is None or following.decision.live == held


def test_a_registry_that_is_gone_below_a_stream_ends_it_at_the_next_promotion(world: World) -> None:
    controller = world.controller()
    steps(world, controller, 4)
    live = controller.state.live
    shutil.rmtree(Path(registry_url(str(world.folder))))
    with pytest.raises(Damaged, match=f"{live} is live by the stream, and what says so is gone, .*/default/history, restore the registry"):
        steps(world, controller, 9)
