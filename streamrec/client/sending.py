"""Hold what both clients share: the address, the key, and how a call becomes a request."""

from __future__ import annotations

import random
import uuid
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx2

from streamrec.client.calls import Call
from streamrec.client.retries import Attempts, Retries, TimeOuts
from streamrec.clock import Clock, SystemClock
from streamrec.environment import api_key
from streamrec.errors import ConfigError

MAX_EVENTS = 1000
"""Events of one request."""
MAX_BYTES = 200_000
"""Bytes of one request; a server reads ``serving.max_body_bytes``, by default 262,144."""


@dataclass(frozen=True)
class Sending:
    """Say where to send, as whom, how long and how often.

    Attributes:
        url: The server's, without a slash at its end.
        key: A key of the server; None sends none.
        timeouts: How long to wait.
        retries: How often to send.
        clock: Monotonic time.
        rng: For the pauses.
    """

    url: str
    key: str | None = field(repr=False)
    timeouts: TimeOuts
    retries: Retries
    clock: Clock
    rng: random.Random

    def attempts(self, call: Call[Any]) -> Attempts:
        """Return the attempts of a call."""
        return Attempts(self.retries, self.timeouts, self.clock, self.rng, is_repeatable=call.is_repeatable)

    def request(self, call: Call[Any], request_id: str, left_s: float) -> dict[str, Any]:
        """Return the arguments of an HTTP request; a repeated one has the same id, so that what is written has the same event id."""
        headers = {"x-request-id": request_id, "accept": "application/json"}
        if self.key:
            headers["authorization"] = f"Bearer {self.key}"
        if call.body is not None:
            headers["content-type"] = call.content_type
        connect_s, read_s = min(self.timeouts.connect_s, left_s), min(self.timeouts.read_s, left_s)
        timeout = httpx2.Timeout(read_s, connect=connect_s, pool=connect_s)
        url = f"{self.url}{call.path}"
        return {"method": call.method, "url": url, "params": list(call.query) or None, "content": call.body, "headers": headers, "timeout": timeout}


def sending(url: str, key: str | None, timeouts: TimeOuts | None, retries: Retries | None, clock: Clock | None, rng: random.Random | None) -> Sending:
    """Return what a client was told, with what it was not told.

    Raises:
        ConfigError: The URL is not a server's, or the key has characters that no key has.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        what = "Client: the URL is not a server's"
        raise ConfigError(what, got=repr(url), allowed="http://HOST:PORT or https://HOST, and serving.path", do="correct it")
    if parts.username is not None or parts.query or parts.fragment:
        what = "Client: the URL has a user, a query or a fragment"  # Not shown: a password may be in it.
        raise ConfigError(what, allowed="http://HOST:PORT or https://HOST, and serving.path", do="give the key as key")
    key = key if key is not None else api_key()
    if key and not (key.isascii() and key.isprintable() and " " not in key):
        what = "Client: the key has characters that no key has"  # Not shown: it may be one with a line's end.
        raise ConfigError(what, do="give it as `streamrec key` printed it")
    rng = rng or random.Random()  # noqa: S311 (spreads clients, hides nothing)
    return Sending(url.rstrip("/"), key, timeouts or TimeOuts(), retries or Retries(), clock or SystemClock(), rng)


def new_request_id() -> str:
    """Return a name for a request that no other has."""
    return uuid.uuid4().hex
