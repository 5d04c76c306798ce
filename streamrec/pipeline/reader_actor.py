"""Read planned ranges through Ray Data in an actor that is replaced after a while, so that the driver does not grow.

Each execution of Ray Data leaves remote functions and actor classes behind in the process that started it. Here that process is an actor;
its successor starts while it still reads. Ends and beginnings of partitions are asked for by the driver's own consumer, which leaves nothing.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.exceptions import RayActorError

from streamrec.awaiting import BEHIND, awaited
from streamrec.config import LogConfig
from streamrec.errors import StreamrecError
from streamrec.log.base import LogAddress, TableReader
from streamrec.log.connect import open_reader, open_table_reader
from streamrec.log.offsets import OffsetRange
from streamrec.telemetry.logs import set_up

logger = logging.getLogger(__name__)

READS_PER_ACTOR = 400
"""An execution costs its process some 50 to 150 KB, so an actor grows by some 60 MB. Its successor starts after so many reads."""


class RayReads:
    """Read in the actor's process."""

    def __init__(self, address: LogAddress, cfg: LogConfig, log_format: str = "plain") -> None:
        set_up(log_format, "reader")
        os.nice(BEHIND)  # What is read ahead can wait; what is waited for is read while nobody else has work.
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        self._reader = open_reader(address, cfg)

    def read(self, ranges: Sequence[OffsetRange]) -> pa.Table | StreamrecError:
        """Return the rows, or our error as a value: Ray would wrap a raised one in a class of its own."""
        try:
            return self._reader.read_table(ranges)
        except StreamrecError as error:
            return error


_WANTED = "an actor to read the log"

_READS: Any = ray.remote(RayReads)
"""Made once: the GCS keeps each class that is made for as long as the job lives."""


class RecycledReader:
    """Read tables through actors; implements `streamrec.log.base.TableReader` and `streamrec.log.base.ReadsAhead`.

    A successor takes over when it has read its first row, because the first execution in a process takes seconds. An actor that died is replaced
    once in a call. Used by one thread.

    Args:
        address: The log.
        cfg: Its settings.
        start: Starts an actor with the interface of `RayReads`; None starts one on Ray.
        reads_per_actor: After so many reads the successor starts.
        log_format: Of the actors' lines.
    """

    def __init__(
        self,
        address: LogAddress,
        cfg: LogConfig,
        *,
        start: Callable[[], Any] | None = None,
        reads_per_actor: int = READS_PER_ACTOR,
        log_format: str = "plain",
    ) -> None:
        self._offsets: TableReader = open_table_reader(address, cfg)
        self._start = start or (lambda: _start_actor(address, cfg, log_format))
        self._reads_per_actor = reads_per_actor
        self._actor = self._start()
        self._successor: tuple[Any, ray.ObjectRef[Any]] | None = None
        self._num_reads = 0
        self._ahead: tuple[tuple[OffsetRange, ...], ray.ObjectRef[Any]] | None = None

    def partitions(self, topic: str) -> list[int]:
        """Return the topic's partitions in order."""
        return self._offsets.partitions(topic)

    def earliest(self, topic: str) -> dict[int, int]:
        """Return by partition the first offset that is still there (inclusive)."""
        return self._offsets.earliest(topic)

    def latest(self, topic: str) -> dict[int, int]:
        """Return by partition the end offset (exclusive)."""
        return self._offsets.latest(topic)

    def topic_id(self, topic: str) -> str:
        """Return the topic's id."""
        return self._offsets.topic_id(topic)

    def read_ahead(self, ranges: Sequence[OffsetRange]) -> None:
        """Begin to read what `read_table` will be asked for next; the rows are there or on their way then."""
        self._ahead = (tuple(ranges), self._submit(ranges))

    def read_table(self, ranges: Sequence[OffsetRange]) -> pa.Table:
        """Return the rows of exactly these offsets; what was read ahead is used when it is the same ranges and did not fail."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] == tuple(ranges):
            found = self._result(ahead[1])
            if found is not None and not isinstance(found, StreamrecError):
                return found
        found = self._result(self._submit(ranges))
        if found is None:
            found = awaited(self._submit(ranges), _WANTED)
        if isinstance(found, StreamrecError):
            raise found
        return found

    def close(self) -> None:
        """Close the consumer and end the actors."""
        self._offsets.close()
        self._ahead = None
        for actor in (self._actor, *(self._successor or ())[:1]):
            ray.kill(actor)
        self._successor = None

    def _submit(self, ranges: Sequence[OffsetRange]) -> ray.ObjectRef[Any]:
        if self._successor is not None and ray.wait([self._successor[1]], timeout=0)[0]:
            # The one before ends when its last answer is let go of.
            self._actor, self._successor, self._num_reads = self._successor[0], None, 0
        elif self._successor is None and self._num_reads >= self._reads_per_actor:
            successor = self._start()
            self._successor = (successor, successor.read.remote([_first_row(ranges)]))
        self._num_reads += 1
        reference: ray.ObjectRef[Any] = self._actor.read.remote(list(ranges))
        return reference

    def _result(self, reference: ray.ObjectRef[pa.Table | StreamrecError]) -> pa.Table | StreamrecError | None:
        """Return what came; None when the actor died, which has another one by then."""
        try:
            return awaited(reference, _WANTED)
        except RayActorError as error:
            logger.warning("Reader: its actor died, another one reads again (%s)", str(error).strip().splitlines()[0])
            self._actor = self._successor[0] if self._successor is not None else self._start()
            self._successor, self._num_reads = None, 0
            return None


def _first_row(ranges: Sequence[OffsetRange]) -> OffsetRange:
    part = next((part for part in ranges if part.num_offsets), ranges[0])
    return OffsetRange(part.topic, part.partition, part.start, min(part.start + 1, part.end))


def _start_actor(address: LogAddress, cfg: LogConfig, log_format: str) -> Any:
    # It waits for Ray Data's tasks, which take CPUs of their own.
    return _READS.options(num_cpus=0, max_restarts=0, max_task_retries=0).remote(address, cfg, log_format)
