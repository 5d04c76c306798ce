"""Play the plans once with nothing that could be disturbed: one process, no Ray, the broker only read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from streamrec.clock import SystemClock
from streamrec.config import Config
from streamrec.log.base import TableReader
from streamrec.log.memory import MemoryLog
from streamrec.log.offsets import OffsetRange
from streamrec.pipeline.checkpoint import CheckpointStore
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.layout import checkpoint_url
from streamrec.pipeline.plan import Plan
from streamrec.pipeline.plan_store import PlanStore
from streamrec.pipeline.wiring import build_local
from streamrec.storage import open_storage
from streamrec.testing.chaos.compare import fingerprint
from streamrec.testing.failpoints import Failpoint, observed


@dataclass(frozen=True)
class Reference:
    """Hold what an undisturbed run leaves.

    Attributes:
        fingerprint: See `streamrec.testing.chaos.compare.fingerprint`.
        windows: By failpoint the batches that pass it.
    """

    fingerprint: dict[str, Any]
    windows: dict[Failpoint, list[int]]


def write_plans(config: Config, plans: Sequence[Plan]) -> None:
    """Lay plans into a new state, which then executes them. Its first writer makes the pointer: plans beside no checkpoint would be damage."""
    CheckpointStore(open_storage(checkpoint_url(config.state))).acquire()
    store = PlanStore(open_storage(config.state))
    for plan in plans:
        store.write(plan.model_dump(mode="json"), plan.batch)


def play(config: Config, plans: Sequence[Plan], reader: TableReader) -> Reference:
    """Execute the plans on a new state at ``config.state``."""
    write_plans(config, plans)
    letters = MemoryLog()
    letters.ensure_topic(config.log.dead_letter_topic, 1)
    plain = build_local(config, reader, config.state, SystemClock(), dead_letters=letters)
    windows: dict[Failpoint, list[int]] = {}

    def reach(failpoint: Failpoint, batch: int) -> None:
        if batch not in windows.setdefault(failpoint, []):
            windows[failpoint].append(batch)

    controller = Controller(observed(plain.parts, config.state, None, reach))
    controller.recover()
    for _ in plans:
        controller.step()
    return Reference(fingerprint(config, config.state, letters), windows)


class Without:
    """Read a log as if one event had been lost; all offsets stay."""

    def __init__(self, inner: TableReader, partition: int, offset: int) -> None:
        self._inner = inner
        self._place = (partition, offset)

    def read_table(self, ranges: Sequence[OffsetRange]) -> pa.Table:
        """Return the rows but the lost one."""
        table = self._inner.read_table(ranges)
        places = zip(table["partition"].to_pylist(), table["offset"].to_pylist(), strict=True)
        return table.filter(pa.array([place != self._place for place in places], pa.bool_()))

    def __getattr__(self, name: str) -> Any:
        """Do everything else as the log does."""
        return getattr(self._inner, name)
