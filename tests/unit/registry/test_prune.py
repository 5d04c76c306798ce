from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from streamrec.clock import ManualClock
from streamrec.config import RegistryConfig
from streamrec.errors import RegistryError
from streamrec.registry.gate import Decision, Gate, Health, Window
from streamrec.registry.registry import Registry
from streamrec.registry.version import VersionFacts
from streamrec.storage import LocalStorage, Storage
from streamrec.testing.storage_faults import FaultyStorage

KEEP_TWO = RegistryConfig(keep_last=2, keep_for_s=60)
LATE = 1_000_000


class World:
    """A registry with versions of 4,000 rows, one published per second."""

    def __init__(self, storage: Storage) -> None:
        self.clock = ManualClock()
        self.storage = storage
        self.registry = Registry(storage, clock=self.clock)

    def publish(self, *versions: str, parent: str | None = None) -> None:
        for version in versions:
            arrays = {"w": np.arange(4000, dtype=np.float32)}
            arrays["w"][: int(version[1:])] = -1
            self.registry.publish(version, arrays, {}, VersionFacts(parent=parent), as_delta=parent is not None)
            self.clock.advance(1)

    def loadable(self) -> Sequence[str]:
        fresh = Registry(self.storage)
        return [fresh.load(version).id for version in fresh.versions()]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(LocalStorage(tmp_path))


def test_the_newest_and_the_young_stay_and_the_rest_goes_with_its_blobs(world: World) -> None:
    world.publish("v1", "v2", "v3", "v4", "v5")
    assert world.registry.prune(3_000, KEEP_TWO) == ((), 0)
    pruned = world.registry.prune(60_000 + 1_500, KEEP_TWO)
    assert pruned == (("v1", "v2"), 2)
    assert world.registry.prune(LATE, KEEP_TWO).versions == ("v3",)
    assert world.loadable() == ["v4", "v5"]
    assert len(world.storage.list("default/blobs")) == 2


def test_live_previous_and_pinned_versions_stay(world: World) -> None:
    world.publish("v1", "v2", "v3", "v4", "v5", "v6")
    world.registry.promote("v1", "first")
    world.registry.promote("v2", "second")
    world.registry.pin("v3")
    world.registry.prune(LATE, KEEP_TWO)
    assert world.loadable() == ["v1", "v2", "v3", "v5", "v6"]
    world.registry.unpin("v3")
    world.registry.rollback("bad")
    world.registry.prune(LATE, KEEP_TWO)
    assert world.loadable() == ["v1", "v5", "v6"]


def test_a_rollback_skips_what_was_pruned(world: World) -> None:
    world.publish("v1", "v2", "v3", "v4", "v5")
    for version in ("v1", "v2", "v3"):
        world.registry.promote(version, "better")
    world.registry.prune(LATE, KEEP_TWO)
    assert world.loadable() == ["v2", "v3", "v4", "v5"]
    assert world.registry.rollback("bad").version == "v2"
    with pytest.raises(RegistryError, match="no version to roll back to, got v2 live"):
        world.registry.rollback("worse")


def test_what_a_kept_delta_follows_stays(world: World) -> None:
    world.publish("v1")
    world.publish("v2", parent="v1")
    world.publish("v3", parent="v2")
    world.publish("v4")
    assert len(world.registry.manifest("v3").deltas) == 2
    world.registry.prune(LATE, KEEP_TWO)
    assert world.loadable() == ["v1", "v2", "v3", "v4"]
    world.publish("v5")
    world.registry.prune(LATE, KEEP_TWO)
    assert world.loadable() == ["v4", "v5"]
    assert len(world.storage.list("default/blobs")) == 2


def test_blobs_of_a_publication_that_never_ended_go(world: World) -> None:
    world.publish("v1")
    world.storage.write_new(f"default/blobs/{'0' * 64}", b"left over")
    assert world.registry.prune(LATE, KEEP_TWO) == ((), 1)
    assert world.loadable() == ["v1"]


def test_a_damaged_manifest_does_not_stop_the_rest(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.publish("v1", "v2", "v3", "v4")
    world.storage.delete("default/versions/v2/manifest.json")
    world.storage.write_new("default/versions/v2/manifest.json", b"{")
    assert Registry(world.storage).prune(LATE, KEEP_TWO).versions == ("v1",)
    assert "version v2 is damaged" in caplog.text


class _PromotingStorage(FaultyStorage):
    """Has somebody else promote a version just after its manifest was removed."""

    def delete(self, key: str) -> None:
        super().delete(key)
        if key == "default/versions/v1/manifest.json":
            other = Registry(self._inner)
            other._alias.promote("v1", "at the same time", None, 0)


def test_a_version_that_is_promoted_while_it_is_pruned_stays(tmp_path: Path) -> None:
    inner = LocalStorage(tmp_path)
    World(inner).publish("v1", "v2", "v3", "v4")
    pruned = Registry(_PromotingStorage(inner)).prune(LATE, KEEP_TWO)
    assert pruned.versions == ("v2",)
    registry = Registry(inner)
    assert registry.live() == "v1"
    assert [registry.load(version).id for version in registry.versions()] == ["v1", "v3", "v4"]


def test_a_promotion_of_what_was_just_pruned_is_taken_back(tmp_path: Path) -> None:
    inner = LocalStorage(tmp_path)
    world = World(inner)
    world.publish("v1", "v2", "v3", "v4")
    world.registry.promote("v4", "first")
    world.registry.manifest("v1")
    Registry(inner).prune(LATE, KEEP_TWO)
    with pytest.raises(RegistryError, match="pruned while it was promoted"):
        world.registry.promote("v1", "too late")
    assert world.registry.live() == "v4"


def decision_on(version: str, batch: int) -> Decision:
    return Gate(RegistryConfig()).decide(Health(version), None, Window(batch))


def test_of_the_history_the_newest_the_young_and_what_names_a_version_that_stays_are_kept(world: World) -> None:
    registry, policy = world.registry, RegistryConfig(keep_last=2, keep_for_s=0, keep_history=3, keep_history_for_s=4)
    for name in (f"v{number:02d}" for number in range(1, 13)):
        world.publish(name)
        registry.promote(name, "better", decision_on(name, 1))
    registry.pin("v02")
    before = {move.number: move for move in registry.history()}
    registry.prune(12_000, policy)
    assert [move.number for move in registry.history()] == [2, 8, 9, 10, 11, 12]  # Published at 7,000 ms, v8 is not older than four seconds.
    registry.prune(LATE, policy)
    assert [move.number for move in registry.history()] == [2, 10, 11, 12]
    assert all(move == before[move.number] for move in registry.history())
    assert [move.number for move in registry.history(last=2)] == [11, 12]
    assert registry.live() == "v12"
    assert registry.was_promoted("v11")
    assert not registry.was_promoted("v05")
    assert registry.rollback("worse").version == "v11"
    registry.promote("v12", "mended")
    assert registry.history()[-1].number == 14


def test_moves_that_a_step_may_ask_about_when_it_is_executed_again_stay(world: World) -> None:
    registry = world.registry
    for number in range(1, 9):
        world.publish(f"v{number}")
        registry.promote(f"v{number}", "better", decision_on(f"v{number}", number))
    registry.prune(LATE, RegistryConfig(keep_last=2, keep_for_s=0, keep_history=2, keep_history_for_s=0), held=["v4", "v7"])
    assert [move.version for move in registry.history()] == ["v4", "v5", "v6", "v7", "v8"]
    assert registry.was_promoted("v5")


def test_while_the_manifest_of_a_version_that_is_held_is_lost_no_blob_goes_so_that_it_can_come_back_from_a_copy(world: World) -> None:
    world.publish("v1", "v2", "v3", "v4", "v5")
    copy = world.storage.read("default/versions/v2/manifest.json")
    world.storage.delete("default/versions/v2/manifest.json")
    fresh = Registry(world.storage, clock=world.clock)
    assert fresh.prune(LATE, KEEP_TWO, held=["v2"]) == (("v1", "v3"), 0)
    world.storage.write_new("default/versions/v2/manifest.json", copy)
    assert world.loadable() == ["v2", "v4", "v5"]
    assert Registry(world.storage, clock=world.clock).prune(LATE, KEEP_TWO, held=["v2"]) == ((), 2)


def test_decisions_stay_on_the_newest_versions_and_on_those_that_are_there(world: World) -> None:
    registry = world.registry
    for number in range(1, 10):
        world.publish(f"v{number}")
        registry.record_decision(decision_on(f"v{number}", number))
    registry.pin("v3")
    registry.prune(LATE, RegistryConfig(keep_last=2, keep_for_s=0, keep_history=4))
    assert [name for name in (f"v{number}" for number in range(1, 10)) if registry.decisions(name)] == ["v3", "v6", "v7", "v8", "v9"]
    registry.unpin("v3")
    registry.prune(LATE, RegistryConfig(keep_last=2, keep_for_s=0, keep_history=4))
    assert registry.decisions("v3") == []


def test_what_learned_from_a_deleted_user_goes_up_to_what_is_in_use(world: World) -> None:
    world.publish(*(f"v{number}" for number in range(1, 7)))
    keep_all = RegistryConfig(keep_last=50)
    assert world.registry.prune(LATE, keep_all, "v5").versions == ()  # Nothing is in use: who knows what will be.
    assert world.registry.prune(LATE, keep_all, "v5", ["v3", "v6"]).versions == ("v1", "v2")
    assert world.registry.prune(LATE, keep_all, "v5", ["v6"]).versions == ("v3", "v4")


def test_a_long_history_costs_a_bounded_number_of_requests(tmp_path: Path) -> None:
    class Counting(FaultyStorage):
        """Counts what is read."""

        num_reads = 0

        def read(self, key: str) -> bytes:
            self.num_reads += 1
            return super().read(key)

    storage = Counting(LocalStorage(tmp_path), None, "before")
    world, policy = World(storage), RegistryConfig(keep_last=2, keep_for_s=0, keep_history=3, keep_history_for_s=0)
    counts = []
    for number in range(10, 40):
        world.publish(f"v{number}")
        world.registry.promote(f"v{number}", "better", decision_on(f"v{number}", 1))
        storage.num_reads = 0
        world.registry.prune(LATE, policy)
        counts.append(storage.num_reads)
        assert len(storage.list("default/history")) <= 4
    assert counts[-1] == counts[10]
