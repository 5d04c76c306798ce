"""Decide how many replicas there should be by how busy their event loops are.

Serve's own policy counts the requests that are held at a moment. Here an answer takes one turn of the loop, so between turns, when Serve counts,
there are none, however many wait in the socket.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

BUSY = "busy"
"""Name of what replicas report."""


@dataclass
class Busyness:
    """Measure the share of the time that the calling thread worked; for one thread."""

    now_s: Callable[[], float] = time.monotonic
    worked_s: Callable[[], float] = time.thread_time
    _last: tuple[float, float] | None = field(default=None, init=False)

    def share(self) -> float:
        """Return the share since the last call, 0 at the first one."""
        now_s, worked_s = self.now_s(), self.worked_s()
        last, self._last = self._last, (now_s, worked_s)
        return 0.0 if last is None or now_s <= last[0] else min(1.0, (worked_s - last[1]) / (now_s - last[0]))


class BusyPolicy:
    """Be Serve's policy that keeps the replicas busy for a share of the time on average; bounds and delays are Serve's to apply.

    Serve sends it to its controller by value, which need not have this package.

    Args:
        busy_share: The share.
    """

    def __init__(self, busy_share: float) -> None:
        self._busy_share = busy_share

    def __call__(self, context: Any) -> tuple[float, dict[str, Any]]:
        """Return how many replicas there should be, and no state; while there is no report, nothing changes."""
        shares = (context.aggregated_metrics or {}).get(BUSY, {})
        if not shares:
            return context.target_num_replicas, {}
        return sum(shares.values()) / len(shares) * context.current_num_replicas / self._busy_share, {}
