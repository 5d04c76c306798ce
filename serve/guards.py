"""Hold what stands before the routes of a replica."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from serve.access import Access
from serve.cors import Cors
from serve.limits import Backlog, Deadlines, Gate


@dataclass(frozen=True)
class Guards:
    """Hold what stands before the routes of a replica.

    Attributes:
        access: Asked before anything is done.
        gate: Bounds the requests that wait for broker or registry.
        cors: Which pages may ask from a browser.
        deadlines: Tells which requests are late.
        backlog: Refuses requests for items that have waited too long.
    """

    access: Access = field(default_factory=Access)
    gate: Gate = field(default_factory=lambda: Gate(1000))
    cors: Cors = field(default_factory=Cors)
    deadlines: Deadlines = field(default_factory=Deadlines)
    backlog: Backlog = field(default_factory=lambda: Backlog(math.inf))

    @property
    def num_shed(self) -> int:
        """Return how many requests were refused because others waited."""
        return self.gate.num_refused + self.backlog.num_refused
