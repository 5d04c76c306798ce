"""Take events from HTTP clients: validate them with the codec and append them to the log, acknowledged after the broker has them."""

from __future__ import annotations

import queue
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import orjson
import pyarrow as pa

from streamrec.clock import Clock, SystemClock
from streamrec.config import MAX_TIME_MS
from streamrec.errors import BrokerError, BrokerUnavailable, DataError
from streamrec.events.codec import EventCodec
from streamrec.events.schema import LOG_ROW, Kind, Reason
from streamrec.log.base import LogWriter, Record

Results = list[dict[str, Any]]
Permit = Callable[[str, str], str | None]
"""Says why an event of a kind (first) in a namespace may not be appended for who asks; None lets it."""

FORBIDDEN = "forbidden"
"""The reason of an event that is valid and not for who sent it."""

# Records appended at once: one acknowledgement for all who wait, and no single request waits for a huge batch.
MAX_GROUP = 2000


@dataclass
class _Waiting:
    values: list[bytes]
    done: Future[Results]
    permit: Permit | None


@dataclass
class EventSink:
    """Append the events of concurrent requests in groups.

    Args:
        codec: Validates.
        open_writer: Connects to the log; called again after a failure.
        topic: Where events go.
        max_waiting: Requests that may wait; more are refused at once.
        kinds: Kinds of events that are taken.
        earliest_ms: Earlier event times are rejected as being in seconds.

    **Contract.** `submit` may be called by any thread and never blocks. `step` is called in a loop by one thread and blocks while the broker
    answers. When an append fails its outcome is unknown: the client sends again, and the learner drops what it has already by ``event_id``.
    """

    codec: EventCodec
    open_writer: Callable[[], LogWriter]
    topic: str
    max_waiting: int = 1000
    clock: Clock = field(default_factory=SystemClock)
    kinds: Collection[str] = tuple(Kind)
    earliest_ms: int = 0
    num_accepted: int = 0
    num_rejected: int = 0
    _writer: LogWriter | None = None

    def __post_init__(self) -> None:
        self._waiting: queue.Queue[_Waiting] = queue.Queue(self.max_waiting)

    def submit(self, events: list[Any], permit: Permit | None = None) -> Future[Results]:
        """Hand over events, parsed or as the bytes of one each; the result has one object per event, in order.

        An accepted event gives ``{"status": "accepted", "partition", "offset"}``, another ``{"status": "rejected", "reason", "detail"}``.

        Args:
            events: What to append.
            permit: Asked of each event that is valid, by what the codec made of it: what the stream will read is what is judged. Called by the
                thread of `step`.

        Raises:
            BrokerUnavailable: Too many requests wait for the broker already.
        """
        waiting = _Waiting([event if isinstance(event, bytes) else orjson.dumps(event) for event in events], Future(), permit)
        try:
            self._waiting.put_nowait(waiting)
        except queue.Full as error:
            what = "Events: too many requests wait for the broker"
            raise BrokerUnavailable(what, got=self._waiting.qsize(), allowed=self.max_waiting, do="send again later") from error
        return waiting.done

    def step(self, timeout_s: float) -> int:
        """Append one group of waiting requests and return how many events it had; waits up to ``timeout_s`` for the first."""
        group = self._take(timeout_s)
        if not group:
            return 0
        try:
            results = self._append([(value, waiting.permit) for waiting in group for value in waiting.values])
        except (BrokerError, DataError) as error:
            self._drop_writer()
            for waiting in group:
                waiting.done.set_exception(error)
            return 0
        start = 0
        for waiting in group:
            end = start + len(waiting.values)
            waiting.done.set_result(results[start:end])
            start = end
        return len(results)

    def close(self) -> None:
        """Refuse whoever still waits and close the writer."""
        while not self._waiting.empty():
            done = self._waiting.get_nowait().done
            if done.set_running_or_notify_cancel():
                done.set_exception(BrokerUnavailable("Events: this server is stopping", do="send again"))
        self._drop_writer()

    def _take(self, timeout_s: float) -> list[_Waiting]:
        deadline = self.clock.monotonic_s() + timeout_s
        group: list[_Waiting] = []
        num_records = 0
        while num_records < MAX_GROUP:
            try:
                waiting = self._waiting.get(timeout=max(0.0, deadline - self.clock.monotonic_s())) if not group else self._waiting.get_nowait()
            except queue.Empty:
                break
            if waiting.done.set_running_or_notify_cancel():
                group.append(waiting)
                num_records += len(waiting.values)
        return group

    def _append(self, asked: list[tuple[bytes, Permit | None]]) -> Results:
        num, values = len(asked), [value for value, _ in asked]
        rows = pa.table([[self.topic] * num, [0] * num, list(range(num)), [self.clock.now_ms()] * num, [None] * num, values], schema=LOG_ROW)
        decoded = self.codec.decode(rows, self.clock.now_ms())
        results: Results = [{} for _ in values]
        refused = [decoded.rejected[name].to_pylist() for name in ("offset", "reason", "detail")]
        for index, reason, detail in zip(*refused, strict=True):
            results[index] = {"status": "rejected", "reason": reason, "detail": detail}
        valid = [decoded.valid[name].to_pylist() for name in ("offset", "kind", "event_time", "user_id", "item_id", "namespace")]
        indices, records = [], []
        for index, kind, time_ms, user_id, item_id, namespace in zip(*valid, strict=True):
            if time_ms < self.earliest_ms:
                detail = f"event_time: got {time_ms}, allowed {self.earliest_ms} to {MAX_TIME_MS}; if these are seconds, send milliseconds"
                results[index] = {"status": "rejected", "reason": Reason.BAD_TIME.value, "detail": detail}
                continue
            if kind not in self.kinds:
                detail = f"kind: got {kind}, allowed {', '.join(self.kinds)} here; send others to the log itself, or set serving.accepts"
                results[index] = {"status": "rejected", "reason": "kind_not_accepted", "detail": detail}
                continue
            permit = asked[index][1]
            forbidden = permit(kind, namespace) if permit is not None else None
            if forbidden is not None:
                results[index] = {"status": "rejected", "reason": FORBIDDEN, "detail": forbidden}
                continue
            owner = item_id if kind == Kind.ITEM_UPDATE else user_id
            indices.append(index)
            records.append(Record(key=owner.encode(), value=values[index]))
        if records:
            if self._writer is None:
                self._writer = self.open_writer()
            places = self._writer.append(self.topic, records)
            for index, (partition, offset) in zip(indices, places, strict=True):
                results[index] = {"status": "accepted", "partition": partition, "offset": offset}
        self.num_accepted += len(records)
        self.num_rejected += num - len(records)
        return results

    def _drop_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            try:
                writer.close()
            except BrokerError:
                # It is being dropped because the broker failed; what it could not flush has been reported already.
                return
