from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Sequence
from itertools import count, pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from streamrec.errors import Damaged, Fenced, StorageError
from streamrec.evaluation.baselines import Popularity
from streamrec.pipeline import saving
from streamrec.pipeline.checkpoint import CheckpointStore
from streamrec.pipeline.commit import Compacted
from streamrec.pipeline.compaction import PAUSE, CompactionProcess, Compactor, compact
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.plan_store import PlanStore
from streamrec.pipeline.report import StepReport
from streamrec.pipeline.saving import Saver
from streamrec.state import ComponentState, from_bytes, to_bytes
from streamrec.storage import BlobRef, Blobs, LocalStorage, Storage, open_storage
from streamrec.testing.storage_faults import FaultyStorage


class Later:
    """Joins when it is asked for the n-th time, as a process that takes a while does."""

    def __init__(self, storage: Storage, blobs: Sequence[BlobRef], polls: int) -> None:
        self.storage, self.blobs, self.polls = storage, blobs, polls

    def poll(self) -> BlobRef | None:
        self.polls -= 1
        return compact(self.storage, self.blobs) if self.polls <= 0 else None


class Counted(Popularity):
    """Counts how often it was written whole."""

    num_wholes = 0

    def snapshot(self) -> ComponentState:
        self.num_wholes += 1
        return super().snapshot()


@pytest.fixture(autouse=True)
def _everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "LARGE_BYTES", 0)
    monkeypatch.setattr(saving, "MAX_DELTAS", 3)


def saver_of(storage: Storage, component: Popularity, polls: int = 1, joined_by: Storage | None = None) -> Saver:
    saver = Saver(CheckpointStore(storage), {"popularity": component}, compactor=Compactor(lambda blobs: Later(joined_by or storage, blobs, polls)))
    saver.restore()
    return saver


def go_on(saver: Saver, component: Popularity, batch: int) -> None:
    component.update(np.asarray([batch % 7, 100 + batch], np.int32), np.asarray([batch, batch]))
    saver.commit(batch, {})
    saver.wait()


def restored(folder: Path) -> tuple[str, int]:
    """Digest and number of deltas of the newest commit, as a restart finds them."""
    loaded = CheckpointStore(LocalStorage(folder)).load_newest()
    assert loaded is not None
    assert loaded.skipped == ()
    base, *deltas = loaded.components["popularity"]
    again = Popularity()
    again.restore(base, deltas)
    return again.digest(), len(deltas)


@pytest.mark.parametrize("polls", [1, 2, 5])
def test_a_large_component_is_written_whole_once_and_its_deltas_are_joined_beside_the_stream(tmp_path: Path, polls: int) -> None:
    component = Counted()
    component.update(np.arange(5000, dtype=np.int32), np.arange(5000))
    saver = saver_of(LocalStorage(tmp_path), component, polls)
    deltas = []
    for batch in range(40):
        go_on(saver, component, batch)
        digest, num = restored(tmp_path)
        assert digest == component.digest()
        deltas.append(num)
    assert component.num_wholes == 1
    assert max(deltas) <= 3 + 2 * polls
    assert sum(now < before for before, now in pairwise(deltas)) >= 4
    assert len(LocalStorage(tmp_path).list("blobs")) <= 2 + 2 * (3 + 2 * polls)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_crash_at_any_call_leaves_a_whole_commit_also_while_a_base_is_replaced(tmp_path: Path, when: Literal["before", "after"]) -> None:
    for fail_at in count(1, 3):
        folder = tmp_path / f"{fail_at}"
        component, storage = Popularity(), FaultyStorage(LocalStorage(folder), fail_at, when)
        digests = [Popularity().digest()]
        try:
            saver = saver_of(storage, component, polls=2)
            for batch in range(9):
                component.update(np.asarray([batch % 7, 100 + batch], np.int32), np.asarray([batch, batch]))
                digests.append(component.digest())
                saver.commit(batch, {})
                saver.wait()
        except StorageError:
            pass
        if LocalStorage(folder).list("commits"):
            again = Popularity()
            successor = saver_of(LocalStorage(folder), again)
            assert again.digest() in digests[-2:]
            for batch in range(20, 26):
                go_on(successor, again, batch)
                assert restored(folder)[0] == again.digest()
        if storage.num_calls <= fail_at:
            break
    assert fail_at > 30


def test_a_full_disk_while_deltas_are_joined_is_said_and_commits_go_on_with_deltas(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Full(LocalStorage):
        def write_new(self, key: str, data: bytes) -> bool:
            what = "Storage: could not write"
            raise StorageError(what, got=os.strerror(errno.ENOSPC), do="free space there")

    component = Counted()
    storage = LocalStorage(tmp_path)
    saver = saver_of(storage, component, joined_by=Full(tmp_path))
    for batch in range(12):
        go_on(saver, component, batch)
        assert restored(tmp_path)[0] == component.digest()
    assert component.num_wholes == 1
    assert restored(tmp_path)[1] == 11
    assert len(caplog.records) == 1, "one attempt in so many commits"
    assert "commits go on with 3 deltas of 'popularity', which could not be joined with their base: Storage: could not write" in caplog.text
    saver._compactor = Compactor(lambda blobs: Later(storage, blobs, 1))
    for batch in range(12, 16):
        go_on(saver, component, batch)
    assert restored(tmp_path)[1] < 11
    assert restored(tmp_path)[0] == component.digest()


def test_after_a_failed_attempt_the_next_waits_for_some_more_deltas() -> None:
    class Broken:
        def poll(self) -> BlobRef | None:
            what = "Compaction: no"
            raise StorageError(what)

    begun: list[int] = []

    def begin(blobs: Sequence[BlobRef]) -> Broken:
        begun.append(len(blobs))
        return Broken()

    compactor = Compactor(begin)
    for num in range(5, 30):
        compactor.start("a", [BlobRef("x", 1)] * num)
        assert compactor.take() == {}
    assert begun == [5, 5 + PAUSE, 5 + 2 * PAUSE, 5 + 3 * PAUSE]


def test_a_new_base_that_is_gone_or_does_not_fit_any_more_is_not_used(tmp_path: Path) -> None:
    component = Popularity()
    storage = LocalStorage(tmp_path)
    saver = saver_of(storage, component, polls=10**6)
    for batch in range(5):
        go_on(saver, component, batch)
    entry = saver._entries["popularity"]
    joined = compact(storage, entry.blobs[:3])
    for blobs, base in (((entry.base, entry.deltas[1]), joined), (entry.blobs[:3], BlobRef("0" * 64, 5))):
        running = Later(storage, blobs, 10**6)
        running.poll = lambda base=base: base  # type: ignore[method-assign, misc]
        saver._compactor._running, saver._compactor._name, saver._compactor._blobs = running, "popularity", tuple(blobs)
        go_on(saver, component, 50)
        assert saver._entries["popularity"].base == entry.base
        assert restored(tmp_path)[0] == component.digest()


def test_a_damaged_new_base_falls_back_to_a_commit_that_does_not_need_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    component = Popularity()
    saver = saver_of(LocalStorage(tmp_path), component)
    digests, bases = [], []
    for batch in range(20):
        go_on(saver, component, batch)
        digests.append(component.digest())
        bases.append(saver._entries["popularity"].base)
        if batch > 4 and bases[-1] != bases[-2]:
            break
    path = tmp_path / "blobs" / bases[-1].sha256
    path.write_bytes(path.read_bytes()[:-5])
    again = Popularity()
    Saver(CheckpointStore(LocalStorage(tmp_path)), {"popularity": again}).restore()
    assert again.digest() == digests[-2]
    assert "because a newer one is damaged" in caplog.text


def test_a_damaged_delta_falls_back_to_the_commit_before_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    component = Popularity()
    saver = saver_of(LocalStorage(tmp_path), component, polls=10**6)
    digests = []
    for batch in range(6):
        go_on(saver, component, batch)
        digests.append(component.digest())
    (tmp_path / "blobs" / saver._entries["popularity"].deltas[-1].sha256).unlink()
    again = Popularity()
    Saver(CheckpointStore(LocalStorage(tmp_path)), {"popularity": again}).restore()
    assert again.digest() == digests[-2]
    assert "because a newer one is damaged" in caplog.text


def test_deltas_of_a_failed_commit_are_handed_over_again_and_not_the_whole(tmp_path: Path) -> None:
    component = Counted()
    storage = FaultyStorage(LocalStorage(tmp_path), is_crash=False)
    saver = saver_of(storage, component, polls=10**6)
    go_on(saver, component, 0)
    for batch in (1, 2):
        storage._fail_at = storage.num_calls
        with pytest.raises(StorageError, match="stays valid"):
            go_on(saver, component, batch)
    go_on(saver, component, 3)
    assert component.num_wholes == 1
    assert restored(tmp_path) == (component.digest(), 3)


class Held(FaultyStorage):
    """Writes nothing before it is let go."""

    def __init__(self, inner: Storage) -> None:
        super().__init__(inner, is_crash=False)
        self.is_free = threading.Event()

    def write_new(self, key: str, data: bytes) -> bool:
        assert self.is_free.wait(60)
        return super().write_new(key, data)


def test_a_large_commit_is_written_while_the_stream_goes_on_and_holds_what_was_when_it_began(tmp_path: Path) -> None:
    component, storage = Popularity(), Held(LocalStorage(tmp_path))
    saver = saver_of(storage, component)
    offsets = {"0": 5}
    component.update(np.asarray([1, 2], np.int32), np.zeros(2, np.int64))
    digest = component.digest()
    assert saver.commit(1, {"offsets": offsets}) == 0, "no plan may go before anything is durable"
    component.update(np.asarray([3], np.int32), np.zeros(1, np.int64))
    offsets["0"] = 9
    assert CheckpointStore(LocalStorage(tmp_path)).load_newest() is None
    assert saver.oldest_kept("offsets") == {}
    storage.is_free.set()
    saver.wait()
    assert restored(tmp_path)[0] == digest
    assert saver.oldest_kept("offsets") == {"0": 5}
    assert saver.commit(2, {"offsets": offsets}) == 2
    saver.wait()
    assert restored(tmp_path)[0] == component.digest()


def test_what_kept_a_large_commit_from_being_written_is_said_at_once_and_raised_by_the_next(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    component, storage = Counted(), FaultyStorage(LocalStorage(tmp_path), is_crash=False)
    saver = saver_of(storage, component)
    go_on(saver, component, 0)
    storage._fail_at = storage.num_calls
    component.update(np.asarray([3], np.int32), np.zeros(1, np.int64))
    saver.commit(1, {})
    with pytest.raises(StorageError, match="stays valid"):
        saver.commit(2, {})
    assert "the state after batch 1 is not committed" in caplog.text
    saver.commit(2, {})
    saver.wait()
    assert restored(tmp_path)[0] == component.digest()
    assert component.num_wholes == 1


def test_another_writers_base_in_the_making_is_no_harm(tmp_path: Path) -> None:
    """A driver that was replaced while it joined writes its blob late; the new one neither uses nor misses anything."""
    storage, old = LocalStorage(tmp_path), Popularity()
    fenced = saver_of(storage, old, polls=2)
    for batch in range(5):
        go_on(fenced, old, batch)
    new = Popularity()
    saver = saver_of(storage, new)
    with pytest.raises(Fenced):
        go_on(fenced, old, 5)
    for batch in range(5, 20):
        go_on(saver, new, batch)
        with pytest.raises(Fenced):
            go_on(fenced, old, batch)
        assert restored(tmp_path)[0] == new.digest()


def wait(process: CompactionProcess) -> BlobRef | None:
    process._process.wait(60)
    return process.poll()


def test_a_process_joins_what_lies_in_the_storage(tmp_path: Path) -> None:
    component, blobs = Popularity(), Blobs(LocalStorage(tmp_path))
    component.update(np.arange(9, dtype=np.int32), np.arange(9))
    refs = [blobs.put(to_bytes(component.snapshot()))]
    for row in (3, 12):
        component.update(np.asarray([row], np.int32), np.zeros(1, np.int64))
        refs.append(blobs.put(to_bytes(component.delta())))
    joined = wait(CompactionProcess(str(tmp_path), refs))
    assert joined is not None
    again = Popularity()
    again.restore(from_bytes(Blobs(LocalStorage(tmp_path)).get(joined)))
    assert again.digest() == component.digest()
    (tmp_path / "blobs" / refs[1].sha256).unlink()
    with pytest.raises(Damaged, match="is gone"):
        compact(LocalStorage(tmp_path), refs)
    with pytest.raises(StorageError, match=r"Compaction: Blob: .* is gone"):
        wait(CompactionProcess(str(tmp_path), refs))


def test_a_run_whose_components_are_joined_all_the_time_ends_in_the_same_bits_wherever_it_is_cut(
    make_world: Callable[..., Any], mixed: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[str] = []

    def stepped(controller: Controller) -> StepReport | None:
        report = controller.step()
        controller._saver.wait()  # Else the writer's pace decides whose turn it is to be joined.
        return report

    class Inline(Compactor):
        def take(self) -> dict[str, Compacted]:
            done = super().take()
            used.extend(done)
            return done

    def joined_inline(store: CheckpointStore, components: Any, shape: Any) -> Saver:
        return Saver(store, components, shape, Inline(lambda blobs: Later(LocalStorage(store.address), blobs, 1)))

    often = {"pipeline": {"checkpoint_interval_s": 0.5, "max_batch_events": 20}}
    with monkeypatch.context() as patch:
        patch.setattr(saving, "LARGE_BYTES", 2**40)
        calm = make_world(mixed, often, folder=tmp_path / "calm")
        controller: Controller = calm.controller()
        plans = [report.plan for report in calm.play(controller)]
        expected = {name: component.digest() for name, component in controller.components().items()}
    monkeypatch.setattr(saving, "MAX_DELTAS", 1)
    monkeypatch.setattr("streamrec.pipeline.controller.Saver", joined_inline)
    cut = make_world(mixed, often, folder=tmp_path / "cut")
    store = PlanStore(open_storage(str(cut.folder)))
    for plan in plans:
        store.write(plan.model_dump(mode="json"), plan.batch)
    for _ in range(len(plans)):
        last = cut.controller()
        if [stepped(last) for _ in range(9)][-1] is None:
            break
    assert {name: component.digest() for name, component in last.components().items()} == expected
    assert {"histories", "popularity"} < set(used)


def test_the_process_ends_with_the_object_that_waits_for_it(tmp_path: Path) -> None:
    joining = CompactionProcess(str(tmp_path), [BlobRef("0" * 64, 1)] * 2)
    process = joining._process
    del joining
    assert process.returncode is not None
