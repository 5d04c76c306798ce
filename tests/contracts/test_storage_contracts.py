from __future__ import annotations

import importlib.util
import uuid
from pathlib import Path

import pytest

from streamrec.errors import StorageError
from streamrec.pipeline.checkpoint import CheckpointStore
from streamrec.state import ComponentState
from streamrec.storage import LocalStorage, ObjectStorage, Storage
from streamrec.storage.bucket import HAS_OBSTORE
from streamrec.storage.trial import try_out
from streamrec.testing.contracts.storage import StorageContract
from streamrec.testing.storage_faults import FaultyStorage

HAS_MOTO = importlib.util.find_spec("moto") is not None  # else the extra `dev` is not installed
needs_bucket = pytest.mark.skipif(
    not (HAS_MOTO and HAS_OBSTORE), reason="buckets need `pip install 'streamrec[cloud,dev]'`: obstore to speak to them, moto to stand in for one"
)


@pytest.fixture
def bucket(endpoint: str) -> Storage:
    return ObjectStorage(f"s3://streamrec-tests/{uuid.uuid4().hex}/state")


class TestLocalStorage(StorageContract):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> Storage:
        return LocalStorage(tmp_path / "made" / "later")


@needs_bucket
class TestObjectStorage(StorageContract):
    @pytest.fixture
    def storage(self, bucket: Storage) -> Storage:
        return bucket


@needs_bucket
def test_a_bucket_that_does_not_exist_is_not_an_empty_one(endpoint: str) -> None:
    nowhere = ObjectStorage("s3://streamrec-nowhere/state")
    for call in (nowhere.read_with_token, nowhere.read, nowhere.list):
        with pytest.raises(StorageError, match="streamrec-nowhere") as caught:
            call("HEAD")
        assert "missing" not in caught.value.facts
    with pytest.raises(StorageError, match="streamrec-nowhere"):
        nowhere.write_new("a", b"1")


@needs_bucket
def test_a_bucket_that_is_tried_out_keeps_its_promises_and_tells_the_time(bucket: Storage) -> None:
    trial = try_out(bucket)
    assert trial.broken == ()
    assert trial.ahead_s == 0.0
    assert list(bucket.list()) == []


@needs_bucket
def test_a_checkpoint_in_a_bucket_survives_a_crash_at_any_call(bucket: Storage) -> None:
    store = CheckpointStore(bucket)
    store.acquire()
    first = store.commit({"a": ComponentState(meta={"n": 1}), "b": ComponentState(meta={"n": 1})}, {"batch": 1}, None)
    for fail_at in range(5):
        broken = CheckpointStore(FaultyStorage(bucket, fail_at, "after"))
        with pytest.raises(StorageError, match="injected"):
            _take_over_and_commit(broken)
        loaded = CheckpointStore(bucket).load_newest()
        assert loaded is not None
        numbers = {loaded.facts["batch"], *(states[0].meta["n"] for states in loaded.components.values())}
        assert len(numbers) == 1
        assert loaded.id >= first


def _take_over_and_commit(store: CheckpointStore) -> None:
    store.acquire()
    loaded = store.load_newest()
    assert loaded is not None
    batch = loaded.facts["batch"] + 1
    store.commit({"a": ComponentState(meta={"n": batch}), "b": ComponentState(meta={"n": batch})}, {"batch": batch}, loaded.id)
