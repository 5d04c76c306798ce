from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamrec.config import EventsConfig
from streamrec.evaluation.shown import Outcome, Shown
from streamrec.evaluation.worth import EARLIER, KEPT_VERSIONS, Giver, Tally, Worth, wilson
from streamrec.events.codec import EventCodec
from streamrec.events.schema import LOG_ROW
from streamrec.events.tables import take

WINDOW_S = 10
Event = dict[str, Any]


def shown(user: str, at_s: float, items: Sequence[str] = ("a", "b"), version: str = "v00000001", **more: Any) -> Event:
    partition, context = more.pop("partition", 0), {"student": "default", "model_version": version, "source": "student", **more.pop("context", {})}
    return {"kind": "impression", "user_id": user, "items": list(items), "at_s": at_s, "context": context, "partition": partition, **more}


def did(user: str, item: str, at_s: float, **more: Any) -> Event:
    return {"user_id": user, "item_id": item, "event_type": "click", "at_s": at_s, **more}


def decoded(events: Sequence[Event], start: int = 0) -> pa.Table:
    """Valid events by time."""
    rows = []
    for number, event in enumerate(events, start):
        values = {name: value for name, value in event.items() if name not in {"at_s", "partition"}}
        record = {"event_id": f"e{number}", "event_time": round(1000 * event["at_s"]), **values}
        place = {"topic": "t", "partition": event.get("partition", 0), "offset": number, "timestamp": 0}
        rows.append({**place, "key": b"", "value": json.dumps(record).encode()})
    valid = EventCodec(EventsConfig()).decode(pa.Table.from_pylist(rows, LOG_ROW), 10**12).valid
    return take(valid, np.argsort(valid["event_time"].to_numpy(), kind="stable"))


def join(joined: Shown, *events: Event) -> list[Outcome]:
    """Give a micro-batch."""
    table = decoded(events)
    is_shown = pc.equal(table["kind"], "impression")
    return joined.join(table.filter(is_shown), table.filter(pc.invert(is_shown)))


def worth_of(joined: Shown) -> Worth:
    return joined._worth


@pytest.fixture
def joined() -> Shown:
    return Shown(WINDOW_S, 100, Worth())


END = shown("nobody", 1000)


def test_what_a_user_takes_of_what_was_shown_counts_within_the_window_alone(joined: Shown) -> None:
    join(joined, shown("u1", 0), shown("u2", 0), shown("u3", 0), shown("u4", 0))
    join(joined, did("u1", "a", 10), did("u2", "a", 10.001), did("u3", "c", 5), did("u5", "a", 5))
    outcomes = join(joined, END)
    assert [outcome.is_taken for outcome in outcomes] == [True, False, False, False]
    assert worth_of(joined).of("default") == Tally(4, 1, 1, 4.0, 1.0, 4.0)


def test_an_interaction_counts_for_the_last_answer_that_showed_the_item_and_for_one_alone(joined: Shown) -> None:
    join(joined, shown("u1", 0, version="v00000001"), shown("u1", 2, version="v00000002"), shown("u1", 3, ["c"], version="v00000003"))
    join(joined, did("u1", "a", 4), did("u1", "b", 5))
    join(joined, END)
    found = {version: worth_of(joined).of("default", version) for version in ("v00000001", "v00000002", "v00000003")}
    assert [(tally.shown, tally.taken, tally.actions) for tally in found.values()] == [(1, 0, 0), (1, 1, 2), (1, 0, 0)]


def test_a_request_id_decides_whose_an_interaction_is_whatever_the_clients_clock_says(joined: Shown) -> None:
    join(joined, shown("u1", 5, version="v00000001", request_id="r1"), shown("u1", 6, version="v00000002", request_id="r2"))
    join(joined, did("u1", "a", 1, request_id="r1"), did("u1", "b", 7, request_id="not logged"), did("u1", "z", 7, request_id="r2"))
    join(joined, END)
    assert (worth_of(joined).of("default", "v00000001").taken, worth_of(joined).of("default", "v00000002").taken) == (1, 0)


def test_what_comes_when_an_answers_time_is_over_counts_for_nothing(joined: Shown) -> None:
    join(joined, shown("u1", 0))
    assert [outcome.is_taken for outcome in join(joined, shown("u2", WINDOW_S))] == [False]
    assert join(joined, did("u1", "a", 1)) == []
    assert worth_of(joined).of("default") == Tally(1, 0, 0, 1.0, 0.0, 1.0)


def test_an_answer_waits_for_its_own_partition(joined: Shown) -> None:
    join(joined, shown("u1", 0, partition=1), shown("u2", 100))
    join(joined, did("u1", "a", 3))
    assert len(joined) == 2
    assert [outcome.is_taken for outcome in join(joined, shown("u3", 50, partition=1))] == [True]


def test_an_answer_since_which_nobody_did_anything_is_told_apart(joined: Shown) -> None:
    join(joined, did("u2", "z", 0), shown("u1", 0))
    join(joined, shown("u1", 1))
    outcomes = join(joined, END)
    assert [outcome.is_heard for outcome in outcomes] == [True, False]


def test_a_sample_stands_for_all_answers_and_its_error_is_that_of_the_sample(joined: Shown) -> None:
    sampled = {"context": {"share": 0.25}}
    join(joined, *(shown(f"u{number}", 0, **sampled) for number in range(4)), did("u1", "a", 1), END)
    found = worth_of(joined).of("default").facts()
    assert (found["shown"], found["taken"], found["answers"], found["rate"]) == (4, 1, 16, 0.25)
    assert (found["low"], found["high"]) == tuple(round(bound, 6) for bound in wilson(0.25, 4))


@pytest.mark.parametrize(
    "context",
    [
        {"model_version": "not a version"},
        {"model_version": "v00000001" * 20},
        {"source": "x" * 33},
        {"student": "../x"},
        {"student": ""},
        {"model_version": None},
    ],
)
def test_an_impression_that_names_no_version_of_ours_is_not_counted(joined: Shown, context: Event) -> None:
    join(joined, shown("u1", 0, context=context), did("u1", "a", 1))
    assert len(joined) == 0


def test_memory_is_bounded_and_what_goes_for_it_goes_taken_or_not(joined: Shown) -> None:
    small = Shown(WINDOW_S, 3, Worth())
    join(small, *(shown(f"u{number}", number / 10) for number in range(7)), did("u0", "a", 1))
    assert (len(small), small.num_cut) == (3, 4)
    join(small, END)
    assert worth_of(small).of("default").shown == 3 == worth_of(small).of("default").shown - worth_of(small).of("default").taken


def test_a_users_deletion_takes_their_waiting_answers_uncounted(joined: Shown) -> None:
    join(joined, shown("u1", 0), shown("u1", 1), shown("u2", 1), did("u1", "a", 2))
    joined.snapshot()
    assert joined.delete_user("default", "u1") == 2
    assert joined.delete_user("shop", "u2") == 0
    restored = Shown(WINDOW_S, 100, Worth())
    restored.restore(joined.snapshot())
    for one in (joined, restored):
        assert [outcome.is_taken for outcome in join(one, END)] == [False]


def test_versions_beyond_the_newest_count_together(joined: Shown) -> None:
    for number in range(1, KEPT_VERSIONS + 11):
        join(joined, shown("u1", 100 * number, version=f"v{number:08d}"), did("u1", "a", 100 * number + 1))
    late = shown("u1", 100 * KEPT_VERSIONS + 1500, version="v00000002")
    join(joined, late, END | {"at_s": 100_000})
    rows = worth_of(joined).facts()
    assert len(rows) == KEPT_VERSIONS + 1
    assert rows[0]["model_version"] == f"v{KEPT_VERSIONS + 10:08d}"
    assert rows[-1]["model_version"] == EARLIER
    assert (rows[-1]["shown"], rows[-1]["taken"]) == (11, 10)


def test_students_and_sources_are_told_apart() -> None:
    table = Worth()
    table.add(Giver("default", "v00000001", "student"), 1.0, 1)
    table.add(Giver("default", "v00000001", "popular"), 1.0, 0)
    table.add(Giver("small", "v00000001", "student"), 1.0, 0)
    assert [(row["student"], row["source"], row["rate"]) for row in table.facts()] == [
        ("default", "popular", 0.0), ("default", "student", 1.0), ("small", "student", 0.0),
    ]  # fmt: skip
    assert (table.of("default").shown, table.of("default", source="popular").shown) == (2, 1)


moments = st.integers(0, 40)
some_users = st.sampled_from(["u1", "u2", "u3"])
events = st.one_of(
    st.builds(shown, some_users, moments, st.lists(st.sampled_from("abc"), min_size=1, max_size=3), partition=st.integers(0, 1)),
    st.builds(did, some_users, st.sampled_from("abc"), moments),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(events, max_size=5), max_size=8), st.sets(st.integers(0, 7)), st.sampled_from([3, 100]), st.integers(0, 7))
def test_a_state_that_is_restored_from_a_base_and_deltas_goes_on_as_if_nothing_had_happened(
    steps: list[list[Event]], saved: set[int], most: int, deleted: int
) -> None:
    straight, base = Shown(WINDOW_S, most, Worth()), Shown(WINDOW_S, most, Worth())
    parts = [straight.snapshot()]
    for number, step in enumerate(steps):
        join(straight, *step)
        if number == deleted:
            straight.delete_user("default", "u1")
        if number in saved:
            delta = straight.delta()
            assert delta is not None
            parts.append(delta)
    last = straight.delta()
    assert last is not None
    base.restore(parts[0], [*parts[1:], last])
    assert base.digest() == straight.digest()
    assert join(base, END) == join(straight, END)


def test_the_interval_covers_as_often_as_it_says() -> None:
    rng, covered = np.random.default_rng(1), 0
    for found in rng.binomial(200, 0.04, 2000):
        low, high = wilson(found / 200, 200)
        covered += low <= 0.04 <= high
    assert covered / 2000 == pytest.approx(0.95, abs=0.03)
