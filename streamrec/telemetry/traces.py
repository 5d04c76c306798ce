"""Say what a span is, without OpenTelemetry: it is imported where traces are switched on, and nowhere else."""

from __future__ import annotations

import importlib
from typing import Any, Protocol

from streamrec.errors import ConfigError

TRACEPARENT = "traceparent"
"""Key under which a version that is handed out carries the span that it follows, as W3C's Trace Context writes it. Never stored."""

CLOSES_WITHIN_S = 1.0
"""So long the end of a process waits for the receiver to take the last spans."""

Attribute = str | int | float


class Span(Protocol):
    """A span that has begun. One that is never ended is never told."""

    @property
    def traceparent(self) -> str:
        """What spans that follow it are begun with, here or in another process."""
        ...

    def end(self, at_ms: float, error: str = "", /, **attributes: Attribute) -> None:
        """End it at a time of processing, and say of it what is known by then; ``error``: what went wrong."""
        ...


class Tracer(Protocol):
    """Where spans go.

    **Contract.** Nothing blocks and nothing raises, whatever becomes of the receiver: what does not fit a bounded queue is dropped.
    """

    def begin(self, name: str, at_ms: float, parent: str = "") -> Span:
        """Begin a span at a time of processing: below the one whose `Span.traceparent` is given, else of a trace of its own."""
        ...

    def close(self) -> None:
        """Send what waits, and return within `CLOSES_WITHIN_S`."""
        ...


def check_tracer(endpoint: str) -> None:
    """Return where `open_tracer` would: before processes are started that need one.

    Raises:
        ConfigError: The extra ``otel`` is not installed.
    """
    if endpoint:
        _otlp()


def open_tracer(endpoint: str, service: str, instance: str = "") -> Tracer | None:
    """Return where spans go; None where traces are switched off.

    Args:
        endpoint: ``telemetry.traces_endpoint``.
        service: What this process is: ``stream`` or ``serve``.
        instance: Which of several.

    Raises:
        ConfigError: The extra ``otel`` is not installed.
    """
    if not endpoint:
        return None
    made: Tracer = _otlp().OtlpTracer.to(endpoint, service, instance)
    return made


def _otlp() -> Any:
    try:
        return importlib.import_module("streamrec.telemetry.otlp")
    except ImportError as error:
        what = "Traces: telemetry.traces_endpoint is set, and OpenTelemetry's exporter is not installed here"
        do = "run `pip install 'streamrec[otel]'` on every node, or leave the setting out"
        raise ConfigError(what, got=f"no module {error.name}", do=do, key="telemetry.traces_endpoint") from error
