"""Ask a server and wait for the answer."""

from __future__ import annotations

import functools
import random
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, ParamSpec, TypeVar, cast

import httpx2

from streamrec.client import calls
from streamrec.client.calls import Call
from streamrec.client.failures import Failure, of_transport, read_answer, timed_out
from streamrec.client.retries import Attempts, Retries, TimeOuts
from streamrec.client.sending import MAX_BYTES, MAX_EVENTS, new_request_id, sending
from streamrec.clock import Clock
from streamrec.errors import ClientError
from streamrec.serving.replies import EventResult

P = ParamSpec("P")
T = TypeVar("T")


class _Asking(Generic[P, T]):
    """Be a method that sends a call and returns its answer."""

    def __init__(self, call: Callable[P, Call[T]]) -> None:
        self._call = call

    def __get__(self, client: Client | None, owner: object = None) -> Callable[P, T]:
        if client is None:  # `Client.recommend`, for whoever looks at its signature.
            return cast("Callable[P, T]", self._call)

        @functools.wraps(self._call)
        def ask(*args: P.args, **kwargs: P.kwargs) -> T:
            return client._ask(self._call(*args, **kwargs))

        return ask


class Client:
    """Ask a streamrec server; may be used by several threads, and as a context manager.

    Args:
        url: The server's, such as ``http://127.0.0.1:8000``.
        key: A key of the server; None takes STREAMREC_API_KEY, and where that is not set sends none.
        timeouts: How long to wait.
        retries: How often to send again.
        transport: What carries requests; None the network. See `httpx2.Client`.
        sleep: Waits between attempts.
        clock: Monotonic time.
        rng: For the pauses between attempts.

    **Contract.** A call ends with an answer or raises `ClientError`, within ``timeouts.total_s`` and at most once ``read_s`` more. All calls but
    `rollback` may be sent twice without a second effect: reads have none, writes carry the request's id as their event's, and events the
    ``event_id`` that you give them.
    """

    recommend = _Asking(calls.recommend)
    recommend_to_user = _Asking(calls.recommend_to_user)
    similar = _Asking(calls.similar)
    rank = _Asking(calls.rank)
    popular = _Asking(calls.popular)
    get_item = _Asking(calls.get_item)
    put_item = _Asking(calls.put_item)
    delete_item = _Asking(calls.delete_item)
    get_user = _Asking(calls.get_user)
    delete_user = _Asking(calls.delete_user)
    models = _Asking(calls.models)
    promote = _Asking(calls.promote)
    rollback = _Asking(calls.rollback)
    pin = _Asking(calls.pin)
    unpin = _Asking(calls.unpin)
    switches = _Asking(calls.switches)
    pause = _Asking(calls.pause)
    resume = _Asking(calls.resume)
    freeze_publishing = _Asking(calls.freeze_publishing)
    unfreeze_publishing = _Asking(calls.unfreeze_publishing)
    history = _Asking(calls.history)
    dead_letters = _Asking(calls.dead_letters)
    replay_letters = _Asking(calls.replay_letters)
    system = _Asking(calls.system)
    healthz = _Asking(calls.healthz)
    readyz = _Asking(calls.readyz)
    openapi = _Asking(calls.openapi)

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeouts: TimeOuts | None = None,
        retries: Retries | None = None,
        transport: httpx2.BaseTransport | None = None,
        sleep: Callable[[float], object] = time.sleep,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._sending = sending(url, key, timeouts, retries, clock, rng)
        self._http = httpx2.Client(transport=transport)
        self._sleep = sleep

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def events(self, events: Iterable[Mapping[str, Any]], *, max_events: int = MAX_EVENTS, max_bytes: int = MAX_BYTES) -> list[EventResult]:
        """Append events in batches and return what became of each, in order.

        Args:
            events: As on the wire. Give each its own ``event_id`` before the first try: then sending it again, by this client or by you, has no
                second effect.
            max_events: Events of one request.
            max_bytes: Bytes of one request.

        Raises:
            ClientError: A batch was not answered; ``results`` of the error are those of the batches before, so the events from there on are to be
                sent again.
        """
        results: list[EventResult] = []
        for lines in calls.batches(events, max_events, max_bytes):
            try:
                results += self._ask(calls.events(lines)).results
            except ClientError as error:
                error.facts["results"] = results
                raise
        return results

    def _ask(self, call: Call[T]) -> T:
        attempts, request_id = self._sending.attempts(call), new_request_id()
        while True:
            answer = self._try(call, attempts, request_id)
            if not isinstance(answer, Failure):
                return answer
            self._sleep(attempts.pause_s(answer))

    def _try(self, call: Call[T], attempts: Attempts, request_id: str) -> T | Failure:
        request = self._sending.request(call, request_id, attempts.begin())
        try:
            with self._http.stream(**request) as response:
                parts = []
                for part in response.iter_bytes():  # Each may take up to read_s.
                    parts.append(part)
                    if attempts.left_s() <= 0:
                        return timed_out(call, request_id)
        except httpx2.TransportError as error:
            return of_transport(call, error, self._sending.url, request_id)
        return read_answer(call, response.status_code, response.headers, b"".join(parts), request_id)
