"""Keep blobs under their own SHA-256."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from streamrec.errors import Damaged, StorageError
from streamrec.storage.base import Storage


@dataclass(frozen=True)
class BlobRef:
    """Name a blob.

    Attributes:
        sha256: Digest of its bytes, in hex.
        bytes: Its size.
    """

    sha256: str
    bytes: int


class Blobs:
    """Keep blobs in a folder of a storage.

    **Contract.** After `put` the blob is there and whole, also when a damaged one was there before. `get` gives the right bytes or raises.

    Args:
        storage: Where to keep them.
        folder: Folder in it.
    """

    def __init__(self, storage: Storage, folder: str = "blobs") -> None:
        self._storage = storage
        self._folder = folder
        self._whole: set[str] = set()

    def put(self, data: bytes) -> BlobRef:
        """Write a blob unless it is there.

        Raises:
            StorageError: The storage refused.
        """
        ref = BlobRef(hashlib.sha256(data).hexdigest(), len(data))
        if ref.sha256 in self._whole:
            return ref
        key = self._key(ref.sha256)
        if not self._storage.write_new(key, data) and self._storage.read(key) != data:
            # A restart that repeats a step makes the same blob as before; it must not be taken from a damaged file.
            self._storage.delete(key)
            self._storage.write_new(key, data)
        self._whole.add(ref.sha256)
        return ref

    def get(self, ref: BlobRef) -> bytes:
        """Return a blob's bytes.

        Raises:
            Damaged: They are gone or not those that the digest names.
            StorageError: The storage refused.
        """
        try:
            data = self._storage.read(self._key(ref.sha256))
        except StorageError as error:
            if not error.facts.get("missing"):
                raise
            raise self._damaged(ref, None) from error
        if hashlib.sha256(data).hexdigest() != ref.sha256:
            self._whole.discard(ref.sha256)
            raise self._damaged(ref, len(data))
        self._whole.add(ref.sha256)
        return data

    def has(self, ref: BlobRef) -> bool:
        """Tell whether there is something under the blob's name."""
        return self._storage.exists(self._key(ref.sha256))

    def names(self) -> list[str]:
        """Return the digests of all blobs."""
        return [key.rpartition("/")[2] for key in self._storage.list(self._folder)]

    def remove(self, digests: Iterable[str]) -> None:
        """Delete blobs; missing ones are fine."""
        for sha256 in digests:
            self._whole.discard(sha256)
            self._storage.delete(self._key(sha256))

    def _damaged(self, ref: BlobRef, num_bytes: int | None) -> Damaged:
        how = "is gone" if num_bytes is None else f"has {num_bytes} bytes that are not those of its digest"
        what = f"Blob: {self._storage.address}/{self._key(ref.sha256)} {how}"
        return Damaged(what, allowed=f"the {ref.bytes} bytes that were written", do="restore that file from a copy, or use an older state")

    def _key(self, sha256: str) -> str:
        return f"{self._folder}/{sha256}"
