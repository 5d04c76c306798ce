"""Tell how a version came to be, as spans of one trace: the step that made it, its publication, the gate's decision.

A version that is handed out carries the span of its promotion; whoever swaps to it and answers with it adds to the same trace (`serve.tracing`).
Spans are made when their version is, not before: a step that publishes nothing leaves none.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson

from streamrec.clock import Clock, SystemClock
from streamrec.pipeline.plan import Plan
from streamrec.registry.gate import Decision
from streamrec.telemetry.traces import TRACEPARENT, Attribute, Span, Tracer

Heard = Callable[[str, float, float], None]
"""Hears of each stage when it is over: its name, when it began and when it ended, by `time.perf_counter`."""

_SHOWN = {"read": "", "ingest": "", "decode": "ingest", "evaluate": "", "label": "", "learn": ""}
"""Stages that have a span, each with the stage that it is a part of."""
_LAST = "publish"
_KEPT = 16
"""Versions that wait for the gate, of all students."""


@dataclass
class _Step:
    root: Span
    plan: Plan
    stages: list[tuple[str, float, float]] = field(default_factory=list)
    has_version: bool = False


class VersionTraces:
    """Trace one of the versions that are published within a time, from the step that makes it.

    Made once in a process: controllers come and go. What waits for the gate when the process ends is traced no further.

    Args:
        tracer: Where spans go; None makes none.
        every_s: ``telemetry.traces_every_s``.
        clock: Processing time.
    """

    def __init__(self, tracer: Tracer | None = None, every_s: float = 0.0, clock: Clock | None = None) -> None:
        self._tracer, self._every_s, self._clock = tracer, every_s, clock or SystemClock()
        self._traced_s = -math.inf
        self._anchor = 0.0, 0.0
        self._step: _Step | None = None
        # Of the step that made it, by student and version.
        self._parents: dict[tuple[str, str], str] = {}

    def step(self, plan: Plan) -> Heard | None:
        """Begin a step, and return what hears of its stages; None where nobody asks."""
        self._step = None
        if self._tracer is None:
            return None
        self._anchor = float(self._clock.now_ms()), time.perf_counter()
        if not plan.publish or self._clock.monotonic_s() - self._traced_s < self._every_s:
            return None
        self._step = _Step(self._tracer.begin("step", self.now_ms()), plan)
        return self._hear

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure a part of a stage."""
        began_s = time.perf_counter()
        yield
        if self._step is not None:
            self._hear(name, began_s, time.perf_counter())

    def of(self, student: str) -> LineTraces:
        """Return who tells of a student's versions."""
        return LineTraces(self, student)

    def now_ms(self) -> float:
        """Return processing time, finer than in milliseconds."""
        return self._at_ms(time.perf_counter())

    def begin(self, name: str, parent: str, at_ms: float) -> Span | None:
        """Begin a span below another one; None where that is not traced."""
        return self._tracer.begin(name, at_ms, parent) if self._tracer is not None and parent else None

    def made(self, student: str, version: str) -> str:
        """Note that the step has made a version, and return what its spans follow; "" where it is not traced."""
        if self._step is None:
            return ""
        self._step.has_version = True
        self._parents[student, version] = self._step.root.traceparent
        while len(self._parents) > _KEPT:
            del self._parents[next(iter(self._parents))]
        return self._step.root.traceparent

    def parent(self, student: str, version: str) -> str:
        """Return what a version's spans follow; "" where it is not traced."""
        return self._parents.get((student, version), "")

    def decided(self, student: str, version: str) -> None:
        """Note that a version waits no more."""
        self._parents.pop((student, version), None)

    def close(self) -> None:
        """Send what waits, for a bounded time."""
        if self._tracer is not None:
            self._tracer.close()

    def _hear(self, name: str, began_s: float, ended_s: float) -> None:
        if self._step is not None and name in _SHOWN:
            self._step.stages.append((name, began_s, ended_s))
        elif self._step is not None and name == _LAST:
            step, self._step = self._step, None
            if step.has_version:
                self._tell(step, ended_s)

    def _tell(self, step: _Step, ended_s: float) -> None:
        self._traced_s = self._clock.monotonic_s()
        told: dict[str, str] = {"": step.root.traceparent}
        for name, began_s, ended in sorted(step.stages, key=lambda stage: bool(_SHOWN[stage[0]])):
            span = self.begin(name, told.get(_SHOWN[name], step.root.traceparent), self._at_ms(began_s))
            if span is not None:
                told[name] = span.traceparent
                span.end(self._at_ms(ended), batch=step.plan.batch)
        ranges = {part.partition: [part.start, part.end] for part in step.plan.ranges}
        facts: dict[str, Attribute] = {"records": step.plan.num_records, "lag": step.plan.lag, "ranges": _json(ranges)}
        step.root.end(self._at_ms(ended_s), batch=step.plan.batch, **facts)

    def _at_ms(self, at_s: float) -> float:
        anchor_ms, anchor_s = self._anchor
        return anchor_ms + (at_s - anchor_s) * 1000


class LineTraces:
    """Tell of one student's versions.

    Args:
        traces: This process'.
        student: Whose.
    """

    def __init__(self, traces: VersionTraces, student: str) -> None:
        self._traces, self._student = traces, student

    def now_ms(self) -> float:
        """Return the time that a span begins with."""
        return self._traces.now_ms()

    def published(self, version: str, began_ms: float, offsets: Mapping[str, Any]) -> None:
        """Tell of a publication: what the version has learned up to, by topic and partition, exclusive."""
        span = self._traces.begin("publish", self._traces.made(self._student, version), began_ms)
        if span is not None:
            span.end(self.now_ms(), version=version, student=self._student, offsets=_json(offsets))

    def gate(self, version: str) -> GateTrace:
        """Begin to tell how the gate decides about a version."""
        return GateTrace(self._traces, self._student, version)


class GateTrace:
    """Tell of one decision. One that is put off leaves nothing.

    Args:
        traces: This process'.
        student: Whose version.
        version: Which.
    """

    def __init__(self, traces: VersionTraces, student: str, version: str) -> None:
        self._traces, self._student, self._version = traces, student, version
        self._span = traces.begin("gate", traces.parent(student, version), traces.now_ms())

    def carried(self) -> dict[str, str]:
        """Return what goes with the version to those who serve it."""
        return {TRACEPARENT: self._span.traceparent} if self._span is not None else {}

    def end(self, decision: Decision) -> None:
        """Tell what was decided, and why."""
        self._traces.decided(self._student, self._version)
        if self._span is not None:
            about = {"version": self._version, "student": self._student, "live": decision.live or ""}
            verdict = {"verdict": decision.verdict.value, "code": decision.code.value, "reason": decision.reason}
            self._span.end(self._traces.now_ms(), queries=decision.numbers.get("num_queries") or 0, **about, **verdict)


def _json(value: Mapping[Any, Any]) -> str:
    return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode()
