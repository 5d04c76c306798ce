"""A small stream over an in-memory log, with controllers that can be abandoned and built again on the same state."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from streamrec.clock import ManualClock
from streamrec.config import Config, parse_config
from streamrec.log.base import Record, TableReader
from streamrec.log.memory import MemoryLog
from streamrec.pipeline.bootstrap import bootstrap
from streamrec.pipeline.checkpoint import CheckpointStore
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.layout import checkpoint_url, registry_url
from streamrec.pipeline.lineage import current_url
from streamrec.pipeline.plan_store import PlanStore
from streamrec.pipeline.rebuild import Rebuild
from streamrec.pipeline.report import StepReport
from streamrec.pipeline.wiring import build_local
from streamrec.registry.registry import Registry
from streamrec.storage import open_storage

NOW_MS = 1_700_000_000_000

SETTINGS: dict[str, Any] = {
    "log": {"num_partitions": 2},
    "features": {"history_length": 8, "words_per_item": 3, "word_buckets": 32, "dedupe_horizon": 4000, "lateness_s": 3600.0},
    "teachers": {
        "enabled": ["linear", "transformer", "repeats", "transitions", "neighbours"],
        "transformer": {"dim": 8, "num_layers": 1, "num_heads": 1, "sequence_length": 8, "batch_events": 64, "first_steps": 3, "refresh_steps": 2},
        "linear": {"max_items": 64, "ridge": 10.0},
        "transitions": {"max_partners": 8},
        "neighbours": {"max_sessions": 24, "session_length": 6, "sessions_per_item": 5, "num_neighbours": 8},
        "transformer_refresh_events": 45,
        "linear_refresh_events": 90,
        "refresh_earliest": 1.0,
        "retry_after_s": 1.0,
        "challenge_queries": 20,
        "window_events": 400,
    },
    "soft_labels": {"top_k": 6},
    "student": {"dim": 8, "batch_size": 32, "replay_capacity": 120, "bootstrap_passes": 1},
    "registry": {"gate_min_queries": 10},
    "pipeline": {"max_batch_events": 60, "checkpoint_interval_s": 3.0},
}


FAST: dict[str, dict[str, Any]] = {"teachers": {"enabled": []}, "student": {"control": False}}
"""No teachers and no control."""
READ = ("histories", "vocabulary", "popularity", "window", "dedupe")
"""Components that depend on what was read, and on nothing else."""


class Died(Exception):
    """Stands for the end of the process."""


class Deadly(CheckpointStore):
    """A store before whose commits the process dies."""

    def commit(self, *args: Any, **options: Any) -> Any:
        raise Died


@dataclasses.dataclass
class World:
    """A log with records, and the folder of a stream's state."""

    died: ClassVar[type[Exception]] = Died
    config: Config
    log: MemoryLog
    folder: Path
    clock: ManualClock = dataclasses.field(default_factory=lambda: ManualClock(NOW_MS))
    board: Any = None

    def append(self, records: Iterable[Record]) -> None:
        self.log.append(self.config.log.events_topic, list(records))

    def controller(self, reader: TableReader | None = None, **options: Any) -> Controller:
        controller = build_local(self.config, reader or self.log, str(self.folder), self.clock, dead_letters=self.log, board=self.board, **options)
        controller.recover()
        return controller

    def deadly(self) -> Controller:
        """A controller that dies (`died`) when the lake has committed and the checkpoint is about to."""
        parts = dataclasses.replace(self.controller().parts, checkpoints=Deadly(open_storage(checkpoint_url(str(self.folder)))))
        controller = Controller(parts)
        controller.recover()
        return controller

    def copy(self, folder: Path) -> World:
        """Return the same world in another folder, so that tests may begin where one has got to."""
        shutil.copytree(self.folder, folder)
        return dataclasses.replace(self, log=self.log.copy(), folder=folder, clock=ManualClock(self.clock.now_ms()))

    def registry(self) -> Registry:
        return Registry(open_storage(registry_url(str(self.folder))), clock=self.clock)

    @staticmethod
    def digests(controller: Controller, names: Iterable[str] = READ) -> dict[str, str]:
        return {name: controller.components()[name].digest() for name in names}

    def change(self, **sections: dict[str, Any]) -> World:
        """Go on with other settings in some sections."""
        values = self.config.model_dump(mode="json")
        self.config = parse_config({name: {**part, **sections.get(name, {})} if isinstance(part, dict) else part for name, part in values.items()})
        return self

    def at(self, url: str, reader: TableReader | None = None) -> Controller:
        """A controller of the state at an address, not recovered yet."""
        return build_local(self.config, reader or self.log, url, self.clock, dead_letters=self.log, board=self.board)

    def current(self) -> Controller:
        """What jobs.stream would drive."""
        controller = self.at(current_url(str(self.folder)))
        controller.recover()
        return controller

    def rebuild(self, **options: Any) -> Rebuild:
        def build(lineage_url: str, reader: TableReader, *, publishes: bool) -> Controller:
            controller = self.at(lineage_url, reader)
            if not publishes:
                controller.parts.publisher = None
            return controller

        values = {"dead_letters": self.log, "on_step": lambda report: None, "say": lambda line: None, **options}
        return Rebuild(self.config, str(self.folder), self.log, build, **values)

    def assert_killed_ends_alike(self, killed: World, num_steps: int) -> None:
        """Play this world whole; another one by the same plans, killed after some steps, must end in the same bits."""
        expected = self.controller()
        plans = PlanStore(open_storage(str(killed.folder)))
        for report in self.play(expected):
            plans.write(report.plan.model_dump(mode="json"), report.plan.batch)
        first = killed.controller()
        for _ in range(num_steps):
            first.step()
        again = killed.controller()
        while again.step() is not None:
            pass
        assert {name: part.digest() for name, part in again.components().items()} == {
            name: part.digest() for name, part in expected.components().items()
        }

    def play(self, controller: Controller) -> list[StepReport]:
        """Step until nothing is left, one second a step, then commit."""
        reports = []
        while (report := controller.step()) is not None:
            reports.append(report)
            self.clock.advance(1.0)
            if len(reports) > 500:
                pytest.fail("the stream does not come to an end")
        last = controller.finish()
        return reports if last is None else [*reports, last]


def record(user: str, item: str, number: int, **values: Any) -> Record:
    """An interaction; ``number`` makes its id and, a second each, its event time."""
    event = {"event_id": f"e{number}", "user_id": user, "item_id": item, "event_type": "click", "event_time": NOW_MS - 600_000 + 1000 * number}
    return Record(user.encode(), json.dumps(event | values).encode())


def mixed_records(num: int = 300) -> list[Record]:
    """Interactions of two namespaces that share ids, duplicates, late and bad records, item updates, removals and deletions."""
    records: list[Record] = []
    for number in range(num):
        user, item = f"u{number * 7 % 23}", f"i{(number * 5 + number // 11) % 31}"
        records.append(record(user, item, number, namespace="shop" if number % 5 == 0 else "default"))
        if number % 17 == 3:
            records.append(records[-1])
        if number % 29 == 4:
            records.append(Record(b"bad", b"{not json" + str(number).encode()))
        if number % 31 == 5:
            records.append(Record(user.encode(), json.dumps({"event_id": f"x{number}", "user_id": user}).encode()))
        if number % 37 == 6 and number > 100:  # In the first batch nothing is late.
            records.append(record(user, item, number, event_id=f"late{number}", event_time=NOW_MS - 30 * 86_400_000))
        if number % 19 == 2:
            update: dict[str, Any] = {"kind": "item_update", "event_id": f"t{number}", "item_id": f"i{number % 40}", "title": f"river {number}"}
            if number % 3 == 0:
                update["available"] = number % 2 == 0
            records.append(Record(b"i", json.dumps(update | {"event_time": NOW_MS - 600_000 + 1000 * number}).encode()))
        if number % 41 == 7:
            records.append(record(user, item, number, event_id=f"r{number}", event_type="remove"))
        if number % 97 == 60:
            gone = {"kind": "deletion", "event_id": f"d{number}", "user_id": user, "event_time": NOW_MS - 600_000 + 1000 * number}
            records.append(Record(user.encode(), json.dumps(gone).encode()))
    return records


@pytest.fixture(scope="session")
def mixed() -> list[Record]:
    return mixed_records()


@pytest.fixture(scope="session")
def make_record() -> Callable[..., Record]:
    return record


@pytest.fixture(scope="session")
def make_world() -> Callable[..., World]:
    def make(records: Iterable[Record] = (), settings: dict[str, dict[str, Any]] | None = None, *, folder: Path) -> World:
        merged = {name: {**SETTINGS.get(name, {}), **(settings or {}).get(name, {})} for name in {**SETTINGS, **(settings or {})}}
        config = parse_config(merged)
        log = MemoryLog()
        log.ensure_topic(config.log.events_topic, config.log.num_partitions)
        log.ensure_topic(config.log.dead_letter_topic, 1)
        world = World(config, log, folder)
        world.append(records)
        return world

    return make


@pytest.fixture
def plain(make_world: Callable[..., World], mixed: list[Record], tmp_path: Path) -> World:
    """A stream without teachers that has been bootstrapped and has read on since."""
    world = make_world(mixed[:250], FAST, folder=tmp_path / "state")
    controller = world.controller()
    bootstrap(controller, world.log.latest(world.config.log.events_topic))
    world.append(mixed[250:300])
    world.play(controller)
    return world


@pytest.fixture
def world(make_world: Callable[..., World], mixed: list[Record], tmp_path: Path) -> World:
    return make_world(mixed, folder=tmp_path / "state")
