"""Plan a replay: which events are due when, and what a resumed one has already sent. Pure.

A replay sends a dataset's events in their order. Its progress is saved after the log has acknowledged a batch, so a crash leaves at most one
batch that is in the log and not in the progress. A resumed replay finds those events by their ids, in what came into the log since.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from streamrec.errors import ConfigError

_SPEED = re.compile(r"(\d+(?:\.\d+)?)x")


@dataclass(frozen=True)
class Pace:
    """Say how fast a replay goes; with neither, as fast as the log takes it.

    Attributes:
        speed: Event time per processing time, such as 600.
        rate: Events per second.
    """

    speed: float | None = None
    rate: float | None = None

    @classmethod
    def parse(cls, speed: str | None = None, rate: float | None = None) -> Pace:
        """Return the pace of ``"600x"``, ``"max"`` or a rate; nothing given is ``"max"``.

        Raises:
            ConfigError: Both are given, or one is not positive.

        Example:
            >>> Pace.parse("600x"), Pace.parse(rate=500)
            (Pace(speed=600.0, rate=None), Pace(speed=None, rate=500))
        """
        if speed is not None and rate is not None:
            what = "Replay: speed and rate exclude each other"
            raise ConfigError(what, got=f"speed {speed} and rate {rate}", do="give one of them")
        if rate is not None:
            if not (np.isfinite(rate) and rate > 0):
                what = "Replay: not a rate"
                raise ConfigError(what, got=rate, allowed="a number of events per second above 0")
            return cls(rate=rate)
        if speed is None or speed == "max":
            return cls()
        match = _SPEED.fullmatch(speed)
        if match is None or float(match.group(1)) == 0:
            what = "Replay: not a speed"
            raise ConfigError(what, got=repr(speed), allowed="such as '600x', '0.5x', or 'max'")
        return cls(speed=float(match.group(1)))


@dataclass(frozen=True)
class Schedule:
    """Say which events are due at a moment.

    Attributes:
        times_ms: Event times [n], ascending.
        pace: How fast.
        start: The first position to send; it is due at once.
        stop: The position to stop before.
    """

    times_ms: NDArray[np.int64]
    pace: Pace
    start: int
    stop: int

    def due(self, elapsed_s: float) -> int:
        """Return the position (exclusive) up to which events are due, ``elapsed_s`` of processing time after the start."""
        if self.start >= self.stop:
            return self.stop
        if self.pace.rate is not None:
            return min(self.start + int(elapsed_s * self.pace.rate) + 1, self.stop)
        if self.pace.speed is not None:
            until_ms = self.times_ms[self.start] + elapsed_s * 1000 * self.pace.speed
            return self.start + int(np.searchsorted(self.times_ms[self.start : self.stop], until_ms, side="right"))
        return self.stop

    def wait_s(self, position: int, elapsed_s: float) -> float:
        """Return after how many more seconds the event at ``position`` is due; 0 when it is, or when all are sent."""
        if position >= self.stop:
            return 0.0
        if self.pace.rate is not None:
            due_s = (position - self.start) / self.pace.rate
        elif self.pace.speed is not None:
            due_s = float(self.times_ms[position] - self.times_ms[self.start]) / 1000 / self.pace.speed
        else:
            due_s = 0.0
        return max(due_s - elapsed_s, 0.0)


def fingerprint(events: pa.Table) -> str:
    """Return a digest of what a replay sends, so that its progress is not taken for another file's."""
    digest = hashlib.sha256()
    for name in ("event_id", "user_id", "item_id", "event_type", "event_time"):
        for chunk in (part for part in events[name].cast(pa.string()).iterchunks() if len(part)):
            joined = pc.binary_join(pa.ListArray.from_arrays(pa.array([0, len(chunk)], pa.int32()), chunk), "\n")
            digest.update(joined[0].as_py().encode() + b"\n")
    return digest.hexdigest()[:32]


def event_ids_in(rows: pa.Table) -> list[str]:
    """Return the event ids in log rows, in their order; records that hold none are passed over."""
    found = []
    for value in rows["value"].to_pylist():
        try:
            event_id = orjson.loads(value or b"null")["event_id"]
        except (orjson.JSONDecodeError, TypeError, KeyError):
            continue
        if isinstance(event_id, str):
            found.append(event_id)
    return found


def already_sent(event_ids: pa.ChunkedArray, position: int, found: Collection[str]) -> frozenset[int]:
    """Return the positions from ``position`` on whose events are in the log.

    Args:
        event_ids: The dataset's event ids [n], in sending order.
        position: `streamrec.events.progress.Progress.position`.
        found: What `event_ids_in` gave for the log's records from the progress' offsets on.

    Example:
        >>> sorted(already_sent(pa.chunked_array([["a", "b", "c", "d"]]), 1, {"a", "b", "d"}))
        [1, 3]
    """
    hits = pc.is_in(event_ids.slice(position), pa.array(sorted(found), pa.string())).to_numpy()
    return frozenset((np.flatnonzero(hits) + position).tolist())
