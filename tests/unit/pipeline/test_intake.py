from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pytest

from streamrec.errors import BrokerUnavailable, RetentionGap, TopicReplaced
from streamrec.log.base import Record
from streamrec.log.memory import MemoryLog
from streamrec.log.offsets import OffsetRange
from streamrec.pipeline.checkpoint import CheckpointStore
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.layout import checkpoint_url
from streamrec.pipeline.plan_store import PlanStore
from streamrec.pipeline.skipping import skip_lost
from streamrec.storage import open_storage


class Topic:
    """A log whose topic has an id, that can be away, and that can be made anew."""

    def __init__(self, inner: MemoryLog, id_of_topic: str = "first") -> None:
        self.inner, self.id_of_topic, self.is_away = inner, id_of_topic, False
        self.num_asked = 0

    def topic_id(self, topic: str) -> str:
        self.num_asked += 1
        return self.id_of_topic

    def latest(self, topic: str) -> dict[int, int]:
        if self.is_away:
            what = "Broker: nobody answers"
            raise BrokerUnavailable(what)
        return self.inner.latest(topic)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class Ahead(Topic):
    """A log that reads ahead, and notes what it was asked for."""

    def __init__(self, inner: MemoryLog) -> None:
        super().__init__(inner)
        self.ahead: list[tuple[OffsetRange, ...]] = []
        self.read: list[tuple[OffsetRange, ...]] = []

    def read_ahead(self, ranges: Sequence[OffsetRange]) -> None:
        self.ahead.append(tuple(ranges))

    def read_table(self, ranges: Sequence[OffsetRange]) -> pa.Table:
        self.read.append(tuple(ranges))
        return self.inner.read_table(ranges)


def drop_half(world: Any, controller: Controller) -> int:
    """Let what comes next leave the log, up to its middle; return how many records that are."""
    topic, offsets, ends = world.config.log.events_topic, controller.state.offsets, world.log.latest(world.config.log.events_topic)
    middle = {partition: (offsets[partition] + end) // 2 for partition, end in ends.items()}
    world.log.drop_before(topic, middle)
    return sum(middle[partition] - offsets[partition] for partition in ends)


def anew(world: Any, records: Sequence[Record]) -> MemoryLog:
    log = MemoryLog()
    log.ensure_topic(world.config.log.events_topic, 2)
    log.append(world.config.log.events_topic, list(records))
    return log


def test_a_gap_stops_the_stream_and_going_on_books_what_is_lost(world: Any, mixed: list[Record]) -> None:
    controller = world.controller()
    controller.step()
    controller.finish()
    num_lost = drop_half(world, controller)
    with pytest.raises(RetentionGap, match=r"jobs\.stream --skip-lost") as caught:
        controller.step()
    assert {"topic", "partition", "wanted", "earliest"} <= caught.value.facts.keys()

    again, said = world.controller(), []
    report = skip_lost(again, said.append)
    assert report is not None
    assert report.committed
    assert len(said) == 2
    assert all("records are lost" in line for line in said)
    assert skip_lost(again, said.append) is None
    world.play(again)
    books = again.books()
    assert books["lost"] == num_lost
    assert books["received"] == len(mixed) == sum(num for name, num in books.items() if name != "received")


def test_a_stored_plan_whose_records_are_gone_is_given_up_and_its_number_not_used_again(world: Any) -> None:
    first = world.controller()
    first.step()
    first.finish()
    given_up = first.state.batch + 1
    for _ in range(2):  # Not committed: a restart would execute them again.
        first.step()
    stored = PlanStore(open_storage(str(world.folder))).batches()
    again = world.controller()
    assert again.state.batch == given_up - 1
    drop_half(world, again)
    report = skip_lost(again, lambda _: None)
    assert report is not None
    assert report.plan.batch == max(stored) + 1
    last = world.controller()
    assert last.state.batch == report.plan.batch
    assert last.planned() is None
    world.play(last)
    assert last.lag() == 0


def test_going_on_books_what_a_stored_plan_was_to_read_of_partitions_that_no_commit_knows(world: Any, mixed: list[Record]) -> None:
    killed = world.controller()
    killed.step()  # Planned and read, never committed.
    assert CheckpointStore(open_storage(checkpoint_url(str(world.folder)))).load_newest() is None
    topic = world.config.log.events_topic
    middle = {partition: end // 2 for partition, end in world.log.latest(topic).items()}
    world.log.drop_before(topic, middle)
    with pytest.raises(RetentionGap):
        world.controller().step()
    again = world.controller()
    assert skip_lost(again, lambda _: None) is not None
    world.play(again)
    books = again.books()
    assert books["lost"] == sum(middle.values())
    assert books["received"] == len(mixed)


def test_a_crash_after_the_skip_was_planned_skips_once(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    controller = world.controller()
    controller.step()
    controller.finish()
    num_lost = drop_half(world, controller)
    killed = world.controller()
    monkeypatch.setattr(killed, "execute", lambda *_: pytest.fail("killed"))
    with pytest.raises(pytest.fail.Exception):
        skip_lost(killed, lambda _: None)
    again = world.controller()
    skip_lost(again, lambda _: None)
    world.play(again)
    assert again.books()["lost"] == num_lost


def test_a_topic_that_was_made_anew_stops_the_stream_and_going_on_reads_all_of_it(world: Any, make_record: Callable[..., Record]) -> None:
    log = Topic(world.log)
    controller = world.controller(log)
    world.play(controller)
    received = controller.books()["received"]
    new = Topic(anew(world, [make_record("u1", "i1", 7000 + number) for number in range(500)]), "second")
    with pytest.raises(TopicReplaced, match="made anew since the state was committed, got topic id second, allowed topic id first"):
        world.controller(new).step()
    again, said = world.controller(new), []
    assert skip_lost(again, said.append) is not None
    assert all("of a topic that was made anew" in line for line in said)
    world.play(again)
    assert again.books()["received"] == received + 500
    assert "lost" not in again.books()
    assert world.controller(new).step() is None


def test_a_user_who_was_forgotten_in_a_topic_that_is_no_more_is_not_judged_by_its_offsets(world: Any, make_record: Callable[..., Record]) -> None:
    controller = world.controller(Topic(world.log))
    world.play(controller)
    tombstones = controller.ingest.tombstones
    gone, place = next((user, place) for user, place in tombstones._places.items() if place[2])
    new = Topic(anew(world, [make_record("u1", "i1", 7000 + number) for number in range(5)]), "second")
    again = world.controller(new)
    assert again.ingest.tombstones._places[gone] == place
    assert skip_lost(again, [].append) is not None
    for kept in (again, world.controller(new)):
        now = kept.ingest.tombstones._places[gone]
        assert (now[0], now[2]) == (place[0], 0)
        assert now[1] > 10**6, "no partition has this number"


def test_a_topic_without_an_id_that_ends_before_the_offsets_is_another_one(world: Any) -> None:
    controller = world.controller()
    world.play(controller)
    with pytest.raises(TopicReplaced, match="partition 0 ends at 0, before offset") as caught:
        world.controller(anew(world, [])).lag()
    assert set(caught.value.facts["beyond"]) == {0, 1}


def test_a_topic_that_lost_its_end_is_told_from_another_one(world: Any) -> None:
    controller = world.controller(Topic(world.log))
    world.play(controller)
    with pytest.raises(TopicReplaced, match="has lost its newest records, got partition 0 ends"):
        world.controller(Topic(anew(world, []))).lag()


def test_the_topics_id_is_asked_for_at_the_start_and_after_a_failure_and_never_in_between(world: Any) -> None:
    log = Topic(world.log)
    controller = world.controller(log)
    for _ in range(3):
        controller.step()
    assert log.num_asked == 1
    log.is_away = True
    with pytest.raises(BrokerUnavailable):
        controller.step()
    log.is_away, log.id_of_topic = False, "second"
    with pytest.raises(TopicReplaced):
        controller.step()


def test_the_id_of_the_topic_is_committed_and_no_part_of_what_was_learned(world: Any) -> None:
    log = Topic(world.log)
    controller = world.controller(log)
    world.play(controller)
    assert world.controller(log).state.topic_id == "first"
    before = controller.state.digest()
    controller.state.topic_id = "second"
    assert controller.state.digest() == before


def test_partitions_that_are_added_are_read_from_their_first_offset_also_by_plans_that_are_executed_again(
    world: Any, make_record: Callable[..., Record]
) -> None:
    first = world.controller()
    world.play(first)
    topic = world.config.log.events_topic
    wider = MemoryLog()
    wider.ensure_topic(topic, 3)
    rows = world.log.read_table([OffsetRange(topic, number, 0, end) for number, end in world.log.latest(topic).items()]).to_pylist()
    wider.append(topic, [Record(row["key"], row["value"], row["timestamp"], row["partition"]) for row in rows])
    wider.append(topic, [Record(b"k", make_record("u1", "i1", 8000 + number).value, None, 2) for number in range(5)])
    wider.drop_before(topic, {2: 2})
    going_on = world.controller(wider)
    report = going_on.step()
    assert report is not None
    assert {part.partition: (part.start, part.end) for part in report.plan.ranges}[2] == (2, 5)
    wider.drop_before(topic, {2: 0})
    again = world.controller(wider)
    assert again.step().plan == report.plan
    assert again.state.digest() == going_on.state.digest()


def test_what_is_read_ahead_is_what_the_next_plan_names_and_only_while_a_full_batch_waits(world: Any, mixed: list[Record]) -> None:
    log = Ahead(world.log)
    controller = world.controller(log)
    reports = world.play(controller)
    full = world.config.pipeline.max_batch_events
    assert len(log.ahead) == len(mixed) // full - 1
    assert {sum(part.num_offsets for part in ranges) for ranges in log.ahead} == {full}
    assert log.read[1 : 1 + len(log.ahead)] == log.ahead
    first, second = reports[0].plan, reports[1].plan
    assert (first.lag, second.lag) == (len(mixed) - first.num_records, first.lag - second.num_records)
    assert controller.books()["received"] == len(mixed)


def test_a_run_that_reads_ahead_ends_in_the_same_bits_after_a_crash(
    world: Any, make_world: Callable[..., Any], mixed: list[Record], tmp_path: Any
) -> None:
    calm = make_world(mixed, folder=tmp_path / "calm")
    undisturbed = calm.controller()
    calm.play(undisturbed)
    killed = world.controller(Ahead(world.log))
    for _ in range(2):
        killed.step()
        world.clock.advance(1.0)
    last = world.controller(Ahead(world.log))
    while last.planned() is not None:
        last.step()
    world.play(last)
    names = set(undisturbed.components()) - {"lake", "other_lakes"}  # Of lakes, counts and times of commits, which a restart moves.
    assert {name: last.components()[name].digest() for name in names} == {name: undisturbed.components()[name].digest() for name in names}
