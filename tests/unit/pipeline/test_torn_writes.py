"""Cut off files that a rename makes whole or not at all, as a disk may that lies about what it has written, and start the stream again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streamrec.errors import Damaged, StorageError
from streamrec.log.base import Record
from streamrec.log.lake import EventLake
from streamrec.pipeline import lineage
from streamrec.pipeline.bootstrap_view import load_history_columns
from streamrec.pipeline.checkpoint import CheckpointStore
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.lake_check import check_lake
from streamrec.pipeline.layout import checkpoint_url, registry_url
from streamrec.pipeline.lineage import known_lineage, lineage_of
from streamrec.pipeline.plan import Plan
from streamrec.pipeline.plan_store import PlanStore
from streamrec.pipeline.readable import committed, unreadable
from streamrec.pipeline.session import has_commits
from streamrec.registry.registry import Registry
from streamrec.storage import open_storage
from streamrec.testing.failpoints import Failpoint, observed

World = Any
FAST: dict[str, dict[str, Any]] = {"teachers": {"enabled": []}, "student": {"control": False}}


class Crash(BaseException):
    """The machine is gone."""


@pytest.fixture(scope="module")
def undisturbed(make_world: Callable[..., World], mixed: list[Record], tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[Plan]]:
    calm = make_world(mixed, FAST, folder=tmp_path_factory.mktemp("calm"))
    controller = calm.controller()
    plans = [report.plan for report in calm.play(controller)]
    return outcome(calm, controller), plans


@pytest.fixture
def world(make_world: Callable[..., World], mixed: list[Record], tmp_path: Path, undisturbed: tuple[Any, list[Plan]]) -> World:
    made = make_world(mixed, FAST, folder=tmp_path / "state")
    store = PlanStore(open_storage(str(made.folder)))
    for plan in undisturbed[1]:
        store.write(plan.model_dump(mode="json"), plan.batch)
    return made


def outcome(world: World, controller: Controller) -> dict[str, Any]:
    report = check_lake(world.controller().parts.lake.lake, CheckpointStore(open_storage(checkpoint_url(str(world.folder)))))
    registry = Registry(open_storage(registry_url(str(world.folder))))
    return {
        "digests": {name: component.digest() for name, component in controller.components().items()},
        "books": controller.books(),
        "lake": (report.rows, report.rows_ahead, report.differences),
        "versions": {version: registry.manifest(version).digest for version in registry.versions()},
        "live": registry.live(),
    }


def go_on(world: World) -> dict[str, Any]:
    controller = world.controller()
    world.play(controller)
    return outcome(world, controller)


def crash_at(world: World, failpoint: Failpoint, number: int) -> None:
    """Play until the failpoint is passed so often, and crash there."""
    left = number

    def reach(passed: Failpoint, batch: int) -> None:
        nonlocal left
        del batch
        left -= passed is failpoint
        if left == 0:
            raise Crash

    controller = Controller(observed(world.controller().parts, str(world.folder), None, reach))
    controller.recover()
    with pytest.raises(Crash):
        world.play(controller)


def tear(path: Path, keep: float = 0.5) -> bytes:
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    return whole


@pytest.mark.parametrize("keep", [0.0, 0.5])
def test_a_torn_pointer_is_named_and_left_alone_until_it_is_restored(world: World, undisturbed: tuple[Any, list[Plan]], keep: float) -> None:
    crash_at(world, Failpoint.HEAD_MOVED, 2)
    head = Path(checkpoint_url(str(world.folder))) / "HEAD"
    whole = tear(head, keep)
    torn = head.read_bytes()
    with pytest.raises(Damaged, match=f"{head}.*restore that file from a copy"):
        world.controller()
    assert head.read_bytes() == torn
    head.write_bytes(whole)
    assert go_on(world) == undisturbed[0]


def newest_entry(world: World) -> Path:
    return max((world.folder / "lake" / "_delta_log").glob("*.json"))


def test_a_torn_entry_of_the_lake_that_no_checkpoint_counts_on_goes_and_its_rows_are_appended_again(
    world: World, undisturbed: tuple[Any, list[Plan]]
) -> None:
    crash_at(world, Failpoint.BEFORE_COMMIT, 2)
    entry = newest_entry(world)
    assert '"operation":"WRITE"' in entry.read_text()
    tear(entry)
    with pytest.raises(Damaged, match=f"{entry}.*remove that file and start again"):
        go_on(world)
    entry.unlink()
    assert go_on(world) == undisturbed[0]


@pytest.mark.parametrize("keep", [0.0, 0.9])
def test_a_torn_entry_of_the_lake_that_may_be_a_deletion_is_restored_and_not_removed(
    world: World, undisturbed: tuple[Any, list[Plan]], keep: float
) -> None:
    crash_at(world, Failpoint.HEAD_MOVED, 1)
    lake = world.controller().parts.lake.lake
    assert lake.delete_user("default", "u3")
    entry = newest_entry(world)
    whole = tear(entry, keep)
    with pytest.raises(Damaged, match=f"{entry}.*restore that file from a copy"):
        EventLake(lake.address, lambda: "not asked").last_batch()
    entry.write_bytes(whole)
    assert lake.delete_user("default", "u3") == 0


@pytest.mark.parametrize("keep", [0.0, 0.5])
def test_a_torn_entry_of_the_lake_that_the_checkpoint_counts_on_stops_the_stream_before_anything_is_lost(
    world: World, undisturbed: tuple[Any, list[Plan]], keep: float
) -> None:
    crash_at(world, Failpoint.HEAD_MOVED, 1)
    entries = {path: path.read_bytes() for path in sorted(newest_entry(world).parent.glob("*.json"))}
    newest = max(entries)
    tear(newest, keep)
    with pytest.raises(Damaged, match=str(newest)):
        go_on(world)
    append = max(path for path, data in entries.items() if b'"operation":"WRITE"' in data)
    for path in entries:
        if path > append:
            path.unlink()
    tear(append, 0.9)
    entries_in_between = sorted(append.parent.glob("*.json"))
    with pytest.raises(
        Damaged, match=r"got rows up to batch \d+ without it, allowed batch \d+, on which the checkpoint counts.*restore that file"
    ) as told:
        go_on(world)
    assert "remove that file" not in str(told.value)
    assert sorted(append.parent.glob("*.json")) == entries_in_between
    lost = {path: data for path, data in entries.items() if path >= append}  # With the deletion that followed it.
    for path in lost:
        path.unlink(missing_ok=True)
    with pytest.raises(Damaged, match="is older than the checkpoint"):
        world.controller()  # Before a step.
    for path, data in lost.items():
        path.write_bytes(data)
    assert go_on(world) == undisturbed[0]


def test_an_emptied_entry_of_the_lake_that_is_not_the_newest_is_told_before_a_step_is_executed(
    world: World, undisturbed: tuple[Any, list[Plan]]
) -> None:
    crash_at(world, Failpoint.HEAD_MOVED, 2)
    entries = sorted(newest_entry(world).parent.glob("*.json"))
    deletion = next(path for path in entries[:-1] if '"operation":"DELETE"' in path.read_text())
    whole = tear(deletion, 0.0)
    with pytest.raises(Damaged, match=f"an entry of the table's log is torn, {deletion}.*restore that file from a copy"):
        world.controller()
    deletion.write_bytes(whole)
    assert go_on(world) == undisturbed[0]


def manifest_of(world: World, version: str) -> Path:
    return Path(registry_url(str(world.folder))) / "default" / "versions" / version / "manifest.json"


def test_a_torn_manifest_of_a_version_that_no_commit_names_is_written_anew_by_the_step_that_published_it(
    world: World, undisturbed: tuple[Any, list[Plan]], caplog: pytest.LogCaptureFixture
) -> None:
    crash_at(world, Failpoint.VERSION_MANIFEST, 2)
    version = Registry(open_storage(registry_url(str(world.folder)))).versions()[-1]
    tear(manifest_of(world, version))
    assert go_on(world) == undisturbed[0]
    assert f"version {version} is published anew" in caplog.text


def test_a_torn_or_lost_manifest_of_the_live_version_is_named_and_left_alone_until_it_is_restored(
    world: World, undisturbed: tuple[Any, list[Plan]]
) -> None:
    crash_at(world, Failpoint.PRUNED, 2)
    live = Registry(open_storage(registry_url(str(world.folder)))).live()
    assert live is not None
    manifest = manifest_of(world, live)
    whole = tear(manifest)
    with pytest.raises(Damaged, match=f"version '{live}' is damaged, {manifest}.*restore that file from a copy"):
        world.controller()
    manifest.unlink()
    with pytest.raises(Damaged, match=f"version '{live}' is lost, no such file as {manifest}, restore that file from a copy"):
        world.controller()
    with pytest.raises(Damaged, match=f"no such file as {manifest}, restore that file from a copy"):
        Registry(open_storage(registry_url(str(world.folder)))).check_live()
    manifest.write_bytes(whole)
    assert go_on(world) == undisturbed[0]


def test_a_lost_version_that_a_planned_step_compares_with_is_named_with_both_ways_out_though_another_is_live(
    world: World, undisturbed: tuple[Any, list[Plan]]
) -> None:
    crash_at(world, Failpoint.MOVE_STORED, 5)
    state = committed(str(world.folder)).state
    assert state is not None
    assert state.live not in {None, Registry(open_storage(registry_url(str(world.folder)))).history(1)[0].version}
    manifest = manifest_of(world, str(state.live))
    whole = manifest.read_bytes()
    manifest.unlink()
    with pytest.raises(Damaged, match=f"version '{state.live}' is lost, no such file as {manifest}, restore that file from a copy, or .*--anew"):
        go_on(world)
    manifest.write_bytes(whole)
    assert go_on(world) == undisturbed[0]


@pytest.mark.parametrize("keep", [0.0, 0.5])
def test_a_torn_decision_of_the_gate_is_named_and_made_anew_once_it_is_removed(
    world: World, undisturbed: tuple[Any, list[Plan]], keep: float
) -> None:
    crash_at(world, Failpoint.DECISION_STORED, 2)
    path = max((Path(registry_url(str(world.folder))) / "default" / "decisions").glob("*/*.json"))
    tear(path, keep)
    with pytest.raises(Damaged, match=f"{path}, got .*or remove it: a step that needs the decision makes it anew"):
        go_on(world)
    path.unlink()
    assert go_on(world) == undisturbed[0]


@pytest.mark.parametrize("torn", [b"", b"{", b'{"format": 1}'])
def test_a_torn_name_of_the_lineage_is_told_before_a_step_is_executed_and_only_where_there_is_a_lake(
    make_world: Callable[..., World], mixed: list[Record], tmp_path: Path, torn: bytes
) -> None:
    world = make_world(mixed, FAST, folder=tmp_path)
    controller = world.controller()
    while not controller.state.batch or not (tmp_path / "checkpoint" / "LINEAGE").exists():
        controller.step()
    controller.finish()
    path = tmp_path / "checkpoint" / "LINEAGE"
    path.write_bytes(torn)
    plans = PlanStore(open_storage(str(tmp_path))).batches()
    config = world.config.model_copy(update={"state": str(tmp_path)})
    for begin in (world.controller, lambda: has_commits(config)):
        with pytest.raises(Damaged, match=f"can't be read, {path}, got .*, restore it from a copy"):
            begin()
    assert PlanStore(open_storage(str(tmp_path))).batches() == plans
    without = config.model_copy(update={"lake": config.lake.model_copy(update={"enabled": False})})
    assert has_commits(without)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_lost_name_of_the_lineage_is_damage_that_nothing_is_written_over_and_it_comes_back_by_the_remedy(
    make_world: Callable[..., World], mixed: list[Record], tmp_path: Path, undisturbed: tuple[Any, list[Plan]], elsewhere: bool
) -> None:
    lake = tmp_path / "events"
    world = make_world(mixed, FAST | ({"lake": {"address": str(lake)}} if elsewhere else {}), folder=tmp_path / "state")
    crash_at(world, Failpoint.PRUNED, 2)
    path = world.folder / "checkpoint" / "LINEAGE"
    name = known_lineage(str(world.folder))
    path.unlink()
    before = sorted(world.folder.rglob("*"))
    config = world.config.model_copy(update={"state": str(world.folder)})
    readers: list[Callable[[], object]] = [world.controller, lambda: has_commits(config), lambda: lineage_of(str(world.folder))]
    for read in (*readers, lambda: known_lineage(str(world.folder))):
        with pytest.raises(Damaged, match=f"the name is lost, {path}, got no such file beside commits and .*, restore it from a copy, or write"):
            read()
    assert [str(path) in str(error) for error in unreadable(str(world.folder))] == [True]
    assert sorted(world.folder.rglob("*")) == before
    path.write_text(f'{{"format": 1, "lineage": "{name}"}}')
    assert not list(unreadable(str(world.folder)))
    assert go_on(world)["lake"] == undisturbed[0]["lake"]


def test_a_state_that_keeps_a_lake_only_since_later_has_lost_no_name(make_world: Callable[..., World], mixed: list[Record], tmp_path: Path) -> None:
    without = make_world(mixed, FAST | {"lake": {"enabled": False}}, folder=tmp_path)
    crash_at(without, Failpoint.PRUNED, 1)
    assert not (tmp_path / "checkpoint" / "LINEAGE").exists()
    world = make_world(mixed, FAST, folder=tmp_path)
    world.play(world.controller())
    assert world.controller().parts.lake.lake.info()["rows"]


def test_a_name_of_the_lineage_that_is_made_between_two_looks_is_not_lost(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    crash_at(world, Failpoint.PRUNED, 2)
    path = world.folder / "checkpoint" / "LINEAGE"
    whole, name = path.read_bytes(), known_lineage(str(world.folder))
    path.unlink()
    look = lineage._left_without_name

    def meanwhile(url: str) -> str:
        path.write_bytes(whole)
        return look(url)

    monkeypatch.setattr(lineage, "_left_without_name", meanwhile)
    assert known_lineage(str(world.folder)) == name


def test_a_flipped_byte_in_the_name_of_the_lineage_never_makes_it_another_name(tmp_path: Path) -> None:
    name = lineage_of(str(tmp_path))
    path = tmp_path / "checkpoint" / "LINEAGE"
    whole = path.read_bytes()
    num_told = 0
    for place in range(len(whole)):
        for bit in range(8):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
            try:
                assert known_lineage(str(tmp_path)) == name
            except StorageError:  # Damaged, or a format of a newer streamrec.
                num_told += 1
    assert num_told > 8 * len(name)


def test_a_lost_pointer_ends_a_controller_before_it_touches_what_is_left(world: World) -> None:
    world.play(world.controller())
    (world.folder / "checkpoint" / "HEAD").unlink()
    before = sorted((world.folder / "checkpoint").rglob("*"))
    with pytest.raises(Damaged, match="the pointer is lost"):
        world.controller()
    with pytest.raises(Damaged, match="the pointer is lost"):
        load_history_columns(str(world.folder))
    assert sorted((world.folder / "checkpoint").rglob("*")) == before
