from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamrec.clock import ManualClock
from streamrec.config import RegistryConfig
from streamrec.errors import Damaged, RegistryError, StorageError
from streamrec.registry.gate import Gate, Health, Window
from streamrec.registry.registry import Registry
from streamrec.registry.version import VersionFacts
from streamrec.storage import LocalStorage
from streamrec.testing.storage_faults import FaultyStorage

META = {"scale": 9.0, "history_length": 2, "dim": 2}


def _arrays(seed: int, num_rows: int = 50) -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    return {"item_vectors": rng.random((num_rows, 2), np.float32), "item_bias": rng.random(num_rows, np.float32)}


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "registry")


@pytest.fixture
def registry(storage: LocalStorage) -> Registry:
    return Registry(storage, clock=ManualClock(1_000))


def _publish(registry: Registry, *versions: str) -> None:
    for version in versions:
        registry.publish(version, _arrays(int(version[1:])), META)


def test_a_published_version_loads_with_its_facts(registry: Registry) -> None:
    facts = VersionFacts(offsets={"events": {0: 9}}, metrics={"recall@20": 0.2}, teachers={"linear": "l1"}, seed=4)
    manifest = registry.publish("v1", _arrays(1), META, facts)
    loaded = registry.load("v1")
    assert loaded.manifest == manifest
    assert (loaded.id, loaded.meta, loaded.manifest.offsets, loaded.manifest.created_ms) == ("v1", META, {"events": {0: 9}}, 1_000)
    np.testing.assert_array_equal(loaded.arrays["item_vectors"], _arrays(1)["item_vectors"])
    assert registry.versions() == ["v1"]
    assert registry.live() is None


def test_publishing_twice_changes_nothing(storage: LocalStorage, registry: Registry) -> None:
    first = registry.publish("v1", _arrays(1), META)
    before = storage.list()
    assert Registry(storage, clock=ManualClock(9_000)).publish("v1", _arrays(1), META) == first
    assert storage.list() == before


def test_an_id_never_changes_its_weights(registry: Registry) -> None:
    first = registry.publish("v1", _arrays(1), META)
    with pytest.raises(RegistryError, match="'v1' is published with other weights"):
        registry.publish("v1", _arrays(2), META)
    with pytest.raises(RegistryError, match="other weights"):
        registry.publish("v1", _arrays(1), {**META, "scale": 1.0})
    assert registry.load("v1").manifest == first


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_version_is_invisible_until_it_is_complete(tmp_path: Path, when: Any) -> None:
    for fail_at in range(2):
        inner = LocalStorage(tmp_path / f"{fail_at}")
        with pytest.raises(StorageError, match="injected"):
            Registry(FaultyStorage(inner, fail_at, when)).publish("v1", _arrays(1), META)
        registry = Registry(inner)
        for version in registry.versions():
            registry.load(version)
        registry.publish("v1", _arrays(1), META)
        assert registry.load("v1").meta == META


def test_publishing_again_mends_a_lost_blob(storage: LocalStorage, registry: Registry) -> None:
    manifest = registry.publish("v1", _arrays(1), META)
    storage.delete(f"default/blobs/{manifest.base[0].sha256}")
    with pytest.raises(Damaged):
        registry.load("v1")
    registry.publish("v1", _arrays(1), META)
    assert registry.load("v1").manifest == manifest


@pytest.mark.parametrize("name", ["", "../up", ".hidden", "a/b", "a" * 200, "v1\n"])
def test_a_name_that_is_no_name_is_refused(storage: LocalStorage, registry: Registry, name: str) -> None:
    with pytest.raises(RegistryError, match="not a name"):
        registry.publish(name, _arrays(1), META)
    with pytest.raises(RegistryError, match="not a name"):
        Registry(storage, student=name)


def test_an_unknown_version_is_named_with_those_that_exist(registry: Registry) -> None:
    _publish(registry, "v1", "v2")
    for call in (registry.load, registry.manifest, registry.pin, lambda version: registry.promote(version, "why")):
        with pytest.raises(RegistryError, match="got 'v3', allowed v1, v2"):
            call("v3")


def test_promoting_moves_the_alias_and_leaves_a_record(registry: Registry) -> None:
    _publish(registry, "v1", "v2")
    decision = Gate(RegistryConfig()).decide(Health("v2"), Health("v1"), Window.from_scores(2, [1.0] * 40, [0.5] * 40))
    registry.promote("v1", "first")
    move = registry.promote("v2", decision.reason, decision)
    assert registry.live() == "v2"
    assert registry.alias() == move
    assert (move.number, move.previous, move.decision) == (2, "v1", decision)
    assert [entry.version for entry in registry.history()] == ["v1", "v2"]
    assert registry.history(last=1) == [move]


def test_promoting_what_is_live_changes_nothing(storage: LocalStorage, registry: Registry) -> None:
    _publish(registry, "v1")
    first = registry.promote("v1", "first")
    before = storage.list()
    assert registry.promote("v1", "again") == first
    assert storage.list() == before


def test_rolling_back_walks_back_through_what_was_live(registry: Registry) -> None:
    _publish(registry, "v1", "v2", "v3")
    for version in ("v1", "v2", "v3"):
        registry.promote(version, "better")
    assert registry.rollback("worse in the shop").version == "v2"
    assert registry.rollback("still worse").version == "v1"
    with pytest.raises(RegistryError, match="no version to roll back to"):
        registry.rollback("all are bad")
    registry.promote("v3", "mended")
    assert registry.rollback("no").version == "v1"
    assert [(move.action, move.version) for move in registry.history()][3:5] == [("rollback", "v2"), ("rollback", "v1")]


def test_a_return_goes_to_any_version_and_a_rollback_from_there_where_it_went_then(registry: Registry) -> None:
    versions = [f"v{number:08d}" for number in range(1, 15)]
    _publish(registry, *versions)
    for version in versions:
        registry.promote(version, "better")
    move = registry.return_to(versions[2], versions[-1], "the guard")
    assert (move.action, registry.live(), move.trail) == ("rollback", versions[2], (versions[1], versions[0]))
    assert registry.return_to(versions[2], versions[-1], "once more") == move
    assert registry.return_to(versions[4], versions[5], "another is live") == move
    assert registry.rollback("worse still").version == versions[1]
    with pytest.raises(RegistryError, match="no such version"):
        registry.return_to("v00000099", versions[1], "it is not there")


def test_a_rollback_can_be_repeated_when_it_names_what_is_live(registry: Registry) -> None:
    _publish(registry, "v1", "v2")
    registry.promote("v1", "first")
    registry.promote("v2", "second")
    assert registry.rollback("bad", live="v2") == registry.rollback("bad", live="v2")
    assert registry.live() == "v1"


def test_a_rollback_without_a_live_version_says_so(registry: Registry) -> None:
    with pytest.raises(RegistryError, match="got no live version"):
        registry.rollback("why not", live="v1")


def test_concurrent_moves_are_all_in_the_history(storage: LocalStorage, registry: Registry) -> None:
    versions = [f"v{number}" for number in range(1, 9)]
    _publish(registry, *versions)
    with ThreadPoolExecutor(8) as pool:
        moves = list(pool.map(lambda version: Registry(storage).promote(version, "race"), versions))
    history = registry.history()
    assert sorted(move.version for move in history) == versions
    assert sorted(move.number for move in moves) == list(range(1, 9))
    assert registry.alias() == history[-1]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("fail_at", [0, 1])
def test_a_mover_that_dies_leaves_the_old_or_the_new_and_is_completed(storage: LocalStorage, registry: Registry, fail_at: int, when: Any) -> None:
    _publish(registry, "v1", "v2")
    registry.promote("v1", "first")
    with pytest.raises(StorageError, match="injected"):
        Registry(FaultyStorage(storage, fail_at, when)).promote("v2", "second")
    assert registry.live() in {"v1", "v2"}
    registry.promote("v2", "second")
    assert registry.live() == "v2"
    assert [move.version for move in registry.history()] == ["v1", "v2"]
    assert registry.rollback("bad").version == "v1"
    assert [move.number for move in registry.history()] == [1, 2, 3]


def test_a_move_after_a_dead_mover_follows_what_it_recorded(storage: LocalStorage, registry: Registry) -> None:
    _publish(registry, "v1", "v2", "v3")
    registry.promote("v1", "first")
    with pytest.raises(StorageError, match="injected"):
        Registry(FaultyStorage(storage, 0, "after")).promote("v2", "recorded, never followed")
    assert registry.promote("v3", "next").previous == "v2"
    assert registry.live() == "v3"
    assert [move.version for move in registry.history()] == ["v1", "v2", "v3"]


def test_the_first_decision_on_a_candidate_and_batch_stands(registry: Registry) -> None:
    gate = Gate(RegistryConfig())
    first = gate.decide(Health("v2"), Health("v1"), Window(7))
    other = gate.decide(Health("v2"), Health("v1"), Window(7), is_idle=True)
    later = gate.decide(Health("v2"), Health("v1"), Window(8), is_idle=True)
    assert registry.record_decision(first) == first
    assert registry.record_decision(other) == first
    assert registry.record_decision(later) == later
    assert registry.decisions("v2") == [first, later]
    assert registry.decisions("v1") == []


def test_a_name_that_others_have_is_left_to_them_and_the_same_weights_keep_theirs(registry: Registry) -> None:
    assert registry.free_name("v00000007", _arrays(1), META) == "v00000007"
    registry.publish("v00000007", _arrays(1), META)
    assert registry.free_name("v00000007", _arrays(1), META) == "v00000007"
    second = registry.free_name("v00000007", _arrays(2), META)
    registry.publish(second, _arrays(2), META)
    assert registry.free_name("v00000007", _arrays(2), META) == second == "v00000007_02"
    third = registry.free_name("v00000007", _arrays(3), META)
    registry.publish(third, _arrays(3), META)
    _publish(registry, "v00000006", "v00000008")
    assert registry.versions() == ["v00000006", "v00000007", second, third, "v00000008"]


def test_students_of_one_storage_do_not_meet(storage: LocalStorage) -> None:
    shop, edge = Registry(storage, "shop"), Registry(storage, "edge")
    _publish(shop, "v1")
    shop.promote("v1", "first")
    assert edge.versions() == []
    assert edge.live() is None
    edge.publish("v1", _arrays(9), META)
    assert shop.load("v1").manifest.digest != edge.load("v1").manifest.digest


def test_a_registry_travels_in_a_pickle(registry: Registry) -> None:
    _publish(registry, "v1")
    assert pickle.loads(pickle.dumps(registry)).versions() == ["v1"]


def test_a_version_of_few_changed_rows_is_stored_as_a_delta_and_loads_the_same(storage: LocalStorage, registry: Registry) -> None:
    arrays = _arrays(1, num_rows=2000)
    registry.publish("v1", arrays, META)
    changed = {name: array.copy() for name, array in arrays.items()}
    changed["item_vectors"][7] = 0.5
    manifest = registry.publish("v2", changed, META, VersionFacts(parent="v1"), as_delta=True)
    assert (manifest.base, len(manifest.deltas)) == (registry.manifest("v1").base, 1)
    np.testing.assert_array_equal(Registry(storage).load("v2").arrays["item_vectors"], changed["item_vectors"])
    assert Registry(storage).publish("v2", changed, META) == manifest
    whole = registry.publish("v3", _arrays(3, num_rows=2000), META, VersionFacts(parent="v2"), as_delta=True)
    assert whole.deltas == ()


def test_nobody_goes_back_behind_a_deletion_but_a_waiting_candidate_still_goes_live(registry: Registry) -> None:
    _publish(registry, *(f"v{number}" for number in range(1, 6)))
    registry.promote("v1", "first")
    registry.promote("v2", "second")
    registry.forget_before("v4", "d1")
    registry.forget_before("v3", "d0")  # Executed again after a crash.
    for call in (registry.pin, lambda version: registry.promote(version, "why"), lambda _: registry.rollback("why")):
        with pytest.raises(RegistryError, match=r"v1 was made before the deletion 'd1' .*allowed v4 or later, such as v4, v5, promote one of these"):
            call("v1")
    assert registry.live() == "v2"
    registry.promote("v3", "not worse", Gate(RegistryConfig()).decide(Health("v3"), Health("v2"), Window.from_scores(2, [1.0] * 40, [0.5] * 40)))
    registry.promote("v4", "fifth")
    registry.promote("v5", "sixth")
    assert registry.rollback("worse").version == "v4"
    with pytest.raises(RegistryError, match="v3 was made before the deletion 'd1'"):
        registry.rollback("worse still")


@pytest.mark.parametrize("torn", [b"", b"{", b"{}"])
def test_a_torn_record_of_deletions_refuses_every_way_back_until_it_is_written_anew(storage: LocalStorage, registry: Registry, torn: bytes) -> None:
    _publish(registry, "v1", "v2")
    for version in ("v1", "v2"):
        registry.promote(version, "better")
    registry.forget_before("v2", "d1")
    (Path(storage.address) / "default" / "forgotten").write_bytes(torn)
    with pytest.raises(Damaged, match=f"{storage.address}/default/forgotten"):
        registry.rollback("worse")
    Registry(storage).forget_before("v2", "d1")
    with pytest.raises(RegistryError, match="v1 was made before the deletion 'd1'"):
        registry.rollback("worse")


@pytest.mark.parametrize("torn", [b"", b"{", bytes(300), b"{}"])
def test_a_torn_alias_is_read_from_its_history_and_written_anew_by_the_next_prune_or_move(
    storage: LocalStorage, registry: Registry, torn: bytes
) -> None:
    _publish(registry, "v1", "v2", "v3")
    registry.promote("v1", "first")
    move = registry.promote("v2", "second")
    path = Path(storage.address) / "default" / "alias" / "live"
    whole = path.read_bytes()
    path.write_bytes(torn)
    fresh = Registry(storage)
    assert (fresh.alias(), fresh.history()[-1]) == (move, move)
    assert path.read_bytes() == torn
    damage = fresh.alias_damage()
    assert damage is not None
    assert str(path) in str(damage)
    fresh.prune(0, RegistryConfig())
    assert path.read_bytes() == whole
    assert fresh.alias_damage() is None
    path.write_bytes(torn)
    assert fresh.rollback("worse").version == "v1"
    assert Registry(storage).live() == "v1"
    assert fresh.alias_damage() is None


def test_a_lost_alias_is_read_from_its_history_and_written_anew_by_the_next_prune_or_move(storage: LocalStorage, registry: Registry) -> None:
    assert (registry.live(), registry.alias_damage()) == (None, None)
    _publish(registry, "v1", "v2", "v3")
    registry.promote("v1", "first")
    move = registry.promote("v2", "second")
    path = Path(storage.address) / "default" / "alias" / "live"
    whole = path.read_bytes()
    path.unlink()
    fresh = Registry(storage)
    assert (fresh.alias(), fresh.history()[-1]) == (move, move)
    damage = fresh.alias_damage()
    assert damage is not None
    assert f"the alias is lost, {path}" in str(damage)
    fresh.prune(0, RegistryConfig())
    assert path.read_bytes() == whole
    path.unlink()
    back = Registry(storage).rollback("worse")
    assert (back.version, back.number, fresh.alias_damage()) == ("v1", 3, None)


def test_a_torn_alias_without_a_whole_last_move_is_an_error_that_names_the_torn_file(storage: LocalStorage, registry: Registry) -> None:
    _publish(registry, "v1", "v2")
    registry.promote("v1", "first")
    registry.promote("v2", "second")
    folder = Path(storage.address) / "default"
    (folder / "alias" / "live").write_bytes(b"")
    last = folder / "history" / "00000002.json"
    last.write_bytes(b"{")  # The one before it would bring v1 back.
    with pytest.raises(Damaged, match=f"{last}, got .* restore it from a copy"):
        registry.live()
    for path in (folder / "history").iterdir():
        path.unlink()
    with pytest.raises(Damaged, match=f"{folder}/alias/live"):
        registry.live()
