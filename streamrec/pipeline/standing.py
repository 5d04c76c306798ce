"""Say how a deployment stands, by what its stream has left on storage and in the log: while one runs and while none does, and without Ray.

Changes nothing. What can't be read is told among the troubles, and the rest all the same.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import psutil

from streamrec.clock import Clock
from streamrec.config import Config, student_names
from streamrec.errors import StreamrecError, TopicMissing
from streamrec.log.base import LogAddress, TableReader
from streamrec.log.connect import open_table_reader
from streamrec.pipeline.checkpoint import Checkpoint, read_head
from streamrec.pipeline.layout import checkpoint_url
from streamrec.pipeline.lineage import current_lineage, url_of
from streamrec.pipeline.log_place import log_there
from streamrec.pipeline.plan_store import PlanStore
from streamrec.pipeline.quarantined import quarantined
from streamrec.pipeline.readable import Committed as Held
from streamrec.pipeline.readable import committed, lost_versions
from streamrec.pipeline.refresh_state import RefreshState
from streamrec.pipeline.session import state_address
from streamrec.pipeline.stream_state import BOOK_COLUMNS, StreamState
from streamrec.pipeline.student_standing import StudentStanding, stand_of
from streamrec.pipeline.switches import SwitchBoard, Switches
from streamrec.pipeline.worth_view import load_worth
from streamrec.soft_labels.ensemble import Ensemble
from streamrec.state import Component, ComponentState
from streamrec.storage import open_storage

T = TypeVar("T")

PATIENCE_S = 3.0
"""How long a broker may take to answer."""

# Each attempt that fails had the stream commit meanwhile.
_ATTEMPTS = 5


@dataclass(frozen=True)
class Writer:
    """Say who may commit: the newest driver, which is a stream's, a bootstrap's or a rebuild's, also after its end.

    Attributes:
        host: Its machine.
        pid: Its process there.
        epoch: How many drivers the state has had.
        why: Why it took over, if it said so.
        is_alive: Whether that process is there; None where another machine has it.
    """

    host: str
    pid: int
    epoch: int
    why: str
    is_alive: bool | None


@dataclass(frozen=True)
class Committed:
    """Describe the newest commit that is whole.

    Attributes:
        number: Its number.
        batch: Its last micro-batch.
        at_ms: Processing time for which that was planned, which is nearly when it was committed.
        steps_since: Steps that are planned or executed and not committed.
    """

    number: int
    batch: int
    at_ms: int
    steps_since: int


@dataclass(frozen=True)
class Lag:
    """Say what of a topic the stream has not read.

    Attributes:
        topic: Its name.
        records: How many there are in all.
        partitions: Of each the next offset to plan and the end offset (both exclusive ends).
    """

    topic: str
    records: int
    partitions: Mapping[int, tuple[int, int]]


@dataclass(frozen=True)
class TeacherStanding:
    """Say how a teacher does.

    Attributes:
        name: The teacher.
        version: That whose labels are used; None of one that counts instead.
        began_ms: When its refresh began; None where that isn't known.
        events_since: Interactions since the newest refresh began.
        weights: Its say for histories of 1, 2 to 3, 4 to 10 and more items.
        pending: Version that is being made.
        challenger: Version that is compared with the one in use.
        compared: On how many queries so far; 0 without one.
        asked: Who asked for one that has not begun yet, as part of a sentence.
    """

    name: str
    version: str | None
    began_ms: int | None
    events_since: int | None
    weights: tuple[float, ...]
    pending: str | None
    challenger: str | None
    compared: int = 0
    asked: str = ""


@dataclass(frozen=True)
class Standing:
    """Hold how a deployment stands; what is None is not there or can't be read, which ``troubles`` says.

    Attributes:
        at_ms: Processing time of the look.
        state: The state's address.
        lineage: Folder of the current lineage; empty for the first.
        writer: Who may commit.
        commit: The newest commit.
        books: As of that; ``pending`` is what steps since have planned to read.
        log: Where the events are; None while an embedded Kafka does not run.
        lag: Of each topic that is read.
        students: The live versions.
        teachers: Those that are enabled or in use.
        switches: What holds the stream, a sentence each.
        quarantine: Ranges, and events in them.
        dead_letters: Records of the dead-letter topic, with parts and markers of replays.
        disk: Bytes by folder of the state, in all, and free; None in a bucket.
        troubles: What can't be read, or does not add up, a sentence each.
    """

    at_ms: int
    state: str
    lineage: str = ""
    writer: Writer | None = None
    commit: Committed | None = None
    books: Mapping[str, int] | None = None
    log: str | None = None
    lag: tuple[Lag, ...] = ()
    students: tuple[StudentStanding, ...] = ()
    teachers: tuple[TeacherStanding, ...] = ()
    switches: tuple[str, ...] = ()
    quarantine: Mapping[str, int] = field(default_factory=lambda: {"ranges": 0, "events": 0})
    dead_letters: int | None = None
    disk: Mapping[str, int] | None = None
    troubles: tuple[str, ...] = ()


class _Look:
    """Look at one thing after another, and note what can't be read. A storage that lets one wait is asked no more: each look would wait as long."""

    def __init__(self, address: str, clock: Clock) -> None:
        self.troubles: list[str] = []
        self._address, self._clock, self._is_stuck = address, clock, False

    def at(self, what: Callable[[], T], otherwise: T) -> T:
        try:
            return what()
        except StreamrecError as error:
            self.troubles.append(str(error))
            return otherwise

    def in_state(self, what: Callable[[], T], otherwise: T) -> T:
        if self._is_stuck:
            return otherwise
        began_s, num = self._clock.monotonic_s(), len(self.troubles)
        found = self.at(what, otherwise)
        took_s = self._clock.monotonic_s() - began_s
        if len(self.troubles) > num and took_s > PATIENCE_S:
            self._is_stuck = True
            self.troubles.append(f"Storage: {self._address} let a look wait for {took_s:.0f} s, so nothing else of the state was asked for")
        return found


def standing(config: Config, broker: str, clock: Clock) -> Standing:
    """Look at a deployment.

    Args:
        config: The resolved configuration.
        broker: What ``log.broker`` may be.
        clock: Tells processing time, and how long a look takes.
    """
    address = state_address(config)
    look = _Look(address, clock)
    lineage = look.in_state(lambda: current_lineage(address).folder, "")
    url = url_of(address, lineage)
    nothing: tuple[Held, dict[int, dict[str, Any]]] = (Held(), {})
    held, plans = look.in_state(partial(_executed, look, address, url), nothing)
    state = held.state or StreamState()
    books = None if held.checkpoint is None else _books(state, plans)
    if books is not None and (missing := books["received"] - sum(value for name, value in books.items() if name != "received")):
        look.troubles.append(f"Books: they do not balance, {missing} of {books['received']} records are booked nowhere")
    worth = look.in_state(lambda: load_worth(address), None)
    names = student_names(config)
    students = tuple(look.in_state(partial(stand_of, config, name, state, worth), StudentStanding(name, is_readable=False)) for name in names)
    look.troubles += look.in_state(lambda: [str(lost) for lost in lost_versions(address, held, names, reads_weights=False)], [])
    there = look.at(lambda: log_there(config, broker), None)
    switches = look.in_state(lambda: SwitchBoard(open_storage(address)).now(), Switches())
    return Standing(
        clock.now_ms(),
        address,
        lineage,
        look.in_state(lambda: _writer(url), None),
        None if held.checkpoint is None else Committed(held.checkpoint.id, held.batch, state.planned_ms, len(plans)),
        books,
        None if there is None else str(there),
        () if there is None else look.at(lambda: _lag(config, there, state, plans), ()),
        students,
        _teachers(config, state, held.checkpoint, switches) if held.checkpoint is not None else (),
        tuple(switches.in_force()),
        look.in_state(lambda: _quarantine(url), {"ranges": 0, "events": 0}),
        None if there is None else look.at(lambda: _num_letters(config, there), None),
        None if "://" in address else disk_use(Path(address)),
        tuple(dict.fromkeys(look.troubles)),
    )


def _executed(look: _Look, address: str, lineage_url: str) -> tuple[Held, dict[int, dict[str, Any]]]:
    """Return the newest commit, and the plans beyond it; raise what keeps the commit from being read."""
    for attempt in range(_ATTEMPTS):
        held = committed(address, ("ensemble", "refreshes"), looks_at_all=False)
        if held.error is not None:
            raise held.error
        try:
            return held, PlanStore(open_storage(lineage_url)).ahead(held.batch)
        except StreamrecError as error:
            # A stream that commits meanwhile removes the plans that its commit covers: then there is a newer one to look at.
            if not error.facts.get("missing") or attempt == _ATTEMPTS - 1:
                look.troubles.append(str(error))
                break
    return held, {}


def _writer(lineage_url: str) -> Writer | None:
    head, _ = read_head(open_storage(checkpoint_url(lineage_url)))
    if head is None:
        return None
    owner = head.owner
    return Writer(owner.host, owner.pid, head.epoch, owner.why, psutil.pid_exists(owner.pid) if owner.host == socket.gethostname() else None)


def _books(state: StreamState, plans: Mapping[int, Mapping[str, Any]]) -> dict[str, int]:
    pending = sum(part["end"] - part["start"] for plan in plans.values() for part in plan["ranges"])
    counts = {name: state.counts.get(name, 0) for name in (*BOOK_COLUMNS, *(["lost"] if "lost" in state.counts else []))}
    return {**counts, "received": counts["received"] + pending, "pending": pending}


def _reader(config: Config, address: LogAddress) -> TableReader:
    return open_table_reader(address, config.log.model_copy(update={"connect_timeout_s": PATIENCE_S, "read_timeout_s": PATIENCE_S}))


def _lag(config: Config, address: LogAddress, state: StreamState, plans: Mapping[int, Mapping[str, Any]]) -> tuple[Lag, ...]:
    topic = config.log.events_topic
    with closing(_reader(config, address)) as reader:
        try:
            ends = reader.latest(topic)
        except TopicMissing:
            if any(state.offsets.values()):
                raise
            return ()  # The first job makes it.
    planned = state.offsets | {part["partition"]: part["end"] for plan in plans.values() for part in plan["ranges"]}
    partitions = {partition: (planned.get(partition, 0), end) for partition, end in sorted(ends.items())}
    return (Lag(topic, sum(max(0, end - start) for start, end in partitions.values()), partitions),)


def _num_letters(config: Config, address: LogAddress) -> int | None:
    topic = config.log.dead_letter_topic
    with closing(_reader(config, address)) as reader:
        try:
            earliest, latest = reader.earliest(topic), reader.latest(topic)
        except TopicMissing:
            return 0
    return sum(end - earliest[partition] for partition, end in latest.items())


def _teachers(config: Config, state: StreamState, checkpoint: Checkpoint, switches: Switches) -> tuple[TeacherStanding, ...]:
    ensemble, refreshes = Ensemble(), RefreshState()
    for part in (ensemble, refreshes):
        _restore(part, checkpoint)
    counted = [name for name in config.teachers.enabled if name not in config.teachers.refreshed]
    weights = ensemble.weights([*state.teachers, *counted])
    names = dict.fromkeys([*config.teachers.enabled, *state.teachers])
    return tuple(_teacher(name, state, refreshes, tuple(weights.get(name, ())), switches) for name in names)


def _restore(part: Component, checkpoint: Checkpoint) -> None:
    base, *deltas = checkpoint.components.get(part.name, (ComponentState(),))
    part.restore(base, deltas)


def _teacher(name: str, state: StreamState, refreshes: RefreshState, weights: tuple[float, ...], switches: Switches) -> TeacherStanding:
    version, pending, challenger = state.teachers.get(name), state.pending.get(name), state.challengers.get(name)
    record, began_ms = refreshes.records.get(name), None
    if record is not None and version is not None:
        # While a later version is made or compared, what is in use is of the refresh before.
        before = record.held if pending or challenger else record.now
        began_ms = None if before is None else before.began_ms
    asked = switches.asked_for(name) if record is not None else None
    waits = str(asked) if record is not None and asked is not None and asked.at_ms > record.now.began_ms else ""
    compared = int(record.pairs[0]) if record is not None and challenger is not None and record.challenger == challenger else 0
    return TeacherStanding(name, version, began_ms, state.events_since.get(name), weights, pending, challenger, compared, waits)


def _quarantine(lineage_url: str) -> dict[str, int]:
    records = list(quarantined(open_storage(lineage_url)))
    return {"ranges": len(records), "events": sum(record.num_events for record in records)}


def disk_use(folder: Path) -> dict[str, int]:
    """Return the bytes of each thing in a folder by name, of all (``total``), and what is free there (``free``)."""
    if not folder.is_dir():
        return {"total": 0}
    sizes = {entry.name: _size(entry) for entry in sorted(folder.iterdir())}
    return {**{name: size for name, size in sizes.items() if size}, "total": sum(sizes.values()), "free": shutil.disk_usage(folder).free}


def _size(path: Path) -> int:
    """Return the bytes of a file or of all files below a folder; what goes while it is looked at counts nothing."""
    if not path.is_dir():
        return _bytes_of(path)
    return sum(_bytes_of(Path(parent) / name) for parent, _, names in os.walk(path) for name in names)


def _bytes_of(path: Path) -> int:
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0
