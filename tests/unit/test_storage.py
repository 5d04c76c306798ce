from __future__ import annotations

import errno
import multiprocessing
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from streamrec.errors import ConfigError, Damaged, StorageError
from streamrec.storage import Blobs, LocalStorage, Storage, bucket, open_storage, tidy
from streamrec.testing.contracts.storage import StorageContract
from streamrec.testing.storage_faults import FaultyStorage


class TestLocalStorage(StorageContract):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> LocalStorage:
        return LocalStorage(tmp_path / "state")


class TestStorageThatDoesNotFail(StorageContract):
    """The wrapper that injects faults changes nothing by itself."""

    @pytest.fixture
    def storage(self, tmp_path: Path) -> FaultyStorage:
        return FaultyStorage(LocalStorage(tmp_path / "state"))

    def test_it_travels_as_its_address(self, storage: Storage) -> None:
        assert open_storage(storage.address).address == storage.address


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and path.name != ".lock")


@pytest.fixture
def small_files() -> Iterator[int]:
    """Let the system refuse files beyond a limit, in the middle of a write, as a full disk does."""
    limit = 1 << 20
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_takes_no_more_is_named_with_its_free_bytes_and_keeps_nothing_half(tmp_path: Path, small_files: int) -> None:
    storage = LocalStorage(tmp_path)
    storage.write_new("blobs/small", b"x")
    with pytest.raises(StorageError, match=r"blobs/big \(File too large\), got 3,145,728 bytes to write where [\d,]+ are free, free space") as caught:
        storage.write_new("blobs/big", bytes(3 * small_files))
    assert caught.value.facts["path"] == str(tmp_path / "blobs/big")
    assert caught.value.facts["free_bytes"] > 0
    assert _files(tmp_path) == ["blobs/small"]


def test_a_pointer_keeps_its_value_when_the_disk_is_full(tmp_path: Path, small_files: int) -> None:
    storage = LocalStorage(tmp_path)
    token = storage.swap("HEAD", b"before", None)
    with pytest.raises(StorageError, match="untouched"):
        storage.swap("HEAD", bytes(3 * small_files), token)
    assert storage.read("HEAD") == b"before"
    assert _files(tmp_path) == ["HEAD"]


@pytest.mark.parametrize(
    ("code", "sentence"), [(errno.ENOSPC, "free space"), (errno.EACCES, "let this process write"), (errno.EIO, "check the disk")]
)
def test_a_failed_sync_leaves_nothing_and_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, sentence: str) -> None:
    def refuse(descriptor: int) -> NoReturn:
        raise OSError(code, os.strerror(code))

    storage = LocalStorage(tmp_path)
    storage.write_new("a/before", b"x")
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match=sentence) as caught:
        storage.write_new("a/now", b"y")
    assert caught.value.facts["errno"] == code
    assert _files(tmp_path) == ["a/before"]


def test_a_folder_that_is_a_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("not a folder")
    storage = LocalStorage(tmp_path / "state")
    with pytest.raises(StorageError, match=str(tmp_path / "state")):
        storage.write_new("a", b"1")
    with pytest.raises(StorageError, match="could not read"):
        storage.read("a")


def test_what_a_killed_writer_left_is_swept_and_what_is_being_written_is_not(tmp_path: Path) -> None:
    LocalStorage(tmp_path).write_new("a", b"1")
    old, young = tmp_path / ".tmp" / "old", tmp_path / ".tmp" / "young"
    old.write_bytes(b"half")
    young.write_bytes(b"half")
    two_hours_ago = young.stat().st_mtime - 7200
    os.utime(old, (two_hours_ago, two_hours_ago))
    LocalStorage(tmp_path).write_new("b", b"1")
    assert not old.exists()
    assert young.exists()


def test_reading_creates_no_folder(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "state")
    assert storage.list() == []
    assert storage.read_with_token("HEAD") is None
    storage.delete("a")
    assert not (tmp_path / "state").exists()


def test_emptied_folders_go_with_their_last_object(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    storage.write_new("versions/v1/manifest.json", b"1")
    storage.write_new("versions/v2/manifest.json", b"1")
    storage.delete("versions/v1/manifest.json")
    assert not (tmp_path / "versions/v1").exists()
    assert (tmp_path / "versions/v2").exists()


def _count_up(address: str, times: int) -> None:
    storage = LocalStorage(address)
    for _ in range(times):
        while True:
            found = storage.read_with_token("counter")
            assert found is not None
            if storage.swap("counter", b"%d %d" % (int(found[0].split()[0]) + 1, os.getpid()), found[1]) is not None:
                break


def test_processes_that_swap_lose_no_update(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    storage.swap("counter", b"0 0", None)
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=_count_up, args=(storage.address, 25)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert storage.read("counter").split()[0] == b"50"


def test_addresses_open_the_right_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_storage("runs/demo").address == str(tmp_path / "runs/demo")
    assert open_storage("file:///var/a%20b").address == "/var/a b"
    with pytest.raises(ConfigError, match=r"unknown scheme.*ftp://x"):
        open_storage("ftp://x/y")


def test_a_bucket_without_its_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket, "HAS_OBSTORE", False)
    with pytest.raises(StorageError, match=r"streamrec\[cloud\]"):
        open_storage("s3://bucket/prefix")


def test_a_blob_is_written_once_and_mended_when_damaged(tmp_path: Path) -> None:
    storage = FaultyStorage(LocalStorage(tmp_path))
    ref = Blobs(storage).put(b"content")
    assert Blobs(storage).put(b"content") == ref
    assert storage.num_bytes_written == 7
    (tmp_path / "blobs" / ref.sha256).write_bytes(b"c0ntent")
    with pytest.raises(Damaged, match="not those of its digest"):
        Blobs(storage).get(ref)
    assert Blobs(storage).put(b"content") == ref
    assert Blobs(storage).get(ref) == b"content"


def test_a_blob_that_is_gone_is_damaged_and_one_that_cannot_be_read_is_not(tmp_path: Path) -> None:
    blobs = Blobs(LocalStorage(tmp_path))
    ref = blobs.put(b"content")
    blobs.remove([ref.sha256])
    with pytest.raises(Damaged, match="is gone"):
        blobs.get(ref)
    (tmp_path / "blobs" / ref.sha256).mkdir(parents=True)
    with pytest.raises(StorageError, match="could not read") as caught:
        blobs.get(ref)
    assert not isinstance(caught.value, Damaged)


def test_tidying_removes_empty_folders_and_locks_where_no_object_is_and_nothing_of_anybody_else(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "state")
    for key in ("gone/a/1", "stays/1"):
        storage.write_new(key, b"x")
    LocalStorage(tmp_path / "state" / "gone" / "own").swap("HEAD", b"x", None)
    (tmp_path / "state" / "gone" / "day=1").mkdir()
    before = sorted((tmp_path / "state").rglob("*"))
    for folder in ("gone", "", "never"):
        tidy(storage, folder)
    assert sorted((tmp_path / "state").rglob("*")) == before
    storage.delete("gone/a/1")
    LocalStorage(tmp_path / "state" / "gone" / "own").delete("HEAD")
    tidy(storage, "gone")
    assert {path.name for path in (tmp_path / "state").iterdir()} == {"stays", ".lock", ".tmp"}
    storage.delete("stays/1")
    (tmp_path / "state" / ".hidden").write_text("somebody's")
    tidy(storage)
    assert [path.name for path in (tmp_path / "state").iterdir()] == [".hidden"]
