"""Account for the promotions that a board made and for how long each took to reach the serving replicas; pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from streamrec.clock import Clock

# A replica that has not polled for this long has died or was scaled away; a swap does not wait for it.
REPLICA_LEASE_S = 15.0
# Promotions whose swap times are kept.
_KEPT_SWAPS = 1000


@dataclass
class Swap:
    """Say how one promotion reached the replicas.

    Attributes:
        seq: Promotion number on this board.
        version: Version id.
        promoted_s: When it was published here, on the board's monotonic clock.
        expected: Replicas that were live then.
        acked_ms: Milliseconds from publication to each replica's acknowledgement, which it sends after its swap.
        refused: Why a replica did not take the version.
    """

    seq: int
    version: str
    promoted_s: float
    expected: set[str]
    acked_ms: dict[str, float] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def report(self, live: set[str]) -> dict[str, Any]:
        """Return the swap as a JSON object; ``all_replicas_ms`` is None while a live replica has not acknowledged."""
        waiting = (self.expected & live) - self.acked_ms.keys()
        # A replica that started later took the version when it came, which says nothing about the swap.
        times = [acked for replica, acked in self.acked_ms.items() if replica in self.expected]
        return {
            "seq": self.seq,
            "version": self.version,
            "replicas": len(self.acked_ms),
            "all_replicas_ms": max(times) if times and not waiting else None,
            "acked_ms": dict(self.acked_ms),
            "refused": dict(self.refused),
            "waiting": sorted(waiting),
        }


class BoardState:
    """Keep the live version's number monotone and account for the replicas.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen_s: dict[str, float] = {}
        self.swaps: dict[int, Swap] = {}
        self.seq = 0
        self.version = ""

    def publish(self, version: str, promotion: int | None) -> bool:
        """Make a version the live one under the next number, or under ``promotion``; False when a later promotion is already here."""
        seq = self.seq + 1 if promotion is None else promotion
        if seq <= self.seq:
            return False
        self.seq, self.version = seq, version
        self.swaps[seq] = Swap(seq, version, self._clock.monotonic_s(), self.live_replicas())
        while len(self.swaps) > _KEPT_SWAPS:
            del self.swaps[next(iter(self.swaps))]
        return True

    def saw(self, replica: str) -> None:
        """Note that a replica is alive."""
        self._seen_s[replica] = self._clock.monotonic_s()

    def left(self, replica: str) -> None:
        """Forget a replica that stops."""
        self._seen_s.pop(replica, None)

    def live_replicas(self) -> set[str]:
        """Return the replicas seen within `REPLICA_LEASE_S`."""
        now_s = self._clock.monotonic_s()
        self._seen_s = {replica: seen for replica, seen in self._seen_s.items() if now_s - seen <= REPLICA_LEASE_S}
        return set(self._seen_s)

    def ack(self, replica: str, seq: int, refused: str) -> None:
        """Note that a replica serves promotion ``seq``, or why it does not. A second acknowledgement changes nothing."""
        self.saw(replica)
        swap = self.swaps.get(seq)
        if swap is None or replica in swap.acked_ms:
            return
        if refused:
            swap.refused[replica] = refused
        else:
            swap.acked_ms[replica] = (self._clock.monotonic_s() - swap.promoted_s) * 1000

    def report(self, last: int | None = None) -> list[dict[str, Any]]:
        """Return the swap of each promotion, or of the last ones, oldest first."""
        live, swaps = self.live_replicas(), self.swaps.values()
        return [swap.report(live) for swap in islice(swaps, 0 if last is None else max(0, len(swaps) - last), None)]
