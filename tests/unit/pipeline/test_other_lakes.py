"""A deletion reaches the lakes that are not in use, and its receipt names what it could not reach."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable

from streamrec.config import parse_config
from streamrec.errors import Damaged, StorageError
from streamrec.log.base import Record, TableReader
from streamrec.log.lake import EventLake
from streamrec.pipeline.bootstrap import bootstrap
from streamrec.pipeline.checkpoint import CheckpointStore
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.lake_check import check_lake
from streamrec.pipeline.layout import checkpoint_url
from streamrec.pipeline.lineage import current_url
from streamrec.pipeline.rebuild import Rebuild, drop_unfinished, remove_old
from streamrec.pipeline.receipts import read_receipt
from streamrec.pipeline.wiring import build_local
from streamrec.storage import LocalStorage, open_storage

World = Any
FAST: dict[str, dict[str, Any]] = {"teachers": {"enabled": []}, "student": {"control": False}, "lake": {"keep_for_s": 3600.0}}
TOPIC = parse_config({}).log.events_topic
NOW_MS = 1_700_000_000_000
GONE = "planted"


class Killed(BaseException):
    """The process is gone."""


@pytest.fixture
def world(make_world: Callable[..., World], make_record: Callable[..., Record], mixed: list[Record], tmp_path: Path) -> World:
    """A stream that has been bootstrapped, and in whose lake the user is."""
    planted = [make_record(GONE, f"i{number}", 200 + number) for number in range(5)]
    world = make_world([*mixed[:150], *planted, *mixed[150:250]], FAST, folder=tmp_path / "state")
    controller = world.controller()
    bootstrap(controller, world.log.latest(TOPIC))
    world.play(controller)
    return world


def changed(world: World, **sections: dict[str, Any]) -> World:
    values = world.config.model_dump(mode="json")
    config = parse_config({name: {**part, **sections.get(name, {})} if isinstance(part, dict) else part for name, part in values.items()})
    return dataclasses.replace(world, config=config)


def current(world: World) -> Controller:
    """What jobs.stream would drive."""
    return at(world, current_url(str(world.folder)), recovers=True)


def at(world: World, url: str, reader: TableReader | None = None, *, recovers: bool = False) -> Controller:
    controller = build_local(world.config, reader or world.log, url, world.clock, dead_letters=world.log)
    if recovers:
        controller.recover()
    return controller


def rebuild(world: World, **options: Any) -> Controller | None:
    def build(lineage_url: str, reader: TableReader, *, publishes: bool) -> Controller:
        controller = at(world, lineage_url, reader)
        if not publishes:
            controller.parts.publisher = None
        return controller

    values = {"dead_letters": world.log, "on_step": lambda report: None, "say": lambda line: None, **options}
    return Rebuild(world.config, str(world.folder), world.log, build, **values).run()


def begun(world: World, num_steps: int) -> None:
    """A rebuild that was killed after so many steps."""
    left = iter(range(num_steps))

    def step(_: object) -> None:
        if next(left, None) is None:
            raise Killed

    with pytest.raises(Killed):
        rebuild(world, on_step=step)


def deletion(number: int = 260) -> Record:
    event = {"kind": "deletion", "event_id": f"forget{number}", "user_id": GONE, "event_time": NOW_MS - 600_000 + 1000 * number}
    return Record(GONE.encode(), json.dumps(event).encode())


def forgotten(world: World, controller: Controller | None = None) -> dict[str, Any]:
    """The receipt of the user's deletion, once the stream has read it."""
    world.append([deletion()])
    world.play(controller := controller or current(world))
    receipt = read_receipt(open_storage(current_url(str(world.folder))), "default", "forget260")
    assert receipt is not None
    return receipt


def users_in(folder: Path | str) -> set[str]:
    return set(DeltaTable(str(folder)).to_pyarrow_table(columns=["user_id"])["user_id"].to_pylist())


def test_a_lake_that_was_switched_off_loses_the_user_and_the_receipt_names_it(world: World) -> None:
    lake = world.folder / "lake"
    assert GONE in users_in(lake)
    receipt = forgotten(changed(world, lake={"enabled": False}))
    assert GONE not in users_in(lake)
    assert receipt["lakes"] == {str(lake): 5}
    assert "lake" in receipt["exact"]
    assert 7_200_000 < receipt["lake_files_gone_by_ms"] - receipt["at_ms"] < 7_300_000


def test_a_state_that_never_had_a_lake_claims_nothing_of_one(make_world: Callable[..., World], mixed: list[Record], tmp_path: Path) -> None:
    world = make_world(mixed[:200], {**FAST, "lake": {"enabled": False}}, folder=tmp_path)
    world.play(world.controller())
    receipt = forgotten(world)
    assert (receipt["lakes"], receipt["out_of_reach"], receipt["lake_files_gone_by_ms"]) == ({}, {}, None)
    assert "lake" not in receipt["exact"]


def test_every_address_that_the_lake_ever_had_is_reached(
    world: World, mixed: list[Record], make_record: Callable[..., Record], tmp_path: Path
) -> None:
    for name in ("second", "third"):
        world = changed(world, lake={"address": str(tmp_path / name)})
        world.append([make_record(GONE, "i1", 250 + len(name), event_id=name)])
        world.play(current(world))
        assert GONE in users_in(tmp_path / name)
    receipt = forgotten(world)
    assert receipt["lakes"] == {str(tmp_path / "third"): 1, str(tmp_path / "second"): 1, str(world.folder / "lake"): 5}
    for folder in (tmp_path / "third", tmp_path / "second", world.folder / "lake"):
        assert GONE not in users_in(folder)


def test_files_of_lakes_out_of_use_go_within_the_stated_time_also_in_an_idle_stream_and_after_a_restart(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = changed(world, lake={"enabled": False})
    receipt = forgotten(world)
    kept: list[float] = []
    monkeypatch.setattr(EventLake, "vacuum", lambda self, keep_for_s: kept.append(keep_for_s) or 0)
    controller = current(world)
    while world.clock.now_ms() < receipt["lake_files_gone_by_ms"]:
        world.clock.advance(7.0)
        controller.step()
    assert kept == [3600.0, 3600.0]
    batch = controller.state.batch
    world.clock.advance(100_000.0)
    assert controller.step() is None
    assert controller.state.batch == batch


def test_a_lake_that_refuses_to_be_tidied_is_asked_again_within_an_hour_until_it_is_tidied(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world = changed(world, lake={"enabled": False})
    receipt = forgotten(world)
    asked: list[bool] = []

    def vacuum(lake: EventLake, keep_for_s: float) -> int:
        asked.append(len(asked) > 3)
        if not asked[-1]:
            what = "Lake: away"
            raise StorageError(what)
        return 0

    monkeypatch.setattr(EventLake, "vacuum", vacuum)
    controller = current(world)
    while world.clock.now_ms() < receipt["lake_files_gone_by_ms"] + 4 * 3_600_000:
        world.clock.advance(30.0)
        controller.step()
    assert asked == [False, False, False, False, True, True]


def switched_off(world: World) -> World:
    return changed(world, lake={"enabled": False})


def switched_off_and_on(world: World) -> World:
    update = {"kind": "item_update", "event_id": "meanwhile", "item_id": "i1", "title": "t", "event_time": NOW_MS - 1000}
    world.append([Record(b"i1", json.dumps(update).encode())])
    world.play(current(switched_off(world)))
    return world


def moved(world: World) -> World:
    return changed(world, lake={"address": f"{world.folder}-elsewhere"})


def rebuilt(world: World) -> World:
    world = changed(world, student={"dim": 12})
    rebuild(world)
    return world


@pytest.mark.parametrize("change", [switched_off, switched_off_and_on, moved, rebuilt])
def test_what_was_promised_of_a_lake_is_kept_though_it_goes_out_of_use_before(
    world: World, monkeypatch: pytest.MonkeyPatch, change: Callable[[World], World], mixed: list[Record]
) -> None:
    receipt = forgotten(world)
    world = change(world)
    kept: dict[str, int] = {}
    monkeypatch.setattr(EventLake, "vacuum", lambda self, keep_for_s: kept.update({self.address: kept.get(self.address, 0) + 1}) or 0)
    controller = current(world)
    world.append(one for one in mixed[250:] if b"deletion" not in one.value)
    while world.clock.now_ms() < receipt["lake_files_gone_by_ms"]:
        world.clock.advance(20.0)
        controller.step()
    assert kept[str(world.folder / "lake")] >= 1


def test_the_lake_of_the_lineage_before_a_rebuild_is_reached_and_what_else_it_holds_is_named(world: World) -> None:
    rebuilt = changed(world, student={"dim": 12})
    rebuild(rebuilt)
    receipt = forgotten(rebuilt)
    assert GONE not in users_in(world.folder / "lake") | users_in(world.folder / "lineages/0002/lake")
    assert receipt["lakes"] == {str(world.folder / "lineages/0002/lake"): 5, str(world.folder / "lake"): 5}
    assert list(receipt["out_of_reach"]) == [str(world.folder)]
    assert "--remove-old" in receipt["out_of_reach"][str(world.folder)]


def test_a_lake_elsewhere_is_reached_also_after_the_rest_of_its_lineage_was_removed(world: World, tmp_path: Path) -> None:
    rebuild(changed(world, student={"dim": 12}, lake={"address": str(tmp_path / "events")}))
    rebuild(changed(world, student={"dim": 16}))
    remove_old(str(world.folder), lambda line: None)
    assert GONE in users_in(tmp_path / "events-0002")
    receipt = forgotten(changed(world, student={"dim": 16}))
    assert receipt["lakes"] == {str(world.folder / "lineages/0003/lake"): 5, str(tmp_path / "events-0002"): 5}
    assert receipt["out_of_reach"] == {}
    assert GONE not in users_in(tmp_path / "events-0002")


def test_the_lake_of_an_unfinished_rebuild_is_reached_and_what_else_it_holds_is_named(world: World) -> None:
    begun(changed(world, student={"dim": 12}), 3)
    assert GONE in users_in(world.folder / "lineages/0002/lake")
    receipt = forgotten(world)
    assert GONE not in users_in(world.folder / "lineages/0002/lake")
    assert receipt["lakes"] == {str(world.folder / "lake"): 5, str(world.folder / "lineages/0002/lake"): 5}
    assert list(receipt["out_of_reach"]) == [str(world.folder / "lineages/0002")]
    assert "--drop" in receipt["out_of_reach"][str(world.folder / "lineages/0002")]


@pytest.mark.parametrize("num_steps", [1, 2, 3])
def test_a_rebuild_that_goes_on_applies_what_the_stream_has_deleted_meanwhile(
    world: World, make_record: Callable[..., Record], num_steps: int
) -> None:
    begun(changed(world, student={"dim": 12}), num_steps)
    forgotten(world)
    made = rebuild(changed(world, student={"dim": 12}))
    assert made is not None
    for name, component in made.components().items():
        assert component.delete_user("default", GONE) == 0, name
    assert GONE not in users_in(world.folder / "lineages/0002/lake")
    again = current(changed(world, student={"dim": 12}))
    assert again.parts.lake is not None
    report = check_lake(again.parts.lake.lake, CheckpointStore(open_storage(checkpoint_url(current_url(str(world.folder))))))
    assert report.differences == []
    world = changed(world, student={"dim": 12})
    world.append([make_record(GONE, "i1", 201, event_id="once more")])
    world.play(again)
    assert not len(again.ingest.histories.get("default", GONE))


def test_an_unfinished_rebuild_is_dropped_with_its_lakes_when_told(world: World, tmp_path: Path) -> None:
    world = changed(world, lake={"address": str(tmp_path / "events")})
    world.play(current(world))
    begun(changed(world, student={"dim": 12}), 3)
    assert GONE in users_in(tmp_path / "events-0002")
    said: list[str] = []
    assert drop_unfinished(world.config, str(world.folder), said.append)
    assert said == ["removing lineages/0002, whose rebuild was not finished"]
    assert not LocalStorage(tmp_path / "events-0002").list()
    assert not LocalStorage(world.folder / "lineages/0002").list()
    assert not drop_unfinished(world.config, str(world.folder), said.append)
    assert forgotten(world)["out_of_reach"] == {}


def test_what_the_user_did_after_the_request_stays_in_a_lake_that_has_read_further(tmp_path: Path, world: World) -> None:
    lake = world.controller().parts.lake.lake
    rows = [row for row in DeltaTable(lake.address).to_pyarrow_table().to_pylist() if row["user_id"] == GONE]
    middle = sorted(rows, key=lambda row: int(row["event_time"]))[2]
    assert lake.delete_user("default", GONE, before=(middle["event_time"], middle["partition"], middle["offset"])) == 2
    assert lake.delete_user("default", GONE, before=(0, middle["partition"], 10_000)) == 3


def test_a_lake_that_refuses_holds_nobody_up_and_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world = changed(world, lake={"enabled": False})

    def refuse(self: EventLake, *args: Any, **options: Any) -> list[int]:
        what = "Lake: could not delete from the table"
        raise StorageError(what)

    monkeypatch.setattr(EventLake, "delete_users", refuse)
    receipt = forgotten(world)
    assert receipt["lakes"] == {}
    assert "could not delete" in receipt["out_of_reach"][str(world.folder / "lake")]
    assert "lake" not in receipt["exact"]


def torn(lake: Path) -> Path:
    """Halve a file of rows."""
    path = max(lake.glob("namespace=*/**/*.parquet"), key=lambda file: file.stat().st_size)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def test_a_lake_out_of_use_with_a_torn_file_holds_nobody_up_and_the_receipt_names_the_file(world: World) -> None:
    file = torn(world.folder / "lake")
    receipt = forgotten(changed(world, lake={"enabled": False}))
    assert receipt["lakes"] == {}
    assert str(file) in receipt["out_of_reach"][str(world.folder / "lake")]
    assert "lake" not in receipt["exact"]


def test_a_torn_file_of_the_lake_in_use_stops_a_deletion_until_it_is_back_or_the_lake_begins_elsewhere(world: World, tmp_path: Path) -> None:
    whole = {path: path.read_bytes() for path in (world.folder / "lake").glob("namespace=*/**/*.parquet")}
    file = torn(world.folder / "lake")
    world.append([deletion()])
    for _ in range(2):
        with pytest.raises(Damaged, match=f"{file}.* restore that file from a copy; without one give `lake.address` a new folder"):
            world.play(current(world))
    elsewhere = changed(world, lake={"address": str(tmp_path / "new")})
    kept = tmp_path / "kept"
    shutil.copytree(world.folder, kept)
    elsewhere.play(controller := current(elsewhere))
    receipt = read_receipt(open_storage(str(world.folder)), "default", "forget260")
    assert receipt is not None
    assert receipt["lakes"] == {str(tmp_path / "new"): 0}
    assert str(file) in receipt["out_of_reach"][str(world.folder / "lake")]
    assert check_lake(controller.parts.lake.lake, CheckpointStore(open_storage(checkpoint_url(str(world.folder))))).differences == []
    shutil.rmtree(world.folder)
    kept.rename(world.folder)
    file.write_bytes(whole[file])
    world.play(current(world))
    assert GONE not in users_in(world.folder / "lake")


def test_users_who_leave_in_one_step_reach_each_lake_in_one_commit(world: World, tmp_path: Path) -> None:
    old = world.folder / "lake"
    world = changed(world, lake={"address": str(tmp_path / "second")})
    world.append(
        [
            Record(b"u1", json.dumps({"event_id": f"n{n}", "user_id": GONE, "item_id": "i1", "event_type": "click", "event_time": NOW_MS}).encode())
            for n in (1, 2)
        ]
    )
    world.play(current(world))
    version = DeltaTable(str(old)).version()
    users = sorted(users_in(old) - {GONE, None})[:6]
    requests = [{"kind": "deletion", "event_id": f"gone{user}", "user_id": user, "event_time": NOW_MS - 1000} for user in users]
    world.append([Record(b"k", json.dumps(request).encode()) for request in requests])
    receipt = forgotten(world)
    assert receipt["removed"]["lake"] == receipt["lakes"][str(tmp_path / "second")] == 2
    assert not users_in(old) & {GONE}
    assert [entry["operation"] for entry in DeltaTable(str(tmp_path / "second")).history()].count("DELETE") == 1
    assert DeltaTable(str(old)).version() == version + 1


def test_a_lineage_that_has_lost_its_pointer_holds_no_deletion_up_and_is_named(world: World) -> None:
    rebuild(world)
    (world.folder / "checkpoint" / "HEAD").unlink()
    assert list(forgotten(world)["out_of_reach"]) == [str(world.folder)]


def test_a_lake_out_of_use_that_nobody_can_look_for_holds_nobody_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world = changed(world, lake={"enabled": False})

    def away(lake: EventLake) -> bool:
        what = "Lake: could not look for the table"
        raise StorageError(what)

    monkeypatch.setattr(EventLake, "is_there", away)
    receipt = forgotten(world)
    assert receipt["out_of_reach"][str(world.folder / "lake")] == "Lake: could not look for the table"
    controller = current(world)
    world.clock.advance(7300.0)
    controller.step()
    assert controller.parts.other_lakes.vacuum_at_ms > world.clock.now_ms()
