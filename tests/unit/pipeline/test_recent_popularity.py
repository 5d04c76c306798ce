"""What is popular is what was used lately, by event time, and a version says over which time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamrec.clock import ManualClock
from streamrec.log.base import Record
from streamrec.serving.answers import Answerer
from streamrec.serving.recommender import Recommender
from streamrec.serving.requests import RecommendRequest
from streamrec.serving.slot import ModelSlot

World = Any
NOW_MS = 1_700_000_000_000
HOUR_MS = 3_600_000


@pytest.fixture
def past(make_record: Callable[..., Record]) -> list[Record]:
    """Ten hours ago i0 was used twice as often as i1 is now."""
    then = [make_record(f"u{n % 9}", f"i{n % 3 // 2 * 2}", n, event_time=NOW_MS - 10 * HOUR_MS + n) for n in range(60)]
    return [*then, *(make_record(f"u{n % 9}", "i1", 100 + n, event_time=NOW_MS + n) for n in range(20))]


def played(make_world: Callable[..., World], past: list[Record], folder: Path, half_life: str) -> tuple[World, Recommender, dict[str, Any]]:
    features = {"popular_half_life_s": half_life, "lateness_s": "36500d"}
    world = make_world(past, {"teachers": {"enabled": []}, "student": {"control": False}, "features": features}, folder=folder)
    world.clock = ManualClock(NOW_MS + HOUR_MS)
    world.play(controller := world.controller())
    assert controller.components()["recent_uses"].digest() == world.controller().components()["recent_uses"].digest()
    registry = world.registry()
    name = registry.versions()[-1]
    loaded = registry.load(name)
    model = ModelSlot().load(registry.manifest(name).model_dump(mode="json"), loaded.arrays, loaded.meta)
    return world, model.recommender, Answerer(None, world.clock).answer(RecommendRequest("nobody", "default", n=3), model, "r")


@pytest.mark.parametrize(("half_life", "order", "score"), [("1h", ["i1", "i0", "i2"], 20.0), ("36500d", ["i0", "i1", "i2"], 40.0)])
def test_popular_is_what_was_used_lately(make_world: Any, past: list[Record], tmp_path: Path, half_life: str, order: list[str], score: float) -> None:
    _, recommender, answer = played(make_world, past, tmp_path / "state", half_life)
    assert [item["item_id"] for item in answer["items"]] == order
    assert answer["items"][0]["score"] == pytest.approx(score, rel=1e-2)
    assert (answer["source"], answer["popularity"]["half_life_s"]) == ("popular", 3600.0 if half_life == "1h" else 36_500 * 86_400.0)
    assert NOW_MS <= answer["popularity"]["as_of_ms"] < NOW_MS + 20
    rows = recommender.catalog.rows_of("default", ["i0", "i1"])
    assert recommender.popularity(rows)[0] > 0
    np.testing.assert_allclose(recommender.popular(3)[1], [item["score"] for item in answer["items"]], atol=1e-6)


def test_a_deleted_users_uses_are_taken_back(make_world: Any, past: list[Record], tmp_path: Path) -> None:
    world, before, _ = played(make_world, past, tmp_path / "state", "1h")
    event = b'{"kind": "deletion", "event_id": "d", "user_id": "u1", "event_time": %d}' % (NOW_MS + 1000)
    world.append([Record(b"u1", event)])
    world.play(controller := world.controller())
    rows = before.catalog.rows_of("default", ["i1"])
    ingest = controller.ingest
    counts = ingest.recent.counts(ingest.popularity.counts(len(ingest.vocabulary))) * ingest.recent.facts()["factor"]
    assert 0 < counts[rows[0]] < before.popularity(rows)[0] - 1
