"""Open a storage by its address."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from streamrec.errors import ConfigError
from streamrec.storage.base import Storage
from streamrec.storage.bucket import ObjectStorage
from streamrec.storage.local import LocalStorage


def open_storage(address: str | Path) -> Storage:
    """Open the storage at an address.

    Raises:
        ConfigError: The scheme is not known, or no bucket is named.
        StorageError: The bucket can't be addressed, or the extra ``cloud`` is missing.

    Example:
        >>> open_storage("/tmp/runs/demo").address
        '/tmp/runs/demo'
    """
    text = str(address)
    scheme = urlsplit(text).scheme if "://" in text else ""
    if scheme == "":
        return LocalStorage(text)
    if scheme == "file":
        return LocalStorage(unquote(urlsplit(text).path))
    if scheme in {"s3", "gs"}:
        if not urlsplit(text).netloc:
            what = "Storage: the address names no bucket"
            raise ConfigError(what, got=repr(text), allowed=f"{scheme}://BUCKET or {scheme}://BUCKET/PREFIX", do="name the bucket")
        return ObjectStorage(text)
    what = "Storage: the address has an unknown scheme"
    raise ConfigError(what, got=repr(text), allowed="a path, file://, s3://bucket/prefix, gs://bucket/prefix", do="correct `state`")


def is_folder(address: str) -> bool:
    """Return whether an address is that of a folder, where a look costs nothing.

    Example:
        >>> is_folder("/tmp/runs/demo"), is_folder("file:///tmp/runs/demo"), is_folder("s3://bucket/demo")
        (True, True, False)
    """
    return "://" not in address or urlsplit(address).scheme == "file"
