"""A user is deleted and nothing comes after it: what is live must not know them for longer than a candidate waits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streamrec.log.base import Record
from streamrec.pipeline.layout import registry_url
from streamrec.registry.registry import Registry
from streamrec.state import unpack_strings
from streamrec.storage import open_storage

World = Any
MINE = ("only-mine-1", "only-mine-2")


@pytest.fixture
def world(make_world: Callable[..., World], mixed: list[Record], make_record: Callable[..., Record], tmp_path: Path) -> World:
    records = [one for one in mixed if b'"deletion"' not in one.value]
    records += [make_record("planted", item, 400 + number) for number, item in enumerate(MINE * 2)]
    settings = {"teachers": {"enabled": ["repeats"]}, "features": {"admit_after": 1}}
    return make_world(records, settings, folder=tmp_path / "state")


def delete(world: World) -> None:
    gone = {"kind": "deletion", "event_id": "gone", "user_id": "planted", "event_time": world.clock.now_ms()}
    world.append([Record(b"planted", json.dumps(gone).encode())])


def registry_of(world: World) -> Registry:
    return Registry(open_storage(registry_url(str(world.folder))), clock=world.clock)


def items_live(world: World) -> set[str]:
    registry = registry_of(world)
    arrays = registry.load_named(registry.live()).arrays
    return set(unpack_strings(arrays["item_id_bytes"], arrays["item_id_offsets"]))


@pytest.mark.parametrize("dies", [False, True])
def test_a_version_without_the_user_goes_live_although_no_event_comes(world: World, dies: bool) -> None:
    controller = world.controller()
    world.play(controller)
    world.clock.advance(5.0)
    world.play(controller)
    assert set(MINE) <= items_live(world)
    delete(world)
    report = controller.step()
    assert report is not None
    assert report.published == f"v{report.plan.batch:08d}"
    if dies:
        controller = world.controller()
    for _ in range(4):
        world.clock.advance(2.0)
        world.play(controller)
    assert not set(MINE) & items_live(world)
    assert controller.state.live >= f"v{controller.state.forgot_batch:08d}"
    assert controller.step() is None, "one is published, not one after another"


def test_a_candidate_that_knows_the_user_never_goes_live(world: World) -> None:
    controller = world.controller()
    while controller.lag():
        controller.step()
    candidate = controller.state.candidate
    assert candidate is not None
    delete(world)
    for _ in range(4):
        world.play(controller)
        world.clock.advance(2.0)
    moves = [move.version for move in registry_of(world).history()]
    assert candidate not in moves
    assert moves[-1] >= f"v{controller.state.forgot_batch:08d}"
    assert not set(MINE) & items_live(world)


def test_a_series_of_deletions_does_not_keep_everything_from_going_live(world: World) -> None:
    """One a second, for longer than a candidate waits: what is live may know the last ones, not the first."""
    controller = world.controller()
    world.play(controller)
    world.clock.advance(5.0)
    world.play(controller)
    delete(world)
    for number in range(12):
        assert controller.step() is not None
        world.clock.advance(1.0)
        gone = {"kind": "deletion", "event_id": f"gone{number}", "user_id": f"u{number}", "event_time": world.clock.now_ms()}
        world.append([Record(f"u{number}".encode(), json.dumps(gone).encode())])
    assert not set(MINE) & items_live(world)
    for _ in range(4):
        world.play(controller)
        world.clock.advance(2.0)
    assert controller.state.live >= f"v{controller.state.forgot_batch:08d}"


def test_where_versions_are_published_seldom_one_follows_a_deletion_once_it_may(
    make_world: Callable[..., World], world: World, tmp_path: Path
) -> None:
    settings = {"teachers": {"enabled": ["repeats"]}, "features": {"admit_after": 1}, "pipeline": {"publish_interval_s": 60.0}}
    slow = make_world([], settings, folder=world.folder)
    slow.log, slow.clock = world.log, world.clock
    controller = slow.controller()
    while controller.lag():
        controller.step()
    assert controller.state.candidate is None
    delete(world)
    report = controller.step()
    assert report is not None
    assert report.published is None
    assert controller.step() is None
    slow.clock.advance(61.0)
    report = controller.step()
    assert report is not None
    assert (report.plan.num_records, report.published) == (0, f"v{report.plan.batch:08d}")
