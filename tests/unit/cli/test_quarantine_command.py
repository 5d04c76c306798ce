from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from typer.testing import CliRunner, Result

from streamrec.cli import app
from streamrec.config import Config, LogConfig
from streamrec.events.codec import EventCodec
from streamrec.events.schema import EVENT
from streamrec.log.base import LogAddress, Record
from streamrec.log.connect import open_writer
from streamrec.log.lake import EventLake
from streamrec.log.lake_table import lake_rows
from streamrec.pipeline.lake_writer import open_lake
from streamrec.pipeline.lineage import lineage_of
from streamrec.pipeline.plan import PlannedRange
from streamrec.pipeline.quarantined import Quarantined, record_key
from streamrec.pipeline.requeue import renamed
from streamrec.storage import LocalStorage

TOPIC = LogConfig().events_topic


@pytest.fixture
def quarantine(log: LogAddress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Of offsets 1 to 9 of the log four interactions were applied; the others are a duplicate, a late one, a rejected one and a deletion."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STREAMREC_CONFIG", raising=False)
    events = [{"event_id": f"e{number}", "user_id": "u", "item_id": "i", "event_type": "click", "event_time": 5} for number in range(4)]
    values = [json.dumps(event).encode() for event in (*events, events[0], {**events[1], "event_id": "late"})]
    values += [json.dumps({**events[2], "event_id": "odd", "event_type": "zap"}).encode(), b"{no json"]
    values.append(json.dumps({**events[0], "kind": "deletion"}).encode())
    open_writer(log, LogConfig()).append(TOPIC, [Record(b"u", value, partition=0) for value in values])
    ranges = (PlannedRange(topic=TOPIC, partition=0, start=1, end=9),)
    counts = {"num_events": 3, "num_rejections": 8, "reason": "worse than live", "at_ms": 5}
    record = Quarantined(batch=9, return_to="v00000005", batches=((6, 8),), ranges=ranges, **counts)
    LocalStorage(tmp_path / "state").write_new(record_key(9), record.to_json())
    return lambda *words: CliRunner().invoke(app, ["quarantine", *words, "--set", f"state={tmp_path / 'state'}", "--broker", str(log)])


@pytest.fixture
def lake(tmp_path: Path) -> EventLake:
    """The lake of that state, up to the batch before its last."""
    state = str(tmp_path / "state")
    lake = open_lake(Config(), state, lambda: lineage_of(state))
    append(lake, 5, 0)
    append(lake, 6, 1)
    append(lake, 7, 2, "item_update")
    return lake


def append(lake: EventLake, batch: int, number: int, *others: str, event_id: str = "") -> None:
    """Append a batch: an interaction, then an event of each other kind; a batch is appended once."""
    event_id = event_id or f"e{number}"
    event = {"event_id": event_id, "user_id": "u", "item_id": "i", "event_type": "click", "event_time": 5, "namespace": "default", "partition": 0}
    rows = [{**event, "kind": kind, "offset": number + 10 * place} for place, kind in enumerate(("interaction", *others))]
    table = pa.table([pa.array([row.get(field.name) for row in rows], field.type) for field in EVENT], schema=EVENT)
    lake.append(lake_rows(table, TOPIC, batch), batch)


def test_what_is_quarantined_is_listed_with_its_offsets_and_why(quarantine: Callable[..., Result]) -> None:
    listed = quarantine()
    assert listed.stdout == "9  batches 6-8, 3 events, back to v00000005, offsets 0:1-9: worse than live\n", listed.stderr
    assert json.loads(quarantine("--json").stdout)["ranges"] == [{"topic": TOPIC, "partition": 0, "start": 1, "end": 9}]


def test_what_was_quarantined_is_sent_again_under_new_ids_and_nothing_else_that_the_log_has_there(
    quarantine: Callable[..., Result], lake: EventLake, rows_of: Callable[[str], pa.Table]
) -> None:
    append(lake, 8, 3)
    sent = quarantine("--replay", "9")
    assert (sent.exit_code, sent.stdout) == (0, f"3 interactions sent to {TOPIC}\n"), sent.stderr
    again = [json.loads(value) for value in rows_of(TOPIC)["value"].to_pylist()[9:]]
    assert [event["event_id"] for event in again] == ["e1~q9", "e2~q9", "e3~q9"]
    assert again[0] == {
        "kind": "interaction", "event_id": "e1~q9", "user_id": "u", "item_id": "i", "event_type": "click", "event_time": 5, "namespace": "default"
    }  # fmt: skip
    unknown = quarantine("--replay", "4")
    assert unknown.exit_code == 1
    assert "there is no such range, got 4, allowed 9" in unknown.stderr


def test_a_batch_that_cannot_be_is_a_wrong_command_line(quarantine: Callable[..., Result]) -> None:
    assert quarantine("--replay", "-3").exit_code == 2


def test_ids_that_would_be_too_long_are_digests_that_the_events_are_known_by(
    quarantine: Callable[..., Result], lake: EventLake, rows_of: Callable[[str], pa.Table]
) -> None:
    config = Config()
    longest = config.events.max_id_bytes
    append(lake, 8, 3, event_id="x" * longest)
    for _ in range(2):
        assert quarantine("--replay", "9").exit_code == 0
    again = decoded(rows_of(TOPIC).slice(9), config)
    assert again[:3] == again[3:]
    assert again[:2] == ["e1~q9", "e2~q9"]
    assert again[2] not in {"e1~q9", "e2~q9", "x" * longest}


def decoded(rows: pa.Table, config: Config) -> list[str]:
    """Return the ids of records, all of which the stream takes."""
    found = EventCodec(config.events).decode(rows, 10)
    assert found.rejected.num_rows == 0
    return found.valid["event_id"].to_pylist()


def test_of_ids_that_fit_none_is_a_digest_and_of_others_each_is_its_own() -> None:
    ids = pa.chunked_array([["é" * 3, "abcde", "x" * 8, "y" * 8]])
    assert renamed(ids, 9, 9).to_pylist()[:2] == ["ééé~q9", "abcde~q9"]
    short = renamed(ids, 9, 8).to_pylist()
    assert short[1] == "abcde~q9"
    assert len(set(short)) == 4
    assert max(len(name.encode()) for name in short) == 8
    assert not {*short[2:]} & {*renamed(ids, 10, 8).to_pylist()}


def test_what_an_earlier_record_has_is_neither_listed_nor_sent_and_places_of_another_topic_are_other_events(
    quarantine: Callable[..., Result], lake: EventLake, rows_of: Callable[[str], pa.Table], tmp_path: Path
) -> None:
    append(lake, 8, 3)
    append(lake, 9, 1, event_id="of the new topic")
    counts = {"num_events": 3, "num_rejections": 0, "reason": "the guard", "at_ms": 6}
    later = Quarantined(batch=11, return_to="v00000004", batches=((5, 6), (9, 9)), ranges=(), **counts)
    LocalStorage(tmp_path / "state").write_new(record_key(11), later.to_json())
    line = "11  batches 5-6 9-9, 3 events, back to v00000004, offsets of a topic that is no more: the guard"
    assert quarantine().stdout.splitlines()[1] == line
    sent = quarantine("--replay", "11")
    assert sent.stdout == f"3 interactions sent to {TOPIC}\n", sent.stderr
    again = [json.loads(value)["event_id"] for value in rows_of(TOPIC)["value"].to_pylist()[9:]]
    assert again == ["e0~q11", "e1~q11", "of the new topic~q11"]


def test_a_range_that_is_not_committed_yet_is_not_sent_in_part(
    quarantine: Callable[..., Result], lake: EventLake, rows_of: Callable[[str], pa.Table]
) -> None:
    early = quarantine("--replay", "9")
    assert early.exit_code == 1
    assert "the range is not in the lake yet, got batches up to 7, allowed up to 8, try again after the stream's next commit" in early.stderr
    assert rows_of(TOPIC).num_rows == 9


def test_without_a_lake_nothing_is_sent(quarantine: Callable[..., Result], rows_of: Callable[[str], pa.Table]) -> None:
    refused = quarantine("--replay", "9", "--set", "lake.enabled=false")
    assert refused.exit_code == 1
    assert "there is no lake to take the range from, got lake.enabled = false, allowed true" in refused.stderr
    assert rows_of(TOPIC).num_rows == 9
