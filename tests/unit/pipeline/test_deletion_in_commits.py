"""What a deleted user has left goes from the commits too: from bases that deltas take back, and from commits of before."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamrec.features.dedupe import hash_key
from streamrec.log.base import Record
from streamrec.pipeline import saving
from streamrec.pipeline.compaction import compact
from streamrec.pipeline.controller import Controller
from streamrec.storage import BlobRef, open_storage

World = Any
MakeRecord = Callable[..., Record]
USER = "planted"
NUM_LARGE = 12
"""More than there are components with deltas of rows."""
NUM_KEPT = 3


class Joined:
    """Has joined already."""

    def __init__(self, address: str, blobs: Sequence[BlobRef]) -> None:
        self.base = compact(open_storage(address), blobs)

    def poll(self) -> BlobRef | None:
        return self.base


@pytest.fixture(params=["small", "large"])
def world(
    make_world: Callable[..., World], make_record: MakeRecord, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> World:
    """A stream that has learned from a user in its first commits, and has made many deltas since."""
    monkeypatch.setattr(saving, "CompactionProcess", Joined)
    if request.param == "large":
        monkeypatch.setattr(saving, "LARGE_BYTES", 0)
    settings = {"lake": {"enabled": False}, "teachers": {"enabled": ["linear", "neighbours"]}, "pipeline": {"max_batch_events": 40}}
    records = [make_record(f"u{number % 9}", f"i{number * 5 % 13}", number) for number in range(240)]
    records[20:20] = [make_record(USER, f"i{number}", 300 + number) for number in range(6)]
    world = make_world(records, settings, folder=tmp_path / "state")
    controller = world.controller()
    world.play(controller)
    for number in range(3):
        world.append([make_record("u1", f"i{number}", 400 + number)])
        world.play(controller)
    return world


def holding(world: World) -> set[str]:
    """Blobs of commits that hold the user's name or the hash of it."""
    names = (USER.encode(), np.int64(hash_key("default", USER)).tobytes())
    blobs = [path for path in (world.folder / "checkpoint" / "blobs").rglob("*") if path.is_file()]
    return {path.name for path in blobs if any(name in path.read_bytes() for name in names)}


def delete(world: World, controller: Controller) -> None:
    gone = {"kind": "deletion", "event_id": "gone", "user_id": USER, "event_time": world.clock.now_ms()}
    world.append([Record(USER.encode(), json.dumps(gone).encode())])
    world.clock.advance(5.0)
    report = controller.step()
    assert report is not None
    assert report.committed
    controller.finish()


def wait_idly(world: World, controller: Controller) -> int:
    """Let time pass until nothing is left to do, and return how many commits that took."""
    commits = 0
    for _ in range(60):
        world.clock.advance(5.0)
        report = controller.step()
        commits += report is not None and report.committed
    controller.finish()
    assert controller.step() is None, "a stream that has nothing to do makes no commits for ever"
    return commits


def test_an_idle_stream_makes_as_many_commits_as_it_takes_and_none_holds_the_user(world: World) -> None:
    controller = world.controller()
    assert holding(world)
    delete(world, controller)
    assert wait_idly(world, controller) <= NUM_LARGE + NUM_KEPT
    assert holding(world) == set()
    digests = world.digests(controller)
    assert world.digests(world.controller()) == digests


def test_a_restart_in_between_goes_on_with_it(world: World) -> None:
    delete(world, world.controller())
    assert holding(world)
    for _ in range(NUM_LARGE + NUM_KEPT):
        controller = world.controller()
        for _ in range(2):  # What the first has joined beside itself, the second commit takes.
            world.clock.advance(5.0)
            controller.step()
        controller.finish()
    assert holding(world) == set()


def test_the_deletions_own_commit_holds_nothing_of_what_is_small(world: World) -> None:
    controller = world.controller()
    delete(world, controller)
    newest = controller.parts.checkpoints
    assert newest is not None
    loaded = newest.load_newest()
    assert loaded is not None
    left = {blob.sha256 for entry in newest.entries(loaded.id).values() for blob in entry.blobs} & holding(world)
    if saving.LARGE_BYTES:
        assert left == set()
    assert bool(left) == bool(loaded.facts.get(saving.UNJOINED))


def test_a_join_that_fails_is_tried_again(world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: Any) -> Joined:
        raise OSError

    controller = world.controller()
    with monkeypatch.context() as broken:
        broken.setattr(saving, "CompactionProcess", fail)
        delete(world, controller)
    assert ("could not be joined" in caplog.text) == (not saving.LARGE_BYTES)
    wait_idly(world, controller)
    assert holding(world) == set()
