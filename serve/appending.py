"""Append events for a request, and say what a broker's failure means to the client."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson

from serve.access import Caller, EventPermit, audit
from serve.backend import Backend
from serve.http import Headers, Refusal
from streamrec.errors import BrokerError, DataError

# Longer than a healthy broker ever needs, shorter than most clients wait.
APPEND_TIMEOUT_S = 10.0

_AGAIN: Headers = [(b"retry-after", b"1")]


async def append(backend: Backend, events: list[Any], log_name: str, caller: Caller, request_id: str) -> list[dict[str, Any]]:
    """Return one result per event when the broker has those that are valid and for the caller to send.

    Raises:
        Refusal: The broker did not take them, or not in time.
    """
    permit = EventPermit(caller)
    try:
        return await asyncio.wait_for(asyncio.wrap_future(backend.submit_events(events, permit)), APPEND_TIMEOUT_S)
    except BrokerError as error:
        raise Refusal(503, "broker", "no acknowledgement", "an acknowledgement", str(error), _AGAIN) from error
    except orjson.JSONEncodeError as error:  # Nothing was handed over: what is read more deeply nested than is written comes parsed, not as lines.
        raise Refusal(400, "events", "values nested deeper than 250 levels", "flatter events", "Events: an event can't be written down") from error
    except DataError as error:
        raise Refusal(400, "events", "a record that the log does not take", "smaller records", str(error)) from error
    except TimeoutError as error:
        what = f"Events: {log_name} did not acknowledge within {APPEND_TIMEOUT_S:g} s, send again with the same event_id"
        raise Refusal(503, "broker", "no acknowledgement", "an acknowledgement", what, _AGAIN) from error
    finally:
        # Also where the outcome is unknown.
        if permit.num_deletions:
            audit(caller, f"deletions of users: {permit.num_deletions}", request_id)
