from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamrec.config import parse_config
from streamrec.errors import ConfigError, DataError, Fenced, OperatorError
from streamrec.log.base import Record
from streamrec.pipeline.bootstrap import bootstrap
from streamrec.pipeline.bootstrap_view import load_history_columns
from streamrec.pipeline.checkpoint import CheckpointStore
from streamrec.pipeline.lake_check import check_lake
from streamrec.pipeline.layout import checkpoint_url
from streamrec.pipeline.lineage import current_lineage, current_url
from streamrec.pipeline.rebuild import remove_old
from streamrec.registry.version import digest_arrays
from streamrec.serving.slot import ModelSlot
from streamrec.storage import LocalStorage, open_storage

World = Any
FAST: dict[str, dict[str, Any]] = {"teachers": {"enabled": []}, "student": {"control": False}}
NOW_MS = 1_700_000_000_000
TOPIC = parse_config({}).log.events_topic


def test_a_student_of_another_size_goes_live_beside_the_old_one_and_the_stream_goes_on_with_it(plain: World, mixed: list[Record]) -> None:
    world, before = plain, plain.registry().live()
    world.change(student={"dim": 12}, features={"history_length": 5})
    made = world.rebuild().run()
    assert made is not None
    live = world.registry().live()
    assert live == made.state.live > before
    version = world.registry().load(live)
    assert (version.meta["dim"], version.meta["history_length"]) == (12, 5)
    world.append(mixed[300:])
    controller = world.current()
    assert (controller.state.live, controller.state.offsets) == (live, made.state.offsets)
    world.play(controller)
    assert controller.lag() == 0
    assert controller.state.versions["promoted"] > 1
    assert world.registry().live() == controller.state.live > live


def test_from_lake_and_log_comes_what_a_bootstrap_over_the_log_gives(make_world: Callable[..., World], mixed: list[Record], tmp_path: Path) -> None:
    kept = [one for one in mixed if b'"deletion"' not in one.value]
    world = make_world(kept, FAST, folder=tmp_path / "state")
    world.play(first := world.controller())
    assert first.state.counts["duplicate"] > 0
    assert first.state.counts["rejected"] > 0
    made = world.rebuild().run()
    assert made is not None
    fresh = make_world(kept, FAST, folder=tmp_path / "fresh").controller()
    bootstrap(fresh, world.log.latest(TOPIC))
    assert world.digests(made) == world.digests(fresh)
    assert made.state.counts["applied"] == fresh.state.counts["applied"] == first.state.counts["applied"]
    assert made.state.offsets == fresh.state.offsets


def test_what_the_log_has_dropped_comes_from_the_lake_and_what_came_since_from_the_log(plain: World, mixed: list[Record]) -> None:
    world, read = plain, dict(world_offsets(plain))
    world.append(mixed[300:])
    world.log.drop_before(TOPIC, read)
    assert world.log.earliest(TOPIC) == read
    applied = world.current().state.counts["applied"]
    made = world.rebuild().run()
    assert made is not None
    assert made.state.offsets == world.log.latest(TOPIC)
    again = world.current()
    rows = [row for part in range(2) for row in again.parts.lake.lake.rows(part, 0, 10_000)["event_id"].to_pylist()]
    assert len(rows) == len(set(rows))  # What is in both is counted once.
    assert again.state.counts["applied"] > applied - removed_from(world)


def world_offsets(world: World) -> dict[int, int]:
    return dict(world.current().state.offsets)


def removed_from(world: World) -> int:
    controller = world.controller()
    return sum(part.removed for part in controller.parts.lake.lake.held(controller.state.batch, {}).values())


def test_a_lake_that_lacks_events_is_not_enough_once_the_log_has_dropped_them(
    make_world: Callable[..., World], mixed: list[Record], tmp_path: Path
) -> None:
    world = make_world(mixed, {**FAST, "lake": {"enabled": False}}, folder=tmp_path / "state")
    world.play(world.controller())
    world.change(lake={"enabled": True})
    world.play(world.controller())
    made = world.rebuild().run()  # The log has them all.
    assert made is not None
    assert made.state.offsets == world.log.latest(TOPIC)
    world.change(lake={"enabled": False}, student={"dim": 12})
    world.rebuild().run()
    world.log.drop_before(TOPIC, {0: 5, 1: 5})
    with pytest.raises(DataError, match="the log has dropped its first ones"):
        world.rebuild().run(anew=True)


def test_who_asked_to_be_forgotten_does_not_come_back(plain: World, make_record: Callable[..., Record]) -> None:
    world = plain
    world.append([make_record("gone", f"g{number}", 400 + number) for number in range(6)])
    world.play(world.controller())
    world.append([deletion("gone", 410)])
    world.play(old := world.controller())
    assert old.ingest.tombstones.snapshot().arrays["user"].size
    # Sent again after the lake's end, and a second user whose deletion is in the log alone.
    world.append([make_record("gone", "g1", 403, event_id="again"), make_record("late", "i1", 411), deletion("late", 420)])
    made = world.rebuild().run()
    assert made is not None
    for user in ("gone", "late"):
        assert not len(made.ingest.histories.get("default", user))
        assert user not in str(made.parts.lake.lake.rows(0, 0, 10_000).to_pylist() + made.parts.lake.lake.rows(1, 0, 10_000).to_pylist())
    assert made.ingest.vocabulary.find("default", "g3") < 0
    world.append([make_record("gone", "g2", 404, event_id="and again")])
    world.play(later := world.current())
    assert not len(later.ingest.histories.get("default", "gone"))


def test_what_a_deleted_user_had_sent_ahead_comes_back_neither_in_the_stream_nor_in_a_rebuild(
    plain: World, make_record: Callable[..., Record]
) -> None:
    world = plain
    world.append([make_record("gone", "g1", 900, event_id="ahead")])
    world.play(world.controller())
    world.append([deletion("gone", 410)])
    world.play(world.controller())
    world.append([make_record("gone", "g1", 900, event_id="ahead"), make_record("gone", "g2", 901)])
    world.play(old := world.controller())
    made = world.rebuild().run()
    for controller in (old, made):
        assert controller is not None
        assert [controller.ingest.vocabulary.key_of(row)[1] for row in controller.ingest.histories.get("default", "gone").tolist()] == ["g2"]
        assert "ahead" not in str(
            controller.parts.lake.lake.rows(0, 0, 10_000).to_pylist() + controller.parts.lake.lake.rows(1, 0, 10_000).to_pylist()
        )


def deletion(user: str, number: int) -> Record:
    event = {"kind": "deletion", "event_id": f"gone{number}", "user_id": user, "event_time": NOW_MS - 600_000 + 1000 * number}
    return Record(user.encode(), json.dumps(event).encode())


def test_a_deletion_that_the_old_driver_applies_while_the_new_state_catches_up_is_not_undone(
    plain: World, make_record: Callable[..., Record]
) -> None:
    world = plain
    world.append([make_record("planted", item, number) for number, item in enumerate(("own1", "own2", "own1"), 5000)])
    old = world.controller()
    world.play(old)
    assert len(old.ingest.histories.get("default", "planted"))

    def say(line: str) -> None:
        if line.endswith("takes over from the first lineage"):  # It has caught up; the old driver is not fenced yet.
            gone = {"kind": "deletion", "event_id": "gone", "user_id": "planted", "event_time": world.clock.now_ms()}
            world.append([Record(b"planted", json.dumps(gone).encode())])
            world.play(old)
            assert not len(old.ingest.histories.get("default", "planted"))

    world.change(student={"dim": 12})
    made = world.rebuild(say=say).run()
    assert made is not None
    assert made.state.offsets == old.state.offsets
    assert not len(made.ingest.histories.get("default", "planted"))


def test_the_old_driver_stops_at_its_next_step_and_says_why(plain: World, mixed: list[Record]) -> None:
    world, old = plain, plain.controller()
    world.change(student={"dim": 12})
    world.rebuild().run()
    world.append(mixed[300:])
    with pytest.raises(Fenced, match=r"the state is rebuilt as lineages/0002, start the stream with the configuration"):
        old.step()
    world.change(student={"dim": 8})
    with pytest.raises(ConfigError, match=r"student\.dim does not fit the state, got 8, allowed 12"):
        world.current()


def test_a_rollback_over_a_rebuild_serves_the_old_version_until_an_operator_moves_on(plain: World, mixed: list[Record]) -> None:
    world, registry = plain, plain.registry()
    before = registry.live()
    world.change(student={"dim": 12}, features={"history_length": 5})
    world.rebuild().run()
    new = registry.live()
    slot = ModelSlot(digest_of=digest_arrays)
    for version, dim in ((before, 8), (new, 12), (before, 8)):
        held = registry.load(version)
        assert slot.load(held.manifest.model_dump(mode="json"), held.arrays, held.meta).recommender.dim == dim
    assert registry.rollback("the larger one is slower").version == before
    world.append(mixed[300:])
    controller = world.current()
    world.play(controller)
    assert controller.state.versions["published"] > 1
    assert controller.state.live > new  # Candidates are compared with the lineage's own.
    assert registry.live() == before
    again = world.current()
    assert again.state.live == controller.state.live
    registry.promote(again.state.live, "fast enough")
    world.append([Record(one.key, one.value.replace(b'"event_id": "e', b'"event_id": "f')) for one in mixed[200:330]])
    world.play(again)
    assert registry.live() == again.state.live > controller.state.live


def test_replicas_take_their_histories_from_the_current_lineage(plain: World) -> None:
    world = plain
    before = load_history_columns(str(world.folder))
    world.change(features={"history_length": 3})
    made = world.rebuild().run()
    after = load_history_columns(str(world.folder))
    assert made is not None
    assert before is not None
    assert after is not None
    assert int(np.diff(before.indptr).max()) > 3 >= int(np.diff(after.indptr).max())
    assert after.offsets == made.state.offsets


def test_a_rebuild_with_the_settings_of_the_current_lineage_makes_nothing_unless_told(plain: World) -> None:
    world = plain
    world.change(student={"dim": 12})
    world.rebuild().run()
    live = world.registry().live()
    assert world.rebuild().run() is None
    assert world.registry().live() == live
    made = world.rebuild().run(anew=True)
    assert made is not None
    assert current_lineage(str(world.folder)).folder == "lineages/0003"
    assert world.registry().live() == made.state.live > live


def test_the_lake_of_a_rebuilt_lineage_is_its_own_also_beside_a_configured_one(
    make_world: Callable[..., World], mixed: list[Record], tmp_path: Path
) -> None:
    world = make_world(mixed[:200], {**FAST, "lake": {"address": str(tmp_path / "events")}}, folder=tmp_path / "state")
    world.play(world.controller())
    made = world.rebuild().run()
    assert made is not None
    assert made.parts.lake.lake.address == f"{tmp_path / 'events'}-0002"
    assert check_lake(made.parts.lake.lake, CheckpointStore(open_storage(checkpoint_url(current_url(str(world.folder)))))).differences == []


def test_the_old_lineage_is_removed_when_told_and_its_receipts_stay(plain: World, mixed: list[Record]) -> None:
    world = plain
    world.append([deletion("u1", 380)])
    world.play(world.controller())
    receipts = set((world.folder / "deletions").iterdir())
    world.rebuild().run()
    remove_old(str(world.folder), lambda line: None)
    assert {key.partition("/")[0] for key in LocalStorage(world.folder).list()} == {"CURRENT", "deletions", "lineages", "registry"}
    assert set((world.folder / "deletions").iterdir()) == receipts != set()
    world.append(mixed[300:])
    world.play(controller := world.current())
    assert controller.lag() == 0


def test_a_state_that_was_never_bootstrapped_is_not_rebuilt(make_world: Callable[..., World], mixed: list[Record], tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="no state that was bootstrapped"):
        make_world(mixed, FAST, folder=tmp_path).rebuild().run()
