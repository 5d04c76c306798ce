"""Know which items can't be had: of each item what the newest update by event time says."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.int32]


class Availability:
    """Keep what item updates say by item code; an item of which nothing was said can be had.

    The newest update by event time counts, of equal times the one that is said last, so the result does not depend on how the log was cut.

    **Contract.** One thread says and publishes, others may read ``codes`` at any time.

    Args:
        unavailable: By code, whether the item can't be had. [num] bool
        said_ms: By code, the event time of the update that says so or the opposite, 0 without one. [num]

    Attributes:
        codes: Codes of the items that can't be had, ascending; another array whenever they have changed.
    """

    codes: Codes

    def __init__(self, unavailable: NDArray[np.bool_] | None = None, said_ms: NDArray[np.int64] | None = None) -> None:
        self._unavailable = np.zeros(0, np.bool_) if unavailable is None else np.array(unavailable)
        self._said_ms = np.zeros(len(self._unavailable), np.int64) if said_ms is None else np.array(said_ms)
        self._is_stale = True
        self.publish()

    def say(self, code: int, time_ms: int, *, available: bool) -> None:
        """Note an update; what is older than what is known has no effect."""
        self._fit(code + 1)
        if time_ms < self._said_ms[code]:
            return
        self._is_stale |= bool(self._unavailable[code]) == available
        self._unavailable[code], self._said_ms[code] = not available, time_ms

    def publish(self) -> None:
        """Let readers see what was said."""
        if self._is_stale:
            self.codes = np.flatnonzero(self._unavailable).astype(np.int32)
            self._is_stale = False

    def newest(self, num: int) -> Codes:
        """Return the codes of at most ``num`` items that can't be had, those of the newest updates."""
        codes = self.codes
        return codes if len(codes) <= num else codes[np.argpartition(-self._said_ms[codes], num)[:num]]

    def of(self, codes: Codes) -> Availability:
        """Return the same of some items, whose codes become their places in ``codes``."""
        self._fit(int(codes.max(initial=-1)) + 1)
        return Availability(self._unavailable[codes], self._said_ms[codes])

    def _fit(self, num: int) -> None:
        missing = num - len(self._said_ms)
        if missing > 0:
            missing = max(missing, num, 1024)  # Copied once for each doubling.
            self._unavailable = np.concatenate([self._unavailable, np.zeros(missing, np.bool_)])
            self._said_ms = np.concatenate([self._said_ms, np.zeros(missing, np.int64)])
