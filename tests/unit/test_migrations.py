"""Read a stored sample of each older number of each format, and refuse each number of the future."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from streamrec.errors import StorageError, StreamrecError
from streamrec.events.progress import Progress
from streamrec.events.schema import EVENT
from streamrec.features.vocabulary import Vocabulary
from streamrec.log.base import Record
from streamrec.log.lake import EventLake
from streamrec.log.lake_table import lake_rows
from streamrec.log.memory import MemoryLog
from streamrec.migrations import FORMATS, NEEDS_REBUILD, migrated
from streamrec.pipeline.batch import read_plan as read_batch_plan
from streamrec.pipeline.checkpoint import CheckpointStore
from streamrec.pipeline.commit import Commit, Head
from streamrec.pipeline.dead_letter_box import DeadLetterBox
from streamrec.pipeline.lineage import current_lineage, known_lineage, noted_lakes
from streamrec.pipeline.plan_store import PlanStore
from streamrec.pipeline.quarantined import Quarantined
from streamrec.pipeline.rebuild_record import read_record
from streamrec.pipeline.receipts import read_receipt, receipt_key
from streamrec.pipeline.saving import Saver
from streamrec.pipeline.switches import Switches
from streamrec.registry.alias import Move
from streamrec.registry.forgotten import Deletions
from streamrec.registry.gate import Decision
from streamrec.registry.version import VersionManifest
from streamrec.state import ComponentState, pack_strings, to_bytes
from streamrec.storage import LocalStorage
from streamrec.teachers.store import TeacherStore

BLOB = {"sha256": "ab", "bytes": 3}
DECISION = {"verdict": "promote", "code": "not_worse", "reason": "r", "candidate": "v2", "live": "v1", "batch": 3, "numbers": {}}
VERSION = {"student": "s", "version": "v1", "created_ms": 5, "base": [BLOB], "digest": "d"}
WEIGHTS = to_bytes(ComponentState({"rows": np.arange(2)}, {"kind": "linear"}))


@dataclass(frozen=True)
class Sample:
    """How a format is read, and one stored thing by number.

    Attributes:
        read: From JSON values; a folder is there to put them into.
        by_number: Values without their number; all are read as the same.
    """

    read: Callable[[dict[str, Any], Path], Any]
    by_number: Mapping[int, dict[str, Any]] = field(default_factory=dict)


def read_at(key: str, read: Callable[[LocalStorage], Any]) -> Callable[[dict[str, Any], Path], Any]:
    """A reader of what a storage has under a key."""

    def reader(values: dict[str, Any], folder: Path) -> Any:
        storage = LocalStorage(folder)
        storage.delete(key)
        storage.write_new(key, encoded(values))
        return read(storage)

    return reader


def encoded(values: dict[str, Any]) -> bytes:
    return json.dumps(values).encode()


def read_vocabulary(values: dict[str, Any], _: Path) -> dict[str, Any]:
    ids, offsets = pack_strings(["a", "b"])
    arrays = {"item_id_bytes": ids, "item_id_offsets": offsets, "namespace": np.zeros(2, np.int32), "words": np.zeros((2, 3), np.int32)}
    meta = {name: value for name, value in values.items() if name != "arrays"}
    vocabulary = Vocabulary(3)
    vocabulary.restore(ComponentState({**arrays, **{name: np.asarray(value, np.int32) for name, value in values.get("arrays", {}).items()}}, meta))
    state = vocabulary.snapshot()
    return {"meta": dict(state.meta), "arrays": {name: array.tolist() for name, array in state.arrays.items()}}


def read_teacher(values: dict[str, Any], folder: Path) -> Any:
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    LocalStorage(folder).write_new(f"teachers/linear/v1/weights-{digest}.safetensors", WEIGHTS)
    store = TeacherStore(LocalStorage(folder))
    read = read_at("teachers/linear/v1/manifest.json", lambda _: (store.facts("linear", "v1"), store.load("linear", "v1").arrays["rows"].tolist()))
    return read({**values, "sha256": digest}, folder)


def read_lake(values: dict[str, Any], folder: Path) -> Any:
    table = folder / "lake"
    if not table.exists():
        event = {"kind": "interaction", "namespace": "n", "user_id": "u", "event_time": 5, "partition": 0, "offset": 7}
        EventLake(str(table), lambda: "one").append(lake_rows(pa.Table.from_pylist([event], schema=EVENT), "t", 1), 1)
    first = table / "_delta_log" / "00000000000000000000.json"
    lines = [json.loads(line) for line in first.read_text().splitlines()]
    number = values.get("format")
    for line in lines:
        if "metaData" in line:
            line["metaData"]["configuration"] = {} if number is None else {"streamrec.format": str(number)}
    first.write_text("\n".join(map(json.dumps, lines)))
    lake = EventLake(str(table), lambda: "one")
    return lake.last_batch(), lake.rows(0, 0, 10)["offset"].to_pylist()


def read_letter(values: dict[str, Any], _: Path) -> Any:
    log = MemoryLog()
    log.ensure_topic("dead", 1)
    log.append("dead", [Record(b"t/0/7", encoded(values))])
    return [letter.reason for letter in DeadLetterBox(log, "dead").letters()]


def read_plan(values: dict[str, Any], folder: Path) -> Any:
    digest = hashlib.sha256(json.dumps(values["plan"], sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    return read_at("plans/00000004.json", lambda storage: PlanStore(storage).read(4))({**values, "sha256": digest}, folder)


def parsed_by(parse: Callable[[bytes], Any]) -> Callable[[dict[str, Any], Path], Any]:
    return lambda values, _: parse(encoded(values))


OWNER = {"host": "h", "pid": 1, "writer": "w"}
HEAD = {"epoch": 2, "owner": OWNER, "commits": [{"number": 1, "sha256": "ab", "epoch": 1}]}
ENTRY = {"base": BLOB, "deltas": []}
COMMIT = {"number": 1, "epoch": 1, "previous": None, "facts": {"batch": 3}}
RECORD = {"source": "", "lake_address": "", "begins": {"0": 1}, "ends": {"0": 5}, "until": {"0": 9}, "chunk": 3, "made_with": {}}
MOVE = {"number": 1, "action": "promote", "version": "v1", "trail": [], "reason": "r", "decision": None, "at_ms": 5}
SINCE = {"ranges": [], "num_events": 5, "num_rejections": 2}
LEARNED = {1: {"first_batch": 6, "last_batch": 8}, 2: {"batches": [[6, 8]]}}
QUARANTINED = {"batch": 9, "return_to": "v5", **SINCE, "reason": "r", "at_ms": 5}
FLIP = {"by": "ann", "reason": "r", "at_ms": 5}
LETTER = {"topic": "t", "partition": 0, "offset": 7, "reason": "bad_json", "detail": "d", "key_base64": None, "value_base64": "e30="}
PROGRESS = {"fingerprint": "f", "topic": "t", "position": 3, "offsets": {"0": 4}, "anchor": None, "ahead": []}
KNOWN = {"generation": [0, 0], "last_use": [0, 0], "uses": [0, 0]}
SAID = {"words_ms": [0, 0], "unavailable": [0, 0], "available_ms": [0, 0]}
VOCABULARY = {"namespaces": ["n"], "clock": 0, "counters": {"admitted": 0}}
COMPONENTS = dict.fromkeys(("stream", "lake", "tombstones"), ENTRY)

BATCH = {
    "student": "default", "version": "v1", "digest": "d", "namespace": "default", "n": 10, "with_seen": False, "listed": False,
    "users_sha256": "u", "num_users": 3, "part_users": 2,
}  # fmt: skip
SAMPLES: Mapping[str, Sample] = {
    "head": Sample(parsed_by(Head.from_json), {1: HEAD, 2: HEAD, 3: {**HEAD, "owner": {**OWNER, "why": ""}}}),
    "commit": Sample(
        parsed_by(Commit.from_json),
        {
            1: {**COMMIT, "components": {**COMPONENTS, "histories": ENTRY}},
            **{number: {**COMMIT, "facts": {"batch": 3, NEEDS_REBUILD: True}, "components": COMPONENTS} for number in (2, 3, 4)},
            5: {**COMMIT, "facts": {"batch": 3, NEEDS_REBUILD: True}, "components": {**COMPONENTS, "control_replay": ENTRY}},
            **{number: {**COMMIT, "facts": {"batch": 3, NEEDS_REBUILD: True}, "components": COMPONENTS} for number in (6, 7)},
        },
    ),
    "current": Sample(
        read_at("CURRENT", lambda storage: current_lineage(storage.address)), {1: {"folder": "lineages/0002", "first_batch": 7, "forgot_batch": 0}}
    ),
    "lineage": Sample(read_at("checkpoint/LINEAGE", lambda storage: known_lineage(storage.address)), {1: {"lineage": "abc"}}),
    "rebuild": Sample(read_at("REBUILD", read_record), {1: RECORD, 2: {**RECORD, "lake_to": None}}),
    "plan": Sample(read_plan, {1: {"plan": {"batch": 4}}}),
    "receipt": Sample(read_at(receipt_key("n", "e"), lambda storage: read_receipt(storage, "n", "e")), {1: {"event_id": "e"}}),
    "switches": Sample(
        parsed_by(Switches.from_json),
        {1: {"number": 3, "action": "pause", "paused": FLIP}, 2: {"number": 3, "action": "pause", "paused": FLIP, "asked": {}}},
    ),
    "quarantine": Sample(parsed_by(Quarantined.from_json), {number: {**QUARANTINED, **learned} for number, learned in LEARNED.items()}),
    "vocabulary": Sample(
        read_vocabulary, {1: {"namespaces": ["n"]}, 2: {**VOCABULARY, "arrays": KNOWN}, 3: {**VOCABULARY, "arrays": {**KNOWN, **SAID}}}
    ),
    "teacher": Sample(read_teacher, {number: {"teacher": "linear", "facts": {"loss": 1.0}} for number in (1, 2, 3, 4)}),
    "version": Sample(parsed_by(VersionManifest.from_json), dict.fromkeys((1, 2, 3), VERSION)),
    "move": Sample(parsed_by(Move.from_json), {1: MOVE}),
    "forgotten": Sample(
        read_at("default/forgotten", lambda storage: Deletions(storage, "default").newest()), {1: {"version": "v1", "event_id": "e"}}
    ),
    "decision": Sample(parsed_by(Decision.from_json), {1: DECISION}),
    "lake": Sample(read_lake, {1: {}}),
    "lake_note": Sample(read_at("lakes/a.json", noted_lakes), {1: {"address": "s3://b/c", "lineage": "abc"}}),
    "letter": Sample(read_letter, {1: LETTER}),
    "progress": Sample(lambda values, _: Progress.from_json(json.dumps(values)), {1: PROGRESS}),
    "batch": Sample(read_at("_plan.json", read_batch_plan), {1: BATCH}),
}

OLDER = [(name, number) for name, known in FORMATS.items() for number in range(1, known.number)]
WITHOUT = ("receipt", "move", "decision", "lake", "letter", "progress", "version", "teacher", "vocabulary")
"""Formats of which some were stored before they carried a number."""


def test_the_table_has_a_step_from_each_number_to_the_next_and_a_sample_of_each() -> None:
    for name, known in FORMATS.items():
        assert sorted(known.steps) == list(range(1, known.number)), name
        assert sorted(SAMPLES[name].by_number) == list(range(1, known.number + 1)), name
    assert SAMPLES.keys() == FORMATS.keys()


@pytest.mark.parametrize(("name", "number"), OLDER)
def test_an_older_number_is_read_as_todays(name: str, number: int, tmp_path: Path) -> None:
    sample, today = SAMPLES[name], FORMATS[name].number
    expected = sample.read({"format": today, **sample.by_number[today]}, tmp_path)
    assert sample.read({"format": number, **sample.by_number[number]}, tmp_path) == expected


def test_the_students_replay_of_before_is_the_store_of_labels() -> None:
    replay = {**ENTRY, "deltas": [BLOB]}
    commit = {**COMMIT, "facts": {"batch": 3}, "components": {"stream": ENTRY, "student_replay": replay, "control_replay": ENTRY}}
    assert migrated("commit", commit, 5)["components"] == {"stream": ENTRY, "labels": replay}


@pytest.mark.parametrize("name", WITHOUT)
def test_what_has_no_number_is_of_the_first(name: str, tmp_path: Path) -> None:
    sample = SAMPLES[name]
    assert sample.read(sample.by_number[1], tmp_path) == sample.read({"format": 1, **sample.by_number[1]}, tmp_path)


@pytest.mark.parametrize("name", sorted(FORMATS.keys() - {"letter"}))  # A letter that can't be read stops no other: it is counted.
def test_a_number_of_the_future_is_refused_by_name(name: str, tmp_path: Path) -> None:
    sample, today = SAMPLES[name], FORMATS[name].number
    with pytest.raises(StreamrecError, match=f"{FORMATS[name].noun} was written by a newer streamrec, got format {today + 1}, allowed up to {today}"):
        sample.read({**sample.by_number[today], "format": today + 1}, tmp_path)


@pytest.mark.parametrize("written", [0, -1, "2", True, 1.5])
def test_what_is_no_number_is_refused(written: object) -> None:
    with pytest.raises(StorageError, match="Plan: one has no format number, got "):
        migrated("plan", {}, written)


def test_a_state_of_before_the_first_release_is_not_restored_but_can_be_rebuilt(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    store = CheckpointStore(storage)
    store.acquire()
    store.commit({"stream": ComponentState({}, {"batch": 3})}, {"batch": 3}, None)
    path, head = tmp_path / "commits" / "00000001.json", json.loads((tmp_path / "HEAD").read_text())
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 1}))
    head["commits"][0]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (tmp_path / "HEAD").write_text(json.dumps(head))
    with pytest.raises(StorageError, match=r"before the first release, .* python -m jobs\.rebuild"):
        Saver(CheckpointStore(storage), {}).restore()
    loaded = CheckpointStore(storage).load_newest()
    assert loaded is not None
    assert loaded.components["stream"][0].meta == {"batch": 3}
