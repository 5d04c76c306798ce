"""Follow ``GET /v1/live`` of a server in a thread of its own, and keep the newest frames."""

from __future__ import annotations

import http.client
import json
import threading
import urllib.parse
from collections import deque
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any

from jobs.live_facts import Facts, facts_of

KEPT_FRAMES = 61
KEPT_MARKS = 50
TIMEOUT_S = 5.0
"""A server tells once a second; one that says nothing for so long is asked anew."""
AGAIN_S = 1.0


class LiveReader:
    """Hold the newest frames of a server; the thread lives inside the block.

    Args:
        url: The server's.
        key: A key that may read, where the server asks for one.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        self._url, self._headers = url, {"x-api-key": key} if key else {}
        self._lock = threading.Lock()
        self._frames: deque[dict[str, Any]] = deque(maxlen=KEPT_FRAMES)
        self._marks: deque[dict[str, Any]] = deque(maxlen=KEPT_MARKS)
        self._bounds: dict[str, list[float]] = {}
        self._trouble = ""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="live", daemon=True)

    def __enter__(self) -> LiveReader:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stopping.set()
        self._thread.join(TIMEOUT_S)

    def facts(self) -> Facts:
        """Return what is known now."""
        with self._lock:
            return facts_of(list(self._frames), self._bounds, list(self._marks))

    @property
    def trouble(self) -> str:
        """Return why nothing is heard; empty while something is."""
        return self._trouble

    @property
    def frames(self) -> list[dict[str, Any]]:
        """Return the newest frames, oldest first."""
        with self._lock:
            return list(self._frames)

    def take(self, event: str, data: dict[str, Any]) -> None:
        """Take one message of the server's."""
        with self._lock:
            if event == "hello":
                self._bounds = data["bounds"]
            elif event == "frame":
                self._frames.append(data)
            # A frame looks back a little, so that none is missed; what is there already is left.
            newest = self._marks[-1]["at_ms"] if self._marks else -1
            self._marks.extend(mark for mark in data["course"].get("marks", ()) if mark["at_ms"] > newest)
        self._trouble = ""

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._read()
            except (OSError, http.client.HTTPException, ValueError) as error:
                self._trouble = str(error) or type(error).__name__
            self._stopping.wait(AGAIN_S)

    def _read(self) -> None:
        """Read one answer to its end; the server ends each after some minutes."""
        address = urllib.parse.urlsplit(self._url)
        connection = http.client.HTTPConnection(address.hostname or "127.0.0.1", address.port, timeout=TIMEOUT_S)
        try:
            connection.request("GET", f"{address.path.rstrip('/')}/v1/live", headers=self._headers)
            answer = connection.getresponse()
            if answer.status != http.HTTPStatus.OK:
                self._trouble = f"the server answers {answer.status} to its own numbers; STREAMREC_API_KEY must have a key that reads"
                return
            for event, data in messages(answer):
                self.take(event, data)
                if self._stopping.is_set():
                    return
        finally:
            connection.close()


def messages(lines: Iterable[bytes]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Return the messages of a stream of server-sent events.

    Example:
        >>> list(messages([b"event: frame", b'data: {"at_ms": 1}', b""]))
        [('frame', {'at_ms': 1})]
    """
    event = ""
    for line in lines:
        name, _, value = line.decode().rstrip("\r\n").partition(": ")
        if name == "event":
            event = value
        elif name == "data":
            yield event, json.loads(value)
