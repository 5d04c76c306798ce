"""One trace from a step's read to the first answer by its version: a real loop, board and replica in this process, and a receiver on loopback."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from serve.replica import Replica, ReplicaSettings
from streamrec.clock import ManualClock
from streamrec.pipeline.plan import Plan
from streamrec.pipeline.report import StageTimer
from streamrec.pipeline.session import open_traces
from streamrec.pipeline.tracing import VersionTraces
from streamrec.registry import board as board_module
from streamrec.registry.board import Board
from streamrec.serving.requests import RecommendRequest
from streamrec.telemetry.otlp import OtlpTracer

World = Any
FAST: dict[str, dict[str, Any]] = {"teachers": {"enabled": []}, "student": {"control": False}, "lake": {"enabled": False}}


class Receiver(ThreadingHTTPServer):
    """Takes what an OTLP exporter posts."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.spans: list[tuple[str, Any]] = []
        self.paths: set[str] = set()


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        taken = ExportTraceServiceRequest.FromString(gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body)
        self.server.paths.add(self.path)
        for resource in taken.resource_spans:
            (service,) = (one.value.string_value for one in resource.resource.attributes if one.key == "service.name")
            self.server.spans += [(service, span) for scope in resource.scope_spans for span in scope.spans]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(ExportTraceServiceResponse().SerializeToString())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


class Handed:
    """A board of the loop's: what it is given goes on to the real one, in the replica's loop."""

    def __init__(self) -> None:
        self.given: list[tuple[Any, ...]] = []

    def publish(self, *version: Any) -> int:
        self.given.append(version)
        return int(version[-1])


class Actor:
    """The board as an actor's handle, in this process."""

    def __init__(self, board: Board) -> None:
        for name in ("wait_from", "ack"):
            setattr(self, name, SimpleNamespace(remote=self._calling(getattr(board, name))))

    @staticmethod
    def _calling(method: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args: asyncio.ensure_future(method(*args))


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fetch(reference: Any) -> Any:
        return reference

    monkeypatch.setattr(board_module.ray, "put", lambda value: value)
    monkeypatch.setattr(board_module, "fetch", fetch)
    monkeypatch.setattr("serve.subscription.fetch", fetch)


def facts_of(span: Any) -> dict[str, Any]:
    return {one.key.removeprefix("streamrec."): getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


async def serve_each_step(world: World, controller: Any) -> list[dict[str, Any]]:
    """Step the loop to its end; after each step the board and the replica get what was promoted, and somebody asks."""
    board, answers = Board(), []
    replica = Replica(ReplicaSettings(world.config), "replica-1")
    replica._subscription._actor = Actor(board)
    while controller.step() is not None:
        world.clock.advance(1.0)
        given, world.board.given[:] = list(world.board.given), []
        for version in given:
            await board.publish(*version)
            assert await replica._subscription.step(0)
            request = RecommendRequest(user_id=None, history=("i1",), namespace="default", n=3)
            answers += [replica.recommend(request, replica.model, f"r-{len(answers)}") for _ in range(2)]
    await replica.stop()
    return answers


def test_one_trace_shows_a_version_from_the_read_of_its_events_to_the_first_answer_by_it(
    make_world: Callable[..., World], mixed: list[Any], tmp_path: Path, receiver: Receiver, without_ray: None
) -> None:
    told = {"traces_endpoint": f"http://127.0.0.1:{receiver.server_port}", "traces_every_s": 0.0}
    world = make_world(mixed[:180], {**FAST, "telemetry": told}, folder=tmp_path / "state")
    world.board = Handed()
    version_traces = open_traces(world.config)
    answers = asyncio.run(serve_each_step(world, world.controller(traces=version_traces)))
    version_traces.close()
    promoted = list(dict.fromkeys(answer["model_version"] for answer in answers))
    assert len(promoted) >= 2
    assert receiver.paths == {"/v1/traces"}
    by_trace: dict[bytes, list[tuple[str, Any]]] = {}
    for service, span in receiver.spans:
        by_trace.setdefault(span.trace_id, []).append((service, span))
    of_version = {}
    for spans in by_trace.values():
        (published,) = (facts_of(span) for _, span in spans if span.name == "publish")
        of_version[published["version"]] = spans
    for version in promoted:
        check_trace(version, of_version[version], [answer["request_id"] for answer in answers if answer["model_version"] == version])
    assert not [path for path in world.folder.rglob("*") if path.is_file() and b"traceparent" in path.read_bytes()], "it is never stored"


def check_trace(version: str, spans: list[tuple[str, Any]], request_ids: list[str]) -> None:
    names = {span.span_id: span.name for _, span in spans}
    parents = {(span.name, names.get(span.parent_span_id, "")) for _, span in spans}
    below = {(name, "step") for name in ("read", "ingest", "learn", "publish", "gate")}
    needed = {("step", ""), ("decode", "ingest"), ("swap", "gate"), ("first_answer", "swap"), *below}
    assert needed <= parents <= needed | {("label", "step"), ("evaluate", "step")}
    one = {span.name: span for _, span in spans}
    assert sorted(name for name in names.values() if name not in {"label", "evaluate"}) == sorted(name for name, _ in needed), "each once"
    assert {name: {service for service, span in spans if span.name == name} for name in ("step", "swap", "first_answer")} == {
        "step": {"streamrec-stream"},
        "swap": {"streamrec-serve"},
        "first_answer": {"streamrec-serve"},
    }
    assert facts_of(one["first_answer"])["request_id"] == request_ids[0]
    assert {facts_of(one[name])["version"] for name in ("publish", "gate", "swap", "first_answer")} == {version}
    assert facts_of(one["gate"])["verdict"] == "promote"
    (offsets,) = json.loads(facts_of(one["publish"])["offsets"]).values()
    ranges = json.loads(facts_of(one["step"])["ranges"])
    assert {partition: end for partition, (_, end) in ranges.items()} == offsets
    assert all(span.start_time_unix_nano <= span.end_time_unix_nano for _, span in spans)


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


def tracing(exporter: InMemorySpanExporter, clock: ManualClock, every_s: float) -> VersionTraces:
    return VersionTraces(OtlpTracer(SimpleSpanProcessor(exporter), "stream"), every_s, clock)


def told(exporter: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in exporter.get_finished_spans() if span.name == name]


def play(traces: VersionTraces, batch: int, *, makes: bool = True, publish: bool = True) -> None:
    timer = StageTimer(traces.step(Plan(batch=batch, ranges=(), now_ms=0, seed=0, publish=publish)))
    with timer.stage("read"):
        pass
    with timer.stage("publish"):
        if makes:
            line = traces.of("default")
            line.published(f"v{batch}", line.now_ms(), {})


def test_of_versions_that_are_published_within_the_time_one_is_traced(exporter: InMemorySpanExporter) -> None:
    clock = ManualClock(1_000)
    traces = tracing(exporter, clock, 10.0)
    for batch in range(1, 26):
        play(traces, batch)
        clock.advance(1.0)
    assert [span.attributes["streamrec.version"] for span in told(exporter, "publish")] == ["v1", "v11", "v21"]
    assert len(told(exporter, "step")) == len(told(exporter, "read")) == 3


def test_a_step_that_makes_no_version_leaves_nothing_and_counts_for_nothing(exporter: InMemorySpanExporter) -> None:
    traces = tracing(exporter, ManualClock(), 10.0)
    play(traces, 1, makes=False)
    play(traces, 2, publish=False)
    assert exporter.get_finished_spans() == ()
    play(traces, 3)
    assert len(told(exporter, "step")) == 1


def test_versions_that_never_come_before_the_gate_are_forgotten(exporter: InMemorySpanExporter) -> None:
    traces = tracing(exporter, ManualClock(), 0.0)
    for batch in range(1, 40):
        play(traces, batch)
    assert traces.parent("default", "v1") == ""
    assert traces.parent("default", "v39")
    assert traces.of("default").gate("v1").carried() == {}
    assert list(traces.of("default").gate("v39").carried()) == ["traceparent"]


def test_without_a_tracer_no_stage_is_heard_and_nothing_is_carried(make_world: Callable[..., World], mixed: list[Any], tmp_path: Path) -> None:
    traces = VersionTraces()
    assert traces.step(Plan(batch=1, ranges=(), now_ms=0, seed=0)) is None
    assert traces.of("default").gate("v1").carried() == {}
    world = make_world(mixed[:60], FAST, folder=tmp_path / "state")
    world.board = Handed()
    world.play(world.controller())
    assert world.board.given
    assert all("traceparent" not in manifest for manifest, *_ in world.board.given)
