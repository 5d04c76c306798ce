"""What item updates say of items that are there: titles, categories and availability, from the log to the answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamrec.events.codec import EventCodec
from streamrec.features.item_attributes import columns_of
from streamrec.features.item_text import hash_words
from streamrec.log.base import OffsetRange, Record
from streamrec.pipeline.bootstrap_view import load_history_columns
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.layout import registry_url
from streamrec.pipeline.rebuild import Rebuild
from streamrec.pipeline.wiring import build_local
from streamrec.registry.registry import Registry
from streamrec.serving.answers import Answerer
from streamrec.serving.history_view import HistoryView
from streamrec.serving.requests import RecommendRequest
from streamrec.serving.slot import ModelSlot
from streamrec.storage import open_storage
from streamrec.student.learner import Learner

World = Any
NOW_MS = 1_700_000_000_000
FAST: dict[str, dict[str, Any]] = {"teachers": {"enabled": []}, "student": {"control": False}}


def update(item: str, at: int, **fields: Any) -> Record:
    event = {"kind": "item_update", "event_id": f"u{at}-{item}-{fields}", "item_id": item, "event_time": NOW_MS - 500_000 + 1000 * at, **fields}
    return Record(item.encode(), json.dumps(event).encode())


def clicks(make_record: Callable[..., Record], numbers: Iterable[int], **more: Any) -> list[Record]:
    return [make_record(f"u{number % 7}", f"i{number % 10}", number, **more) for number in numbers]


@pytest.fixture
def fast(make_world: Callable[..., World], make_record: Callable[..., Record], tmp_path: Path) -> World:
    return make_world(clicks(make_record, range(60)), FAST, folder=tmp_path / "state")


def unavailable(controller: Controller) -> set[tuple[str, str]]:
    vocabulary = controller.ingest.vocabulary
    return {vocabulary.key_of(row) for row in np.flatnonzero(vocabulary.unavailable()[0]).tolist()}


def words_of(controller: Controller, item: str) -> list[int]:
    words: list[int] = controller.ingest.vocabulary.words()[controller.ingest.vocabulary.find("default", item)].tolist()
    return words


class Replica:
    """A view and a slot, as a serving replica has them."""

    def __init__(self, world: World) -> None:
        self.world = world
        config = world.config
        self.view = HistoryView(config.features.history_length, 1000, config.events.meanings, EventCodec(config.events), world.clock)
        self.answerer = Answerer(self.view, world.clock)
        self.slot = ModelSlot(warm_up=self.answerer.prepare)

    def load(self) -> None:
        """Take over the newest checkpoint's histories."""
        columns = load_history_columns(str(self.world.folder))
        assert columns is not None
        self.view.load(columns)

    def follow(self) -> None:
        topic = self.world.config.log.events_topic
        for partition, end in self.world.log.latest(topic).items():
            self.view.apply(self.world.log.read_table([OffsetRange(topic, partition, 0, end)]))

    def unavailable(self) -> set[tuple[str, str]]:
        return {self.view.table.item_ids[code] for code in self.view.table.availability.codes.tolist()}

    def items(self, namespace: str = "default") -> set[str]:
        registry = Registry(open_storage(registry_url(str(self.world.folder))), clock=self.world.clock)
        live = registry.live()
        assert live is not None
        manifest, version = registry.manifest(live), registry.load(live)
        model = self.slot.load(manifest.model_dump(mode="json"), version.arrays, version.meta)
        answer = self.answerer.answer(RecommendRequest("nobody", namespace, n=50), model, "r")
        return {item["item_id"] for item in answer["items"]}


def test_what_can_not_be_had_is_state_that_survives_a_crash_and_reaches_a_new_replica(fast: World) -> None:
    world, replica = fast, Replica(fast)
    world.play(world.controller())
    assert replica.items() == {f"i{number}" for number in range(10)}
    world.append([update("i3", 1, available=False), update("i4", 1, available=False), update("i5", 1, available=True)])
    world.play(first := world.controller())
    gone = {("default", "i3"), ("default", "i4")}
    assert unavailable(first) == gone
    again = world.controller()
    assert unavailable(again) == gone
    assert again.ingest.vocabulary.digest() == first.ingest.vocabulary.digest()
    replica.load()
    assert replica.unavailable() == gone
    assert replica.items() == {f"i{number}" for number in range(10)} - {"i3", "i4"}
    world.append([update("i4", 2, available=True)])
    replica.follow()  # Before the learner has read it.
    assert replica.items() == {f"i{number}" for number in range(10)} - {"i3"}


def test_replicas_agree_on_events_that_are_sent_again_however_old_they_are(fast: World, make_record: Callable[..., Record]) -> None:
    world, old, new = fast, Replica(fast), Replica(fast)
    world.play(world.controller())
    old.follow()
    new.load()
    before = {user: old.view.get(*user).tolist() for user in old.view.table.entries}
    world.append(clicks(make_record, [50, 55, 59, 59]))
    for replica in (old, new):
        replica.follow()
        assert {user: len(replica.view.get(*user)) for user in replica.view.table.entries} == {user: len(codes) for user, codes in before.items()}
        assert replica.view.counters.applied == (60 if replica is old else 0)


def test_the_digest_tells_what_can_be_had_from_what_can_not(fast: World) -> None:
    fast.play(controller := fast.controller())
    before = controller.ingest.vocabulary.digest()
    controller.ingest.vocabulary.set_available(np.asarray([2], np.int32), np.asarray([False]), np.asarray([NOW_MS]))
    assert controller.ingest.vocabulary.digest() != before


def test_learner_and_replica_agree_whatever_order_updates_come_in(make_world: Callable[..., World], mixed: list[Record], tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    said = [(item, at, bool(rng.integers(2)), ("default", "shop")[at % 2]) for at in (5, 4, 9, 8, 1, 2) for item in range(12)]
    updates = [update(f"i{item}", at, available=available, namespace=name) for item, at, available, name in said]
    world = make_world([*mixed[:40], *updates[:25], *mixed[40:200], *updates[25:]], FAST, folder=tmp_path / "state")
    world.play(controller := world.controller())
    from_log, from_checkpoint = Replica(world), Replica(world)
    from_log.follow()
    from_checkpoint.load()
    newest: dict[tuple[str, str], bool] = {}
    for item, _, available, name in sorted(said, key=lambda one: one[1]):
        newest[name, f"i{item}"] = available
    expected = {key for key, available in newest.items() if not available}
    held = {*controller.ingest.vocabulary.keys()} & newest.keys()
    assert len({item for _, item in expected}) < len(expected) < len(held)
    assert expected == {key for key in from_log.unavailable() if key in newest}
    assert unavailable(controller) == from_log.unavailable() == from_checkpoint.unavailable()


def attributes(replica: Replica) -> dict[str, Any]:
    table = replica.view.table
    return {table.item_ids[code][1]: dict(said) for code in range(len(table.item_ids)) if (said := table.attributes.of(code))}


def test_attributes_are_state_that_survives_a_crash_and_a_replica_knows_the_same_from_checkpoint_and_log(fast: World) -> None:
    world = fast
    said = [update("i1", 2, title="A lamp", price=3.5), update("i1", 1, title="late", categories=["home"]), update("i2", 1, locale="en-GB")]
    world.append(said)
    world.play(first := world.controller())
    again = world.controller()
    assert again.ingest.attributes.digest() == first.ingest.attributes.digest()
    from_checkpoint, from_log = Replica(world), Replica(world)
    from_checkpoint.load()
    from_log.follow()
    expected = {"i1": {"title": "A lamp", "price": 3.5, "categories": ["home"]}, "i2": {"locale": "en-GB"}}
    assert attributes(from_checkpoint) == attributes(from_log) == expected
    world.append([update("i1", 3, price=4.0)])
    from_checkpoint.follow()
    assert attributes(from_checkpoint)["i1"]["price"] == 4.0


def test_a_row_that_comes_back_with_another_item_can_be_had(make_world: Callable[..., World], make_record: Any, tmp_path: Path) -> None:
    settings = {**FAST, "features": {"max_items": 12}}
    world = make_world([*clicks(make_record, range(60)), update("i2", 1, available=False, title="gone")], settings, folder=tmp_path / "state")
    replica = Replica(world)
    world.play(controller := world.controller())
    row = controller.ingest.vocabulary.find("default", "i2")
    replica.follow()
    assert replica.items() == {f"i{number}" for number in range(10)} - {"i2"}
    fresh = [make_record(f"u{number % 7}", f"j{number % 11}", number, event_time=NOW_MS + 1000 * number) for number in range(100, 166)]
    world.append(fresh)
    world.play(controller)
    replica.follow()
    vocabulary = controller.ingest.vocabulary
    assert vocabulary.find("default", "i2") == -1
    assert vocabulary.key_of(row)[1].startswith("j")
    assert unavailable(controller) == set()
    assert not columns_of(controller.ingest.attributes.snapshot())[0][row]
    assert vocabulary.key_of(row)[1] in replica.items()
    assert Replica(world).items() == replica.items()


def test_an_update_of_one_field_leaves_the_others(fast: World) -> None:
    fast.append([update("i1", 1, title="river lamp"), update("i2", 1, available=False), update("i3", 1, categories=["home"])])
    fast.play(controller := fast.controller())
    features = fast.config.features
    lamp, home, desk = hash_words(["river lamp", "home", "desk"], features.words_per_item, features.word_buckets).tolist()
    fast.append([update("i1", 2, available=False), update("i2", 2, title="desk"), update("i3", 2, price=3.0)])
    fast.play(controller)
    assert [words_of(controller, item) for item in ("i1", "i2", "i3")] == [lamp, desk, home]
    assert unavailable(controller) == {("default", "i1"), ("default", "i2")}
    fast.append([update("i1", 0, title="an older title"), update("i3", 3, categories=[])])
    fast.play(controller)
    assert [words_of(controller, item) for item in ("i1", "i3")] == [lamp, [-1] * features.words_per_item]


def test_another_title_and_other_categories_reach_the_next_version(fast: World, make_record: Callable[..., Record]) -> None:
    world = fast
    world.append([update("i1", 1, title="river"), update("i2", 1, title="lamp", categories=["home"]), update("i3", 1, title="desk")])
    world.append(clicks(make_record, range(60, 180)))
    world.play(controller := world.controller())
    registry = Registry(open_storage(registry_url(str(world.folder))), clock=world.clock)

    def content(vectors: Any = None) -> Any:
        """What the words add to each item's own vector, in a version that was just published or in the weights as they are."""
        student = controller.parts.student
        own = student.submit(lambda learner: learner.tables.state()["vectors"]).result()
        return (student.submit(Learner.export).result()[0]["item_vectors"] if vectors is None else vectors) - own

    one, two, three = (controller.ingest.vocabulary.find("default", item) for item in ("i1", "i2", "i3"))
    before = content()
    assert np.abs(before[[one, two, three]]).max(1).min() > 1e-3
    assert np.abs(before[one] - before[two]).max() > 1e-3
    world.append([update("i1", 2, title="Lamp", categories=["Home"]), update("i3", 2, title="", categories=[])])
    world.play(controller)  # Nobody does anything: the weights stay.
    after = content()
    np.testing.assert_allclose(after[one], after[two], atol=1e-6)
    np.testing.assert_allclose(after[two], before[two], atol=1e-6)
    assert not after[three].any()
    world.append(clicks(make_record, range(180, 240)))
    versions = []
    while (report := controller.step()) is not None:
        world.clock.advance(1.0)
        if report.published is not None:
            served = content(registry.load(report.published).arrays["item_vectors"])
            np.testing.assert_allclose(served[one], served[two], atol=1e-6)
            assert not served[three].any()
            versions.append(report.published)
    assert versions


def test_a_rebuild_carries_what_can_not_be_had(fast: World, make_record: Callable[..., Record]) -> None:
    world = fast
    world.play(first := world.controller())
    world.append([update("i3", 5, available=False), update("i4", 5, available=False), update("i1", 5, title="river")])
    world.play(first)
    world.append([update("i4", 7, available=True), update("i3", 4, available=True), *clicks(make_record, range(60, 120), namespace="shop")])
    world.append([update("i2", 7, available=False, namespace="shop")])
    world.play(first)
    first.finish()
    topic = world.config.log.events_topic
    world.log.drop_before(topic, dict(first.state.offsets))  # The lake alone has it now.

    def build(lineage_url: str, reader: Any, *, publishes: bool) -> Controller:
        controller = build_local(world.config, reader, lineage_url, world.clock, dead_letters=world.log)
        if not publishes:
            controller.parts.publisher = None
        return controller

    made = Rebuild(world.config, str(world.folder), world.log, build, dead_letters=world.log, on_step=lambda _: None, say=lambda _: None).run()
    assert made is not None
    assert unavailable(made) == unavailable(first) == {("default", "i3"), ("shop", "i2")}
    assert words_of(made, "i1") == words_of(first, "i1")
    replica = Replica(world)
    replica.load()
    assert replica.unavailable() == unavailable(first)
