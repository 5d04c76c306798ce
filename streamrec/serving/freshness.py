"""Time how fresh answers are: from an event's place in the log to a history that has it, and to an answer of a version that learned from it."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from streamrec.clock import Clock
from streamrec.telemetry.numbers import Numbers

STATE, MODEL = "streamrec_state_freshness_seconds", "streamrec_model_freshness_seconds"

SAMPLED = 4
"""Records of each read that are timed; those of a read come together."""
MOST_WAITING = 4096
"""Timed records that no version has learned yet; of more every second one stays, and from then on half as many are added."""


class Freshness:
    """Observe a replica's freshness, of records that came to the log since the replica began to follow it.

    Times are the log's own, so of a log on another machine the difference of both clocks is added. A version has learned from a record when its
    offsets lie beyond it.

    **Contract.** `heard` is called by the thread that follows the log, `answers_with` by the one that swaps models.

    Args:
        numbers: The replica's.
        topic: Of events.
        clock: Processing time.
    """

    def __init__(self, numbers: Numbers, topic: str, clock: Clock) -> None:
        self._numbers, self._topic, self._clock = numbers, topic, clock
        self._since_ms = clock.now_ms()
        self._waiting: list[tuple[int, int, int]] = []
        self._num, self._every = 0, 1
        self._busy = threading.Lock()
        for name in (STATE, MODEL):  # So that they are there before the first event.
            numbers.series(name)

    def heard(self, rows: pa.Table) -> None:
        """Time log rows (schema LOG_ROW) that histories have from now on, and a version will have learned from."""
        self._hear(rows, in_histories=True, awaits_model=True)

    def in_histories(self, rows: pa.Table) -> None:
        """Time log rows that histories have from now on."""
        self._hear(rows, in_histories=True, awaits_model=False)

    def awaits_model(self, rows: pa.Table) -> None:
        """Remember log rows, to time the version that has learned from them."""
        self._hear(rows, in_histories=False, awaits_model=True)

    def _hear(self, rows: pa.Table, *, in_histories: bool, awaits_model: bool) -> None:
        if not rows.num_rows:
            return
        now_ms = self._clock.now_ms()
        places = np.unique(np.linspace(0, rows.num_rows - 1, min(SAMPLED, rows.num_rows)).astype(np.int64))
        columns = [rows[name].take(places).to_pylist() for name in ("partition", "offset", "timestamp")]
        timed = [one for one in zip(*columns, strict=True) if one[2] >= self._since_ms]
        with self._busy:
            for one in timed:
                if in_histories:
                    self._observe(STATE, now_ms - one[2])
                if not awaits_model:
                    continue
                self._num += 1
                if self._num % self._every == 0:
                    self._waiting.append(one)
            if len(self._waiting) > MOST_WAITING:
                self._waiting, self._every = self._waiting[::2], 2 * self._every

    def answers_with(self, offsets: Mapping[str, Mapping[str, int]]) -> None:
        """Time the records that a version has learned from and none before it had; it answers from now on.

        Args:
            offsets: Its own, {topic: {partition: next offset, exclusive}}.
        """
        now_ms, ends = self._clock.now_ms(), {int(partition): end for partition, end in offsets.get(self._topic, {}).items()}
        with self._busy:
            waiting, self._waiting = self._waiting, []
            for one in waiting:
                if one[1] < ends.get(one[0], 0):
                    self._observe(MODEL, now_ms - one[2])
                else:
                    self._waiting.append(one)
            if not self._waiting:
                self._every = 1

    def _observe(self, name: str, passed_ms: int) -> None:
        self._numbers.observe(name, max(0, passed_ms) / 1000)
