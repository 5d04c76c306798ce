"""Tell of a replica's swaps, and of the first answer by each version, as spans of the trace that the version carries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streamrec.clock import Clock
from streamrec.telemetry.traces import TRACEPARENT, Attribute, Span, Tracer


class SwapTraces:
    """Add to the traces of versions. Where there is no tracer, or a version carries no trace, nothing is done and nothing kept.

    Args:
        tracer: Where spans go.
        replica_id: Which replica.
        clock: Processing time.
    """

    def __init__(self, tracer: Tracer | None, replica_id: str, clock: Clock) -> None:
        self._tracer, self._replica_id, self._clock = tracer, replica_id, clock
        self._parent, self._since_ms = "", 0
        self.awaited = ""
        """The version of which an answer is still awaited; "" where none is, which is all that a request asks."""

    def begin(self, manifest: Mapping[str, Any]) -> Span | None:
        """Begin to tell of a swap to the version of a manifest; None where that is not traced."""
        parent = manifest.get(TRACEPARENT)
        return None if self._tracer is None or not parent else self._tracer.begin("swap", self._clock.now_ms(), str(parent))

    def swapped(self, span: Span, version: str, *, whole: bool, refused: str = "") -> None:
        """Tell that a version serves from now on, or why it does not."""
        now_ms = self._clock.now_ms()
        span.end(now_ms, refused, version=version, replica=self._replica_id, came="whole" if whole else "by what changed")
        if not refused:
            self._parent, self._since_ms, self.awaited = span.traceparent, now_ms, version

    def answered(self, answer: Mapping[str, Any]) -> None:
        """Tell of an answer if it is the first one by the version that is awaited, from the swap until it was made."""
        if self._tracer is None or answer["model_version"] != self.awaited:
            return
        version, self.awaited = self.awaited, ""
        facts: dict[str, Attribute] = {name: answer[name] for name in ("source", "request_id", "model_age_s")}
        span = self._tracer.begin("first_answer", self._since_ms, self._parent)
        span.end(self._clock.now_ms(), version=version, replica=self._replica_id, **facts)

    def close(self) -> None:
        """Send what waits, for a bounded time."""
        if self._tracer is not None:
            self._tracer.close()
