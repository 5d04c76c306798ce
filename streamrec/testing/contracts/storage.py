"""Hold any storage to the promises of `streamrec.storage.Storage`.

Example:
    class TestMyStorage(StorageContract):
        @pytest.fixture
        def storage(self):
            return MyStorage(...)
"""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest

from streamrec.errors import StorageError
from streamrec.storage import Storage, open_storage

_BAD_KEYS = ["", "/a", "a/", "a//b", "../a", "a/../b", ".hidden", "a/.tmp/b", "a\\b"]


class StorageContract:
    """Tests that every storage passes; a subclass gives the fixture ``storage``, empty at the start of each test."""

    def test_what_was_written_is_read(self, storage: Storage) -> None:
        """Any bytes come back as they were."""
        everything = bytes(range(256)) * 4
        assert storage.write_new("a/b/c.bin", everything) is True
        assert storage.write_new("empty", b"") is True
        assert storage.read("a/b/c.bin") == everything
        assert storage.read("empty") == b""

    def test_content_never_changes(self, storage: Storage) -> None:
        """A second write under the same key changes nothing and says so."""
        storage.write_new("a", b"first")
        assert storage.write_new("a", b"first") is False
        assert storage.write_new("a", b"second") is False
        assert storage.read("a") == b"first"

    def test_of_concurrent_writers_of_one_key_one_wins(self, storage: Storage) -> None:
        """Only one is told that its bytes are there, and they are."""
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(lambda number: storage.write_new("a", b"%d" % number), range(8)))
        assert sum(won) == 1
        assert storage.read("a") == b"%d" % won.index(True)

    def test_a_missing_key_is_an_error_that_says_so(self, storage: Storage) -> None:
        """The fact ``missing`` tells it from a refusal."""
        with pytest.raises(StorageError, match=r"no such object.*nothing/here") as caught:
            storage.read("nothing/here")
        assert caught.value.facts["missing"] is True
        assert storage.read_with_token("nothing/here") is None
        assert storage.exists("nothing/here") is False

    def test_a_pointer_moves_only_from_what_was_read(self, storage: Storage) -> None:
        """A stale token, or none, moves nothing."""
        first = storage.swap("p/HEAD", b"1", None)
        assert first is not None
        assert storage.swap("p/HEAD", b"other", None) is None
        second = storage.swap("p/HEAD", b"2", first)
        assert second is not None
        assert storage.swap("p/HEAD", b"3", first) is None
        assert storage.read_with_token("p/HEAD") == (b"2", second)

    def test_a_pointer_that_was_never_set_does_not_move_from_a_token(self, storage: Storage) -> None:
        """A token of a pointer that is gone is stale."""
        token = storage.swap("p", b"1", None)
        storage.delete("p")
        assert storage.swap("p", b"2", token) is None
        assert storage.exists("p") is False

    def test_a_repeated_swap_counts_as_done(self, storage: Storage) -> None:
        """A call whose answer was lost can be repeated with the old token."""
        first = storage.swap("p", b"1", None)
        second = storage.swap("p", b"2", first)
        assert storage.swap("p", b"2", first) == second
        assert storage.read("p") == b"2"

    def test_of_concurrent_swaps_from_one_token_one_wins(self, storage: Storage) -> None:
        """The others are told that somebody else moved the pointer."""
        token = storage.swap("p", b"start", None)
        with ThreadPoolExecutor(8) as pool:
            tokens = list(pool.map(lambda number: storage.swap("p", b"%d" % number, token), range(8)))
        winners = [number for number, moved in enumerate(tokens) if moved is not None]
        assert len(winners) == 1
        assert storage.read("p") == b"%d" % winners[0]

    def test_a_list_has_the_keys_of_a_folder_in_order(self, storage: Storage) -> None:
        """A folder's name is not a prefix of another's."""
        for key in ("v/2", "v/10", "v/a/1", "vv/1", "w"):
            storage.write_new(key, b"x")
        assert list(storage.list("v")) == ["v/10", "v/2", "v/a/1"]
        assert list(storage.list("v/")) == ["v/10", "v/2", "v/a/1"]
        assert list(storage.list()) == ["v/10", "v/2", "v/a/1", "vv/1", "w"]
        assert list(storage.list("nothing")) == []

    def test_a_deleted_key_is_gone_and_can_be_written_again(self, storage: Storage) -> None:
        """Deleting what is not there is fine."""
        storage.write_new("a/b", b"1")
        storage.delete("a/b")
        storage.delete("a/b")
        assert storage.exists("a/b") is False
        assert list(storage.list()) == []
        assert storage.write_new("a/b", b"2") is True

    @pytest.mark.parametrize("key", _BAD_KEYS)
    def test_a_key_that_leaves_the_storage_is_refused(self, storage: Storage, key: str) -> None:
        """So is one that a folder could not hold."""
        for call in (storage.read, storage.read_with_token, storage.exists, storage.delete):
            with pytest.raises(StorageError, match="not a key"):
                call(key)
        with pytest.raises(StorageError, match="not a key"):
            storage.write_new(key, b"")
        with pytest.raises(StorageError, match="not a key"):
            storage.swap(key, b"", None)

    def test_it_travels_as_its_address(self, storage: Storage) -> None:
        """A copy from a pickle, and one opened by the address, see the same objects."""
        storage.write_new("a", b"1")
        for copy in (pickle.loads(pickle.dumps(storage)), open_storage(storage.address)):  # noqa: S301 - our own bytes
            assert copy.address == storage.address
            assert copy.read("a") == b"1"
