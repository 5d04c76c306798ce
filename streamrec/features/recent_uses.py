"""Count how often items were used lately: each use counts half as much after a half-life of event time.

References: Cormode et al., "Forward Decay: A Practical Time Decay Model for Streaming Systems", ICDE 2009.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrec.state import ROWS, ChangedRows, ComponentState, digest_of, merge

_LEAST = np.float32(1e-30)
"""What an item counts at least that was ever used: zero says that it never was."""


class RecentUses:
    """Hold for each row the sum of 2 ** ((t - landmark) / half-life) over its uses at event times t.

    So an event changes its own rows alone, and the order in which events come changes nothing but rounding. The landmark is the last multiple of
    the half-life before the newest event; when it moves all sums are halved, exactly.

    **Contract.** `update` is a function of state and batch. With another half-life in the configuration `restore` goes on with the counts as
    they are worth at the newest event.

    Args:
        half_life_s: Event time after which a use counts half.
    """

    name = "recent_uses"

    _sums: NDArray[np.float64]
    _landmark_ms: int
    _newest_ms: int
    _changed: ChangedRows

    def __init__(self, half_life_s: float) -> None:
        self._half_life_ms = round(half_life_s * 1000)
        self.restore(ComponentState())

    def update(self, rows: NDArray[np.int32], times_ms: NDArray[np.int64], now_ms: int, so_far: NDArray[np.float32]) -> None:
        """Count uses of rows [T] at event times [T].

        Args:
            rows: Item rows.
            times_ms: A time ahead of ``now_ms`` counts as now, so that a fast clock weighs no more than others.
            now_ms: Processing time of the plan.
            so_far: How often each row was used before, ever; a state that has not counted yet takes these for uses of this moment.
        """
        if len(rows) == 0:
            return
        times_ms = np.minimum(times_ms, now_ms)
        newest_ms = int(times_ms.max())
        self._fit(max(len(so_far), int(rows.max()) + 1))
        if self._newest_ms < 0:
            self._newest_ms, self._landmark_ms = newest_ms, newest_ms - newest_ms % self._half_life_ms
            self._sums[: len(so_far)] = so_far * np.exp2((newest_ms - self._landmark_ms) / self._half_life_ms)
            self._changed.mark(np.flatnonzero(so_far))
        self._newest_ms = max(self._newest_ms, newest_ms)
        self._follow()
        np.add.at(self._sums, rows, np.exp2((times_ms - self._landmark_ms) / self._half_life_ms))
        self._changed.mark(rows)

    def _follow(self) -> None:
        passed = (self._newest_ms - self._landmark_ms) // self._half_life_ms
        if passed > 0:
            self._landmark_ms += passed * self._half_life_ms
            self._changed.mark(np.flatnonzero(self._sums))
            self._sums = np.ldexp(self._sums, -min(passed, 4096))

    def counts(self, ever: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what uses count at the landmark, of rows that were used ``ever`` so often [V]; zero only for those that never were. [V]."""
        self._fit(len(ever))
        sums = self._sums[: len(ever)].astype(np.float32)
        return np.where(ever > 0, np.maximum(sums, _LEAST), np.float32(0))

    def facts(self) -> dict[str, float]:
        """Return ``half_life_s``, ``as_of_ms``, the newest event's time, and ``factor``: what a count at the landmark is worth then."""
        age = (self._newest_ms - self._landmark_ms) / self._half_life_ms
        return {"half_life_s": self._half_life_ms / 1000, "as_of_ms": self._newest_ms, "factor": float(2.0**-age)}

    def take_back(self, rows: NDArray[np.int32], shares: NDArray[np.float64]) -> None:
        """Take a share [n], 0 to 1, of what is counted of rows [n] back."""
        self._fit(int(rows.max(initial=-1)) + 1)
        self._sums[rows] *= 1 - shares
        self._changed.mark(rows)

    def _fit(self, num: int) -> None:
        if num > len(self._sums):
            self._sums = np.concatenate([self._sums, np.zeros(max(num, 2 * len(self._sums)) - len(self._sums))])

    def _meta(self) -> dict[str, Any]:
        return {"half_life_ms": self._half_life_ms, "landmark_ms": self._landmark_ms, "newest_ms": self._newest_ms}

    def _state(self) -> ComponentState:
        used = int(np.flatnonzero(self._sums)[-1]) + 1 if self._sums.any() else 0
        return ComponentState({"sums": self._sums[:used].copy()}, self._meta())

    def snapshot(self) -> ComponentState:
        """Return all sums."""
        self._changed.take()
        return self._state()

    def delta(self) -> ComponentState:
        """Return the sums that changed since the last snapshot or delta."""
        rows = self._changed.take()
        return ComponentState({ROWS: rows, "sums@values": self._sums[rows]}, self._meta())

    def restore(self, base: ComponentState, deltas: Iterable[ComponentState] = ()) -> None:
        """Replace the state; see `streamrec.state.Component`."""
        state = merge(base, deltas)
        sums, then_ms = state.arrays.get("sums", np.zeros(0)), int(state.meta.get("half_life_ms", self._half_life_ms))
        self._landmark_ms, self._newest_ms = int(state.meta.get("landmark_ms", 0)), int(state.meta.get("newest_ms", -1))
        self._sums = np.zeros(max(1024, len(sums)))
        self._sums[: len(sums)] = sums
        self._changed = ChangedRows()
        if then_ms != self._half_life_ms and self._newest_ms >= 0:
            worth = 2.0 ** ((self._landmark_ms - self._newest_ms) / then_ms)
            self._landmark_ms = self._newest_ms - self._newest_ms % self._half_life_ms
            self._sums *= worth * 2.0 ** ((self._newest_ms - self._landmark_ms) / self._half_life_ms)
            self._changed.mark(np.flatnonzero(self._sums))

    def delete_user(self, namespace: str, user_id: str) -> int:
        """Return 0: sums carry no user; see `take_back`."""
        return 0

    def forget_rows(self, rows: NDArray[np.int32]) -> int:
        """Forget the rows' sums and return how many there were."""
        self._fit(int(rows.max(initial=-1)) + 1)
        num = int((self._sums[rows] > 0).sum())
        self._sums[rows] = 0
        self._changed.mark(rows)
        return num

    def digest(self) -> str:
        """Return the SHA-256 of the state, in hex."""
        return digest_of(self._state())
