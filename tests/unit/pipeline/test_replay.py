from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import orjson
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamrec.clock import ManualClock
from streamrec.config import Config, load_config, parse_config, parse_overrides
from streamrec.errors import BrokerError, BrokerUnavailable, ConfigError, DataError
from streamrec.events.assemble import Dataset
from streamrec.events.codec import EventCodec
from streamrec.events.replay import Pace, event_ids_in
from streamrec.events.synthetic import synthetic_dataset
from streamrec.log.base import Record
from streamrec.log.connect import memory_address
from streamrec.log.memory import MemoryLog
from streamrec.log.offsets import OffsetRange
from streamrec.pipeline.replay import (
    BATCH_EVENTS,
    SHORTEST_SLEEP_S,
    Replayer,
    ReplayStep,
    default_progress_path,
    import_items,
    replay_dataset,
    run_replay,
)

TOPIC = "events"
DATASET = synthetic_dataset(num_events=1200)


class CrashingWriter:
    """Append some of the records of its n-th call, then raise, as a writer whose process or broker dies."""

    def __init__(self, log: MemoryLog, crash_at: int, share: float) -> None:
        self.log = log
        self.calls = 0
        self.crash_at = crash_at
        self.share = share

    def append(self, topic: str, records: Sequence[Record]) -> list[tuple[int, int]]:
        self.calls += 1
        if self.calls < self.crash_at:
            return self.log.append(topic, records)
        by_partition = sorted(records, key=lambda record: record.key or b"")  # partitions do not get their parts in the order given
        self.log.append(topic, by_partition[: round(len(records) * self.share)])
        what = "Log: nobody answers"
        raise BrokerUnavailable(what)

    def close(self) -> None:
        """Keep everything."""


@pytest.fixture
def log() -> MemoryLog:
    log = MemoryLog()
    log.ensure_topic(TOPIC, 3)
    return log


def replayer(log: MemoryLog, path: Path, clock: ManualClock | None = None, **options: object) -> Replayer:
    settled = {"writer": log, "pace": Pace(), "dataset": DATASET, **options}
    return Replayer(reader=log, topic=TOPIC, progress_path=path, clock=clock or ManualClock(), **settled)  # type: ignore[arg-type]


def ids_by_partition(log: MemoryLog) -> list[list[str]]:
    return [event_ids_in(log.read_table([OffsetRange(TOPIC, number, log.earliest(TOPIC)[number], end)])) for number, end in log.latest(TOPIC).items()]


def assert_each_event_once_in_order(log: MemoryLog, dataset: Dataset = DATASET) -> None:
    wanted = {event_id: position for position, event_id in enumerate(dataset.events["event_id"].to_pylist())}
    found = [[wanted[event_id] for event_id in ids] for ids in ids_by_partition(log)]
    assert sorted(position for part in found for position in part) == list(range(dataset.events.num_rows))


def test_a_replay_sends_each_event_once_in_event_time_order_keyed_by_user(log: MemoryLog, tmp_path: Path) -> None:
    last = run_replay(replayer(log, tmp_path / "p"), sleep=pytest.fail)
    assert (last.sent, last.position, last.done) == (1200, 1200, True)
    assert_each_event_once_in_order(log)
    rows = log.read_table([OffsetRange(TOPIC, number, 0, end) for number, end in log.latest(TOPIC).items()])
    decoded = EventCodec(Config().events).decode(rows, now_ms=2_000_000_000_000)
    assert decoded.rejected.num_rows == 0
    assert rows["key"].to_pylist() == [user.encode() for user in decoded.valid["user_id"].to_pylist()]
    for number in range(3):
        times = decoded.valid["event_time"].to_numpy()[decoded.valid["partition"].to_numpy() == number]
        assert (times[1:] >= times[:-1]).all()


def test_a_step_never_sends_more_than_is_due_and_says_how_long_to_wait(log: MemoryLog, tmp_path: Path) -> None:
    clock = ManualClock()
    slow = replayer(log, tmp_path / "p", clock, pace=Pace(rate=10))
    assert slow.step() == ReplayStep(1, 1, 1200, pytest.approx(0.1), DATASET.events["event_time"][0].as_py())  # type: ignore[arg-type]
    assert slow.step().sent == 0
    clock.advance(0.55)
    assert (slow.step().sent, slow.progress.position) == (5, 6)
    clock.advance(1000)
    assert slow.step().sent == BATCH_EVENTS
    assert slow.step().wait_s == 0


def test_a_paced_run_sleeps_until_events_are_due(log: MemoryLog, tmp_path: Path) -> None:
    clock, slept = ManualClock(), []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock.advance(seconds)

    last = run_replay(replayer(log, tmp_path / "p", clock, pace=Pace(speed=600)), sleep=sleep)
    assert last.sent == 1200
    assert sum(slept) == pytest.approx(1199 / 600, abs=SHORTEST_SLEEP_S)  # the world has an event a second
    assert_each_event_once_in_order(log)


class SlowWriter:
    """Take so long for each append."""

    def __init__(self, log: MemoryLog, clock: ManualClock, append_s: float) -> None:
        self.log, self.clock, self.append_s, self.calls = log, clock, append_s, 0

    def append(self, topic: str, records: Sequence[Record]) -> list[tuple[int, int]]:
        self.calls += 1
        self.clock.advance(self.append_s)
        return self.log.append(topic, records)

    def close(self) -> None:
        """Keep everything."""


def test_what_falls_due_during_an_append_waits_for_company(log: MemoryLog, tmp_path: Path) -> None:
    clock = ManualClock()
    writer = SlowWriter(log, clock, append_s=0.02)
    last = run_replay(replayer(log, tmp_path / "p", clock, writer=writer, pace=Pace(rate=300)), sleep=clock.advance)
    assert last.done
    assert writer.calls <= 4.0 / SHORTEST_SLEEP_S + 1  # of 1,200 events in four seconds


def test_a_stopped_replay_goes_on_where_it_was_and_a_finished_one_sends_nothing(log: MemoryLog, tmp_path: Path) -> None:
    stopped = run_replay(replayer(log, tmp_path / "p"), sleep=pytest.fail, should_stop=lambda: True)
    assert (stopped.sent, stopped.done) == (BATCH_EVENTS, False)
    assert run_replay(replayer(log, tmp_path / "p"), sleep=pytest.fail).sent == 700
    again = replayer(log, tmp_path / "p")
    assert again.num_found == 1200
    assert run_replay(again, sleep=pytest.fail).sent == 0
    assert_each_event_once_in_order(log)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(crashes=st.lists(st.tuples(st.integers(1, 3), st.sampled_from([0.0, 0.3, 0.7, 1.0]), st.integers(1, 60)), max_size=5), foreign=st.booleans())
def test_after_any_crashes_each_event_is_in_the_log_once(crashes: list[tuple[int, float, int]], foreign: bool, tmp_path: Path) -> None:
    log, path = MemoryLog(), tmp_path / "p"
    path.unlink(missing_ok=True)
    log.ensure_topic(TOPIC, 3)
    for crash_at, share, seconds in crashes:
        clock = ManualClock()
        writer = CrashingWriter(log, crash_at, share)
        crashing = replayer(log, path, clock, writer=writer, pace=Pace(rate=3))
        with contextlib.suppress(BrokerUnavailable):
            run_replay(crashing, sleep=lambda _, clock=clock, seconds=seconds: clock.advance(seconds))
        if foreign:
            log.append(TOPIC, [Record(b"k", orjson.dumps({"event_id": f"foreign-{number}"})) for number in range(3)] + [Record(None, b"bad")])
    run_replay(replayer(log, path), sleep=pytest.fail)
    ids = [event_id for part in ids_by_partition(log) for event_id in part if not event_id.startswith("foreign")]
    assert sorted(ids) == sorted(DATASET.events["event_id"].to_pylist())


def test_max_events_counts_from_the_beginning_of_the_file_over_all_runs(log: MemoryLog, tmp_path: Path) -> None:
    assert run_replay(replayer(log, tmp_path / "p", max_events=300), sleep=pytest.fail).sent == 300
    assert run_replay(replayer(log, tmp_path / "p", max_events=300), sleep=pytest.fail).sent == 0
    assert run_replay(replayer(log, tmp_path / "p", max_events=200), sleep=pytest.fail).sent == 0
    assert run_replay(replayer(log, tmp_path / "p", max_events=10_000), sleep=pytest.fail).sent == 900
    assert_each_event_once_in_order(log)


def test_a_restart_sends_from_the_beginning(log: MemoryLog, tmp_path: Path) -> None:
    run_replay(replayer(log, tmp_path / "p"), sleep=pytest.fail)
    assert run_replay(replayer(log, tmp_path / "p", restart=True), sleep=pytest.fail).sent == 1200


def test_the_progress_of_another_file_is_refused(log: MemoryLog, tmp_path: Path) -> None:
    replayer(log, tmp_path / "p").step()
    with pytest.raises(DataError, match="progress of other events or another topic"):
        replayer(log, tmp_path / "p", dataset=synthetic_dataset(seed=1))


@pytest.mark.parametrize("records", [0, 2000])
def test_the_progress_made_with_another_log_is_refused(log: MemoryLog, tmp_path: Path, records: int) -> None:
    replayer(log, tmp_path / "p").step()
    other = MemoryLog()
    other.ensure_topic(TOPIC, 3)
    other.append(TOPIC, [Record(None, b"{}")] * records)
    with pytest.raises(BrokerError, match=r"not the one that the progress was made with.*--restart"):
        replayer(other, tmp_path / "p")


def test_a_replay_goes_on_when_retention_has_dropped_what_it_sent(log: MemoryLog, tmp_path: Path) -> None:
    replayer(log, tmp_path / "p").step()
    log.drop_before(TOPIC, log.latest(TOPIC))
    assert run_replay(replayer(log, tmp_path / "p"), sleep=pytest.fail).sent == 700


def test_a_catalogue_is_sent_keyed_by_item_and_counted(log: MemoryLog) -> None:
    assert DATASET.items is not None
    counts: list[int] = []
    assert import_items(DATASET.items, log, TOPIC, counts.append) == 120
    assert counts == [120]
    rows = log.read_table([OffsetRange(TOPIC, number, 0, end) for number, end in log.latest(TOPIC).items()])
    decoded = EventCodec(Config().events).decode(rows, now_ms=2_000_000_000_000).valid
    assert set(decoded["kind"].to_pylist()) == {"item_update"}
    assert rows["key"].to_pylist() == [item.encode() for item in decoded["item_id"].to_pylist()]


def test_a_dataset_is_replayed_by_address_with_its_items_first_and_once(tmp_path: Path) -> None:
    config, address = Config(state=str(tmp_path)), memory_address("replay-by-address")
    settled = {"pace": Pace(), "clock": ManualClock(), "sleep": pytest.fail, "with_items": True}
    assert replay_dataset(config, DATASET, address, **settled, max_events=10).sent == 10  # type: ignore[arg-type]
    assert replay_dataset(config, DATASET, address, **settled).sent == 1190  # type: ignore[arg-type]
    assert sum(MemoryLog.named("replay-by-address").latest(config.log.events_topic).values()) == 1200 + 120
    assert default_progress_path(config, DATASET).is_relative_to(tmp_path)


def test_events_that_would_all_be_rejected_are_refused_before_any_is_sent(tmp_path: Path) -> None:
    kinds = pa.array(["click", "buy", "purchase", "lend"] * 300)
    dataset = replace(DATASET, events=DATASET.events.set_column(DATASET.events.column_names.index("event_type"), "event_type", kinds))
    address, settled = memory_address("replay-of-strangers"), {"pace": Pace(), "clock": ManualClock(), "sleep": pytest.fail}
    with pytest.raises(ConfigError, match=r"600 of 1200 events have a type that means nothing here.* got buy, lend, allowed .*click") as refused:
        replay_dataset(Config(state=str(tmp_path)), dataset, address, **settled)  # type: ignore[arg-type]
    with pytest.raises(BrokerError):  # There is no topic yet.
        MemoryLog.named("replay-of-strangers").latest(Config().log.events_topic)
    (said,) = re.findall(r"--set '(.*)'", str(refused.value))
    told = load_config(None, {"state": str(tmp_path), **parse_overrides([said, "events.meanings.lend.role='context'"])})
    assert replay_dataset(told, dataset, address, **settled).sent == 1200  # type: ignore[arg-type]


def test_the_progress_of_a_run_in_a_bucket_is_kept_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMREC_CACHE", str(tmp_path))
    assert default_progress_path(Config(state="s3://bucket/run"), DATASET).is_relative_to(tmp_path)


def test_two_brokers_and_two_states_have_progress_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMREC_CACHE", str(tmp_path))
    brokers = ["auto", "one:9092", "other:9092"]
    configs = [
        parse_config({"state": state, "log": {"broker": broker}}) for state in ("s3://a/run", "s3://b/run", "runs/local") for broker in brokers
    ]
    assert len({default_progress_path(config, DATASET) for config in configs}) == len(configs)
    own = [parse_config({"state": "runs/local", "log": {"broker": broker}}) for broker in ("auto", "embedded", "local")]
    assert len({default_progress_path(config, DATASET) for config in own}) == 1
