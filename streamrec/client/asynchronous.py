"""Ask a server without blocking the event loop."""

from __future__ import annotations

import functools
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Generic, ParamSpec, TypeVar, cast

import anyio
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

    def __get__(self, client: AsyncClient | None, owner: object = None) -> Callable[P, Awaitable[T]]:
        if client is None:  # `Client.recommend`, for whoever looks at its signature.
            return cast("Callable[P, Awaitable[T]]", self._call)

        @functools.wraps(self._call)
        async def ask(*args: P.args, **kwargs: P.kwargs) -> T:
            return await client._ask(self._call(*args, **kwargs))

        return ask


class AsyncClient:
    """Ask a streamrec server from asyncio; see `Client`, whose methods and contract these are.

    Args:
        url: The server's, such as ``http://127.0.0.1:8000``.
        key: A key of the server; None takes STREAMREC_API_KEY, and where that is not set sends none.
        timeouts: How long to wait; ``total_s`` is kept exactly.
        retries: How often to send again.
        transport: What carries requests; None the network. See `httpx2.AsyncClient`.
        sleep: Waits between attempts.
        clock: Monotonic time.
        rng: For the pauses between attempts.
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
        transport: httpx2.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[object]] = anyio.sleep,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._sending = sending(url, key, timeouts, retries, clock, rng)
        self._http = httpx2.AsyncClient(transport=transport)
        self._sleep = sleep

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def events(self, events: Iterable[Mapping[str, Any]], *, max_events: int = MAX_EVENTS, max_bytes: int = MAX_BYTES) -> list[EventResult]:
        """Append events in batches and return what became of each, in order; see `Client.events`."""
        results: list[EventResult] = []
        for lines in calls.batches(events, max_events, max_bytes):
            try:
                results += (await self._ask(calls.events(lines))).results
            except ClientError as error:
                error.facts["results"] = results
                raise
        return results

    async def _ask(self, call: Call[T]) -> T:
        attempts, request_id = self._sending.attempts(call), new_request_id()
        while True:
            answer = await self._try(call, attempts, request_id)
            if not isinstance(answer, Failure):
                return answer
            await self._sleep(attempts.pause_s(answer))

    async def _try(self, call: Call[T], attempts: Attempts, request_id: str) -> T | Failure:
        left_s = attempts.begin()
        request = self._sending.request(call, request_id, left_s)
        try:
            with anyio.fail_after(left_s):
                response = await self._http.request(**request)
        except TimeoutError:
            return timed_out(call, request_id)
        except httpx2.TransportError as error:
            return of_transport(call, error, self._sending.url, request_id)
        return read_answer(call, response.status_code, response.headers, response.content, request_id)
