"""Try out on a scratch key whether a storage keeps its promises: what a checkpoint's pointer depends on."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from streamrec.errors import StorageError
from streamrec.storage.base import Storage
from streamrec.storage.bucket import ObjectStorage
from streamrec.storage.local import LocalStorage


@dataclass(frozen=True)
class Trial:
    """Say what a storage did.

    Attributes:
        broken: Promises that it broke, in words; empty when it keeps them.
        ahead_s: How far its clock is ahead of ours at least, negative when behind, 0 when they agree as far as can be told; None when it
            does not tell.
        wall_s: How long all took.
    """

    broken: tuple[str, ...]
    ahead_s: float | None
    wall_s: float


def try_out(storage: Storage, now_s: Callable[[], float] = time.time) -> Trial:
    """Write, read, refuse, swap and delete two scratch objects.

    Raises:
        StorageError: The storage refused one of these; the scratch objects are removed where it allows that.
    """
    folder = f"doctor/{uuid.uuid4().hex}"
    content, pointer = f"{folder}/content", f"{folder}/pointer"
    started_s = now_s()
    try:
        is_written = storage.write_new(content, b"one")
        written_s = now_s()
        ahead_s = _ahead_s(storage, content, started_s, written_s)
        promises = {
            "a new object is written": is_written,
            "an object that is there is not overwritten": not storage.write_new(content, b"two") and storage.read(content) == b"one",
        }
        first = storage.swap(pointer, b"one", None)
        promises["a pointer is set when it was not"] = first is not None
        promises["a pointer is not set twice"] = storage.swap(pointer, b"two", None) is None
        second = storage.swap(pointer, b"two", first)
        promises["a pointer is moved"] = second is not None and storage.read(pointer) == b"two"
        promises["a pointer is not moved by who read an older one"] = storage.swap(pointer, b"three", first) is None
        promises["what is written is listed"] = list(storage.list(folder)) == [content, pointer]
    finally:
        with suppress(StorageError):
            for key in (content, pointer):
                storage.delete(key)
    promises["what is deleted is gone"] = not storage.exists(content) and not storage.exists(pointer)
    return Trial(tuple(promise for promise, kept in promises.items() if not kept), ahead_s, now_s() - started_s)


def ahead_s(stored_s: float, before_s: float, after_s: float, granularity_s: float) -> float:
    """Return how far a clock is ahead of ours at least, by a time that it gave between two of ours; negative when it is behind.

    Args:
        stored_s: What it gave, rounded down to ``granularity_s``.
        before_s: Ours before.
        after_s: Ours after.
        granularity_s: See ``stored_s``.

    Example:
        >>> ahead_s(107.0, 100.0, 102.0, 1.0), ahead_s(101.0, 100.0, 102.0, 1.0), ahead_s(90.0, 100.0, 102.0, 1.0)
        (5.0, 0.0, -9.0)
    """
    if stored_s > after_s:
        return stored_s - after_s
    return min(0.0, stored_s + granularity_s - before_s)


def _ahead_s(storage: Storage, key: str, before_s: float, after_s: float) -> float | None:
    if isinstance(storage, LocalStorage):
        # A file system's clock ticks every few milliseconds.
        return ahead_s((Path(storage.address) / key).stat().st_mtime, before_s, after_s, 0.05)
    if isinstance(storage, ObjectStorage):
        return ahead_s(storage.modified_s(key), before_s, after_s, 1.0)
    return None
