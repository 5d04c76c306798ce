"""A version tells who among the teachers expects an item, and an explanation shows it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from streamrec.log.base import Record
from streamrec.pipeline.bootstrap import bootstrap
from streamrec.serving.bodies import RankBody
from streamrec.serving.checks import RequestLimits
from streamrec.serving.full_answers import FullAnswerer
from streamrec.serving.requests import parse_recommend
from streamrec.serving.slot import LiveModel, ModelSlot
from streamrec.soft_labels.say import say_of

World = Any


def played(make_world: Any, make_record: Callable[..., Record], folder: Path, teachers: list[str]) -> tuple[World, LiveModel]:
    records = [make_record(f"u{number % 7}", f"i{number * 3 % 10}", number) for number in range(200)]
    world = make_world(records, {"teachers": {"enabled": teachers}, "student": {"control": False}}, folder=folder)
    bootstrap(controller := world.controller(), world.log.latest(world.config.log.events_topic))
    registry = world.registry()
    loaded, manifest = registry.load(registry.live()), registry.manifest(registry.live())
    found = say_of(controller.labelling.store)
    assert (found is None) == ("label_rows" not in loaded.arrays)
    if found is not None:
        np.testing.assert_array_equal(loaded.arrays["label_rows"], found.rows)
    return world, ModelSlot().load(manifest.model_dump(mode="json"), loaded.arrays, loaded.meta)


def test_an_explanation_tells_each_teachers_say_for_the_item(make_world: Any, make_record: Callable[..., Record], tmp_path: Path) -> None:
    world, model = played(make_world, make_record, tmp_path / "state", ["repeats", "transitions", "neighbours"])
    answerer = FullAnswerer(None, world.clock)
    asked = orjson.dumps({"history": ["i1", "i4"], "n": 10, "exclude_seen": False, "explain": True})
    answer = answerer.answer(parse_recommend(asked, RequestLimits()), model, "r")
    told = [item["teachers"] for item in answer["items"] if "teachers" in item]
    assert told
    assert all(set(parts) <= {"repeats", "transitions", "neighbours"} and sum(parts.values()) == pytest.approx(1, abs=0.01) for parts in told)
    assert set(answer["labels"]["teachers"]) >= set(told[0])
    assert answer["labels"]["queries"] > 0
    ranked = answerer.rank(RankBody(history=["i1", "i4"], candidates=["i1"], explain=True), "default", model, "r")
    (first,) = [item["teachers"] for item in answer["items"] if item["item_id"] == "i1"]
    assert (ranked["items"][0]["teachers"], ranked["labels"]) == (first, answer["labels"])


def test_without_teachers_nobody_has_a_say(make_world: Any, make_record: Callable[..., Record], tmp_path: Path) -> None:
    world, model = played(make_world, make_record, tmp_path / "state", [])
    asked = orjson.dumps({"history": ["i1"], "n": 10, "explain": True})
    answer = FullAnswerer(None, world.clock).answer(parse_recommend(asked, RequestLimits()), model, "r")
    assert ("labels" in answer, any("teachers" in item for item in answer["items"])) == (False, False)
