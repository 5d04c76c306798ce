from __future__ import annotations

import hashlib
import json
from pathlib import Path

from typer.testing import CliRunner

import streamrec
from streamrec.cli import app
from streamrec.pipeline.forgetting import receipt_key
from streamrec.storage import LocalStorage


def run(folder: Path, event_id: str, *more: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["receipt", event_id, "--set", f"state={folder}", "--set", "log.broker=local", *more])
    return result.exit_code, result.stdout, result.stderr


def test_a_receipt_is_printed_with_what_the_broker_says_of_retention(tmp_path: Path) -> None:
    LocalStorage(tmp_path).write_new(receipt_key("default", "d/1"), json.dumps({"event_id": "d/1", "removed": {"histories": 3}}).encode())
    status, out, _ = run(tmp_path, "d/1")
    assert status == 0
    printed = json.loads(out)
    assert printed["removed"] == {"histories": 3}
    assert printed["retention_ms"] == {"streamrec.events": None, "streamrec.dead-letters": None}


def test_a_receipt_lies_where_the_page_of_formats_says() -> None:
    names = r'["default", "caf\u00e9"]'
    page = (Path(streamrec.__file__).parents[1] / "docs" / "formats.md").read_text()
    assert f"`{names}`" in page
    assert receipt_key("default", "café") == f"deletions/{hashlib.sha256(names.encode()).hexdigest()}.json"


def test_a_broker_that_is_away_costs_the_retention_only(tmp_path: Path) -> None:
    LocalStorage(tmp_path).write_new(receipt_key("default", "d1"), b"{}")
    status, out, err = run(tmp_path, "d1", "--set", "log.broker=127.0.0.1:1")
    assert status == 0
    assert json.loads(out)["retention_ms"]["streamrec.events"] is None
    assert "127.0.0.1:1" in err


def test_a_deletion_that_was_not_carried_out_yet_has_none_and_the_error_says_what_to_do(tmp_path: Path) -> None:
    status, _, err = run(tmp_path, "d2")
    assert status == 1
    assert "'d2'" in err
    assert "reached the event" in err


def test_a_torn_receipt_is_named_with_what_to_do(tmp_path: Path) -> None:
    key = receipt_key("default", "d1")
    LocalStorage(tmp_path).write_new(key, b'{"event_id": "d1", "remo')
    status, out, err = run(tmp_path, "d1")
    assert (status, out) == (1, "")
    assert f"Receipt: one can't be read, {tmp_path}/{key}" in err
    assert "restore it from a copy; without one ask once more with `streamrec delete-user`" in err
