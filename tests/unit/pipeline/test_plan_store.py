from __future__ import annotations

from pathlib import Path

import pytest

from streamrec.errors import Damaged, StorageError
from streamrec.pipeline.plan_store import PlanStore
from streamrec.storage import LocalStorage

PLAN = {"batch": 3, "ranges": [["events", 0, 10, 20]], "teachers": {"linear": "l1"}, "seed": 5}


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path)


def test_a_plan_is_read_as_it_was_written(storage: LocalStorage) -> None:
    PlanStore(storage).write(PLAN, 3)
    assert PlanStore(storage).read(3) == PLAN
    assert storage.list() == ["plans/00000003.json"]


def test_the_first_plan_of_a_number_stands_whoever_made_it(storage: LocalStorage) -> None:
    plans = PlanStore(storage)
    assert plans.write(PLAN, 3) == PLAN
    assert plans.write(dict(reversed(PLAN.items())), 3) == PLAN
    assert plans.write({**PLAN, "seed": 6}, 3) == PLAN
    assert plans.read(3) == PLAN


def test_the_newest_plan_is_the_one_with_the_highest_number(storage: LocalStorage) -> None:
    plans = PlanStore(storage)
    assert plans.newest() is None
    for batch in (9, 10, 123_456_789):
        plans.write({"batch": batch}, batch)
    assert plans.newest() == (123_456_789, {"batch": 123_456_789})
    assert plans.batches() == [9, 10, 123_456_789]


def test_a_plan_gives_up_those_between_the_batch_that_it_follows_and_its_own_also_one_that_is_torn(storage: LocalStorage) -> None:
    plans = PlanStore(storage)
    for plan in ({"batch": 3}, {"batch": 4}, {"batch": 6, "after": 4}, {"batch": 7, "after": 3}, {"batch": 8}):
        plans.write(plan, plan["batch"])
    storage.write_new("plans/00000005.json", b"torn")
    assert list(plans.ahead(2)) == [3, 7, 8]
    assert list(plans.ahead(3)) == [7, 8]
    assert list(plans.ahead(8)) == []
    storage.write_new("plans/00000009.json", b"torn")
    with pytest.raises(Damaged, match="batch 9"):
        plans.ahead(2)


def test_old_plans_go_up_to_but_without_the_number_given(storage: LocalStorage) -> None:
    plans = PlanStore(storage)
    for batch in range(5):
        plans.write({"batch": batch}, batch)
    assert plans.prune(before=3) == 3
    assert plans.batches() == [3, 4]


@pytest.mark.parametrize("foreign", ["00000003.json.bak", "00000004.json.bak", "notes.txt", "9.json", "000000009.json", "old/00000009.json"])
def test_a_foreign_file_beside_a_plan_is_no_plan(storage: LocalStorage, foreign: str) -> None:
    plans = PlanStore(storage)
    plans.write(PLAN, 3)
    storage.write_new(f"plans/{foreign}", storage.read("plans/00000003.json"))
    assert plans.newest() == (3, PLAN)
    assert plans.prune(before=9) == 1
    assert storage.exists(f"plans/{foreign}")


def test_a_missing_plan_says_so(storage: LocalStorage) -> None:
    with pytest.raises(StorageError, match="no such object") as caught:
        PlanStore(storage).read(1)
    assert caught.value.facts["missing"] is True


@pytest.mark.parametrize("data", [b"", b"[]", b'{"format":1}'])
def test_what_is_no_plan_is_damaged(storage: LocalStorage, data: bytes) -> None:
    storage.write_new("plans/00000001.json", data)
    with pytest.raises(Damaged):
        PlanStore(storage).read(1)


def test_a_plan_with_one_changed_digit_is_damaged(storage: LocalStorage) -> None:
    PlanStore(storage).write(PLAN, 1)
    data = storage.read("plans/00000001.json")
    storage.delete("plans/00000001.json")
    storage.write_new("plans/00000001.json", data.replace(b"20", b"21"))
    with pytest.raises(Damaged, match="does not match its digest"):
        PlanStore(storage).read(1)
    storage.write_new("plans/00000002.json", data.replace(b'"format":1', b'"format":2'))
    with pytest.raises(StorageError, match="written by a newer streamrec, got format 2"):
        PlanStore(storage).read(2)


@pytest.mark.parametrize("torn", [b"", b"{", b"[]", b'{"format": 1, "plan": {}, "sha256": "ab"}'])
def test_a_torn_plan_is_told_by_file(storage: LocalStorage, torn: bytes) -> None:
    plans = PlanStore(storage)
    plans.write(PLAN, 3)
    (Path(storage.address) / "plans" / "00000003.json").write_bytes(torn)
    for read in (lambda: plans.read(3), plans.newest, lambda: plans.write(PLAN, 3)):
        with pytest.raises(Damaged, match=f"Plan: that of batch 3 .*, {storage.address}/plans/00000003.json.*, restore it from a copy"):
            read()
