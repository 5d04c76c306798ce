"""Play a file through the very controller and learner that serve a stream, with an in-memory log and an injected clock."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from streamrec.clock import ManualClock
from streamrec.config import Config
from streamrec.errors import ConfigError, DatasetError
from streamrec.evaluation.curve import GAIN
from streamrec.evaluation.protocols import Blocks, cut
from streamrec.evaluation.ranking import METRICS
from streamrec.events.codec import encode_table
from streamrec.events.datasets import Dataset
from streamrec.events.meaning import TARGET, roles_of
from streamrec.events.replay import fingerprint
from streamrec.features.dedupe import hash_key
from streamrec.features.examples import Examples
from streamrec.log.base import Record
from streamrec.log.memory import MemoryLog
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.plan import Plan, PlannedRange
from streamrec.pipeline.report import StepReport
from streamrec.pipeline.retention import Retention
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
        errors: Per test block, model name to the standard error of its mean Recall@20.
        metrics: Model name to metric means over blocks, each block counting once.
        seconds: ``teachers`` (refresh and scoring), ``student`` (learning, the control included), ``evaluation``.
        forgetting: The students' learning and retained accuracy (`streamrec.evaluation.forgetting`), Recall@20 on up to 1,000 queries a block; empty
            without two blocks, and where the backtest went on from an earlier process.
    """

    protocol: str
    blocks: list[dict[str, dict[str, float]]] = field(default_factory=list)
    queries: list[int] = field(default_factory=list)
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("teachers", "student", "evaluation"), 0.0))
    forgetting: dict[str, dict[str, float]] = field(default_factory=dict, compare=False)
    errors: list[dict[str, float]] = field(default_factory=list)

    def add(self, report: StepReport, metrics: dict[str, dict[str, float]] | None, errors: Mapping[str, float]) -> None:
        """Add a step; ``metrics`` and ``errors`` are those of a test block, None for a step of the base."""
        for name, stages in (("teachers", ("label", "refresh")), ("student", ("learn",)), ("evaluation", ("evaluate",))):
            self.seconds[name] += sum(report.seconds[stage] for stage in stages)
        if metrics is not None:
            self.blocks.append(metrics)
            self.queries.append(report.num_queries)
            self.errors.append({_bare(name): error for name, error in errors.items()})

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return {
            "protocol": self.protocol,
            "metrics": self.metrics,
            "blocks": len(self.blocks),
            "queries": sum(self.queries),
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            "forgetting": self.forgetting,
            "per_block": self._per_block(),
        }

    def _per_block(self) -> dict[str, Any]:
        """Return the course: queries of each block, each model's Recall@20 and standard error, None where there is none; of `GAIN` the error."""
        means = {name: [block.get(name, {}).get("recall@20") for block in self.blocks] for name in self.metrics}
        errors = {name: [block.get(name) for block in self.errors] for name in [*self.metrics, GAIN]}
        return {"queries": self.queries, "recall@20": means, "errors": errors}


def run_backtest(
    dataset: Dataset,
    config: Config,
    protocol: str,
    *,
    max_blocks: int | None = None,
    num_threads: int | None = None,
    folder: Path | None = None,
    on_step: Callable[[int, int, dict[str, dict[str, float]]], None] = lambda done, total, metrics: None,
    prepare: Callable[[Controller, str], None] = lambda controller, state_url: None,
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
        folder: Keep the state there after each step: the same backtest goes on from it, also after a crash, and ends the same.
        on_step: Called after each step with (steps done, steps in all, metrics of the block or nothing).
        prepare: Called with a controller that is made, and the address of its state, before it takes a step: to exchange parts of it.

    Raises:
        DatasetError: The file does not fit the protocol, or leaves nothing to test.
        ConfigError: The folder holds another backtest.
    """
    blocks = cut(dataset.events, protocol, roles_of(dataset.events, config.events.meanings)[0] == TARGET)
    last = int(blocks.block.max(initial=0))
    last = last if max_blocks is None else min(last, max_blocks)
    unbounded = config.features.model_copy(update={"lateness_s": 1e12, "max_users": 10**9, "max_items": 2**31 - 1})
    config = config.model_copy(update={"features": unbounded, "lake": config.lake.model_copy(update={"enabled": False})})
    steps = [*((0, part) for part in range(BASE_STEPS)), *((number, 0) for number in range(1, last + 1))]
    about = {"events": fingerprint(dataset.events), "protocol": protocol, "last": last, "config": config.model_dump(mode="json")}

    def player(place: str) -> _Player:
        made = _Player(dataset, config, blocks, place, durable=folder is not None)
        prepare(made.controller, place)
        return made

    with temporary_folder("backtest-") if folder is None else nullcontext(folder) as place, threads_restored():
        playing, kept, done, result = _begun(player, Path(place), about if folder is not None else None, protocol)
        torch.set_num_threads(num_threads or os.cpu_count() or 1)  # The scorer has asked for one, as suits an actor beside others.
        for step, (number, part) in enumerate(steps, 1):
            positions = blocks.of_block(number) if number else playing.base_part(part)
            if step <= done:
                playing.skip(positions)
                continue
            report = playing.play(positions, evaluate=number > 0, learn=number < last or not number)
            metrics = {_bare(name): values for name, values in report.metrics.items() if values}
            result.add(report, metrics if number else None, playing.controller.progressive.errors())
            if 0 < number < last:
                playing.retention.learned()
            if step == len(steps) and done <= BASE_STEPS:
                result.forgetting = playing.retention.at_the_end()
            if kept is not None:
                kept.save(result, step)
            on_step(step, len(steps), metrics)
    if not sum(result.queries):
        what = "Dataset: nothing to test, no block has a user with a history and a target"
        got = f"{dataset.events.num_rows} events in {last} blocks"
        raise DatasetError(what, got=got, do="give a longer file, or one whose users come back")
    result.metrics = _mean_of_blocks(result.blocks)
    return result


def _bare(model: str) -> str:
    return model.removeprefix("teachers.")


def _begun(
    player: Callable[[str], _Player], place: Path, about: dict[str, Any] | None, protocol: str
) -> tuple[_Player, _Kept | None, int, BacktestResult]:
    """Return who plays, what keeps its results (None without ``about``), how many steps are done, and what they found."""
    kept = None if about is None else _Kept(place / "result.json", about)
    playing = player(str(place))
    done = playing.recover()
    if kept is not None and about is not None and done > kept.steps:  # It was killed after a step's state was durable and before its result was.
        shutil.rmtree(place)
        kept = _Kept(place / "result.json", about)
        playing = player(str(place))
        done = playing.recover()
    return playing, kept, done, kept.load(done) if kept is not None and done else BacktestResult(protocol)


@contextmanager
def threads_restored() -> Iterator[None]:
    """Give torch back as many threads as it had: what runs in between chooses its own."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Kept:
    """Keep what the steps so far have found beside the state that they have left.

    Attributes:
        steps: Of so many there was a result before.
    """

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        self._path, self._about = path, about
        if not path.exists():
            if path.parent.exists() and any(path.parent.iterdir()):
                what = f"Backtest: {path.parent} holds something else"
                raise ConfigError(what, got="files, and no result.json", allowed="an empty folder or a backtest's", do="give another folder")
            self.save(BacktestResult(about["protocol"]), 0)
        held: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if held["about"] != about:
            what = f"Backtest: {path.parent} holds another one"
            raise ConfigError(what, got="other events, protocol, blocks or settings", do="give another folder, or remove it")
        self._held = held
        self.steps = int(held["steps"])

    def load(self, done: int) -> BacktestResult:
        """Return the result of the first ``done`` steps; no more than `steps`."""
        held, num_blocks = self._held["result"], max(0, done - BASE_STEPS)
        blocks, queries = held["blocks"][:num_blocks], held["queries"][:num_blocks]
        errors = held.get("errors", [])[:num_blocks]
        return BacktestResult(held["protocol"], blocks, queries, seconds=held["seconds"], forgetting=held.get("forgetting", {}), errors=errors)

    def save(self, result: BacktestResult, steps: int) -> None:
        """Write the result so far in one move."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps({"about": self._about, "steps": steps, "result": asdict(result)}), encoding="utf-8")
        temporary.replace(self._path)


class _Player:
    """Append a block's events to an in-memory log and have the controller execute one plan over them."""

    def __init__(self, dataset: Dataset, config: Config, blocks: Blocks, folder: str, *, durable: bool) -> None:
        self.config = config
        self._events = dataset.events
        self._blocks = blocks
        self._log = MemoryLog()
        self._topic = config.log.events_topic
        self._log.ensure_topic(self._topic, 1)
        clock = ManualClock(int(dataset.events["event_time"].to_numpy().max()) + 1)
        self._clock = clock
        self._is_durable = durable
        self.controller = build_local(config, self._log, folder, clock, durable=durable)
        self.controller.parts.known_only = blocks.known_only
        self.retention = Retention(self.controller.parts)
        self._seen: dict[int, NDArray[np.int32]] = {}
        if blocks.mask_seen:
            self.controller.parts.seen = self._seen_of
        self._items = dataset.items

    def base_part(self, number: int) -> NDArray[np.int64]:
        """Return the events of one of the base's steps; a basket stays whole where it lies in one step's reach."""
        return np.array_split(self._blocks.of_block(0), BASE_STEPS)[number]

    def recover(self) -> int:
        """Go back to the last step whose state is durable, and return how many steps that were."""
        self.controller.recover()
        return self.controller.state.batch

    def skip(self, positions: NDArray[np.int64]) -> None:
        """Append what a step before the recovered state has read."""
        if self._items is not None:
            self._append(self._items)
            self._items = None
        self._append(self._events.take(pa.array(positions)))

    def play(self, positions: NDArray[np.int64], *, evaluate: bool, learn: bool) -> StepReport:
        """Execute one plan over the events at ``positions``."""
        controller, config = self.controller, self.config
        start = self._log.latest(self._topic)[0]
        self.skip(positions)
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
            rounds=config.student.bootstrap_rounds,
            replay_passes=config.student.replay_passes,
            teachers=self._newest_teachers(),
            start_refresh=config.teachers.refreshed if learn else (),
            publish=False,
            checkpoint=self._is_durable,
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


def _mean_of_blocks(blocks: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    names = dict.fromkeys(name for block in blocks for name in block)
    result = {}
    for name in names:
        held = [block[name] for block in blocks if name in block]
        result[name] = {metric: float(np.mean([values[metric] for values in held])) for metric in METRICS}
    return result
