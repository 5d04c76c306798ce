"""The event lake on an S3-speaking server: the same sentences as on a disk, and that of two commits of one version one loses."""

from __future__ import annotations

import importlib.util
import threading
import uuid

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from streamrec.errors import Damaged, StorageError
from streamrec.events.schema import EVENT
from streamrec.log.lake import EventLake
from streamrec.log.lake_table import Held, lake_rows
from streamrec.storage import open_storage

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("moto") is None, reason="buckets need `pip install 'streamrec[dev]'`: moto stands in for one"
)


def events(*offsets: int, user: str = "u1") -> pa.Table:
    rows = [{"kind": "interaction", "namespace": "default", "user_id": user, "event_time": 5, "partition": 0, "offset": offset} for offset in offsets]
    return pa.Table.from_pylist(rows, schema=EVENT)


def opened(address: str) -> EventLake:
    return EventLake(address, lambda: "one")


@pytest.fixture
def address(endpoint: str) -> str:
    return f"s3://streamrec-tests/{uuid.uuid4().hex}/lake"


def test_a_lake_in_a_bucket_appends_once_deletes_merges_and_recounts(address: str) -> None:
    lake = opened(address)
    for batch in (1, 2, 3):
        assert lake.append(lake_rows(events(batch), "events", batch), batch) == 1
        assert opened(address).append(lake_rows(events(batch), "events", batch), batch) == 0
    lake.append(lake_rows(events(4, user="o'brien"), "events", 4), 4)
    assert lake.delete_user("default", "o'brien") == 1
    assert lake.optimize()["files_after"] == 1
    assert lake.vacuum(0.0) == 4
    assert opened(address).held(4, {}) == {0: Held(rows=3, highest=3, removed=1)}


def test_of_writers_at_the_same_time_each_batch_is_taken_from_one(address: str) -> None:
    opened(address).append(lake_rows(events(0), "events", 1), 1)
    counts: list[int] = []

    def write(number: int) -> None:
        lake = opened(address)
        counts.extend(lake.append(lake_rows(events(batch), "events", batch), batch) for batch in range(2, 8))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(counts) == 12
    assert sum(counts) == 6
    assert opened(address).held(7, {}) == {0: Held(rows=7, highest=7)}


def test_a_torn_checkpoint_of_the_log_is_named_and_without_it_the_entries_are_enough(address: str) -> None:
    for batch in (1, 2):
        opened(address).append(lake_rows(events(batch), "events", batch), batch)
    lake, storage = opened(address), open_storage(address)
    DeltaTable(address, storage_options=lake._options).create_checkpoint()
    (key,) = (key for key in storage.list("_delta_log") if key.endswith(".checkpoint.parquet"))
    whole = storage.read(key)
    storage.delete(key)
    storage.write_new(key, whole[: len(whole) // 2])
    with pytest.raises(Damaged, match=f"{address}/{key} .*remove it and _last_checkpoint beside it: the entries of the log are enough without it"):
        opened(address).append(lake_rows(events(3), "events", 3), 3)
    storage.delete(key)
    storage.delete("_delta_log/_last_checkpoint")
    assert opened(address).append(lake_rows(events(3), "events", 3), 3) == 1
    assert opened(address).held(3, {}) == {0: Held(rows=3, highest=3)}


def test_a_bucket_that_is_not_there_is_an_error_that_names_it(endpoint: str) -> None:
    lake = opened("s3://streamrec-nowhere/lake")
    with pytest.raises(StorageError, match="s3://streamrec-nowhere/lake"):
        lake.append(lake_rows(events(1), "events", 1), 1)


def test_a_server_that_does_not_answer_for_a_while_is_an_error_and_then_the_call_succeeds(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = opened(address)
    lake.append(lake_rows(events(1), "events", 1), 1)
    with monkeypatch.context() as away:
        away.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        with pytest.raises(StorageError, match=address):
            opened(address).append(lake_rows(events(2), "events", 2), 2)
    assert lake.append(lake_rows(events(2), "events", 2), 2) == 1
