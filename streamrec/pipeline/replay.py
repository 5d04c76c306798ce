"""Send a dataset's events or a catalogue to the log, resumable without sending twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from streamrec.clock import Clock
from streamrec.config import Config
from streamrec.environment import cache_folder
from streamrec.errors import BrokerError, ConfigError, DataError
from streamrec.events.codec import encode_table
from streamrec.events.datasets import Dataset
from streamrec.events.progress import Anchor, Progress, load_progress, save_progress
from streamrec.events.replay import Pace, Schedule, already_sent, event_ids_in, fingerprint
from streamrec.log.base import LogAddress, LogWriter, Record, TableReader
from streamrec.log.connect import open_admin, open_table_reader, open_writer
from streamrec.log.offsets import OffsetRange

OWN_BROKERS = ("auto", "embedded", "local")  # these belong to the state, wherever they listen
BATCH_EVENTS = 500  # at most so many events are in doubt after a crash, and looked up in the log
SCAN_ROWS = 20_000  # log rows in memory while looking them up
SHORTEST_SLEEP_S = 0.1  # events that fall due closer together share an append, whose acknowledgement costs milliseconds
LONGEST_SLEEP_S = 0.5  # a stop is noticed this soon, however long the next event is away


@dataclass(frozen=True)
class ReplayStep:
    """Report one step.

    Attributes:
        sent: Events sent by this step.
        position: Events before it are in the log.
        stop: The position at which the replay is done.
        wait_s: Seconds until the next event is due; 0 while events are waiting.
        event_time_ms: The time of the newest event sent, or None before the first.
    """

    sent: int
    position: int
    stop: int
    wait_s: float
    event_time_ms: int | None

    @property
    def done(self) -> bool:
        """Say whether every event is in the log."""
        return self.position >= self.stop


class Replayer:
    """Send a dataset's events in event-time order, keyed by user.

    **Contract.** `step` never sleeps; it sends what is due, at most `BATCH_EVENTS`, and returns after the log has acknowledged it and the
    progress is on disk. A new replayer on the same progress file goes on where the last one was, also after a crash: what the log has
    already taken is looked up in it and not sent again. One replayer at a time per progress file.

    Args:
        dataset: What to send.
        writer: Appends.
        reader: Looks up what a crashed replay has sent.
        topic: Where to; it exists.
        pace: How fast.
        progress_path: Where the progress is kept.
        clock: Gives monotonic seconds for the pace.
        max_events: Stop after the dataset's first so many events; resumed runs count too.
        restart: Forget the progress and send from the beginning.

    Raises:
        DataError: The progress is another file's or topic's.
        BrokerError: The log is not the one that the progress was made with.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        writer: LogWriter,
        reader: TableReader,
        topic: str,
        pace: Pace,
        progress_path: Path,
        clock: Clock,
        max_events: int | None = None,
        restart: bool = False,
    ) -> None:
        self._events = dataset.events
        self._writer = writer
        self._topic = topic
        self._path = progress_path
        self._clock = clock
        own = fingerprint(dataset.events)
        saved = None if restart else load_progress(progress_path)
        if saved is None:
            self._skip: frozenset[int] = frozenset()
            self.progress = Progress(own, topic, 0, reader.latest(topic))
            save_progress(progress_path, self.progress)
        else:
            _check_same(saved, own, topic, progress_path)
            found = _found_since(saved, reader)
            self._skip = already_sent(dataset.events["event_id"], saved.position, found).union(saved.ahead)
            self.progress = saved
        stop = dataset.events.num_rows if max_events is None else min(max_events, dataset.events.num_rows)
        self._schedule = Schedule(dataset.events["event_time"].to_numpy(), pace, self.progress.position, max(stop, self.progress.position))
        self._started_s = clock.monotonic_s()

    @property
    def num_found(self) -> int:
        """Return how many events the log had from runs before, when this replayer was made."""
        return self._schedule.start + len(self._skip)

    def step(self) -> ReplayStep:
        """Send what is due; see the class."""
        start = self.progress.position
        elapsed_s = self._clock.monotonic_s() - self._started_s
        end = min(self._schedule.due(elapsed_s), start + BATCH_EVENTS)
        sent = self._send(start, end) if end > start else 0
        position = self.progress.position
        time_ms = self._events["event_time"][position - 1].as_py() if position else None
        wait_s = self._schedule.wait_s(position, self._clock.monotonic_s() - self._started_s)
        return ReplayStep(sent, position, self._schedule.stop, wait_s, time_ms)

    def _send(self, start: int, end: int) -> int:
        chosen = [position for position in range(start, end) if position not in self._skip]
        table = self._events.slice(start, end - start)
        if len(chosen) < end - start:
            table = table.take(pa.array([position - start for position in chosen], pa.int64()))
        places = _append(self._writer, self._topic, table)
        offsets = dict(self.progress.offsets)
        for partition, offset in places:
            offsets[partition] = max(offsets.get(partition, 0), offset + 1)
        anchor = Anchor(*places[-1], table["event_id"][-1].as_py()) if places else self.progress.anchor
        ahead = tuple(sorted(position for position in self._skip if position >= end))
        self.progress = Progress(self.progress.fingerprint, self._topic, end, offsets, anchor, ahead)
        save_progress(self._path, self.progress)
        return len(places)


def run_replay(
    replayer: Replayer,
    *,
    sleep: Callable[[float], object],
    on_step: Callable[[ReplayStep], None] = lambda step: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> ReplayStep:
    """Step until all is sent or ``should_stop`` says so; return the last step, its ``sent`` being the sum."""
    sent, position = 0, replayer.progress.position
    while True:
        step = replayer.step()
        sent += step.sent
        is_behind, position = step.position - position >= BATCH_EVENTS, step.position
        on_step(step)
        if step.done or should_stop():
            return ReplayStep(sent, step.position, step.stop, step.wait_s, step.event_time_ms)
        if not is_behind:  # What fell due while the last append was on its way waits for company too.
            sleep(min(max(step.wait_s, SHORTEST_SLEEP_S), LONGEST_SLEEP_S))


def replay_dataset(
    config: Config,
    dataset: Dataset,
    address: LogAddress,
    *,
    pace: Pace,
    clock: Clock,
    sleep: Callable[[float], object],
    max_events: int | None = None,
    restart: bool = False,
    with_items: bool = False,
    progress_path: Path | None = None,
    on_step: Callable[[ReplayStep], None] = lambda step: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> ReplayStep:
    """Open the log, create the events topic unless it is there, and replay a dataset into it; see `Replayer` and `run_replay`.

    Args:
        config: Gives the topic, the number of partitions and where the progress is kept.
        dataset: What to send.
        address: Where the log is.
        pace: How fast.
        clock: Gives the seconds for the pace.
        sleep: Waits for the next event.
        max_events: See `Replayer`.
        restart: See `Replayer`.
        with_items: Send the dataset's items first, when no event has been sent before.
        progress_path: None for `default_progress_path`.
        on_step: See `run_replay`.
        should_stop: See `run_replay`.

    Raises:
        ConfigError: Events have a type that means nothing to this configuration: each of them would be rejected.
    """
    _check_meanings(dataset.events.slice(0, max_events), config)
    topic = config.log.events_topic
    with (
        closing(open_admin(address, config.log)) as admin,
        closing(open_writer(address, config.log)) as writer,
        closing(open_table_reader(address, config.log)) as reader,
    ):
        admin.ensure_topic(topic, config.log.num_partitions)
        replayer = Replayer(
            dataset,
            writer=writer,
            reader=reader,
            topic=topic,
            pace=pace,
            progress_path=progress_path or default_progress_path(config, dataset),
            clock=clock,
            max_events=max_events,
            restart=restart,
        )
        if with_items and dataset.items is not None and replayer.num_found == 0:
            import_items(dataset.items, writer, topic)
        return run_replay(replayer, sleep=sleep, on_step=on_step, should_stop=should_stop)


def _check_meanings(events: pa.Table, config: Config) -> None:
    """Raise a `ConfigError` where a type has no meaning, before anything is sent."""
    counts = {one["values"]: one["counts"] for one in pc.value_counts(events["event_type"]).to_pylist()}
    unknown = sorted(name for name in counts if name is not None and name not in config.events.meanings)
    if unknown:
        num, first = sum(counts[name] for name in unknown), unknown[0]
        what = f"Replay: {num} of {events.num_rows} events have a type that means nothing here, and would be rejected"
        do = f"write [events.meanings] as `streamrec init FILE` does, or say it: --set 'events.meanings.{first}.role=\"target\"'"
        raise ConfigError(what, got=", ".join(unknown), allowed=", ".join(config.events.meanings), do=do)


def import_items(items: pa.Table, writer: LogWriter, topic: str, on_batch: Callable[[int], None] = lambda sent: None) -> int:
    """Send a catalogue to the log and return how many items were sent.

    **Contract.** Returns after the log has them all. Sending the same table again sends the same event ids.

    Args:
        items: What `streamrec.events.catalogues.items_from_file` returns, or `Dataset.items`.
        writer: Appends.
        topic: Where to; it exists.
        on_batch: Called after each batch with the number of items sent so far.
    """
    sent = 0
    for start in range(0, items.num_rows, BATCH_EVENTS):
        sent += len(_append(writer, topic, items.slice(start, BATCH_EVENTS)))
        on_batch(sent)
    return sent


def default_progress_path(config: Config, dataset: Dataset) -> Path:
    """Return where a replay's progress is kept: in the run's folder, or in the user's cache when that is a bucket.

    One broker's progress says nothing of another's: a broker with an address, and a state outside the folder, are part of the name.
    """
    is_bucket = "://" in config.state
    folder = cache_folder() / "replay" if is_bucket else Path(config.state) / "replay"
    own = [config.state] if is_bucket else []
    own += [] if config.log.broker in OWN_BROKERS else [config.log.broker]
    mark = f".{hashlib.sha256(json.dumps(own).encode()).hexdigest()[:12]}" if own else ""
    return folder / f"{dataset.name}.{config.log.events_topic}{mark}.json"


def _append(writer: LogWriter, topic: str, table: pa.Table) -> list[tuple[int, int]]:
    keys, values = encode_table(table)
    return writer.append(topic, [Record(key, value) for key, value in zip(keys, values, strict=True)]) if keys else []


def _check_same(saved: Progress, own: str, topic: str, path: Path) -> None:
    if saved.fingerprint != own or saved.topic != topic:
        what = f"Replay: {path} is the progress of other events or another topic"
        got = f"topic {saved.topic}, events {saved.fingerprint}"
        raise DataError(what, got=got, allowed=f"topic {topic}, events {own}", do="give --restart, or another --progress file")


def _found_since(saved: Progress, reader: TableReader) -> set[str]:
    """Return the ids of the events that came into the log since the progress was saved."""
    earliest, latest = reader.earliest(saved.topic), reader.latest(saved.topic)
    beyond = {partition: offset for partition, offset in saved.offsets.items() if offset > latest.get(partition, 0)}
    if beyond or not _anchor_holds(saved, earliest, reader):
        what = f"Replay: topic {saved.topic!r} is not the one that the progress was made with"
        got = f"end offsets {latest}, saved {saved.offsets}"
        raise BrokerError(what, got=got, do="give --restart to send from the beginning, or another --progress file")
    found: set[str] = set()
    for part in _scan(saved, earliest, latest):
        found.update(event_ids_in(reader.read_table([part])))
    return found


def _scan(saved: Progress, earliest: dict[int, int], latest: dict[int, int]) -> Iterator[OffsetRange]:
    for partition, end in sorted(latest.items()):
        for start in range(max(saved.offsets.get(partition, 0), earliest[partition]), end, SCAN_ROWS):
            yield OffsetRange(saved.topic, partition, start, min(start + SCAN_ROWS, end))


def _anchor_holds(saved: Progress, earliest: dict[int, int], reader: TableReader) -> bool:
    anchor = saved.anchor
    if anchor is None or anchor.offset < earliest.get(anchor.partition, 0):
        return True
    rows = reader.read_table([OffsetRange(saved.topic, anchor.partition, anchor.offset, anchor.offset + 1)])
    return event_ids_in(rows) == [anchor.event_id]
