"""The checkpoint beside a list of commits: it commits, dies between any two writes, is torn, read again and taken over."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from streamrec.errors import Damaged, Fenced, StorageError
from streamrec.pipeline.checkpoint import AddedDelta, Change, CheckpointStore
from streamrec.pipeline.commit import Commit, CommitId
from streamrec.state import ComponentState
from streamrec.storage import LocalStorage
from streamrec.testing.storage_faults import FaultyStorage

NAMES = ("a", "b", "c")
KINDS = st.fixed_dictionaries({name: st.sampled_from(["whole", "base and deltas", "delta", "same", "left out"]) for name in NAMES})


@dataclass(frozen=True)
class Known:
    """A commit as the model knows it: what each component says, base first, and the files that it needs."""

    number: CommitId
    batch: int
    parts: dict[str, list[int]]
    files: frozenset[str]


def say(number: int) -> ComponentState:
    return ComponentState({"a": np.full(3, number, np.int64)}, {"n": number})


def files_of(storage: LocalStorage, number: CommitId) -> frozenset[str]:
    key = f"commits/{number:08d}.json"
    commit = Commit.from_json(storage.read(key))
    return frozenset({key, *(f"blobs/{blob.sha256}" for entry in commit.components.values() for blob in entry.blobs)})


class CheckpointMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.storage = LocalStorage(Path(self.folder.name) / "state")
        self.commits: list[Known] = []  # As HEAD has them, newest first.
        self.damaged: dict[str, bytes] = {}  # File to what it held.
        self.said = self.batch = 0
        self.numbers: set[CommitId] = set()

    @initialize(keep=st.integers(1, 3))
    def begin(self, keep: int) -> None:
        self.keep = keep
        self.take_over(self.storage)

    def teardown(self) -> None:
        self.folder.cleanup()

    def take_over(self, storage: LocalStorage | FaultyStorage) -> None:
        """Do what a restart does: become the writer, then go on from the newest commit that is whole."""
        self.store = CheckpointStore(storage, self.keep)
        self.store.acquire()
        whole = [commit for commit in self.commits if self.is_whole(commit)]
        if self.commits and not whole:
            with pytest.raises(Damaged, match=r"none of the \d commits"):
                self.store.load_newest()
            self.restore_from_a_copy()
            whole = [commit for commit in self.commits if self.is_whole(commit)]
        loaded = self.store.load_newest()
        self.previous = whole[0] if whole else None
        if self.previous is None:
            assert loaded is None
            return
        assert loaded is not None
        assert (loaded.id, loaded.facts["batch"]) == (self.previous.number, self.previous.batch)
        assert {name: [state.meta["n"] for state in states] for name, states in loaded.components.items()} == self.previous.parts
        assert len(loaded.skipped) == self.commits.index(self.previous)
        self.batch = self.previous.batch

    def is_whole(self, commit: Known) -> bool:
        return not commit.files & self.damaged.keys()

    def restore_from_a_copy(self) -> None:
        for key, data in self.damaged.items():
            (Path(self.storage.address) / key).write_bytes(data)
        self.damaged = {}

    def change(self, kinds: dict[str, str]) -> tuple[dict[str, Change], dict[str, list[int]]]:
        """Return a change of all components, and what they say after it; who has nothing to follow gives its whole state."""
        before = self.previous.parts if self.previous is not None else {}
        changes: dict[str, Change] = {}
        after: dict[str, list[int]] = {}
        for name, kind in kinds.items():
            if kind == "left out" and name != NAMES[0]:
                continue
            new = [self.said + 1, self.said + 2]
            self.said += 2
            if kind == "base and deltas":
                changes[name], after[name] = [say(number) for number in new], new
            elif kind == "delta" and name in before:
                changes[name], after[name] = AddedDelta(*map(say, new)), [*before[name], *new]
            elif kind == "same" and name in before:
                changes[name], after[name] = None, before[name]
            else:
                changes[name], after[name] = say(new[0]), new[:1]
        return changes, after

    def commit_with(self, kinds: dict[str, str]) -> None:
        """Commit; raises what the storage raises, and then the model has not moved."""
        changes, parts = self.change(kinds)
        self.pending = (self.batch + 1, parts)
        previous = self.previous.number if self.previous is not None else None
        self.add(self.store.commit(changes, {"batch": self.batch + 1}, previous))

    def add(self, number: CommitId) -> None:
        batch, parts = self.pending
        assert number not in self.numbers
        assert all(number > commit.number for commit in self.commits)
        self.numbers.add(number)
        rest = self.commits[self.commits.index(self.previous) :] if self.previous is not None else []
        self.previous = Known(number, batch, parts, files_of(self.storage, number))
        self.commits, self.batch = [self.previous, *rest][: self.keep], batch
        self.damaged = {key: data for key, data in self.damaged.items() if any(key in commit.files for commit in self.commits)}

    @rule(kinds=KINDS)
    def commit(self, kinds: dict[str, str]) -> None:
        self.commit_with(kinds)
        if not self.damaged:  # Nothing is left of what was given up, or of writers that died; of a commit that can't be read nothing is needed.
            assert {*self.storage.list("commits"), *self.storage.list("blobs")} == set().union(*(commit.files for commit in self.commits))
        assert [facts["batch"] for facts in self.store.kept_facts()] == [
            commit.batch for commit in self.commits if f"commits/{commit.number:08d}.json" not in self.damaged
        ]

    @rule(kinds=KINDS, fail_at=st.integers(1, 16), is_after=st.booleans())
    def die_between_two_writes(self, kinds: dict[str, str], fail_at: int, is_after: bool) -> None:
        self.take_over(FaultyStorage(self.storage, fail_at, "after" if is_after else "before"))
        injected: list[object] = []
        try:
            self.commit_with(kinds)
        except StorageError as error:
            injected.append(error.facts.get("injected"))
        assert all(injected)
        if injected:
            found = CheckpointStore(self.storage, self.keep).load_newest()
            if found is not None and found.id not in {commit.number for commit in self.commits}:  # It died once the pointer had moved.
                self.add(found.id)
        self.take_over(self.storage)

    @rule()
    def restart(self) -> None:
        self.take_over(self.storage)

    @rule(kinds=KINDS)
    def another_controller_takes_over(self, kinds: dict[str, str]) -> None:
        older, previous = self.store, self.previous
        changes, _ = self.change(kinds)
        self.take_over(self.storage)
        before = {*self.storage.list("commits"), *self.storage.list("blobs")}
        for refused in (older.check_owner, lambda: older.commit(changes, {"batch": -1}, previous.number if previous is not None else None)):
            with pytest.raises(Fenced):
                refused()
        assert {*self.storage.list("commits"), *self.storage.list("blobs")} == before

    @precondition(lambda self: self.commits)
    @rule(which=st.integers(0, 20), how=st.sampled_from(["cut", "other bytes", "gone"]))
    def tear_a_file_of_the_newest(self, which: int, how: str) -> None:
        files = sorted(self.commits[0].files - self.damaged.keys())
        if not files:
            return
        key = files[which % len(files)]
        path = Path(self.storage.address) / key
        if not path.exists():  # Of a commit whose file is torn nothing is kept.
            return
        self.damaged[key] = data = path.read_bytes()
        if how == "gone":
            path.unlink()
        else:
            path.write_bytes(data[: len(data) // 2] if how == "cut" else bytes(len(data)))
        self.take_over(self.storage)

    @invariant()
    def what_is_whole_is_there(self) -> None:
        there = {*self.storage.list("commits"), *self.storage.list("blobs")}
        assert all(commit.files <= there for commit in self.commits if self.is_whole(commit))
        assert len(self.commits) <= getattr(self, "keep", 3)


CheckpointMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=15, deadline=None)
TestCheckpointAgainstAList = CheckpointMachine.TestCase
