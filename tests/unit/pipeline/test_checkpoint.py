from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from streamrec.errors import Damaged, Fenced, StorageError
from streamrec.pipeline.checkpoint import AddedDelta, CheckpointStore, has_commit
from streamrec.pipeline.commit import Commit, CommitId, Head
from streamrec.pipeline.lineage import LINEAGE
from streamrec.state import ComponentState
from streamrec.storage import LocalStorage, Token
from streamrec.testing.storage_faults import FaultyStorage


def _state(number: int, size: int = 4) -> ComponentState:
    return ComponentState({"a": np.full(size, number, np.int64)}, {"n": number})


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "state")


@pytest.fixture
def store(storage: LocalStorage) -> CheckpointStore:
    store = CheckpointStore(storage)
    store.acquire()
    return store


def _numbers(states: Sequence[ComponentState]) -> list[int]:
    return [state.meta["n"] for state in states]


def _damage(storage: LocalStorage, key: str) -> None:
    path = Path(storage.address) / key
    path.write_bytes(path.read_bytes()[:-1] + b"~")


def _blob_of(storage: LocalStorage, commit: int, component: str) -> str:
    found = Commit.from_json(storage.read(f"commits/{commit:08d}.json"))
    return f"blobs/{found.components[component].base.sha256}"


def test_what_was_committed_is_loaded(storage: LocalStorage, store: CheckpointStore) -> None:
    facts = {"batch": 7, "offsets": {"events": {"0": 12}}, "books": {"received": 12}}
    first = store.commit({"a": _state(1), "b": _state(2)}, facts, None)
    loaded = CheckpointStore(storage).load_newest()
    assert loaded is not None
    assert (loaded.id, loaded.facts, loaded.skipped) == (first, facts, ())
    assert _numbers(loaded.components["a"] + loaded.components["b"]) == [1, 2]
    np.testing.assert_array_equal(loaded.components["a"][0].arrays["a"], np.full(4, 1))


def test_facts_read_the_same_in_the_process_that_wrote_them(storage: LocalStorage, store: CheckpointStore) -> None:
    facts = {"offsets": {0: 1}, "pair": (1, 2)}
    store.commit({}, facts, None)
    facts["offsets"] = {}
    here, there = store.load_newest(), CheckpointStore(storage).load_newest()
    assert here is not None
    assert there is not None
    assert here.facts == there.facts == {"offsets": {"0": 1}, "pair": [1, 2]}


def test_nothing_committed_is_nothing_loaded(storage: LocalStorage, store: CheckpointStore) -> None:
    assert CheckpointStore(LocalStorage(storage.address + "-other")).load_newest() is None
    assert store.load_newest() is None


def test_unchanged_components_are_neither_serialised_nor_written(storage: LocalStorage) -> None:
    counting = FaultyStorage(storage)
    store = CheckpointStore(counting)
    store.acquire()
    first = store.commit({"big": _state(1, 100_000), "small": _state(1)}, {}, None)
    before = counting.num_bytes_written
    second = store.commit({"big": None, "small": _state(2)}, {}, first)
    assert counting.num_bytes_written - before < 2_000
    third = store.commit({"big": _state(1, 100_000), "small": None}, {}, second)
    assert counting.num_bytes_written - before < 4_000
    loaded = store.load_newest()
    assert loaded is not None
    assert loaded.id == third
    assert [_numbers(loaded.components[name]) for name in ("big", "small")] == [[1], [2]]


def test_a_base_and_its_deltas_come_back_in_order(storage: LocalStorage, store: CheckpointStore) -> None:
    first = store.commit({"a": [_state(1), _state(2)], "b": _state(9)}, {}, None)
    second = store.commit({"a": AddedDelta(_state(3)), "b": AddedDelta(_state(10))}, {}, first)
    third = store.commit({"a": AddedDelta(_state(4)), "b": None}, {}, second)
    loaded = CheckpointStore(storage).load_newest()
    assert loaded is not None
    assert (_numbers(loaded.components["a"]), _numbers(loaded.components["b"])) == ([1, 2, 3, 4], [9, 10])
    store.commit({"a": _state(5), "b": None}, {}, third)
    loaded = store.load_newest()
    assert loaded is not None
    assert _numbers(loaded.components["a"]) == [5]


def test_one_component_can_be_loaded_alone(storage: LocalStorage, store: CheckpointStore) -> None:
    store.commit({"a": _state(1), "b": _state(2)}, {}, None)
    _damage(storage, _blob_of(storage, 1, "b"))
    loaded = CheckpointStore(storage).load_newest(only={"a"})
    assert loaded is not None
    assert set(loaded.components) == {"a"}


def test_a_component_that_leaves_the_state_is_not_loaded(store: CheckpointStore) -> None:
    first = store.commit({"a": _state(1), "b": _state(1)}, {}, None)
    store.commit({"a": None}, {}, first)
    loaded = store.load_newest()
    assert loaded is not None
    assert set(loaded.components) == {"a"}


@pytest.mark.parametrize("change", [None, AddedDelta(_state(1)), []])
def test_a_component_without_anything_to_follow_needs_its_whole_state(store: CheckpointStore, change: AddedDelta | None) -> None:
    first = store.commit({"a": _state(1)}, {}, None)
    with pytest.raises(StorageError, match=r"'b'.*give"):
        store.commit({"a": None, "b": change}, {}, first)


def test_a_commit_follows_one_that_is_there(storage: LocalStorage, store: CheckpointStore) -> None:
    first = store.commit({"a": _state(1)}, {}, None)
    with pytest.raises(StorageError, match=r"no such previous commit, got 9, allowed \[1\]"):
        store.commit({"a": None}, {}, CommitId(first + 8))
    other = CheckpointStore(storage)
    other.acquire()
    with pytest.raises(StorageError, match="load the newest one first"):
        other.commit({"a": _state(1)}, {}, None)


def test_only_so_many_commits_and_their_blobs_are_kept(storage: LocalStorage, store: CheckpointStore) -> None:
    previous = None
    for number in range(1, 8):
        previous = store.commit({"a": _state(number), "same": _state(0)}, {"batch": number}, previous)
    assert storage.list("commits") == [f"commits/{number:08d}.json" for number in (5, 6, 7)]
    assert len(storage.list("blobs")) == 4


def test_the_facts_of_all_commits_that_a_fallback_could_need_are_known_after_a_restart(storage: LocalStorage, store: CheckpointStore) -> None:
    previous = None
    for number in range(1, 6):
        previous = store.commit({"a": _state(number)}, {"batch": number}, previous)
    _damage(storage, "commits/00000004.json")
    assert [facts["batch"] for facts in CheckpointStore(storage).kept_facts()] == [5, 3]
    assert CheckpointStore(LocalStorage(storage.address + "-other")).kept_facts() == []


@pytest.mark.parametrize("broken", ["blob", "commit", "blob gone", "commit gone"])
def test_a_damaged_newest_commit_falls_back_loudly(
    storage: LocalStorage, store: CheckpointStore, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    first = store.commit({"a": _state(1), "b": _state(1)}, {"batch": 1}, None)
    store.commit({"a": _state(2), "b": None}, {"batch": 2}, first)
    key = _blob_of(storage, 2, "a") if "blob" in broken else "commits/00000002.json"
    if "gone" in broken:
        storage.delete(key)
    else:
        _damage(storage, key)
    loaded = CheckpointStore(storage).load_newest()
    assert loaded is not None
    assert (loaded.id, loaded.facts, _numbers(loaded.components["a"])) == (first, {"batch": 1}, [1])
    assert len(loaded.skipped) == 1
    assert "commit 2" in loaded.skipped[0]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "fell back to commit 1" in caplog.text


def test_repeating_a_damaged_step_writes_its_blob_anew(storage: LocalStorage, store: CheckpointStore) -> None:
    first = store.commit({"a": _state(1)}, {"batch": 1}, None)
    store.commit({"a": _state(2)}, {"batch": 2}, first)
    _damage(storage, _blob_of(storage, 2, "a"))
    restarted = CheckpointStore(storage)
    restarted.acquire()
    assert restarted.load_newest() is not None
    third = restarted.commit({"a": _state(2)}, {"batch": 2}, first)
    loaded = CheckpointStore(storage).load_newest()
    assert loaded is not None
    assert (loaded.id, loaded.skipped, _numbers(loaded.components["a"])) == (third, (), [2])
    assert storage.list("commits") == ["commits/00000001.json", "commits/00000003.json"]


def test_when_no_commit_is_whole_loading_says_so(storage: LocalStorage, store: CheckpointStore) -> None:
    first = store.commit({"a": _state(1)}, {}, None)
    store.commit({"a": None}, {}, first)
    _damage(storage, _blob_of(storage, 1, "a"))
    with pytest.raises(Damaged, match="none of the 2 commits"):
        CheckpointStore(storage).load_newest()


def test_a_storage_that_refuses_is_no_reason_to_fall_back(storage: LocalStorage, store: CheckpointStore) -> None:
    first = store.commit({"a": _state(1)}, {}, None)
    store.commit({"a": _state(2)}, {}, first)
    blob = Path(storage.address) / _blob_of(storage, 2, "a")
    blob.unlink()
    blob.mkdir()
    with pytest.raises(StorageError, match="could not read") as caught:
        CheckpointStore(storage).load_newest()
    assert not isinstance(caught.value, Damaged)


def test_a_damaged_pointer_is_an_error_and_not_an_empty_state(storage: LocalStorage, store: CheckpointStore) -> None:
    store.commit({"a": _state(1)}, {}, None)
    (Path(storage.address) / "HEAD").write_bytes(b"{")
    with pytest.raises(Damaged, match="the pointer is damaged"):
        CheckpointStore(storage).load_newest()
    with pytest.raises(StorageError, match="the pointer was written by a newer streamrec, got format 4, allowed up to 3, upgrade"):
        Head.from_json(b'{"format": 4}')


@pytest.mark.parametrize("left", ["commits", "LINEAGE"])
def test_a_lost_pointer_is_damage_and_never_a_new_state(storage: LocalStorage, store: CheckpointStore, left: str) -> None:
    store.commit({"a": _state(1)}, {}, None)
    storage.write_new(LINEAGE, b"{}")
    if left == "LINEAGE":
        storage.delete("commits/00000001.json")
    else:
        storage.delete("LINEAGE")
    storage.delete("HEAD")
    before = storage.list()
    reads: list[Callable[[], object]] = [
        CheckpointStore(storage).load_newest,
        CheckpointStore(storage).acquire,
        CheckpointStore(storage).kept_facts,
        store.check_owner,
        lambda: store.commit({"a": _state(2)}, {}, CommitId(1)),
        lambda: has_commit(storage),
    ]
    for read in reads:
        with pytest.raises(Damaged, match=re.escape(f"the pointer is lost, {storage.address}/HEAD, got no such file beside")) as caught:
            read()
        assert left in str(caught.value)
        assert caught.value.remedy.startswith("restore that file from a copy; to begin anew rename the state's folder")
    assert storage.list() == before


def test_a_first_writer_that_begins_between_two_looks_is_no_damage(storage: LocalStorage) -> None:
    class Late(LocalStorage):
        def list(self, folder: str = "") -> Sequence[str]:
            first = CheckpointStore(storage)
            first.acquire()
            first.commit({"a": _state(1)}, {}, None)
            return super().list(folder)

    loaded = CheckpointStore(Late(storage.address)).load_newest()
    assert loaded is not None
    assert loaded.id == 1


def test_a_first_run_that_was_killed_before_its_commit_was_visible_begins_again(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    first = CheckpointStore(storage)
    first.acquire()
    storage.write_new(LINEAGE, b"{}")
    with monkeypatch.context() as patched:
        patched.setattr(storage, "swap", lambda *_: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception, match="killed"):
            first.commit({"a": _state(1)}, {}, None)
    assert storage.list("commits") == ["commits/00000001.json"]
    again = CheckpointStore(storage)
    assert again.acquire() == 2
    assert again.load_newest() is None
    assert again.commit({"a": _state(1)}, {}, None) == 2


@pytest.mark.parametrize("torn", [b"", b"{", b"[]", b'{"format": 3}'])
def test_whoever_reads_a_torn_pointer_is_told_its_file(storage: LocalStorage, torn: bytes) -> None:
    Path(storage.address).mkdir()
    (Path(storage.address) / "HEAD").write_bytes(torn)
    with pytest.raises(Damaged, match=re.escape(f"the pointer is damaged, {storage.address}/HEAD, got {torn!r}, restore that file")):
        has_commit(storage)


def test_committing_needs_to_be_the_writer(storage: LocalStorage) -> None:
    with pytest.raises(StorageError, match=r"call acquire\(\) first"):
        CheckpointStore(storage).commit({"a": _state(1)}, {}, None)


def test_a_writer_whose_state_is_gone_names_its_place(tmp_path: Path) -> None:
    store = CheckpointStore(LocalStorage(tmp_path / "checkpoint"))
    store.acquire()
    (tmp_path / "checkpoint").rename(tmp_path / "gone")
    with pytest.raises(StorageError, match=rf"the state is gone, {tmp_path}/checkpoint, .* bring it back"):
        store.commit({}, {}, None)
    assert not (tmp_path / "checkpoint").exists()
    (tmp_path / "gone").rename(tmp_path / "checkpoint")
    assert store.commit({}, {}, None) == 1


def test_an_older_writer_is_refused_and_told_who_took_over(storage: LocalStorage, store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    first = store.commit({"a": _state(1)}, {}, None)
    store.check_owner()
    monkeypatch.setattr("socket.gethostname", lambda: "other-host")
    monkeypatch.setattr("os.getpid", lambda: 4711)
    newer = CheckpointStore(storage)
    assert newer.acquire() == 2
    with pytest.raises(Fenced, match="process 4711 on other-host, epoch 2") as caught:
        store.commit({"a": _state(2)}, {}, first)
    assert caught.value.facts == {"host": "other-host", "pid": 4711, "epoch": 2}
    with pytest.raises(Fenced):
        store.check_owner()
    second = newer.commit({"a": _state(3)}, {}, first)
    loaded = store.load_newest()
    assert loaded is not None
    assert loaded.id == second
    assert store.acquire() == 3
    with pytest.raises(Fenced):
        newer.check_owner()


class _Interrupting(FaultyStorage):
    """Runs something between the last blob and the pointer, or between the pointer and the clean-up."""

    def __init__(self, inner: LocalStorage) -> None:
        super().__init__(inner)
        self.before_swap: Callable[[], object] = lambda: None
        self.after_swap: Callable[[], object] = lambda: None

    def swap(self, key: str, new: bytes, expected: Token | None) -> Token | None:
        self.before_swap()
        token = super().swap(key, new, expected)
        self.after_swap()
        return token


def test_a_writer_that_is_overtaken_while_it_writes_does_not_move_the_pointer(storage: LocalStorage) -> None:
    slow = _Interrupting(storage)
    store, newer = CheckpointStore(slow), CheckpointStore(storage)
    store.acquire()
    first = store.commit({"a": _state(1)}, {}, None)
    slow.before_swap = newer.acquire
    with pytest.raises(Fenced):
        store.commit({"a": _state(2)}, {}, first)
    loaded = newer.load_newest()
    assert loaded is not None
    assert loaded.id == first
    slow.before_swap = lambda: None
    newer.commit({"a": _state(3)}, {}, first)
    assert len(storage.list("commits")) == 2


def test_a_writer_that_is_overtaken_removes_nothing_of_the_newer_one(storage: LocalStorage) -> None:
    slow = _Interrupting(storage)
    store, newer = CheckpointStore(slow), CheckpointStore(storage)
    store.acquire()
    first = store.commit({"a": _state(1)}, {}, None)

    def take_over() -> None:
        slow.after_swap = lambda: None
        newer.acquire()
        storage.write_new(f"blobs/{'0' * 64}", b"the newer writer's, not committed yet")

    slow.after_swap = take_over
    store.commit({"a": _state(2)}, {}, first)
    assert storage.exists(f"blobs/{'0' * 64}")


class _PrunedUnderReader(FaultyStorage):
    """Lets the writer go on for some commits just before the first blob is read."""

    def __init__(self, inner: LocalStorage, go_on: Callable[[], None]) -> None:
        super().__init__(inner)
        self._go_on: Callable[[], None] | None = go_on

    def read(self, key: str) -> bytes:
        if key.startswith("blobs/") and self._go_on is not None:
            go_on, self._go_on = self._go_on, None
            go_on()
        return super().read(key)


def test_a_reader_that_is_overtaken_by_the_writer_reads_the_newer_commit(
    storage: LocalStorage, store: CheckpointStore, caplog: pytest.LogCaptureFixture
) -> None:
    first = store.commit({"a": _state(1)}, {"batch": 1}, None)

    def go_on() -> None:
        previous = first
        for number in range(2, 7):
            previous = store.commit({"a": _state(number)}, {"batch": number}, previous)

    loaded = CheckpointStore(_PrunedUnderReader(storage, go_on)).load_newest()
    assert loaded is not None
    assert (loaded.facts, _numbers(loaded.components["a"]), loaded.skipped) == ({"batch": 6}, [6], ())
    assert caplog.text == ""
