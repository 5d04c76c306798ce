"""Play a file through the very controller and learner that serve a stream, with an in-memory log and an injected clock."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from streamrec.clock import ManualClock
from streamrec.config import Config
from streamrec.errors import DatasetError
from streamrec.evaluation.protocols import Blocks, cut
from streamrec.evaluation.ranking import METRICS
from streamrec.events.codec import encode_table
from streamrec.events.datasets import Dataset
from streamrec.events.meaning import TARGET, roles_of
from streamrec.features.dedupe import hash_key
from streamrec.features.examples import Examples
from streamrec.log.base import Record
from streamrec.log.memory import MemoryLog
from streamrec.pipeline.plan import Plan, PlannedRange
from streamrec.pipeline.report import StepReport
from streamrec.pipeline.temporary import temporary_folder
from streamrec.pipeline.wiring import build_local

BASE_STEPS = 4
"""The base is learned in so many steps, so that after the first one teachers can label events that they have not seen."""


@dataclass
class BacktestResult:
    """Hold what a backtest found.

    Attributes:
        protocol: Its name.
        blocks: Per test block, model name to metric means.
        queries: Queries of each test block.
        metrics: Model name to metric means over blocks, each block counting once.
        seconds: ``teachers`` (refresh and scoring), ``student`` (learning, the control included), ``evaluation``.
    """

    protocol: str
    blocks: list[dict[str, dict[str, float]]] = field(default_factory=list)
    queries: list[int] = field(default_factory=list)
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("teachers", "student", "evaluation"), 0.0))

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return {
            "protocol": self.protocol,
            "metrics": self.metrics,
            "blocks": len(self.blocks),
            "queries": sum(self.queries),
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
        }


def run_backtest(
    dataset: Dataset,
    config: Config,
    protocol: str,
    *,
    max_blocks: int | None = None,
    num_threads: int | None = None,
    on_step: Callable[[int, int, dict[str, dict[str, float]]], None] = lambda done, total, metrics: None,
) -> BacktestResult:
    """Play a dataset block by block: each block is scored as a whole, then learned, then the teachers refresh.

    A block is learned with ``student.bootstrap_passes`` passes, as offline protocols do; a stream, whose micro-batches are far smaller, takes
    ``student.new_passes``.

    Args:
        dataset: Events in file order of time.
        config: The resolved configuration; no enabled teachers backtests the student on events alone.
        protocol: See `streamrec.evaluation.protocols`.
        max_blocks: Stop after so many test blocks.
        num_threads: Of torch meanwhile; None takes all cores.
        on_step: Called after each step with (steps done, steps in all, metrics of the block or nothing).

    Raises:
        DatasetError: The file does not fit the protocol, or leaves nothing to test.
    """
    blocks = cut(dataset.events, protocol, roles_of(dataset.events, config.events.meanings)[0] == TARGET)
    last = int(blocks.block.max(initial=0))
    last = last if max_blocks is None else min(last, max_blocks)
    config = config.model_copy(
        update={"features": config.features.model_copy(update={"lateness_s": 1e12, "max_users": 10**9, "max_items": 2**31 - 1})}
    )
    with temporary_folder("backtest-") as folder, _threads_restored():
        player = _Player(dataset, config, blocks, str(folder))
        torch.set_num_threads(num_threads or os.cpu_count() or 1)  # The scorer has asked for one, as suits an actor beside others.
        result = BacktestResult(protocol)
        for number in range(BASE_STEPS):
            report = player.play(player.base_part(number), evaluate=False, learn=True)
            _add_seconds(result, report)
            on_step(number + 1, BASE_STEPS + last, {})
        for number in range(1, last + 1):
            report = player.play(blocks.of_block(number), evaluate=True, learn=number < last)
            _add_seconds(result, report)
            metrics = {name.removeprefix("teachers."): values for name, values in report.metrics.items() if values}
            result.blocks.append(metrics)
            result.queries.append(report.num_queries)
            on_step(BASE_STEPS + number, BASE_STEPS + last, metrics)
    if not sum(result.queries):
        what = "Dataset: nothing to test, no block has a user with a history and a target"
        got = f"{dataset.events.num_rows} events in {last} blocks"
        raise DatasetError(what, got=got, do="give a longer file, or one whose users come back")
    result.metrics = _mean_of_blocks(result.blocks)
    return result


@contextmanager
def _threads_restored() -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Player:
    """Append a block's events to an in-memory log and have the controller execute one plan over them."""

    def __init__(self, dataset: Dataset, config: Config, blocks: Blocks, folder: str) -> None:
        self.config = config
        self._events = dataset.events
        self._blocks = blocks
        self._log = MemoryLog()
        self._topic = config.log.events_topic
        self._log.ensure_topic(self._topic, 1)
        clock = ManualClock(int(dataset.events["event_time"].to_numpy().max()) + 1)
        self._clock = clock
        self.controller = build_local(config, self._log, folder, clock, durable=False)
        self.controller.parts.known_only = blocks.known_only
        self._seen: dict[int, NDArray[np.int32]] = {}
        if blocks.mask_seen:
            self.controller.parts.seen = self._seen_of
        self._items = dataset.items

    def base_part(self, number: int) -> NDArray[np.int64]:
        """Return the events of one of the base's steps; a basket stays whole where it lies in one step's reach."""
        return np.array_split(self._blocks.of_block(0), BASE_STEPS)[number]

    def play(self, positions: NDArray[np.int64], *, evaluate: bool, learn: bool) -> StepReport:
        """Execute one plan over the events at ``positions``."""
        controller, config = self.controller, self.config
        start = self._log.latest(self._topic)[0]
        if self._items is not None:
            self._append(self._items)
            self._items = None
        events = self._events.take(pa.array(positions))
        self._append(events)
        if evaluate and self._blocks.mask_seen:
            self._remember_seen()
        batch = controller.state.batch + 1
        plan = Plan(
            batch=batch,
            ranges=(PlannedRange(topic=self._topic, partition=0, start=start, end=self._log.latest(self._topic)[0]),),
            now_ms=self._clock.now_ms(),
            seed=(config.seed * 1_000_003 + batch) % 2**31,
            evaluate=evaluate,
            new_passes=config.student.bootstrap_passes if learn else 0,
            replay_passes=config.student.replay_passes,
            teachers=self._newest_teachers(),
            start_refresh=config.teachers.refreshed if learn else (),
            publish=False,
        )
        report = controller.step(plan)
        assert report is not None
        return report

    def _newest_teachers(self) -> dict[str, str]:
        pending = self.controller.state.pending
        return {**self.controller.state.teachers, **pending}

    def _append(self, table: pa.Table) -> None:
        keys, values = encode_table(table)
        self._log.append(self._topic, [Record(key, value) for key, value in zip(keys, values, strict=True)])

    def _remember_seen(self) -> None:
        """Note every user's items outside the test, also those that histories no longer hold."""
        events = self._events.take(pa.array(self._blocks.seen))
        namespace = self.config.events.namespace
        rows = self.controller.ingest.vocabulary.rows_for([namespace] * events.num_rows, events["item_id"].to_pylist())
        users, index = np.unique(np.asarray(events["user_id"].to_pylist(), dtype=object), return_inverse=True)
        order = np.argsort(index, kind="stable")
        parts = np.split(rows[order], np.cumsum(np.bincount(index))[:-1])
        self._seen = {hash_key(namespace, user): np.unique(part) for user, part in zip(users.tolist(), parts, strict=True)}

    def _seen_of(self, examples: Examples) -> list[NDArray[np.int32]]:
        nothing = np.zeros(0, np.int32)
        return [self._seen.get(user, nothing) for user in examples.user.tolist()]


def _add_seconds(result: BacktestResult, report: StepReport) -> None:
    for name, stages in (("teachers", ("label", "refresh")), ("student", ("learn",)), ("evaluation", ("evaluate",))):
        result.seconds[name] += sum(report.seconds[stage] for stage in stages)


def _mean_of_blocks(blocks: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    names = dict.fromkeys(name for block in blocks for name in block)
    result = {}
    for name in names:
        held = [block[name] for block in blocks if name in block]
        result[name] = {metric: float(np.mean([values[metric] for values in held])) for metric in METRICS}
    return result
