"""Send spans to an OTLP receiver over HTTP, by OpenTelemetry; `streamrec.telemetry.traces` imports this when traces are switched on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Span, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

import streamrec
from streamrec.telemetry.traces import CLOSES_WITHIN_S, TRACEPARENT, Attribute

logger = logging.getLogger(__name__)

_QUEUE_SPANS = 1024
"""A traced version has a dozen; when the receiver is away the oldest ones go."""
_BATCH_SPANS = 256
_EVERY_MS = 1000
_TIMEOUT_S = 5.0

_PROPAGATOR = TraceContextTextMapPropagator()


class OtlpSpan:
    """One span; see `streamrec.telemetry.traces.Span`."""

    def __init__(self, span: Span) -> None:
        self._span = span
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier, set_span_in_context(span, Context()))
        self.traceparent = carrier.get(TRACEPARENT, "")

    def end(self, at_ms: float, error: str = "", /, **attributes: Attribute) -> None:
        """End it."""
        self._span.set_attributes({f"streamrec.{name}": value for name, value in attributes.items()})
        if error:
            self._span.set_status(Status(StatusCode.ERROR, error))
        self._span.end(_ns(at_ms))


class TellsOnce(SpanExporter):
    """Export by another exporter, and say once that the receiver does not take spans, and once that it does again.

    Args:
        exporter: Its own lines, one for each try, are of no use to anybody.
        endpoint: The receiver.
    """

    def __init__(self, exporter: SpanExporter, endpoint: str) -> None:
        self._exporter, self._endpoint, self._is_away = exporter, endpoint, False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export a batch."""
        result = self._exporter.export(spans)
        is_away = result is not SpanExportResult.SUCCESS
        if is_away != self._is_away:
            logger.warning("Traces: %s %s", self._endpoint, "takes no spans, they are dropped until it does" if is_away else "takes spans again")
        self._is_away = is_away
        return result

    def shutdown(self) -> None:
        """Stop exporting, also what is tried just now."""
        self._exporter.shutdown()


class OtlpTracer:
    """Hand spans to a processor of OpenTelemetry; see `streamrec.telemetry.traces.Tracer`.

    Args:
        processor: Exports them.
        service: What this process is.
        instance: Which of several.
        exporter: The processor's, told to stop when the time to close is over.
    """

    def __init__(self, processor: SpanProcessor, service: str, instance: str = "", exporter: SpanExporter | None = None) -> None:
        self._exporter = exporter
        named = {"service.namespace": "streamrec", "service.name": f"streamrec-{service}", "service.version": streamrec.__version__}
        resource = Resource.create(named | ({"service.instance.id": instance} if instance else {}))
        # Not at exit, where it would wait for half a minute for a receiver that is away.
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("streamrec", streamrec.__version__)

    @classmethod
    def to(cls, endpoint: str, service: str, instance: str = "") -> OtlpTracer:
        """Return one that sends to the receiver at an endpoint; headers and certificates come from OpenTelemetry's own variables."""
        for name in ("opentelemetry.exporter.otlp", "opentelemetry.sdk._shared_internal"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # They tell of each try and each span.
        exporter = TellsOnce(OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=_TIMEOUT_S), endpoint)
        batches = BatchSpanProcessor(exporter, max_queue_size=_QUEUE_SPANS, max_export_batch_size=_BATCH_SPANS, schedule_delay_millis=_EVERY_MS)
        return cls(batches, service, instance, exporter)

    def begin(self, name: str, at_ms: float, parent: str = "") -> OtlpSpan:
        """Begin a span."""
        # Never the context of this thread: Ray's own traces, where they are on, are none of ours.
        context = _PROPAGATOR.extract({TRACEPARENT: parent}, Context()) if parent else Context()
        return OtlpSpan(self._tracer.start_span(name, context, start_time=_ns(at_ms)))

    def close(self) -> None:
        """Send what waits; what a receiver does not take in time is dropped, and threads end with the request that is under way."""
        closing = threading.Thread(target=self._provider.shutdown, name="traces-close", daemon=True)
        closing.start()
        closing.join(CLOSES_WITHIN_S)
        if closing.is_alive() and self._exporter is not None:
            self._exporter.shutdown()


def _ns(at_ms: float) -> int:
    return round(at_ms * 1e6)
