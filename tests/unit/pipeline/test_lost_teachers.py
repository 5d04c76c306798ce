"""Take away a teacher's version that a commit names while the log has lost records, too: `--skip-lost` goes on without both, or says why not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streamrec.errors import Damaged, RetentionGap
from streamrec.log.base import Record
from streamrec.pipeline.skipping import skip_lost

World = Any
SETTINGS: dict[str, dict[str, Any]] = {"teachers": {"enabled": ["linear"], "linear_refresh_events": 50}, "student": {"control": False}}


@pytest.fixture
def taught(make_world: Callable[..., World], mixed: list[Record], tmp_path: Path) -> World:
    """A stream that has a teacher, with records to come."""
    world = make_world(mixed[:250], SETTINGS, folder=tmp_path / "state")
    controller = world.controller()
    world.play(controller)
    assert controller.state.teachers
    world.append(mixed[250:])
    return world


def lose_version(world: World) -> Path:
    """Remove the version in use, and what is compared with it."""
    controller = world.controller()
    version = controller.state.teachers["linear"]
    for named in (version, *controller.state.challengers.values()):
        shutil.rmtree(world.folder / "teachers" / "linear" / named)
    return Path(str(world.folder), "teachers", "linear", version)


def lose_records(world: World, num: int) -> int:
    """Drop records of each partition that come next; return how many were not read."""
    topic, read = world.config.log.events_topic, world.controller().state.offsets
    world.log.drop_before(topic, {partition: offset + num for partition, offset in read.items()})
    return num * len(read)


def test_a_stream_goes_on_without_records_and_a_version_that_are_lost_and_makes_a_new_one(taught: World, caplog: pytest.LogCaptureFixture) -> None:
    before = taught.controller().books()
    path, lost = lose_version(taught), lose_records(taught, 5)
    with pytest.raises(RetentionGap, match=r"jobs\.stream --skip-lost"):
        taught.controller().step()
    assert f"{path}" in caplog.text
    again, said = taught.controller(), []
    assert again.state.teachers == {}
    report = skip_lost(again, said.append)
    assert report is not None
    assert (report.plan.teachers, report.plan.challengers, report.plan.lost) == ({}, {}, lost)
    # What is said is of records alone: the version is an error in the log, since a stream goes on without it unasked.
    assert len(said) == len(again.state.offsets)
    assert all("goes on at offset" in line and "5 records are lost" in line for line in said)
    assert "going on without it until a new version is made" in caplog.text
    killed = taught.controller()  # The process died right after that commit.
    taught.play(killed)
    assert killed.state.teachers["linear"] != path.name
    assert killed.lag() == 0
    books = killed.books()
    assert books["lost"] == lost
    assert books["received"] == sum(killed.state.offsets.values()) > before["received"] + lost
    assert books["received"] == sum(num for name, num in books.items() if name != "received")


@pytest.mark.parametrize("remedy", ["a copy", "a rebuild"])
def test_where_a_stored_plan_uses_the_version_nothing_is_executed_or_skipped_until_a_copy_or_a_rebuild(taught: World, remedy: str) -> None:
    taught.controller().step()  # Not committed: its plan, which uses the version, is executed again.
    version = taught.controller().state.teachers["linear"]
    path = taught.folder / "teachers" / "linear" / version
    kept = path.rename(taught.folder.parent / version)
    files = sorted(taught.folder.rglob("*"))
    for _ in range(2):
        with pytest.raises(Damaged, match=rf"{path}.*the stored plan of batch \d+ uses it, restore it from a copy; without one make .*jobs\.rebuild"):
            taught.controller()  # So does `--skip-lost`, which needs one.
    assert sorted(taught.folder.rglob("*")) == files
    if remedy == "a copy":
        kept.rename(path)
    else:
        assert taught.rebuild().run() is not None
    controller = taught.current()
    assert skip_lost(controller, [].append) is None  # Nothing of the log is lost.
    taught.play(controller)
    assert controller.lag() == 0
    assert controller.books()["pending"] == 0
    assert "lost" not in controller.books()
