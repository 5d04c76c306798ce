from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from streamrec.features.dedupe import hash_key
from streamrec.log.base import Record
from streamrec.log.offsets import OffsetRange
from streamrec.student.learner import Learner

World = Any
NO_TEACHERS: dict[str, dict[str, Any]] = {"teachers": {"enabled": []}, "student": {"control": False}}


def balance(books: dict[str, int]) -> int:
    return books["received"] - sum(value for name, value in books.items() if name != "received")


def dead(world: World) -> list[dict[str, Any]]:
    topic = world.config.log.dead_letter_topic
    rows = world.log.read_table([OffsetRange(topic, 0, 0, world.log.latest(topic)[0])])
    return [json.loads(value) for value in rows["value"].to_pylist()]


def test_the_books_balance_after_every_step_and_nothing_is_pending_at_the_end(world: World) -> None:
    controller = world.controller()
    reports = world.play(controller)
    assert all(balance(dict(report.books)) == 0 for report in reports)
    assert [report.books["pending"] == 0 for report in reports] == [report.committed or report.books["pending"] == 0 for report in reports]
    books = controller.books()
    assert books["received"] == sum(world.log.latest(world.config.log.events_topic).values())
    assert books["pending"] == 0
    assert min(books[name] for name in ("applied", "duplicate", "rejected", "late")) > 0
    learned = sum(int(report.learned.num_new) for report in reports if report.learned is not None)
    assert learned == sum(report.num_queries for report in reports)
    assert controller.ingest.popularity.counts(len(controller.ingest.vocabulary)).sum() > learned


def test_the_books_count_each_kind_of_record_as_it_was_sent(world: World, mixed: list[Record]) -> None:
    controller = world.controller()
    world.play(controller)
    seen: Counter[str] = Counter()
    expected: Counter[str] = Counter()
    for sent in mixed:
        try:
            event = json.loads(sent.value)
        except ValueError:
            expected["rejected"] += 1
            continue
        if "event_time" not in event:
            expected["rejected"] += 1
        elif event["event_id"].startswith("late"):
            expected["late"] += 1
        else:
            key = f"{event.get('namespace', 'default')} {event['event_id']}"
            expected["duplicate" if seen[key] else "applied"] += 1
            seen[key] += 1
    books = controller.books()
    assert {name: books[name] for name in expected} == expected


def test_what_is_read_is_pending_until_its_effect_is_committed(make_world: Callable[..., World], make_record: Any, tmp_path: Path) -> None:
    world = make_world([make_record("u1", f"i{number}", number) for number in range(9)], NO_TEACHERS, folder=tmp_path)
    controller = world.controller()
    assert dict(controller.step().books) | {"late": 0} == {
        "received": 9, "applied": 0, "duplicate": 0, "rejected": 0, "late": 0, "quarantined": 0, "pending": 9,
    }  # fmt: skip
    assert controller.finish().books["applied"] == 9
    assert controller.finish() is None


def test_every_rejected_record_reaches_the_dead_letter_topic_with_its_place_and_original_bytes(world: World, mixed: list[Record]) -> None:
    controller = world.controller()
    world.play(controller)
    letters = dead(world)
    assert len(letters) == controller.books()["rejected"]
    assert sorted(base64.b64decode(letter["value_base64"]) for letter in letters) == sorted(
        sent.value for sent in mixed if sent.value.startswith(b"{not json") or b"event_time" not in sent.value
    )
    for letter in letters:
        rows = world.log.read_table([OffsetRange(letter["topic"], letter["partition"], letter["offset"], letter["offset"] + 1)])
        assert base64.b64decode(letter["value_base64"]) == rows["value"][0].as_py()
        assert base64.b64decode(letter["key_base64"]) == rows["key"][0].as_py()
        assert letter["reason"]


def test_a_record_of_fifteen_megabytes_is_a_dead_letter_in_parts_and_does_not_stop_the_stream(
    make_world: Callable[..., World], make_record: Any, tmp_path: Path
) -> None:
    huge = json.dumps({"event_id": "x", "user_id": "u" * 15_000_000, "item_id": "i", "event_type": "click", "event_time": 1}).encode()
    world = make_world([Record(b"k", huge), make_record("u1", "i1", 1)], NO_TEACHERS, folder=tmp_path)
    controller = world.controller()
    world.play(controller)
    letters = dead(world)
    assert b"".join(base64.b64decode(letter["value_base64"]) for letter in letters) == huge
    assert [letter["part"] for letter in letters] == list(range(letters[0]["parts"]))
    assert controller.books()["rejected"] == 1
    assert controller.books()["applied"] == 1


def test_a_stream_that_begins_with_nothing_but_bad_records_goes_on(make_world: Callable[..., World], make_record: Any, tmp_path: Path) -> None:
    world = make_world([Record(b"k", b"nonsense")], NO_TEACHERS, folder=tmp_path)
    controller = world.controller()
    world.play(controller)
    world.append([make_record("u1", f"i{number}", number) for number in range(5)])
    world.play(controller)
    assert controller.books()["applied"] == 5
    assert controller.state.live is not None


def test_equal_ids_in_two_namespaces_are_two_users_and_two_items(make_world: Callable[..., World], make_record: Any, tmp_path: Path) -> None:
    records = [make_record("u1", f"i{number}", number, namespace=name) for number in range(6) for name in ("a", "b")]
    world = make_world(records, NO_TEACHERS, folder=tmp_path)
    controller = world.controller()
    world.play(controller)
    vocabulary, histories = controller.ingest.vocabulary, controller.ingest.histories
    assert controller.books()["applied"] == 12
    assert len(vocabulary) == 12
    for name in ("a", "b"):
        assert [vocabulary.key_of(row) for row in histories.get(name, "u1").tolist()] == [(name, f"i{number}") for number in range(6)]
    arrays, _ = controller.parts.publisher.load(controller.state.live)  # type: ignore[union-attr]
    assert arrays["item_namespace"].tolist() == controller.ingest.vocabulary.namespace_of_rows().tolist()


def test_an_item_update_gives_the_item_words_before_anyone_touched_it(make_world: Callable[..., World], make_record: Any, tmp_path: Path) -> None:
    world = make_world([make_record("u1", f"i{number}", number) for number in range(5)], NO_TEACHERS, folder=tmp_path)
    controller = world.controller()
    controller.step()
    learner: Learner = controller.parts.student.target  # type: ignore[attr-defined]
    before = learner.export()[0]["item_vectors"]
    update = {"kind": "item_update", "event_id": "t1", "item_id": "new", "title": "amber stone", "event_time": world.clock.now_ms()}
    world.append([Record(b"new", json.dumps(update).encode())])
    controller.step()
    row = controller.ingest.vocabulary.find("default", "new")
    assert row == 5
    assert (learner.tables.rows("words")[row] >= 0).sum() == 2
    assert len(learner.export()[0]["item_vectors"]) == len(before) + 1
    np.testing.assert_array_equal(learner.export()[0]["item_vectors"][:5], before)


def test_a_deleted_user_is_gone_from_all_components_also_after_a_restart(world: World) -> None:
    controller = world.controller()
    for _ in range(5):
        controller.step()
        world.clock.advance(1.0)
    gone = {"kind": "deletion", "event_id": "final", "user_id": "u7", "event_time": world.clock.now_ms()}
    world.append([Record(b"u7", json.dumps(gone).encode())])
    assert len(controller.ingest.histories.get("default", "u7"))
    world.play(controller)
    again = world.controller()
    again.finish()  # The promotion of an idle stream is not committed; its plan is.
    key, other = hash_key("default", "u7"), hash_key("shop", "u7")
    for one in (controller, again):
        labels = one.labelling.store.snapshot().arrays["user"]
        window = one.ingest.window.snapshot().arrays["user"]
        assert not any((users == key).any() for users in (labels, window))
        assert (window == other).any()
        assert len(one.ingest.histories.get("default", "u7")) == 0
    assert {name: part.digest() for name, part in again.components().items()} == {
        name: part.digest() for name, part in controller.components().items()
    }


def test_a_catalogue_of_today_makes_no_event_of_last_year_late_and_is_never_late_itself(
    make_world: Callable[..., World], make_record: Any, tmp_path: Path
) -> None:
    now_ms, month_ms = json.loads(make_record("u", "i", 600).value)["event_time"], 30 * 86_400_000
    update = {"kind": "item_update", "event_id": "t1", "item_id": "i0", "title": "amber stone", "event_time": now_ms}
    world = make_world([Record(b"i0", json.dumps(update).encode())], NO_TEACHERS, folder=tmp_path)
    controller = world.controller()
    world.play(controller)
    old = [json.loads(make_record("u1", f"i{number}", number).value) for number in range(5)]
    world.append([Record(b"u1", json.dumps({**event, "event_time": event["event_time"] - month_ms}).encode()) for event in old])
    world.play(controller)
    assert controller.books()["late"] == 0
    world.append([make_record("u1", "i7", 100)])
    world.play(controller)
    world.append([Record(b"i0", json.dumps({**update, "event_id": "t2", "event_time": now_ms - 2 * month_ms}).encode())])
    world.append([Record(b"u1", json.dumps({**old[0], "event_id": "again", "event_time": now_ms - 2 * month_ms}).encode())])
    gone = {"kind": "deletion", "event_id": "d1", "user_id": "u1", "event_time": now_ms - 2 * month_ms}
    world.append([Record(b"u1", json.dumps(gone).encode())])
    world.play(controller)
    books = controller.books()
    assert (books["late"], books["applied"]) == (1, 9)


def test_events_after_a_deletion_in_the_same_batch_stay(make_world: Callable[..., World], make_record: Any, tmp_path: Path) -> None:
    gone = {"kind": "deletion", "event_id": "d", "user_id": "u1", "event_time": json.loads(make_record("u1", "i", 2).value)["event_time"] + 500}
    records = [*(make_record("u1", f"i{number}", number) for number in range(3)), Record(b"u1", json.dumps(gone).encode())]
    records += [make_record("u1", f"i{number}", number) for number in (3, 4)]
    world = make_world(records, NO_TEACHERS, folder=tmp_path)
    controller = world.controller()
    world.play(controller)
    names = [controller.ingest.vocabulary.key_of(row)[1] for row in controller.ingest.histories.get("default", "u1").tolist()]
    assert names == ["i3", "i4"]
    assert controller.books()["applied"] == 6
