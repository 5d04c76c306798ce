from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deltalake import DeltaTable

from streamrec.errors import RegistryError
from streamrec.log.base import Record
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.dead_letter_box import DeadLetterBox, Replayed
from streamrec.pipeline.layout import registry_url
from streamrec.pipeline.receipts import read_receipt
from streamrec.pipeline.resend import Repair, Resender
from streamrec.registry.registry import Registry
from streamrec.state import unpack_strings
from streamrec.storage import open_storage

World = Any
MakeRecord = Callable[..., Record]

PLANTED = "planted"
ALONE = [f"alone{number}" for number in range(4)]
SETTINGS = {"pipeline": {"max_batch_events": 40, "checkpoint_interval_s": 3.0}, "registry": {"gate_min_queries": 1, "keep_last": 50}}


def planted(make_record: MakeRecord, first: int) -> list[Record]:
    """What one user does: items that nobody else has, among others that all have."""
    return [make_record(PLANTED, [*ALONE, "i1", "i2"][number % 6], first + number) for number in range(18)]


def deletion(make_record: MakeRecord, number: int, user: str = PLANTED) -> Record:
    time_ms = json.loads(make_record(user, "i", number).value)["event_time"]
    value = {"kind": "deletion", "event_id": f"forget-{user}", "user_id": user, "event_time": time_ms}
    return Record(user.encode(), json.dumps(value).encode())


@pytest.fixture
def world(make_world: Callable[..., World], mixed: list[Record], make_record: MakeRecord, tmp_path: Path) -> World:
    # Between others, so that the planted items get answers while they are there.
    world = make_world([*mixed[:150], *planted(make_record, 160), *mixed[150:240]], SETTINGS, folder=tmp_path / "state")
    world.play(world.controller())
    return world


def answered(world: World) -> set[str]:
    """Every item that the live version could recommend to anybody."""
    arrays = Registry(open_storage(registry_url(str(world.folder)))).load(live_of(world)).arrays
    return set(unpack_strings(arrays["item_id_bytes"], arrays["item_id_offsets"]))


def live_of(world: World) -> str:
    live = Registry(open_storage(registry_url(str(world.folder)))).live()
    assert live is not None
    return str(live)


def receipt_of(world: World, event_id: str = f"forget-{PLANTED}") -> dict[str, Any]:
    receipt = read_receipt(open_storage(str(world.folder)), "default", event_id)
    assert receipt is not None
    return receipt


def forget(world: World, make_record: MakeRecord, mixed: list[Record]) -> Controller:
    world.append([deletion(make_record, 260), *mixed[240:]])
    controller: Controller = world.controller()
    world.play(controller)
    return controller


def test_a_users_own_items_vanish_from_everybodys_answers_and_shared_ones_stay(world: World, make_record: MakeRecord, mixed: list[Record]) -> None:
    assert set(ALONE) <= answered(world)
    forget(world, make_record, mixed)
    after = answered(world)
    assert not set(ALONE) & after
    assert {"i1", "i2"} <= after


def test_own_items_also_vanish_that_were_used_more_often_than_a_history_may_repeat(
    make_world: Callable[..., World], make_record: MakeRecord, mixed: list[Record], tmp_path: Path
) -> None:
    """Each of the planted items was used three times, and never filled two of four places of the history at once: all three were counted."""
    settings = {**SETTINGS, "features": {"history_length": 4, "max_repeats": 2}}
    world = make_world([*mixed[:150], *planted(make_record, 160), *mixed[150:240]], settings, folder=tmp_path / "state")
    world.play(world.controller())
    forget(world, make_record, mixed)
    assert not set(ALONE) & answered(world)


def test_nothing_of_the_user_is_left_in_any_component(world: World, make_record: MakeRecord, mixed: list[Record]) -> None:
    before = world.controller()
    rows = [before.ingest.vocabulary.find("default", item) for item in ALONE]
    assert min(rows) >= 0
    controller = forget(world, make_record, mixed)
    vocabulary = controller.ingest.vocabulary
    assert [vocabulary.find("default", item) for item in ALONE] == [-1] * 4
    assert controller.ingest.histories.get("default", PLANTED).tolist() == []
    for name, component in controller.components().items():
        assert component.delete_user("default", PLANTED) == 0, name
    assert PLANTED not in DeltaTable(str(world.folder / "lake")).to_pyarrow_table(columns=["user_id"])["user_id"].to_pylist()
    # Free again, or another item's by now; the planted vectors are gone either way.
    tables = controller.parts.student.target.tables  # type: ignore[attr-defined]
    generations = tables.rows("generation").numpy()[rows]
    assert np.all(generations != 0)


def test_by_the_stated_time_no_file_below_the_lake_names_the_user(
    make_world: Callable[..., World], mixed: list[Record], make_record: MakeRecord, tmp_path: Path, files_naming: Callable[[Path, str], list[str]]
) -> None:
    settings = {**SETTINGS, "lake": {"keep_for_s": 0.0, "optimize_every": 2}}
    world = make_world([*mixed[:150], *planted(make_record, 160), *mixed[150:240]], settings, folder=tmp_path / "state")
    world.play(world.controller())
    world.append([make_record(PLANTED, "i1", 258)])  # Some rows wait for the next commit when the request comes.
    lake = world.folder / "lake"
    assert files_naming(lake, PLANTED)
    controller = forget(world, make_record, mixed)
    assert files_naming(lake / "_delta_log", PLANTED) == []
    while world.clock.now_ms() <= receipt_of(world)["lake_files_gone_by_ms"]:  # Nothing comes any more.
        controller.step()
        world.clock.advance(20.0)
    assert files_naming(lake, PLANTED) == []
    assert controller.parts.lake is not None
    assert controller.parts.lake.vacuum_at_ms is None


def test_the_receipt_says_what_went_where_what_is_approximate_and_until_when(world: World, make_record: MakeRecord, mixed: list[Record]) -> None:
    forget(world, make_record, mixed)
    receipt = receipt_of(world)
    assert receipt["removed"]["histories"] == 8
    assert receipt["removed"]["dedupe"] == 18
    assert receipt["removed"]["window"] == 18
    assert receipt["removed"]["lake"] == 18
    assert receipt["removed"]["labels"] > 0
    assert receipt["items"] == {"released": 4, "begun_anew": 0, "shared": 2}
    assert 0 < receipt["corrective_steps"] <= 8
    assert PLANTED not in json.dumps(receipt).replace(f"forget-{PLANTED}", "")
    assert receipt["teachers_refresh_by_ms"] == receipt["at_ms"] + 86_400_000
    assert {"student", "popularity", "versions", "log"} <= receipt["approximate"].keys()
    assert "pinned ones stay until they are unpinned" in receipt["approximate"]["versions"]
    assert receipt["queries_left"] == 0
    assert "linear_statistics" in receipt["exact"]
    assert "linear_statistics" not in receipt["approximate"]


def test_a_receipt_says_until_when_new_events_are_taken_for_old_ones(world: World, make_record: MakeRecord) -> None:
    ahead = json.loads(make_record(PLANTED, "i1", 900).value)["event_time"]
    world.append([make_record(PLANTED, "i1", 900), deletion(make_record, 260), deletion(make_record, 261, "u1")])
    controller = world.controller()
    deletions = 0
    while (report := controller.step()) is not None:
        deletions += report.deletions
    assert deletions == 2
    receipt = receipt_of(world)
    assert receipt["taken_for_old_until_ms"] == ahead > receipt["event_time"]
    assert "`taken_for_old_until_ms`" in receipt["exact"]["tombstones"]
    other = receipt_of(world, "forget-u1")
    assert (other["taken_for_old_until_ms"], "tombstones" in other["exact"]) == (None, False)
    before = dict(controller.state.counts)
    world.append([make_record(PLANTED, "i2", 899), make_record(PLANTED, "i3", 901)])
    world.play(controller)
    assert {name: controller.state.counts[name] - before[name] for name in ("duplicate", "applied")} == {"duplicate": 1, "applied": 1}


def test_a_receipt_of_a_request_from_ahead_of_the_clock_says_so_too(world: World, make_record: MakeRecord) -> None:
    world.append([deletion(make_record, 900)])
    controller = world.controller()
    world.play(controller)
    receipt = receipt_of(world)
    assert receipt["taken_for_old_until_ms"] == receipt["event_time"] > receipt["at_ms"]


def test_a_receipt_says_how_many_queries_may_be_left_in_the_sums(
    make_world: Callable[..., World], mixed: list[Record], make_record: MakeRecord, tmp_path: Path
) -> None:
    small = {**SETTINGS, "student": {"replay_capacity": 40}}
    world = make_world([*planted(make_record, 1), *mixed[:240]], small, folder=tmp_path / "small")
    world.play(world.controller())
    forget(world, make_record, mixed)
    receipt = receipt_of(world)
    assert receipt["queries_left"] > 0
    assert f"at most {receipt['queries_left']}" in receipt["approximate"]["linear_statistics"]
    assert "linear_statistics" not in receipt["exact"]


def test_an_item_that_a_catalogue_describes_stays_and_its_vector_begins_anew(
    make_world: Callable[..., World], mixed: list[Record], make_record: MakeRecord, tmp_path: Path
) -> None:
    update = {"kind": "item_update", "event_id": "c1", "item_id": ALONE[0], "title": "a quiet river", "event_time": 1_700_000_000_000 - 600_000}
    catalogue = Record(b"i", json.dumps(update).encode())
    world = make_world([*mixed[:150], catalogue, *planted(make_record, 160), *mixed[150:240]], SETTINGS, folder=tmp_path / "described")
    world.play(world.controller())
    controller = forget(world, make_record, mixed)
    row = controller.ingest.vocabulary.find("default", ALONE[0])
    assert row >= 0
    assert ALONE[0] in answered(world)
    assert not set(ALONE[1:]) & answered(world)
    assert receipt_of(world)["items"] == {"released": 3, "begun_anew": 1, "shared": 2}


def test_old_events_that_are_delivered_again_are_dropped_for_ever_and_new_ones_begin_a_new_life(
    world: World, make_record: MakeRecord, mixed: list[Record]
) -> None:
    controller = forget(world, make_record, mixed)
    before = dict(controller.state.counts)
    again = [make_record(PLANTED, ALONE[number % 4], 160 + number, event_id=f"again{number}") for number in range(5)]
    world.append(again)
    controller = world.controller()
    world.play(controller)
    assert controller.state.counts["duplicate"] - before["duplicate"] == 5
    assert controller.state.counts["applied"] == before["applied"]
    assert controller.ingest.histories.get("default", PLANTED).tolist() == []
    world.append([make_record(PLANTED, "i3", 300), make_record(PLANTED, "i4", 301)])
    world.play(controller)
    assert len(controller.ingest.histories.get("default", PLANTED)) == 2


def test_nothing_rolls_back_to_a_version_that_has_learned_from_the_user(world: World, make_record: MakeRecord, mixed: list[Record]) -> None:
    registry = Registry(open_storage(registry_url(str(world.folder))))
    before = registry.versions()
    forget(world, make_record, mixed)
    world.append(make_record(f"u{number % 7}", f"i{number % 11}", 300 + number) for number in range(600))
    world.play(world.controller())
    bound = receipt_of(world)["versions_not_before"]
    assert min(before) < bound
    assert min(registry.versions()) >= bound
    while True:
        try:
            assert registry.rollback("fewer orders").version >= bound
        except RegistryError:
            break


def test_a_driver_that_died_before_it_pruned_leaves_no_version_that_knows_the_user_to_an_idle_stream(
    world: World, make_record: MakeRecord, mixed: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(open_storage(registry_url(str(world.folder))))
    forget(world, make_record, mixed)
    world.append(make_record(f"u{number % 7}", f"i{number % 11}", 300 + number) for number in range(600))
    controller = world.controller()
    # As if killed behind each commit: HEAD is moved, nothing is pruned.
    monkeypatch.setattr(controller.parts.publisher, "prune", lambda *_: None)
    world.play(controller)
    bound = receipt_of(world)["versions_not_before"]
    assert min(registry.versions()) < bound
    again = world.controller()
    assert again.step() is None
    assert min(registry.versions()) >= bound


def test_an_idle_stream_refuses_to_bring_a_version_of_before_the_deletion_back(world: World, make_record: MakeRecord) -> None:
    registry = Registry(open_storage(registry_url(str(world.folder))))
    world.append([deletion(make_record, 260)])
    world.play(world.controller())  # Nothing comes any more: what a kept commit needs is not pruned.
    bound, live = receipt_of(world)["versions_not_before"], live_of(world)
    old = next(version for version in registry.versions() if version < bound and version != live)
    for call in (registry.pin, lambda version: registry.promote(version, "fewer orders")):
        with pytest.raises(RegistryError, match=rf"{old} was made before the deletion 'forget-{PLANTED}' .*allowed {bound} or later"):
            call(old)
    with pytest.raises(RegistryError):
        registry.rollback("fewer orders")
    assert live_of(world) == live


def test_a_deletion_that_a_rebuild_has_carried_out_is_noted_by_the_next_commit(world: World, make_record: MakeRecord) -> None:
    registry = Registry(open_storage(registry_url(str(world.folder))))
    controller = world.controller()
    controller.state.forgot_batch = controller.state.batch  # As `StreamState.go_on_as` leaves it.
    world.append([make_record("u1", "i1", 300)])
    world.play(controller)
    old = next(version for version in registry.versions() if version not in {live_of(world), registry.versions()[-1]})
    with pytest.raises(RegistryError, match=f"{old} was made before a deletion"):
        registry.promote(old, "fewer orders")


def test_a_deletion_survives_a_crash_bit_for_bit_and_its_receipt_is_written_once(
    make_world: Callable[..., World], mixed: list[Record], make_record: MakeRecord, tmp_path: Path
) -> None:
    records = [*mixed[:150], *planted(make_record, 160), *mixed[150:240], deletion(make_record, 260), *mixed[240:]]
    settings = {**SETTINGS, "pipeline": {"max_batch_events": 40, "checkpoint_interval_s": 1000.0}}
    calm, world = (make_world(records, settings, folder=tmp_path / name) for name in ("calm", "killed"))
    undisturbed = calm.controller()
    calm.play(undisturbed)
    killed = world.controller()
    while read_receipt(open_storage(str(world.folder)), "default", f"forget-{PLANTED}") is None:
        assert killed.step() is not None
        world.clock.advance(1.0)
    first = receipt_of(world)
    again = world.controller()
    assert again.state.batch == 0  # Nothing was committed: everything is executed again.
    while again.planned() is not None:
        again.step()
    world.play(again)
    assert receipt_of(world) == first
    digests = [{name: component.digest() for name, component in one.components().items()} for one in (again, undisturbed)]
    assert digests[0] == digests[1]


def test_two_users_of_one_batch_who_shared_an_item_that_nobody_else_has_release_it_once(
    make_world: Callable[..., World], mixed: list[Record], make_record: MakeRecord, tmp_path: Path
) -> None:
    twin = [make_record("twin", item, 180 + number) for number, item in enumerate([ALONE[0], "i1", ALONE[0], "i2"])]
    world = make_world([*mixed[:150], *planted(make_record, 160), *twin, *mixed[150:240]], SETTINGS, folder=tmp_path / "twins")
    world.play(world.controller())
    world.append([deletion(make_record, 260), deletion(make_record, 261, "twin"), *mixed[240:]])
    controller = world.controller()
    world.play(controller)
    assert controller.ingest.vocabulary.find("default", ALONE[0]) == -1
    assert receipt_of(world)["items"]["released"] == 4
    assert receipt_of(world, "forget-twin")["items"] == {"released": 0, "begun_anew": 0, "shared": 2}


def test_an_item_that_others_were_counted_with_stays_though_nobody_holds_it_any_more(
    world: World, make_record: MakeRecord, mixed: list[Record]
) -> None:
    controller = world.controller()
    row = controller.ingest.vocabulary.find("default", ALONE[0])
    controller.ingest.popularity.update(np.full(50, row, np.int32), np.arange(50))  # Long ago, by users who have left every memory.
    world.append([deletion(make_record, 260), *mixed[240:]])
    world.play(controller)
    assert controller.ingest.vocabulary.find("default", ALONE[0]) == row


def test_a_letter_of_before_the_request_that_is_sent_again_has_no_effect(world: World, make_record: MakeRecord, mixed: list[Record]) -> None:
    value = {name: cell for name, cell in json.loads(make_record(PLANTED, "i1", 200, event_id="late letter").value).items() if name != "event_type"}
    world.append([Record(PLANTED.encode(), json.dumps(value).encode())])
    controller = forget(world, make_record, mixed)
    letters = [letter for letter in DeadLetterBox(world.log, world.config.log.dead_letter_topic).letters() if b"late letter" in (letter.value or b"")]
    before = dict(controller.state.counts)
    # By a tool that does not know who has asked: `streamrec dlq` would refuse.
    sent = Resender(world.config, world.log, world.clock, Repair({"event_type": "click"})).send([(letter, 0) for letter in letters])
    assert [type(outcome) for outcome in sent] == [Replayed]
    world.play(controller)
    assert controller.state.counts["duplicate"] - before["duplicate"] == 1
    assert controller.state.counts["applied"] == before["applied"]
    assert controller.ingest.histories.get("default", PLANTED).tolist() == []
    assert receipt_of(world)["topics"] == {"events": world.config.log.events_topic, "dead_letters": world.config.log.dead_letter_topic}
