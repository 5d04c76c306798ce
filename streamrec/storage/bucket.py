"""Keep objects in a bucket."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

from streamrec.errors import StorageError
from streamrec.storage.base import Token, checked_key, missing

try:
    import obstore
    from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
    from obstore.store import from_url

    HAS_OBSTORE = True
except ImportError:  # the extra `cloud` is not installed
    HAS_OBSTORE = False


class ObjectStorage:
    """Keep objects in a bucket: ``s3://bucket/prefix`` or ``gs://bucket/prefix``, with conditional puts.

    Raises:
        StorageError: The extra ``cloud`` is not installed, or the address does not parse.
    """

    def __init__(self, url: str) -> None:
        if not HAS_OBSTORE:
            what = "Storage: buckets need the extra 'cloud'"
            raise StorageError(what, got=url, do="run `pip install 'streamrec[cloud]'`")
        self._url = url.rstrip("/")
        with self._explained("open", ""):
            # No client_options here: they would replace those from the environment (AWS_ALLOW_HTTP, AWS_TIMEOUT, a proxy, …).
            self._store = from_url(self._url, retry_config={"max_retries": 5, "retry_timeout": timedelta(seconds=30)})

    def __reduce__(self) -> tuple[Any, ...]:
        return ObjectStorage, (self._url,)

    @property
    def address(self) -> str:
        """Return the URL."""
        return self._url

    def read(self, key: str) -> bytes:
        """Return the object's bytes."""
        found = self.read_with_token(key)
        if found is None:
            where = f"{self._url}/{key}"
            raise missing(where)
        return found[0]

    def read_with_token(self, key: str) -> tuple[bytes, Token] | None:
        """Return the object's bytes and its ETag and generation."""
        with self._explained("read", checked_key(key)):
            try:
                result = obstore.get(self._store, key)
                return bytes(result.bytes()), _pack_token(result.meta)
            except FileNotFoundError as error:
                self._raise_without_bucket(error)
                return None

    def write_new(self, key: str, data: bytes) -> bool:
        """Put an object on condition that there is none."""
        with self._explained("write", checked_key(key)):
            try:
                obstore.put(self._store, key, data, mode="create")
            except (AlreadyExistsError, PreconditionError):
                return False
        return True

    def swap(self, key: str, new: bytes, expected: Token | None) -> Token | None:
        """Put an object on condition that it still has the ETag that was read."""
        with self._explained("write", checked_key(key)):
            try:
                return _pack_token(obstore.put(self._store, key, new, mode="create" if expected is None else json.loads(expected)))
            except (AlreadyExistsError, PreconditionError):
                found = self.read_with_token(key)
        return found[1] if found is not None and found[0] == new else None

    def list(self, folder: str = "") -> Sequence[str]:
        """Return the keys below a folder, sorted."""
        prefix = checked_key(folder.rstrip("/")) if folder else None
        with self._explained("list", folder):
            return sorted(meta["path"] for chunk in obstore.list(self._store, prefix=prefix) for meta in chunk)

    def delete(self, key: str) -> None:
        """Remove an object."""
        with self._explained("delete", checked_key(key)), suppress(FileNotFoundError):
            obstore.delete(self._store, key)

    def exists(self, key: str) -> bool:
        """Tell whether the object is there."""
        with self._explained("read", checked_key(key)):
            try:
                obstore.head(self._store, key)
            except FileNotFoundError as error:
                self._raise_without_bucket(error)
                return False
        return True

    def modified_s(self, key: str) -> float:
        """Return when the object was written, on the store's clock in seconds since the epoch."""
        with self._explained("read", checked_key(key)):
            return float(obstore.head(self._store, key)["last_modified"].timestamp())

    def _raise_without_bucket(self, error: FileNotFoundError) -> None:
        # A misnamed bucket must not look like an empty one: a pipeline would start from nothing.
        if "bucket does not exist" in str(error).lower():
            what = "Storage: the bucket does not exist"
            raise StorageError(what, got=self._url, do="create it or correct `state`") from error

    @contextmanager
    def _explained(self, action: str, key: str) -> Iterator[None]:
        try:
            yield
        except (BaseError, OSError, ValueError, TypeError) as error:
            reason = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
            what = f"Storage: could not {action} {self._url}/{key} ({reason})"
            raise StorageError(what, do="check that the endpoint answers and that the credentials allow it", address=self._url) from error


def _pack_token(meta: Any) -> Token:
    # S3 compares ETags, Google's storage generations; a condition must not name a field that the store left out.
    return Token(json.dumps({name: meta[name] for name in ("e_tag", "version") if meta[name] is not None}))
