"""Join a component's base and deltas into a new base beside the stream, as an LSM tree does.

A commit writes what changed. What a restart would have to read grows by that, so now and then base and deltas are joined. That takes
seconds for a large component, so a process of its own does it, from the blobs of a commit to a new blob; a later commit names the new blob
and the deltas that came since. Until then nothing refers to the new blob: a crash, a full disk or a damaged blob costs the attempt only.

    python -m streamrec.pipeline.compaction ADDRESS    blobs to join on stdin, the new one on stdout, both as JSON
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Protocol

from streamrec.errors import StorageError
from streamrec.pipeline.commit import Compacted
from streamrec.state import from_bytes, merge, to_bytes
from streamrec.storage import BlobRef, Blobs, Storage, open_storage

logger = logging.getLogger(__name__)

NICENESS = 10
"""The stream and the answers come first: joining may take its time."""

PAUSE = 8
"""After a failed attempt so many more deltas come before the next: whatever is full or away gets time."""


def compact(storage: Storage, blobs: Sequence[BlobRef]) -> BlobRef:
    """Join a base and the row deltas that follow it, and write the result.

    Raises:
        Damaged: A blob is not whole.
        StorageError: The storage refused.
    """
    held = Blobs(storage)
    base, *deltas = (from_bytes(held.get(blob)) for blob in blobs)
    return held.put(to_bytes(merge(base, deltas)))


class Running(Protocol):
    """A compaction under way."""

    def poll(self) -> BlobRef | None:
        """Return the new blob, or None while it is not there.

        Raises:
            StorageError: There will be none.
        """
        ...


class CompactionProcess:
    """Run `compact` in a process of its own, which ends when this one does, or when nobody holds this object any more.

    Args:
        address: Of the storage.
        blobs: The base and the deltas, in order.
    """

    def __init__(self, address: str, blobs: Sequence[BlobRef]) -> None:
        command = [sys.executable, "-m", __name__, address]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603 - our own command
        weakref.finalize(self, _end, self._process)
        assert self._process.stdin is not None
        # The pipe stays open: its end tells the process that nobody waits any more.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps([asdict(blob) for blob in blobs]).encode() + b"\n")
            self._process.stdin.flush()

    def poll(self) -> BlobRef | None:
        """Return the new blob, or None while the process runs."""
        if self._process.poll() is None:
            return None
        said, _ = self._process.communicate()
        try:
            answer = json.loads(said)
        except ValueError:
            answer = {"error": f"the process ended with {self._process.returncode}"}
        if "error" in answer:
            what = f"Compaction: {answer['error']}"
            raise StorageError(what)
        return BlobRef(**answer)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()  # Nothing where it has ended.
    process.wait()
    for pipe in filter(None, (process.stdin, process.stdout)):
        with contextlib.suppress(BrokenPipeError):
            pipe.close()


class Compactor:
    """Compact one component at a time.

    Args:
        begin: Starts joining blobs; see `CompactionProcess`.

    **Contract.** `take` never raises: an attempt that failed is said in a warning and forgotten. While `is_busy`, blobs that no commit names
    may be the result in the making and must stay.
    """

    def __init__(self, begin: Callable[[Sequence[BlobRef]], Running]) -> None:
        self._begin = begin
        self._name = ""
        self._blobs: tuple[BlobRef, ...] = ()
        self._running: Running | None = None
        self._not_before: dict[str, int] = {}

    @property
    def is_busy(self) -> bool:
        """Tell whether a compaction is under way."""
        return self._running is not None

    def start(self, name: str, blobs: Sequence[BlobRef]) -> None:
        """Begin to join a component's base and deltas, unless something is under way or it failed a moment ago."""
        if self.is_busy or len(blobs) < self._not_before.get(name, 0):
            return
        self._name, self._blobs = name, tuple(blobs)
        try:
            self._running = self._begin(self._blobs)
        except (OSError, StorageError) as error:
            self._warn(error)

    def take(self) -> dict[str, Compacted]:
        """Return what has become ready since the last call, by component."""
        if self._running is None:
            return {}
        try:
            base = self._running.poll()
        except StorageError as error:
            self._running = None
            self._warn(error)
            return {}
        if base is None:
            return {}
        self._running = None
        self._not_before.pop(self._name, None)
        return {self._name: Compacted(self._blobs, base)}

    def _warn(self, error: Exception) -> None:
        self._not_before[self._name] = len(self._blobs) + PAUSE
        logger.warning("commits go on with %d deltas of %r, which could not be joined with their base: %s", len(self._blobs) - 1, self._name, error)


def _main() -> None:
    os.nice(NICENESS)
    blobs = [BlobRef(**values) for values in json.loads(sys.stdin.readline())]
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        answer = asdict(compact(open_storage(sys.argv[1]), blobs))
    except StorageError as error:
        answer = {"error": str(error)}
    sys.stdout.write(json.dumps(answer))


def end_with_parent() -> None:
    """End this process when the other end of its standard input is closed."""
    os.read(sys.stdin.fileno(), 1)  # returns when the pipe's other end is closed
    os._exit(1)


if __name__ == "__main__":
    _main()
