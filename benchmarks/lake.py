"""Measure a commit of the event lake beside the checkpoint's commit that follows it, in the same steps of the same controller.

    python -m benchmarks.lake [--quick]

Every round appends so many events to a log in memory and runs one micro-batch that learns nothing and commits: 1,000 and 20,000 events of one
day, and 20,000 events spread over 200 days, each of which is a partition and a file of its own. Then: merging and a recount of what was
written. The last line is one flat JSON object: lake_<rows>_ms, checkpoint_<rows>_ms (medians).
"""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from unittest.mock import patch

from benchmarks._common import arguments, facts, finish
from streamrec.clock import ManualClock
from streamrec.config import parse_config
from streamrec.events.codec import encode
from streamrec.events.schema import EventId, Interaction, ItemId, UserId
from streamrec.log.base import Record
from streamrec.log.memory import MemoryLog
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.plan import Plan, take_ranges
from streamrec.pipeline.wiring import build_local

NOW_MS = 1_700_000_000_000
DAY_MS = 86_400_000
SIZES = {"1k": (1000, 1), "20k": (20_000, 1), "20k_200_days": (20_000, 200)}


def main() -> None:
    """Run the benchmark."""
    options = arguments(__doc__ or "")
    logging.getLogger("streamrec").setLevel(logging.ERROR)
    rounds = 3 if options.quick else 9
    with tempfile.TemporaryDirectory(prefix="streamrec-bench-") as folder:
        small = {"teachers": {"enabled": []}, "student": {"control": False}, "features": {"lateness_s": "3650d"}}
        config = parse_config({"state": folder, **small, "lake": {"optimize_every": 0}})
        log = MemoryLog()
        log.ensure_topic(config.log.events_topic, 2)
        controller = build_local(config, log, folder, ManualClock(NOW_MS), dead_letters=log)
        controller.recover()
        commit(controller, log, 20_000, 1)  # Warms up.
        result: dict[str, float | int | None] = {}
        for name, (num, days) in SIZES.items():
            lake, checkpoint = zip(*(commit(controller, log, num, days) for _ in range(rounds)), strict=True)
            result |= {f"lake_{name}_ms": statistics.median(lake) * 1000, f"checkpoint_{name}_ms": statistics.median(checkpoint) * 1000}
        table = controller.parts.lake.lake if controller.parts.lake is not None else None
        assert table is not None
        for name, work in (("optimize", table.optimize), ("recount", lambda: table.held(controller.state.batch, {}))):
            began = time.perf_counter()
            work()
            result[f"{name}_ms"] = (time.perf_counter() - began) * 1000
        about = table.info()
    finish(result, facts(rounds=rounds, rows=about["rows"], files=about["files"], bytes=about["bytes"]))


def commit(controller: Controller, log: MemoryLog, num: int, days: int) -> tuple[float, float]:
    """Run one step of ``num`` events and return the seconds of the lake's and of the checkpoint's commit."""
    topic, first = controller.config.log.events_topic, controller.state.counts["received"]
    times = [NOW_MS - n % days * DAY_MS for n in range(first, first + num)]
    events = [Interaction(EventId(f"e{n}"), UserId(f"u{n % 5003}"), ItemId(f"i{n % 997}"), "click", at) for n, at in enumerate(times, first)]
    log.append(topic, [Record(event.user_id.encode(), encode(event)) for event in events])
    lake = controller.parts.lake
    assert lake is not None
    spent: list[float] = []

    def timed(now_ms: int, commit: Callable[[int], None] = lake.commit) -> None:
        began = time.perf_counter()
        commit(now_ms)
        spent.append(time.perf_counter() - began)

    ranges = take_ranges(topic, controller.state.offsets, controller.intake.ends(), num)
    choice = {"now_ms": NOW_MS, "seed": 0, "evaluate": False, "new_passes": 0, "publish": False, "checkpoint": True}
    plan = Plan.model_validate({"batch": controller.state.batch + 1, "ranges": ranges, **choice})
    with patch.object(lake, "commit", timed):
        report = controller.run(plan)
    return spent[0], report.seconds["checkpoint"] - spent[0]


if __name__ == "__main__":
    main()
