"""A new item with a title: found by its words at once, in the next version, and never lost between the two."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamrec.events.codec import EventCodec
from streamrec.log.base import OffsetRange, Record
from streamrec.pipeline.controller import Controller
from streamrec.serving.bodies import SimilarBody
from streamrec.serving.full_answers import FullAnswerer
from streamrec.serving.history_view import HistoryView
from streamrec.serving.requests import RecommendRequest
from streamrec.serving.slot import LiveModel, ModelSlot

World = Any
NOW_MS = 1_700_000_000_000
SETTINGS: dict[str, dict[str, Any]] = {"teachers": {"enabled": []}, "student": {"control": False, "learning_rate": 0.02}}
KINDS = ("lamp", "chair")


def announced(item: str, title: str) -> Record:
    event = {"kind": "item_update", "event_id": f"said-{item}", "item_id": item, "event_time": NOW_MS - 500_000, "title": title}
    return Record(item.encode(), json.dumps(event).encode())


@pytest.fixture
def shop(make_world: Callable[..., World], make_record: Callable[..., Record], tmp_path: Path) -> World:
    """Users who stay with lamps, i0, i2 …, or with chairs."""
    said = [announced(f"i{number}", f"{KINDS[number % 2]} {number}") for number in range(10)]
    clicks = [make_record(f"u{number % 6}", f"i{2 * (number // 6 % 5) + number % 2}", number) for number in range(360)]
    return make_world([*said, *clicks], SETTINGS, folder=tmp_path / "state")


class Replica:
    """What a serving replica has: it follows the log and takes what is live."""

    def __init__(self, world: World) -> None:
        self.world, config = world, world.config
        self.view = HistoryView(config.features.history_length, 1000, config.events.meanings, EventCodec(config.events), world.clock)
        self.answerer = FullAnswerer(self.view, world.clock)
        self.slot = ModelSlot(warm_up=self.answerer.prepare)

    def follow(self) -> None:
        topic = self.world.config.log.events_topic
        for partition, end in self.world.log.latest(topic).items():
            self.view.apply(self.world.log.read_table([OffsetRange(topic, partition, 0, end)]))

    def take(self, version: str | None = None) -> LiveModel:
        registry = self.world.registry()
        name = version or registry.live()
        found = registry.load(name)
        return self.slot.load(registry.manifest(name).model_dump(mode="json"), found.arrays, found.meta)

    def similar(self, item: str, n: int = 20) -> list[str]:
        assert self.slot.current is not None
        found = self.answerer.similar(SimilarBody(like=[item]), "default", n, self.slot.current, "r")
        return [one["item_id"] for one in found["items"]]


def wait(world: World, controller: Controller, seconds: int = 12) -> list[str]:
    """Let a stream run for a while and return what it published."""
    published = []
    for _ in range(seconds):
        report = controller.step()
        published += [] if report is None or report.published is None else [report.published]
        world.clock.advance(1.0)
    return published


def test_words_alone_are_published_once_and_a_crash_changes_nothing(shop: World) -> None:
    world = shop
    world.play(controller := world.controller())
    wait(world, controller)
    assert wait(world, controller) == []
    world.append([announced("new", "a lamp")])
    assert len(wait(world, controller)) == 1
    world.append(
        [Record(b"new", json.dumps({"kind": "item_update", "event_id": "p", "item_id": "new", "event_time": NOW_MS, "price": 3.0}).encode())]
    )
    assert wait(world, controller) == []  # A price is in no version.
    controller.finish()
    again = world.controller()
    assert wait(world, again) == []
    assert again.state.digest() == controller.state.digest()


def test_a_new_item_with_a_title_is_found_at_once_and_is_in_the_next_version(shop: World) -> None:
    world = shop
    world.play(controller := world.controller())
    replica = Replica(world)
    before = replica.take()
    world.append([announced("new", "a lamp"), announced("newer", "a chair")])
    replica.follow()
    assert set(replica.similar("new", 5)) == {"i0", "i2", "i4", "i6", "i8"}
    assert set(replica.similar("newer", 5)) == {"i1", "i3", "i5", "i7", "i9"}
    found = replica.similar("i0")
    assert found.index("new") < found.index("newer")
    wait(world, controller)  # Nobody does anything.
    after = replica.take()
    assert after.version > before.version
    row = after.recommender.catalog.row_of("default", "new")
    assert 0 <= row < after.recommender.num_rows
    assert set(replica.similar("new", 5)) <= {"i0", "i2", "i4", "i6", "i8", "new"}
    found = replica.similar("i0")
    assert found.index("new") < found.index("newer")
    answer = replica.answerer.answer(RecommendRequest(None, "default", ("i0", "i2"), n=20), after, "r")
    assert {"new", "newer"} <= {one["item_id"] for one in answer["items"]}


def test_a_version_carries_what_the_learner_knows_of_words(shop: World) -> None:
    world = shop
    world.play(world.controller())
    registry = world.registry()
    arrays, recommender = registry.load(registry.live()).arrays, Replica(world).take().recommender
    rows = np.arange(recommender.num_rows, dtype=np.int32)
    assert recommender.content is not None
    own = arrays["item_vectors"] - recommender.content.of_rows(rows)
    np.testing.assert_allclose(np.linalg.norm(own, axis=1), 1, atol=1e-5)
    assert np.abs(recommender.content.of_rows(rows)).max() > 1e-2
    titles = [f"{KINDS[number % 2]} {number}" for number in range(10)]
    known = [recommender.catalog.row_of("default", f"i{number}") for number in range(10)]
    by_title = recommender.content.of_words(recommender.content.hashed(titles))
    np.testing.assert_allclose(by_title, recommender.content.of_rows(np.asarray(known, np.int32)), atol=1e-6)


def test_without_texts_a_version_carries_no_words(make_world: Callable[..., World], make_record: Callable[..., Record], tmp_path: Path) -> None:
    world = make_world([make_record(f"u{number % 6}", f"i{number % 10}", number) for number in range(60)], SETTINGS, folder=tmp_path / "state")
    world.play(world.controller())
    registry = world.registry()
    assert not {"word_vectors", "item_words"} & registry.load(registry.live()).arrays.keys()
