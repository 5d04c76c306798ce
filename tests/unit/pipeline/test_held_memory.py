from __future__ import annotations

import gc
import json
import logging
import sys
import threading
import types
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from streamrec.evaluation import baselines, curve
from streamrec.log.base import Record
from streamrec.pipeline import saving, stream_state
from streamrec.pipeline.controller import Controller
from streamrec.soft_labels import store

World = Any
SHARED = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.CodeType, types.FrameType, logging.Logger, threading.Thread)

KEPT, EVENTS, BOUND = 4, 60, 120
BASKETS = 5 * EVENTS

FULL_SOON: dict[str, dict[str, Any]] = {
    "features": {"dedupe_horizon": BOUND, "lateness_s": 60.0, "dedupe_horizon_s": 60.0},
    "teachers": {"enabled": ["linear"], "linear_refresh_events": EVENTS},
    "student": {"replay_capacity": BOUND, "control": False},
    "pipeline": {"checkpoint_interval_s": 0.0},
    "lake": {"optimize_every": 0},
    "registry": {"keep_last": 2, "keep_for_s": 0.0},
}
"""What is bounded is full after a few steps, and each step or two has a refresh, a version and a commit."""


def held(root: object, but: object) -> tuple[int, int, Counter[str]]:
    """Objects that are reached from a root, less what belongs to every process; the bytes that they hold; how many there are of each class."""
    seen, waiting, num_bytes, classes = {id(but)}, [root], 0, Counter[str]()
    while waiting:
        found = waiting.pop()
        if id(found) in seen or isinstance(found, SHARED):
            continue
        seen.add(id(found))
        num_bytes += sys.getsizeof(found) + (found.untyped_storage().nbytes() if isinstance(found, torch.Tensor) else 0)
        classes[type(found).__name__] += 1
        waiting += gc.get_referents(found)
    return len(seen), num_bytes, classes


def lots() -> Iterator[list[Record]]:
    """Six users and ten items for ever, each in its turn, so that a state that is full has one size."""
    number = 0
    while True:
        yield [record(f"u{n % 6}", f"i{n * 7 % 10}", n) for n in range(number, number + EVENTS)]
        number += EVENTS


def record(user: str, item: str, number: int) -> Record:
    event = {"event_id": f"e{number:09d}", "user_id": user, "item_id": item, "event_type": "click", "event_time": 1_699_999_000_000 + 10 * number}
    return Record(user.encode(), json.dumps(event).encode())


def stretch(world: World, controller: Controller, source: Iterator[list[Record]], num_steps: int) -> list[tuple[int, int, Counter[str]]]:
    """Make steps and look at what the controller holds after each."""
    looks, topic = [], world.config.log.events_topic
    for _ in range(num_steps):
        world.append(next(source))
        assert controller.step() is not None
        world.clock.advance(1.0)
        world.log.drop_before(topic, world.log.latest(topic))
        looks.append(held(controller, but=world.log))
    return looks


@pytest.fixture
def full_world(make_world: Callable[..., World], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(saving, "MAX_DELTAS", KEPT)
    monkeypatch.setattr(stream_state, "KEPT_LABELS", KEPT)
    monkeypatch.setattr(store, "MANY_VERSIONS", KEPT)
    monkeypatch.setattr(baselines, "RECENT_BASKETS", BASKETS)
    monkeypatch.setattr(curve, "MOST_POINTS", KEPT)
    return make_world(settings=FULL_SOON, folder=tmp_path / "state")


def test_once_its_bounds_are_reached_a_controller_holds_as_much_after_twice_as_many_steps(full_world: World) -> None:
    controller, source = full_world.controller(), lots()
    stretch(full_world, controller, source, 2 * BASKETS // EVENTS)
    # What a commit names rises and falls, because deltas are joined with their base after some commits, and a new teacher is compared for some steps.
    first, second = (stretch(full_world, controller, source, 8 * KEPT) for _ in range(2))
    before, after = (max(looks, key=lambda look: look[0]) for looks in (first, second))
    # A count becomes an object when it passes what Python shares, and a curve's points come and go; what a step leaves behind would be as many as
    # there were steps, 8 * KEPT.
    assert after[0] < before[0] + 4 * KEPT, after[2] - before[2]
    assert max(look[1] for look in second) <= 1.001 * max(look[1] for look in first)


def test_labels_are_counted_by_version_for_the_newest_versions_only(full_world: World) -> None:
    controller, source = full_world.controller(), lots()
    num_labelled, versions = 0, set()
    while len(versions) < 2 * KEPT:
        full_world.append(next(source))
        report = controller.step()
        full_world.clock.advance(1.0)
        version = report.plan.teachers.get("linear")
        num_labelled, versions = num_labelled + (report.num_queries if version else 0), versions | {version} - {None}
    assert len(controller.state.labels) == KEPT + 1
    assert sum(controller.state.labels.values()) == num_labelled
    assert f"linear {controller.state.teachers['linear']}" in controller.state.labels
