"""A stream that was killed is started again with other settings than the steps were planned under that it had not committed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streamrec.log.base import Record
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.layout import registry_url
from streamrec.registry.registry import Registry
from streamrec.storage import open_storage

World = Any


def under(world: World, **sections: dict[str, Any]) -> World:
    """The same log and state under other settings."""
    changed = {name: getattr(world.config, name).model_copy(update=values) for name, values in sections.items()}
    return dataclasses.replace(world, config=world.config.model_copy(update=changed))


def registry_of(world: World) -> Registry:
    return Registry(open_storage(registry_url(str(world.folder))))


def digests(folder: Path) -> dict[str, str]:
    registry = Registry(open_storage(registry_url(str(folder))))
    return {version: registry.manifest(version).digest for version in registry.versions()}


def killed(world: World, steps: int) -> Controller:
    """A controller that has published and promoted since its last commit, and is seen no more."""
    controller = world.controller()
    for _ in range(steps):
        controller.step()
        world.clock.advance(1.0)
    assert controller.state.batch > controller.parts.checkpoints.kept_facts()[0]["batch"]  # type: ignore[union-attr]
    return controller


@pytest.mark.parametrize("student", [{"learning_rate": 0.3}, {"batch_size": 8}])
def test_a_killed_stream_goes_on_under_other_settings_and_no_version_that_was_seen_changes(
    world: World, make_record: Callable[..., Record], student: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    killed(world, 6)
    seen, promoted = digests(world.folder), [move.version for move in registry_of(world).history()]
    other = under(world, student=student)
    last = other.controller()
    other.play(last)
    now = digests(world.folder)
    assert {version: now[version] for version in seen} == seen
    assert "was published by an earlier run, with other settings, by another release or on another machine" in caplog.text
    world.append([make_record(f"u{number % 23}", f"i{number % 31}", 500 + number) for number in range(150)])
    other.play(last)
    renamed = [version for version in now if "_" in version]
    assert renamed
    assert [move.version for move in registry_of(world).history()][: len(promoted)] == promoted
    assert max(renamed) < registry_of(world).live()
    assert last.state.live == registry_of(world).live() == max(move.version for move in registry_of(world).history())


def test_a_stream_killed_again_under_the_other_settings_ends_like_one_killed_once(
    make_world: Callable[..., World], mixed: list[Record], tmp_path: Path
) -> None:
    ends = []
    for name, kills in (("once", 0), ("again", 2)):
        world = make_world(mixed, folder=tmp_path / name)
        killed(world, 6)
        other = under(world, student={"learning_rate": 0.3})
        for _ in range(kills):
            controller = other.controller()
            controller.step()
            controller.step()
        last = other.controller()
        other.play(last)
        states = {component: state.digest() for component, state in last.components().items()}
        ends.append((states, digests(world.folder), [move.version for move in registry_of(world).history()]))
    assert ends[0] == ends[1]
