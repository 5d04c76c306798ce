from __future__ import annotations

import io
import json
import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest

from streamrec.telemetry import logs
from streamrec.telemetry.logs import JsonFormatter, about, set_up, set_up_first

Told = Callable[[], list[dict[str, Any]]]

HOSTILE = ["a\nERROR root: forged", "a\r\n{}", "\x1b[31mred", "\u2028\u2029\x85", "\ud800 alone", '"}, {"message": "', "\x00"]


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Iterator[Told]:
    """What was written to the error output since the last call."""
    yield lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    set_up("plain", "test")


def line_of(record: logging.LogRecord) -> dict[str, Any]:
    text = JsonFormatter("replica").format(record)
    assert text.isascii()
    assert text.isprintable(), "one line, whoever splits it"
    found: dict[str, Any] = json.loads(text)
    return found


@pytest.mark.parametrize("hostile", HOSTILE)
def test_nothing_that_a_client_sent_ends_a_line_or_begins_another(hostile: str) -> None:
    record = logging.makeLogRecord({"msg": "got %s", "args": (hostile,), "name": hostile, "levelname": "ERROR", "request_id": hostile})
    line = line_of(record)
    assert (line["message"], line["logger"], line["request_id"]) == (f"got {hostile}", hostile, hostile)
    assert list(line) == ["time", "level", "logger", "process", "message", "request_id"]


def test_a_line_has_its_time_in_utc_its_level_and_what_is_known_of_it() -> None:
    record = logging.makeLogRecord({"msg": "told", "levelname": "WARNING", "created": 1_764_000_000.125, "model_version": "v7", "secret": "no"})
    with about(batch=3, offsets={0: 5}), about(batch=4):
        line = line_of(record)
    assert line["time"] == "2025-11-24T16:00:00.125Z"
    assert datetime.fromisoformat(line["time"]).timestamp() == record.created
    assert (line["level"], line["process"]) == ("warning", "replica")
    assert (line["model_version"], line["batch"], line["offsets"]) == ("v7", 4, {"0": 5})
    assert "secret" not in line
    assert "batch" not in line_of(record), "what was said of a block ends with it"


def test_what_does_not_fit_its_message_is_a_line_nevertheless() -> None:
    assert line_of(logging.makeLogRecord({"msg": "%d of %d", "args": ("x",)}))["message"] == "%d of %d ('x',)"
    assert line_of(logging.makeLogRecord({"msg": "at", "batch": object}))["batch"] == "<class 'object'>"


def test_lines_are_json_when_asked_for_and_plain_again_afterwards(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = logging.Logger("ray.of.a.test")
    plain = logging.StreamHandler()
    ray.addHandler(plain)
    monkeypatch.setitem(logging.root.manager.loggerDict, ray.name, ray)
    before = list(logging.root.handlers)
    set_up("json", "replica")
    set_up("json", "board")
    ray.error("of Ray")
    logging.getLogger("serve.x").error("two\nlines", extra={"request_id": "r-7"})
    try:
        msg = "deep\ninside"
        raise ZeroDivisionError(msg)
    except ZeroDivisionError:
        logging.getLogger("serve.x").exception("broke")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn_explicit("old\nway", UserWarning, "f.py", 1, registry={})
    found = told()
    assert [line["message"].split(":")[0] for line in found] == ["of Ray", "two\nlines", "broke", "f.py"]
    assert {line["process"] for line in found} == {"board"}
    assert found[1]["request_id"] == "r-7"
    assert "ZeroDivisionError: deep\ninside" in found[2]["exception"]
    set_up("plain", "board")
    assert logging.root.handlers == before
    assert plain.formatter is None
    assert not logs.is_json()


def test_what_nobody_catches_is_a_line(told: Told) -> None:
    set_up("json", "job")
    failed = threading.Thread(target=lambda: 1 / 0, name="saver")
    failed.start()
    failed.join()
    sys.excepthook(ValueError, ValueError("x"), None)
    assert [(line["level"], line["message"]) for line in told()] == [
        ("error", "saver ended by ZeroDivisionError: division by zero"),
        ("critical", "ended by ValueError: x"),
    ]


def test_an_actor_sets_its_lines_up_before_it_builds_anything(told: Told) -> None:
    def build(name: str, *, number: int) -> tuple[str, int, bool]:
        return name, number, logs.is_json()

    assert set_up_first("json", "student", build, "a", number=2) == ("a", 2, True)
    assert set_up_first("plain", "student", build, "a", number=2) == ("a", 2, False)


def test_plain_lines_of_a_replica_do_not_wait_where_serve_holds_back_what_it_takes_from_the_error_output(monkeypatch: pytest.MonkeyPatch) -> None:
    class ServesStream:
        """Hold back what is written, as Serve does up to a thousand lines, and be no file."""

        def __init__(self) -> None:
            self.held: list[str] = []

        def write(self, text: str) -> None:
            self.held.append(text)

        def flush(self) -> None:
            return None

    serves, real = ServesStream(), io.StringIO()
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(sys, "stderr", serves)
    monkeypatch.setattr(sys, "__stderr__", real)
    set_up("plain", "replica")
    logging.getLogger("serve.access").warning("Audit: %s", "rollback")
    logging.getLogger("serve.access").info("not worth a line")
    (line,) = real.getvalue().splitlines()
    assert line.endswith("WARNING serve.access: Audit: rollback")
    assert serves.held == []
    monkeypatch.setattr(sys, "stderr", real)
    set_up("plain", "replica")
    assert logging.root.handlers == []
