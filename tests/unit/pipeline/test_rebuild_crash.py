"""A rebuild whose process dies: at changes of storage in every phase of it, and at a step."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from streamrec.config import parse_config
from streamrec.log.base import Record
from streamrec.log.memory import MemoryLog
from streamrec.log.offsets import OffsetRange
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.lineage import current_lineage
from streamrec.storage import LocalStorage

World = Any
NOW_MS = 1_700_000_000_000
TOPIC = parse_config({}).log.events_topic
MORE: dict[str, dict[str, Any]] = {"teachers": {"enabled": ["linear"]}, "pipeline": {"max_batch_events": 30, "min_batch_events": 30}}
READ = ("histories", "vocabulary", "popularity", "window", "dedupe")


class Killed(BaseException):
    """The process is gone."""


def test_what_an_earlier_run_began_with_other_settings_is_removed(plain: World) -> None:
    world = plain
    world.change(student={"dim": 12})

    def kill(_: object) -> None:
        raise Killed

    with pytest.raises(Killed):
        world.rebuild(on_step=kill).run()
    assert (world.folder / "lineages" / "0002" / "checkpoint" / "HEAD").exists()
    world.change(student={"dim": 16})
    said: list[str] = []
    made = world.rebuild(say=said.append).run()
    assert made is not None
    assert "lineages/0002, which an earlier run began, is removed" in said
    assert world.registry().load(made.state.live).meta["dim"] == 16


def copy_of(log: MemoryLog) -> MemoryLog:
    result = MemoryLog()
    result.ensure_topic(TOPIC, len(log.partitions(TOPIC)))
    result.ensure_topic(parse_config({}).log.dead_letter_topic, 1)
    for partition, end in log.latest(TOPIC).items():
        rows = log.read_table([OffsetRange(TOPIC, partition, 0, end)])
        pairs = zip(rows["key"].to_pylist(), rows["value"].to_pylist(), strict=True)
        result.append(TOPIC, [Record(key, value, partition=partition) for key, value in pairs])
    return result


@dataclass
class Process:
    """A rebuild in a process of its own: counts what it changes on storage, and dies at one such change."""

    world: World
    more: list[Record]
    fail_at: int | None = None
    phases: list[str] = field(default_factory=lambda: ["looking"])
    changes: list[str] = field(default_factory=list)

    def say(self, line: str) -> None:
        self.phases.append(line)
        if line.startswith("catching up"):  # The log goes on meanwhile.
            self.world.append(self.more)
            self.more.clear()

    def run(self, monkeypatch: pytest.MonkeyPatch) -> Controller | None:
        with monkeypatch.context() as patch:
            for name in ("write_new", "swap", "delete"):
                patch.setattr(LocalStorage, name, self.counted(getattr(LocalStorage, name)))
            return self.world.rebuild(say=self.say).run()

    def counted(self, change: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            if len(self.changes) == self.fail_at:
                raise Killed
            self.changes.append(self.phases[-1])
            return change(*arguments)

        return call


def test_killed_in_any_phase_it_leaves_the_live_lineage_alone_and_is_taken_up(
    plain: World, mixed: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = plain
    world.append(mixed[300:325])
    untouched, live = world.digests(world.controller(), ["stream", *READ]), world.registry().live()
    before, after = world.config, world.change(features={"history_length": 5}, student={"dim": 12}, **MORE).config

    def copy(name: str) -> World:
        log = copy_of(world.log)
        shutil.copytree(world.folder, tmp_path / name)
        return dataclasses.replace(world, folder=tmp_path / name, log=log)

    undisturbed = Process(copy("undisturbed"), list(mixed[325:]))
    expected = undisturbed.run(monkeypatch)
    assert expected is not None
    by_phase = {phase: [at for at, other in enumerate(undisturbed.changes) if other == phase] for phase in dict.fromkeys(undisturbed.changes)}
    assert len(by_phase) == len(undisturbed.phases) == 7
    for fail_at in sorted({at for places in by_phase.values() for at in (places[len(places) // 2], places[-1])}):
        disturbed = copy(f"killed-{fail_at}")
        killed = Process(disturbed, list(mixed[325:]), fail_at)
        with pytest.raises(Killed):
            killed.run(monkeypatch)
        if not current_lineage(str(disturbed.folder)).folder:
            assert disturbed.registry().live() == live
            old = dataclasses.replace(disturbed, config=before)
            assert world.digests(old.controller(), ["stream", *READ]) == untouched
        Process(disturbed, killed.more).run(monkeypatch)
        made = disturbed.current()
        assert world.digests(made, made.components()) == world.digests(expected, expected.components()), undisturbed.changes[fail_at]
        assert disturbed.registry().live() == made.state.live == expected.state.live
    assert after.student.dim == 12
