from __future__ import annotations

import ast
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any, ClassVar

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

import streamrec
from streamrec.errors import ConfigError
from streamrec.telemetry import otlp, traces
from streamrec.telemetry.otlp import OtlpTracer, TellsOnce
from streamrec.telemetry.traces import check_tracer, open_tracer

CHECKOUT = Path(streamrec.__file__).parents[1]


def test_without_an_endpoint_there_is_no_tracer() -> None:
    check_tracer("")
    assert open_tracer("", "stream") is None


def test_one_module_knows_opentelemetry_and_nobody_imports_it_before_traces_are_switched_on() -> None:
    found = {}
    for path in (path for folder in ("streamrec", "jobs", "serve") for path in (CHECKOUT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [f"{node.module}.{alias.name}" for alias in node.names] if isinstance(node, ast.ImportFrom) else []
            if any(name.startswith(("opentelemetry", "streamrec.telemetry.otlp")) for name in names):
                found[path.relative_to(CHECKOUT).as_posix()] = names
    assert list(found) == ["streamrec/telemetry/otlp.py"]


def test_a_missing_extra_is_told_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "streamrec.telemetry.otlp")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    for ask in (check_tracer, lambda endpoint: open_tracer(endpoint, "stream")):
        with pytest.raises(ConfigError, match=r"telemetry\.traces_endpoint is set, .* run `pip install 'streamrec\[otel\]'` on every node"):
            ask("http://127.0.0.1:4318")


def test_spans_of_one_trace_follow_each_other_across_processes() -> None:
    exporter = InMemorySpanExporter()
    tracer = OtlpTracer(SimpleSpanProcessor(exporter), "stream", "one")
    first = tracer.begin("step", 1_000.5)
    OtlpTracer(SimpleSpanProcessor(exporter), "serve").begin("swap", 1_001, first.traceparent).end(1_002, "refused", version="v7")
    first.end(1_003, records=4)
    tracer.begin("never ended", 1_004)
    child, root = exporter.get_finished_spans()
    assert root.parent is None
    assert (child.parent.span_id, child.context.trace_id) == (root.context.span_id, root.context.trace_id)
    assert (root.start_time, root.end_time, dict(root.attributes)) == (1_000_500_000, 1_003_000_000, {"streamrec.records": 4})
    assert (child.status.status_code, child.status.description, dict(child.attributes)) == (StatusCode.ERROR, "refused", {"streamrec.version": "v7"})
    assert (root.resource.attributes["service.name"], root.resource.attributes["service.instance.id"]) == ("streamrec-stream", "one")
    assert child.resource.attributes["service.name"] == "streamrec-serve"


def test_it_is_told_once_that_a_receiver_is_away_and_once_that_it_is_back(caplog: pytest.LogCaptureFixture) -> None:
    class Receiver(InMemorySpanExporter):
        results: ClassVar = [SpanExportResult[name] for name in ("SUCCESS", "FAILURE", "FAILURE", "SUCCESS", "SUCCESS")]

        def export(self, spans: Any) -> SpanExportResult:
            super().export(spans)
            return self.results.pop(0)

    exporter = TellsOnce(Receiver(), "http://away")
    assert [exporter.export([]).name for _ in range(5)] == ["SUCCESS", "FAILURE", "FAILURE", "SUCCESS", "SUCCESS"]
    away, back = (record.getMessage() for record in caplog.records)
    assert away == "Traces: http://away takes no spans, they are dropped until it does"
    assert back == "Traces: http://away takes spans again"


def test_a_receiver_that_does_not_answer_holds_nobody_up_and_no_thread_outlives_the_request_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(threading.enumerate())
    monkeypatch.setattr(otlp, "CLOSES_WITHIN_S", 0.2)
    monkeypatch.setattr(otlp, "_QUEUE_SPANS", 300)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        tracer = open_tracer(f"http://127.0.0.1:{silent.getsockname()[1]}", "stream")
        assert tracer is not None
        began_s = time.monotonic()
        for number in range(1000):
            tracer.begin("step", number).end(number + 1)
        told_s = time.monotonic()
        tracer.close()
        assert time.monotonic() - told_s < 2.0
        assert told_s - began_s < 2.0
        assert traces.CLOSES_WITHIN_S <= 2.0
        left = set(threading.enumerate()) - before
    # The silent one is gone, so the request to it fails; of four batches that wait none is tried any more, which took half a minute.
    for thread in left:
        thread.join(4.0)
    assert not [thread.name for thread in left if thread.is_alive()]
