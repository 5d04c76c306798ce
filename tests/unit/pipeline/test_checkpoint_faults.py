from __future__ import annotations

import errno
import os
import shutil
from itertools import count
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from streamrec.errors import StorageError
from streamrec.pipeline.checkpoint import AddedDelta, Change, CheckpointStore
from streamrec.pipeline.commit import CommitId
from streamrec.state import ComponentState
from streamrec.storage import LocalStorage
from streamrec.testing.storage_faults import FaultyStorage

NAMES = ("a", "b", "c")


def _state(number: int) -> ComponentState:
    return ComponentState({"a": np.full(8, number, np.int64)}, {"n": number})


def _changes(number: int, kind: str) -> dict[str, Change]:
    """Change two components of three; the third stays or gets a delta."""
    rest: Change = AddedDelta(_state(number)) if kind == "delta" else None
    return {"a": _state(number), "b": _state(100 + number), "c": rest}


def _loaded(storage: LocalStorage) -> tuple[int, CommitId, list[int]]:
    """Load as a restart does; return the batch, the commit and what the components say."""
    found = CheckpointStore(storage).load_newest()
    assert found is not None
    assert found.skipped == ()
    return found.facts["batch"], found.id, [found.components["a"][0].meta["n"], found.components["b"][0].meta["n"] - 100]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CommitId]:
    """Commit four batches, so that the next commit also removes one."""
    folder = tmp_path_factory.mktemp("template")
    store = CheckpointStore(LocalStorage(folder))
    store.acquire()
    previous = store.commit({name: _state(0) for name in NAMES} | {"b": _state(100)}, {"batch": 0}, None)
    for batch in range(1, 4):
        previous = store.commit(_changes(batch, "same"), {"batch": batch}, previous)
    return folder, previous


class Prepare:
    """Copies the four batches to a new folder."""

    def __init__(self, template: tuple[Path, CommitId], folder: Path) -> None:
        self.template, self.previous = template
        self.folder = folder

    def __call__(self, name: object) -> LocalStorage:
        shutil.copytree(self.template, self.folder / str(name))
        return LocalStorage(self.folder / str(name))


@pytest.fixture
def prepare(template: tuple[Path, CommitId], tmp_path: Path) -> Prepare:
    return Prepare(template, tmp_path)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("kind", ["same", "delta"])
@pytest.mark.parametrize("is_crash", [True, False])
def test_a_fault_at_any_call_leaves_the_old_or_the_new_state(prepare: Prepare, when: Literal["before", "after"], kind: str, is_crash: bool) -> None:
    for fail_at in count():
        storage, previous = prepare(fail_at), prepare.previous
        faulty = FaultyStorage(storage, fail_at, when, is_crash=is_crash)
        store = CheckpointStore(faulty)
        error = None
        try:
            store.acquire()
            store.commit(_changes(4, kind), {"batch": 4}, previous)
        except StorageError as raised:
            error = raised
        batch, newest, parts = _loaded(storage)
        assert parts == [batch, batch]
        assert batch in {3, 4}
        assert error is not None or batch == 4
        if error is not None and "not committed" in str(error):
            assert f"commit {previous} stays valid" in str(error)

        # A restart repeats the step and goes on; nothing of the failed attempt is left after it.
        again = CheckpointStore(storage)
        again.acquire()
        if batch == 3:
            newest = again.commit(_changes(4, kind), {"batch": 4}, newest)
        newest = again.commit(_changes(5, kind), {"batch": 5}, newest)
        assert _loaded(storage)[::2] == (5, [5, 5])
        assert len(storage.list("commits")) == 3
        assert len(storage.list("blobs")) <= 3 * 2 + 1 + 2 * (kind == "delta")
        if faulty.num_calls <= fail_at:
            break
    # acquire, two or three blobs, the commit, the pointer, and what is removed after it
    assert fail_at >= 6


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_same_writer_goes_on_after_a_fault_of_unknown_outcome(prepare: Prepare, when: Literal["before", "after"]) -> None:
    for fail_at in range(1, 5):
        storage, previous = prepare(fail_at), prepare.previous
        store = CheckpointStore(FaultyStorage(storage, fail_at, when, is_crash=False))
        store.acquire()
        with pytest.raises(StorageError, match=f"commit {previous} stays valid.*injected"):
            store.commit(_changes(4, "same"), {"batch": 4}, previous)
        fifth = store.commit(_changes(5, "same"), {"batch": 5}, previous)
        assert _loaded(storage) == (5, fifth, [5, 5])
        found = CheckpointStore(storage).load_newest()
        assert found is not None
        assert len(storage.list("commits")) == 3


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_first_commit_can_be_repeated(tmp_path: Path, when: Literal["before", "after"]) -> None:
    for fail_at in range(1, 4):
        storage = LocalStorage(tmp_path / f"{fail_at}")
        store = CheckpointStore(FaultyStorage(storage, fail_at, when, is_crash=False))
        store.acquire()
        with pytest.raises(StorageError, match="nothing was committed before"):
            store.commit({"a": _state(1)}, {"batch": 1}, None)
        store.commit({"a": _state(1)}, {"batch": 1}, None)
        assert len(storage.list("commits")) == len(storage.list("blobs")) == 1


def test_a_full_disk_at_any_point_keeps_the_previous_commit(prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync
    for fail_at in count():
        storage, previous = prepare(fail_at), prepare.previous
        store = CheckpointStore(storage)
        store.acquire()
        calls = count()

        def fill_up(descriptor: Any, calls: Any = calls, fail_at: int = fail_at) -> None:
            if next(calls) >= fail_at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(descriptor)

        monkeypatch.setattr(os, "fsync", fill_up)
        message = ""
        try:
            store.commit(_changes(4, "same"), {"batch": 4}, previous)
        except StorageError as error:
            message = str(error)
        monkeypatch.setattr(os, "fsync", real)
        batch, newest, parts = _loaded(storage)
        assert parts == [batch, batch]
        assert not list((prepare.folder / str(fail_at) / ".tmp").iterdir())
        if not message:
            assert batch == 4
            break
        for part in (f"commit {previous} stays valid", "No space left", "free space there"):
            assert part in message
        # The same process goes on once there is space again; its leftovers go.
        store.commit(_changes(5, "same"), {"batch": 5}, previous)
        assert _loaded(storage)[::2] == (5, [5, 5])
        assert len(storage.list("blobs")) == 7
        assert newest >= previous
    assert fail_at >= 8


def test_a_failed_clean_up_does_not_fail_the_commit(prepare: Prepare, caplog: pytest.LogCaptureFixture) -> None:
    storage, previous = prepare(0), prepare.previous
    store = CheckpointStore(FaultyStorage(storage, 5, is_crash=False))
    store.acquire()
    fourth = store.commit(_changes(4, "same"), {"batch": 4}, previous)
    assert f"commit {fourth} is safe" in caplog.text
    assert _loaded(storage) == (4, fourth, [4, 4])
