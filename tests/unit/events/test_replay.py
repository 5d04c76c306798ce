from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrec.errors import ConfigError, DataError, StorageError
from streamrec.events.progress import Anchor, Progress, load_progress, save_progress
from streamrec.events.replay import Pace, Schedule, already_sent, event_ids_in, fingerprint
from streamrec.events.synthetic import synthetic_dataset

TIMES = np.array([0, 0, 1000, 600_000, 1_200_000], np.int64)


@pytest.mark.parametrize(
    ("speed", "rate", "pace"),
    [("600x", None, Pace(speed=600)), ("0.5x", None, Pace(speed=0.5)), ("max", None, Pace()), (None, None, Pace()), (None, 2.5, Pace(rate=2.5))],
)
def test_a_pace_is_parsed(speed: str | None, rate: float | None, pace: Pace) -> None:
    assert Pace.parse(speed, rate) == pace


@pytest.mark.parametrize(
    ("speed", "rate"), [("fast", None), ("600", None), ("0x", None), ("-1x", None), (None, 0.0), (None, float("nan")), ("max", 5.0)]
)
def test_a_pace_that_is_none_is_an_error(speed: str | None, rate: float | None) -> None:
    with pytest.raises(ConfigError, match="Replay: "):
        Pace.parse(speed, rate)


def test_at_600x_ten_minutes_of_events_are_due_after_a_second() -> None:
    schedule = Schedule(TIMES, Pace(speed=600), 0, 5)
    assert [schedule.due(elapsed_s) for elapsed_s in (0, 0.9, 1.0, 1.9, 2.0, 99)] == [2, 3, 4, 4, 5, 5]
    assert schedule.wait_s(3, 0.25) == pytest.approx(0.75)
    assert schedule.wait_s(5, 0) == 0


def test_a_rate_spaces_events_evenly_and_max_waits_for_nothing() -> None:
    schedule = Schedule(TIMES, Pace(rate=2), 1, 5)
    assert [schedule.due(elapsed_s) for elapsed_s in (0, 0.4, 0.5, 1.0, 99)] == [2, 2, 3, 4, 5]
    assert schedule.wait_s(2, 0.2) == pytest.approx(0.3)
    fastest = Schedule(TIMES, Pace(), 1, 4)
    assert (fastest.due(0), fastest.wait_s(1, 0)) == (4, 0)


def test_a_resumed_schedule_starts_at_once_and_not_after_the_events_before() -> None:
    assert Schedule(TIMES, Pace(speed=600), 3, 5).due(0) == 4
    assert Schedule(TIMES, Pace(speed=600), 5, 5).due(0) == 5


@given(
    st.lists(st.integers(0, 10**7), min_size=1, max_size=20).map(sorted), st.floats(0, 100), st.sampled_from([Pace(speed=60), Pace(rate=3), Pace()])
)
def test_what_is_not_due_becomes_due_exactly_after_the_stated_wait(times: list[int], elapsed_s: float, pace: Pace) -> None:
    schedule = Schedule(np.array(times, np.int64), pace, 0, len(times))
    position = schedule.due(elapsed_s)
    if position < len(times):
        wait_s = schedule.wait_s(position, elapsed_s)
        assert wait_s > 0
        assert schedule.due(elapsed_s + wait_s + 1e-6) > position


def test_the_ids_of_log_rows_are_found_whatever_else_is_there(log_rows: Callable[..., pa.Table]) -> None:
    values = [b'{"event_id":"a"}', None, b"", b"bad", b"5", b"[1]", b'{"event_id":5}', b"{}", b'{"event_id":"b"}']
    assert event_ids_in(log_rows(values)) == ["a", "b"]


def test_only_events_from_the_position_on_count_as_already_sent() -> None:
    ids = pa.chunked_array([["a", "b"], ["c", "d", "e"]])
    assert already_sent(ids, 2, {"a", "d", "e", "other"}) == {3, 4}
    assert already_sent(ids, 5, {"a"}) == frozenset()
    assert already_sent(ids, 0, set()) == frozenset()


def test_a_fingerprint_does_not_depend_on_chunks_and_tells_contents_apart() -> None:
    events = synthetic_dataset(num_events=50).events
    chunked = pa.concat_tables([events.slice(0, 10), events.slice(10)])
    assert fingerprint(chunked) == fingerprint(events)
    assert fingerprint(events.slice(1)) != fingerprint(events)
    assert fingerprint(synthetic_dataset(num_events=50, seed=1).events) != fingerprint(events)


def test_progress_is_the_same_after_a_round_over_the_disk(tmp_path: Path) -> None:
    progress = Progress("f", "t", 5, {0: 7, 1: 8}, Anchor(1, 7, "e"), (6, 9))
    path = tmp_path / "deep" / "progress.json"
    assert load_progress(path) is None
    save_progress(path, progress)
    assert load_progress(path) == progress
    save_progress(path, Progress("f", "t", 0, {0: 0}))
    assert load_progress(path) == Progress("f", "t", 0, {0: 0})
    assert [file.name for file in path.parent.iterdir()] == ["progress.json"]


@pytest.mark.parametrize(
    "text", ["", "null", "{}", "[]", '{"fingerprint": "f", "topic": "t", "position": "x", "offsets": {}, "anchor": null, "ahead": []}']
)
def test_a_damaged_progress_file_is_an_error_that_says_what_to_do(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(DataError, match="give --restart"):
        load_progress(tmp_path / "p.json")


def test_a_progress_file_that_can_not_be_read_or_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="can't be read"):
        load_progress(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="can't be saved"):
        save_progress(tmp_path / "file" / "p.json", Progress("f", "t", 0, {}))
