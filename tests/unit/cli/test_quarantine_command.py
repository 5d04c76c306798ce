from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from typer.testing import CliRunner, Result

from streamrec.cli import app
from streamrec.config import LogConfig
from streamrec.log.base import LogAddress, Record
from streamrec.log.connect import open_writer
from streamrec.pipeline.plan import PlannedRange
from streamrec.pipeline.quarantined import FOLDER, Quarantined
from streamrec.storage import LocalStorage

TOPIC = LogConfig().events_topic


@pytest.fixture
def quarantine(log: LogAddress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STREAMREC_CONFIG", raising=False)
    events = [{"event_id": f"e{number}", "user_id": "u", "item_id": "i"} for number in range(4)]
    values = [*(json.dumps(event).encode() for event in events), b"{no json", json.dumps({**events[0], "kind": "deletion"}).encode()]
    open_writer(log, LogConfig()).append(TOPIC, [Record(b"u", value, partition=0) for value in values])
    ranges = (PlannedRange(topic=TOPIC, partition=0, start=1, end=6),)
    counts = {"num_events": 4, "num_rejections": 8, "reason": "worse than live", "at_ms": 5}
    record = Quarantined(batch=9, return_to="v00000005", first_batch=6, last_batch=8, ranges=ranges, **counts)
    LocalStorage(tmp_path / "state").write_new(f"{FOLDER}/00000009.json", record.to_json())
    return lambda *words: CliRunner().invoke(app, ["quarantine", *words, "--set", f"state={tmp_path / 'state'}", "--broker", str(log)])


def test_what_is_quarantined_is_listed_with_its_offsets_and_why(quarantine: Callable[..., Result]) -> None:
    listed = quarantine()
    assert listed.stdout == "9  batches 6-8, 4 events, back to v00000005, offsets 0:1-6: worse than live\n", listed.stderr
    assert json.loads(quarantine("--json").stdout)["ranges"] == [{"topic": TOPIC, "partition": 0, "start": 1, "end": 6}]


def test_a_range_is_sent_again_under_new_ids_and_what_was_applied_for_good_is_not(
    quarantine: Callable[..., Result], rows_of: Callable[[str], pa.Table]
) -> None:
    sent = quarantine("--replay", "9")
    assert (sent.exit_code, sent.stdout) == (0, f"3 interactions sent to {TOPIC}\n"), sent.stderr
    ids = [json.loads(value)["event_id"] for value in rows_of(TOPIC)["value"].to_pylist()[6:]]
    assert ids == ["e1~q9", "e2~q9", "e3~q9"]
    unknown = quarantine("--replay", "4")
    assert unknown.exit_code == 1
    assert "there is no such range, got 4, allowed 9" in unknown.stderr
