"""Say what a storage promises, and what a key and a token are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NewType, Protocol

from streamrec.errors import StorageError

Token = NewType("Token", str)
"""What a pointer held when it was read; opaque, and good for one `Storage.swap`."""


class Storage(Protocol):
    """Bytes under keys.

    **Contract.** A reader sees all of a write or nothing of it. What was acknowledged outlives a crash of the machine. An object is either
    content (`write_new`, never changed afterwards) or a pointer (`swap`). Every refusal is a `StorageError`; a missing key has the fact
    ``missing=True``. `streamrec.testing.contracts.storage` holds these sentences as tests.
    """

    @property
    def address(self) -> str:
        """Return what `open_storage` opens this storage with, from any process."""
        ...

    def read(self, key: str) -> bytes:
        """Return the bytes under ``key``; raise `StorageError` (fact ``missing=True``) when there are none."""
        ...

    def read_with_token(self, key: str) -> tuple[bytes, Token] | None:
        """Return a pointer's bytes and the token for `swap`, or None when it was never set."""
        ...

    def write_new(self, key: str, data: bytes) -> bool:
        """Write content that never changes.

        Returns:
            True when ``data`` was written, False when the key was taken: nothing is changed then, and of several concurrent writers one wins.
        """
        ...

    def swap(self, key: str, new: bytes, expected: Token | None) -> Token | None:
        """Move a pointer if it still holds what ``expected`` was read from (None: if it was never set).

        A pointer that holds ``new`` already counts as moved, so that a call whose answer was lost can be repeated; a writer that must not
        be taken for another one writes who it is into ``new``.

        Returns:
            The token of ``new``, or None when somebody else moved the pointer.
        """
        ...

    def list(self, folder: str = "") -> Sequence[str]:
        """Return the keys below ``folder``, sorted."""
        ...

    def delete(self, key: str) -> None:
        """Remove ``key``; a missing one is fine."""
        ...

    def exists(self, key: str) -> bool:
        """Tell whether there is something under ``key``."""
        ...


def checked_key(key: str) -> str:
    """Return ``key`` when every part of it is a plain name.

    Raises:
        StorageError: The key is empty or absolute, or a part is empty or begins with a dot.
    """
    if not key or any(not part or part.startswith(".") or "\0" in part or "\\" in part for part in key.split("/")):
        what = "Storage: not a key"
        raise StorageError(what, got=repr(key), allowed="names joined by '/', none beginning with a dot")
    return key


def missing(where: str) -> StorageError:
    """Return the error for a key that holds nothing."""
    return StorageError("Storage: there is no such object", got=where, missing=True)
