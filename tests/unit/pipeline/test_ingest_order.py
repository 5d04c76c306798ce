"""What becomes of events that come late, out of order, twice, from the future, or with ids that another namespace has too."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamrec.config import Config, parse_config
from streamrec.events.schema import LOG_ROW
from streamrec.pipeline.ingest import Ingest, Ingested, Request

NOW_MS = 1_700_000_000_000
HOUR_MS = 3_600_000
Sent = tuple[int, bytes]  # partition, value


def config(**features: Any) -> Config:
    return parse_config({"features": {"lateness_s": "1h", "dedupe_horizon_s": "1h", "history_length": 5, **features}})


def event(number: int, time_ms: int, **values: Any) -> bytes:
    fields = {"event_id": f"e{number}", "user_id": f"u{number % 3}", "item_id": f"i{number % 7}", "event_type": "click", "event_time": time_ms}
    return json.dumps(fields | values).encode()


class Stream:
    """An ingest fed by batches, with the state that a controller keeps for it."""

    def __init__(self, cfg: Config) -> None:
        self.ingest = Ingest(cfg)
        self.watermarks_ms: dict[int, int] = {}
        self.offsets: dict[int, int] = {}
        self.books = dict.fromkeys(("received", "applied", "duplicate", "rejected", "late"), 0)
        self.deleted: list[tuple[str, str]] = []

    def send(self, sent: Iterable[Sent]) -> Ingested:
        rows = []
        for partition, value in sent:
            offset = self.offsets[partition] = self.offsets.get(partition, -1) + 1
            rows.append({"topic": "t", "partition": partition, "offset": offset, "timestamp": NOW_MS, "key": b"k", "value": value})
        table = pa.Table.from_pylist(sorted(rows, key=lambda row: (row["partition"], row["offset"])), schema=LOG_ROW)
        ingested = self.ingest.apply(table, NOW_MS, self.watermarks_ms, self.delete_user, self.forget_rows)
        self.watermarks_ms = dict(ingested.watermarks_ms)
        self.books = {name: value + ingested.counts[name] for name, value in self.books.items()}
        assert ingested.counts["received"] == sum(value for name, value in ingested.counts.items() if name != "received")
        return ingested

    def delete_user(self, request: Request) -> None:
        self.deleted.append((request.namespace, request.user_id))
        for part in (self.ingest.dedupe, self.ingest.histories, self.ingest.window):
            part.delete_user(request.namespace, request.user_id)

    def forget_rows(self, rows: Any) -> None:
        pytest.fail(f"no item leaves a vocabulary this small, got {rows}")

    def kept(self) -> tuple[list[int], str, str, int]:
        ids = self.ingest.dedupe.snapshot().arrays["ids"].tolist()
        return ids, self.ingest.histories.digest(), self.ingest.window.digest(), len(self.ingest.vocabulary)

    def history(self, namespace: str, user: str) -> list[str]:
        return [self.ingest.vocabulary.key_of(row)[1] for row in self.ingest.histories.get(namespace, user).tolist()]


@settings(max_examples=40, deadline=None)
@given(st.permutations(list(range(24))), st.lists(st.integers(1, 24), min_size=1, max_size=5), st.integers(0, 3))
def test_histories_are_the_same_in_whatever_order_events_come_within_the_lateness(order: Sequence[int], sizes: list[int], spread: int) -> None:
    def play(numbers: Sequence[int], sizes: list[int]) -> Stream:
        stream = Stream(config())
        stream.send([(part, event(100 + part, NOW_MS - HOUR_MS)) for part in range(4)])
        done = 0
        while done < len(numbers):
            some = numbers[done : done + sizes[done % len(sizes)]]
            done += len(some)
            stream.send([(number % (spread + 1), event(number, NOW_MS - HOUR_MS + 1000 * (number + 1))) for number in some])
        return stream

    straight, shuffled = play(range(24), [24]), play(order, sizes)
    assert shuffled.books == straight.books == {"received": 28, "applied": 28, "duplicate": 0, "rejected": 0, "late": 0}
    for user in ("u0", "u1", "u2"):
        assert shuffled.history("default", user) == straight.history("default", user) != []


def test_an_event_beyond_the_lateness_is_counted_and_changes_nothing_and_one_just_within_counts() -> None:
    stream = Stream(config())
    stream.send([(0, event(1, NOW_MS))])
    before = stream.kept()
    stream.send([(0, event(2, NOW_MS - HOUR_MS - 1))])
    assert stream.kept() == before
    assert stream.books["late"] == 1
    stream.send([(0, event(2, NOW_MS - HOUR_MS)), (1, event(3, 5))])
    assert (stream.books["late"], stream.books["applied"]) == (1, 3)


def test_an_event_from_the_far_future_is_rejected_with_its_reason_and_moves_no_watermark() -> None:
    stream = Stream(config())
    tolerance_ms = round(config().events.future_tolerance_s * 1000)
    ingested = stream.send([(0, event(1, NOW_MS)), (0, event(2, NOW_MS + tolerance_ms + 1)), (0, event(3, NOW_MS + 5))])
    assert ingested.rejected["reason"].to_pylist() == ["future_time"]
    assert ingested.rejected["offset"].to_pylist() == [1]
    assert stream.watermarks_ms == {0: NOW_MS + 5}
    assert stream.send([(0, event(4, NOW_MS + tolerance_ms))]).counts["applied"] == 1


def test_an_id_is_forgotten_by_time_only_when_its_event_would_be_late_in_every_partition() -> None:
    stream = Stream(config(dedupe_horizon_s="1m"))
    first = event(1, NOW_MS - 5 * HOUR_MS)
    stream.send([(0, first), (1, event(2, NOW_MS - 5 * HOUR_MS))])
    stream.send([(0, event(3, NOW_MS))])
    assert stream.send([(1, first)]).counts["duplicate"] == 1  # The other partition is behind: there it is not late.
    stream.send([(1, event(4, NOW_MS))])
    assert stream.send([(0, first), (1, first)]).counts["late"] == 2
    assert len(stream.ingest.dedupe) == 2


def test_a_repeated_item_update_is_known_for_the_horizon_and_no_longer() -> None:
    stream = Stream(config(dedupe_horizon_s="2h"))
    update = json.dumps({"kind": "item_update", "event_id": "t1", "item_id": "i1", "title": "amber", "event_time": NOW_MS - 3 * HOUR_MS}).encode()
    stream.send([(0, update), (0, event(1, NOW_MS - HOUR_MS))])
    assert stream.send([(0, update), (0, event(2, NOW_MS))]).counts["duplicate"] == 1
    stream.send([(0, event(3, NOW_MS))])
    assert stream.send([(0, update)]).counts["applied"] == 1


def test_equal_ids_in_two_namespaces_of_one_topic_never_mix() -> None:
    both, alone = Stream(config()), {name: Stream(config()) for name in ("a", "b")}
    for start in range(0, 40, 10):
        values = {name: [(0, event(number, NOW_MS + 1000 * number, namespace=name)) for number in range(start, start + 10)] for name in ("a", "b")}
        for name, stream in alone.items():
            values[name] = values[name] if name == "a" else values[name][::-1]
            stream.send(values[name] + values[name][:3])
        together = both.send([sent for pair in zip(values["a"], values["b"], strict=True) for sent in pair] + values["a"][:3] + values["b"][:3])
        for code in (0, 1):
            assert set(together.examples.namespace.tolist()) <= {0, 1}
            mine = together.examples.history[together.examples.namespace == code]
            owners = {both.ingest.vocabulary.key_of(row)[0] for row in mine[mine >= 0].tolist()}
            assert len(owners) <= 1
        both.ingest.popularity.update(*together.targets[:2])
    assert both.books == {name: sum(stream.books[name] for stream in alone.values()) for name in both.books}
    assert both.books["duplicate"] == 24
    assert sorted(both.ingest.vocabulary.keys()) == sorted((name, f"i{number}") for name in ("a", "b") for number in range(7))
    counts = both.ingest.popularity.counts(14)
    assert [counts[both.ingest.vocabulary.find(name, "i3")] for name in ("a", "b")] == [counts[both.ingest.vocabulary.find("a", "i3")]] * 2
    assert counts.sum() == 80
    for name, stream in alone.items():
        for user in ("u0", "u1", "u2"):
            assert both.history(name, user) == stream.history(name, user) != []
    assert both.ingest.dedupe.delete_user("a", "u1") == 13
    assert both.send([(0, event(1, NOW_MS + 1000, namespace="b"))]).counts["duplicate"] == 1


@pytest.mark.parametrize("repeat", [1, 2])
def test_a_deletion_takes_the_ids_before_it_and_is_not_heard_twice(repeat: int) -> None:
    stream = Stream(config())
    gone = {"kind": "deletion", "event_id": "d1", "user_id": "u1", "event_time": NOW_MS + 500}
    stream.send([(0, event(1, NOW_MS)), (0, event(2, NOW_MS)), (0, json.dumps(gone).encode()), (0, event(4, NOW_MS + 1000))])
    for _ in range(repeat):
        assert stream.send([(0, json.dumps(gone).encode()), (0, event(4, NOW_MS + 1000))]).counts["duplicate"] == 2
    assert stream.deleted == [("default", "u1")]
    assert stream.history("default", "u1") == ["i4"]
    assert stream.ingest.dedupe.delete_user("default", "u1") == 1


def deletion(number: int, time_ms: int, user: str = "u1") -> bytes:
    return json.dumps({"kind": "deletion", "event_id": f"d{number}", "user_id": user, "event_time": time_ms}).encode()


@pytest.mark.parametrize("size", [1, 2, 3, 10])
@pytest.mark.parametrize("at_request", ["ahead", "same"])
def test_events_that_lay_ahead_of_a_deletion_never_come_back_however_the_log_is_cut(size: int, at_request: str) -> None:
    ahead_ms = NOW_MS + (HOUR_MS if at_request == "ahead" else 0)
    sent = [
        (0, event(1, ahead_ms)),
        (0, json.dumps({"kind": "impression", "event_id": "s", "user_id": "u1", "items": ["i1"], "event_time": ahead_ms + 1}).encode()),
        (0, deletion(1, NOW_MS)),
        (0, event(1, ahead_ms)),
        (0, event(4, ahead_ms + 1)),
        (0, event(7, ahead_ms + 2)),
    ]
    stream = Stream(config())
    kept = [stream.send(sent[start : start + size]).kept for start in range(0, len(sent), size)]
    assert stream.history("default", "u1") == ["i0"]
    assert stream.books == {"received": 6, "applied": 4, "duplicate": 2, "rejected": 0, "late": 0}
    assert kept[-1]["event_id"].to_pylist()[-1:] == ["e7"]
    stream.send([(0, event(1, ahead_ms))])
    assert stream.history("default", "u1") == ["i0"]


def test_a_deletion_is_carried_out_although_the_users_events_lie_ahead_of_it() -> None:
    stream = Stream(config())
    stream.send([(0, event(1, NOW_MS + HOUR_MS)), (0, deletion(1, NOW_MS))])
    stream.send([(0, event(4, NOW_MS + HOUR_MS + 1))])
    assert stream.send([(0, deletion(2, NOW_MS + 1000))]).counts["applied"] == 1
    assert stream.history("default", "u1") == []
    assert stream.send([(0, event(4, NOW_MS + HOUR_MS + 1))]).counts["duplicate"] == 1


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(-3 * HOUR_MS, 3 * HOUR_MS)), min_size=1, max_size=30), st.integers(1, 30))
def test_what_is_late_depends_on_the_log_and_not_on_how_it_is_cut(times: list[tuple[int, int]], size: int) -> None:
    sent = [(partition, event(number, NOW_MS + time_ms)) for number, (partition, time_ms) in enumerate(times)]
    whole, cut = Stream(config()), Stream(config())
    whole.send(sent)
    for start in range(0, len(sent), size):
        cut.send(sent[start : start + size])
    assert cut.books == whole.books
    assert cut.watermarks_ms == whole.watermarks_ms


def test_an_event_is_late_after_a_newer_one_of_the_same_batch_and_never_for_an_item_update() -> None:
    stream = Stream(config())
    update = json.dumps({"kind": "item_update", "event_id": "t", "item_id": "i", "title": "a", "event_time": NOW_MS + 9 * HOUR_MS}).encode()
    old = NOW_MS - HOUR_MS - 1
    sent = [
        (0, event(1, old)),
        (0, update),
        (0, event(2, NOW_MS)),
        (0, event(3, old)),
        (0, deletion(1, old)),
        (1, event(4, old)),
        (0, event(5, NOW_MS)),
    ]
    assert stream.send(sent).counts == {"received": 7, "applied": 6, "duplicate": 0, "rejected": 0, "late": 1}
    assert stream.watermarks_ms == {0: NOW_MS, 1: old}


def test_a_batch_of_nothing_but_bad_records_and_an_empty_one_change_nothing() -> None:
    stream = Stream(config())
    stream.send([(0, event(1, NOW_MS))])
    before = stream.kept()
    stream.send([(0, b"bad"), (1, b"")])
    stream.send([])
    assert stream.kept() == before
    assert stream.books["rejected"] == 2
    assert stream.watermarks_ms == {0: NOW_MS}
