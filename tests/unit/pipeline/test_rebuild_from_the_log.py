"""Make the state anew from the log alone, which still has what the old lineage did not apply: after a clock that ran ahead."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streamrec.clock import ManualClock
from streamrec.errors import DataError
from streamrec.log.base import Record, TableReader
from streamrec.pipeline.bootstrap import bootstrap
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.lake_check import check_lake
from streamrec.pipeline.layout import lineage_folder
from streamrec.pipeline.lineage import current_url
from streamrec.pipeline.rebuild import Rebuild
from streamrec.pipeline.rebuild_record import read_record
from streamrec.pipeline.wiring import build_local
from streamrec.storage import open_storage

World = Any
NOW_MS = 1_700_000_000_000
AHEAD_S = 20 * 86_400.0
FAST: dict[str, dict[str, Any]] = {
    "teachers": {"enabled": []},
    "student": {"control": False},
    "features": {"dedupe_horizon_s": 3600, "lateness_s": 3600},
    "pipeline": {"max_batch_events": 20, "min_batch_events": 1},
}


def at(world: World, url: str, reader: TableReader | None = None) -> Controller:
    return build_local(world.config, reader or world.log, url, world.clock, dead_letters=world.log)


class Killed(Exception):
    """Stands for the end of the process."""


def rebuild(world: World, *, dies: bool = False, say: Callable[[str], None] = lambda _: None, **options: Any) -> Controller | None:
    def build(lineage_url: str, reader: TableReader, *, publishes: bool) -> Controller:
        controller = at(world, lineage_url, reader)
        if not publishes:
            controller.parts.publisher = None
        return controller

    def on_step(_: object) -> None:
        if dies:
            raise Killed

    return Rebuild(world.config, str(world.folder), world.log, build, dead_letters=world.log, on_step=on_step, say=say).run(**options)


@pytest.fixture
def world(make_world: Callable[..., World], make_record: Callable[..., Record], tmp_path: Path) -> World:
    """A stream whose clock, and its producers', was ahead for some plans; what came right after is late."""
    world = make_world([make_record(f"u{n}", f"i{n % 7}", n) for n in range(60)], FAST, folder=tmp_path / "state")
    bootstrap(controller := world.controller(), world.log.latest(world.config.log.events_topic))
    world.clock = ManualClock(NOW_MS + round(AHEAD_S * 1000))
    world.append([make_record(f"u{n}", f"i{n % 7}", n, event_time=world.clock.now_ms() + n) for n in range(100, 200)])
    world.play(controller := world.controller())
    world.clock = ManualClock(NOW_MS + 5_000)
    world.append([make_record(f"u{n % 60}", f"i{n % 7}", n) for n in range(300, 350)])
    world.append([make_record("gone", "i1", 351), Record(b"gone", json.dumps(deletion("gone", 352)).encode())])
    world.play(controller := world.controller())
    assert controller.books()["late"] >= 50
    return world


def deletion(user: str, number: int) -> dict[str, Any]:
    return {"kind": "deletion", "event_id": "asked", "user_id": user, "event_time": NOW_MS - 600_000 + 1000 * number}


def rows(controller: Controller) -> set[str]:
    lake = controller.parts.lake.lake
    return {event_id for partition in range(2) for event_id in lake.rows(partition, 0, 10**6)["event_id"].to_pylist()}


def test_events_that_were_late_by_a_wrong_clock_come_back_from_the_log_and_not_from_the_lake(world: World) -> None:
    honest = {f"e{n}" for n in range(300, 350)}
    made = rebuild(world, anew=True)
    assert made is not None
    assert not rows(made) & honest
    assert rows(made) >= {f"e{n}" for n in range(60)}
    said: list[str] = []
    made = rebuild(world, anew=True, from_log=True, say=said.append)
    assert made is not None
    assert "learning the log" in said
    assert not [line for line in said if "lake" in line]
    assert rows(made) == honest | {f"e{n}" for n in range(60)}
    books = made.books()
    assert (books["late"], books["rejected"], books["applied"], books["duplicate"]) == (0, 100, 110, 2)  # Who asked is gone before and after.
    assert made.state.offsets == world.log.latest(world.config.log.events_topic)
    assert not len(made.ingest.histories.get("default", "gone"))
    report = check_lake(made.parts.lake.lake, made.parts.checkpoints)
    assert report.differences == []


def test_what_an_earlier_run_began_from_the_lake_is_begun_anew_from_the_log_but_not_where_the_log_has_no_beginning(world: World) -> None:
    with pytest.raises(Killed):
        rebuild(world, dies=True)
    begun = open_storage(f"{world.folder}/{lineage_folder(2)}")
    assert (record := read_record(begun)) is not None
    assert record.lake_address is not None
    with pytest.raises(Killed):
        rebuild(world, dies=True, from_log=True)
    assert (record := read_record(begun)) is not None
    assert record.lake_address is None
    with pytest.raises(Killed):
        rebuild(world, dies=True, from_log=True)
    assert read_record(begun) == record  # It goes on.
    world.log.drop_before(world.config.log.events_topic, {0: 1})
    with pytest.raises(DataError, match=r"the lake is not to be read, and the log has dropped its first ones, got .*, leave out --from-log"):
        rebuild(world, anew=True, from_log=True)
    assert read_record(begun) == record
    assert current_url(str(world.folder)) == str(world.folder)
