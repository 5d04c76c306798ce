"""A student that is taken out of the configuration leaves versions behind: deletions and the policy reach them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streamrec.config import parse_config
from streamrec.errors import RegistryError
from streamrec.log.base import Record
from streamrec.pipeline.former_students import FormerStudents
from streamrec.pipeline.layout import registry_url
from streamrec.pipeline.receipts import read_receipt
from streamrec.registry.registry import Registry
from streamrec.storage import open_storage

World = Any
MakeRecord = Callable[..., Record]
GONE = "u7"
SETTINGS: dict[str, Any] = {
    "teachers": {"enabled": []},
    "student": {"control": False},
    "registry": {"gate_min_queries": 1, "keep_last": 50},
    "pipeline": {"max_batch_events": 12},
    "lake": {"enabled": False},
}


@pytest.fixture
def before(make_world: Callable[..., World], make_record: MakeRecord, tmp_path: Path) -> World:
    """A stream with a further student, one of whose versions is pinned; nobody was deleted yet."""
    records = [make_record(f"u{number % 9}", f"i{number * 5 % 13}", number) for number in range(120)]
    world = make_world(records, {**SETTINGS, "students": {"edge": {"dim": 4}}}, folder=tmp_path / "state")
    world.play(world.controller())
    edge = registry_of(world)
    edge.pin(edge.versions()[1])
    return world


@pytest.fixture
def now(before: World, make_world: Callable[..., World]) -> World:
    """The same stream without it."""
    world = make_world([], SETTINGS, folder=before.folder)
    world.log, world.clock = before.log, before.clock
    return world


def registry_of(world: World, student: str = "edge") -> Registry:
    return Registry(open_storage(registry_url(str(world.folder))), student, clock=world.clock)


def weights_of(world: World, student: str = "edge") -> list[Path]:
    return [path for path in (world.folder / "registry" / student / "blobs").rglob("*") if path.is_file()]


def deletion(make_record: MakeRecord, number: int) -> Record:
    time_ms = json.loads(make_record(GONE, "i", number).value)["event_time"]
    return Record(GONE.encode(), json.dumps({"kind": "deletion", "event_id": "forget", "user_id": GONE, "event_time": time_ms}).encode())


def receipt_of(world: World) -> dict[str, Any]:
    receipt = read_receipt(open_storage(str(world.folder)), "default", "forget")
    assert receipt is not None
    return receipt


def go_on(world: World, make_record: MakeRecord, num_commits: int) -> None:
    """Let so many commits take place."""
    controller = world.controller()
    for number in range(num_commits):
        world.append([make_record("u1", f"i{number}", 400 + number)])
        world.play(controller)


def test_a_deletion_removes_the_versions_of_a_student_that_is_configured_no_more(before: World, now: World, make_record: MakeRecord) -> None:
    num = len(registry_of(before).versions())
    go_on(now, make_record, 3)
    assert len(registry_of(now).versions()) == num >= 6
    now.append([deletion(make_record, 420)])
    now.play(now.controller())
    edge = registry_of(now)
    assert (edge.versions(), weights_of(now), edge.pinned()) == ([], [], set())
    receipt = receipt_of(now)
    assert receipt["former_students"] == {"edge": num}
    assert "live and pinned ones too" in receipt["exact"]["former_students"]


def test_nothing_goes_back_to_them_while_a_kept_commit_still_knows_the_student(before: World, now: World, make_record: MakeRecord) -> None:
    now.append([deletion(make_record, 420)])
    now.play(now.controller())
    edge = registry_of(now)
    assert edge.versions()
    for version in edge.versions():
        with pytest.raises(RegistryError, match="before the deletion 'forget'"):
            edge.promote(version, "fewer orders")
    with pytest.raises(RegistryError):
        edge.rollback("fewer orders")
    # Whoever configures it again goes on from a commit that knows it.
    before.log, before.clock = now.log, now.clock
    assert before.controller().state.lines.keys() <= {"edge"}
    go_on(now, make_record, 3)
    assert registry_of(now).versions() == []


def test_a_student_that_is_configured_again_begins_anew_and_goes_live(before: World, now: World, make_record: MakeRecord) -> None:
    last = registry_of(before).alias()
    assert last is not None
    go_on(now, make_record, 3)
    now.append([deletion(make_record, 420)])
    now.play(now.controller())
    registry_of(now).check_live()
    assert registry_of(now).is_withdrawn(last.version)
    before.log, before.clock = now.log, now.clock
    go_on(before, make_record, 2)
    edge, move = registry_of(before), registry_of(before).alias()
    assert move is not None
    assert move.number > last.number  # Boards go by the number.
    assert move.version == edge.live() == before.controller().state.lines["edge"].live
    assert min(edge.versions()) >= receipt_of(now)["versions_not_before"]


def test_a_rebuild_that_does_not_publish_leaves_them_to_the_stream(now: World, make_record: MakeRecord) -> None:
    go_on(now, make_record, 3)
    num = len(registry_of(now).versions())
    controller = now.controller()
    controller.parts.publisher = None
    now.append([deletion(make_record, 420)])
    now.play(controller)
    assert (len(registry_of(now).versions()), registry_of(now).forgotten()) == (num, None)
    go_on(now, make_record, 1)  # It has taken over.
    assert registry_of(now).versions() == []


def test_the_policy_reaches_them_and_keeps_what_is_live(before: World, now: World) -> None:
    edge = registry_of(before)
    live, pinned, newest = edge.live(), edge.pinned(), edge.versions()[-1]
    config = parse_config({"registry": {"keep_last": 2, "keep_for_s": 0.0}})
    former = FormerStudents(open_storage(registry_url(str(now.folder))), config, now.clock)
    later_ms = now.clock.now_ms() + 1_000_000
    former.prune(later_ms, None, {"edge"})
    assert len(edge.versions()) > 5
    default = registry_of(now, "default").versions()
    former.prune(later_ms, None, ())
    assert {live, newest, *pinned} <= set(edge.versions())
    assert len(edge.versions()) <= 5
    assert registry_of(now, "default").versions() == default


def test_what_can_not_be_read_of_one_goes_too_and_holds_nobody_up(
    before: World, now: World, make_record: MakeRecord, caplog: pytest.LogCaptureFixture
) -> None:
    folder = now.folder / "registry" / "edge"
    (folder / "versions" / registry_of(before).versions()[0] / "manifest.json").write_text("{")
    for move in [folder / "alias" / "live", *(folder / "history").iterdir()]:
        move.write_text("{")
    (now.folder / "registry" / "no name").mkdir()
    (now.folder / "registry" / "no name" / "blobs").write_text("")
    go_on(now, make_record, 3)
    now.append([deletion(make_record, 420)])
    now.play(now.controller())
    assert (registry_of(now).versions(), weights_of(now)) == ([], [])
    assert "out of a deletion's reach" in caplog.text
    assert "'edge', which is configured no more, is not pruned" in caplog.text
