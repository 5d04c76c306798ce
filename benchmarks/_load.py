"""Generate HTTP load from a process of its own: raw sockets, keep-alive, one request in flight per connection.

Run as ``python _load.py`` with a JSON object on standard input: host, port, requests (raw HTTP requests in base64, sent in turn),
connections, seconds, rate (requests/s over all connections; 0 sends the next at once) and record (whether to keep each answer). Prints one
JSON object: requests, failed, seconds, latency_ms, and with ``record`` a list of [request, sent_s, received_s, status, replica, model, body].
The same process measures whatever stands behind the port, so its own cost is the same for all.
"""

from __future__ import annotations

import base64
import json
import selectors
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

_GRACE_S = 10.0


@dataclass
class _Connection:
    sock: socket.socket
    due_s: float
    sent_s: float = 0.0
    request: int = -1
    data: bytes = b""


@dataclass
class _Tally:
    num_failed: int = 0
    latency_ms: list[float] = field(default_factory=list)
    answers: list[list[object]] = field(default_factory=list)


class Load:
    """Drive the connections.

    Args:
        host: Where to connect.
        port: Where to connect.
        requests: Raw HTTP requests, sent in turn.
        connections: How many at once.
        rate: Requests per second over all connections; 0 for as many as come back.
        record: Whether to keep each answer.
    """

    def __init__(self, host: str, port: int, requests: Sequence[bytes], connections: int, rate: float, *, record: bool) -> None:
        self._address = (host, port)
        self._requests = requests
        self._num_connections = connections
        self._pause_s = connections / rate if rate else 0.0
        self._is_recording = record
        self._next = 0
        self._tally = _Tally()
        self._selector = selectors.DefaultSelector()

    def run(self, seconds: float) -> dict[str, object]:
        """Send for ``seconds``, wait for the answers that are out, and return the result."""
        start_s = time.monotonic()
        waiting = [self._open(start_s + number * self._pause_s / self._num_connections) for number in range(self._num_connections)]
        stop_s, busy = start_s + seconds, 0
        while True:
            now_s = time.monotonic()
            if now_s < stop_s:
                for connection in [one for one in waiting if one.due_s <= now_s]:
                    waiting.remove(connection)
                    self._send(connection)
                    busy += 1
            elif not busy:
                break
            elif now_s > stop_s + _GRACE_S:
                self._tally.num_failed += busy
                break
            next_s = min([one.due_s for one in waiting], default=stop_s) if now_s < stop_s else now_s + 1.0
            for key, _ in self._selector.select(max(0.0, min(next_s, now_s + 0.5) - now_s) if busy else max(0.0, next_s - now_s)):
                finished = self._receive(key.data)
                if finished is not None:
                    waiting.append(finished)
                    busy -= 1
        wall_s = min(time.monotonic(), stop_s) - start_s
        return {
            "requests": len(self._tally.latency_ms),
            "failed": self._tally.num_failed,
            "seconds": wall_s,
            "latency_ms": self._tally.latency_ms,
            "answers": self._tally.answers,
        }

    def _open(self, due_s: float) -> _Connection:
        sock = socket.create_connection(self._address, timeout=10.0)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = _Connection(sock, due_s)
        self._selector.register(sock, selectors.EVENT_READ, connection)
        return connection

    def _send(self, connection: _Connection) -> None:
        connection.request = self._next % len(self._requests)
        self._next += 1
        connection.data = b""
        connection.sent_s = time.monotonic()
        connection.sock.sendall(self._requests[connection.request])

    def _receive(self, connection: _Connection) -> _Connection | None:
        """Take what came; return a connection that is free again when the answer is complete or lost."""
        try:
            chunk = connection.sock.recv(65_536)
        except OSError:
            chunk = b""
        connection.data += chunk
        head_end = connection.data.find(b"\r\n\r\n")
        if not chunk:
            return self._reopen(connection)
        if head_end < 0:
            return None
        head = connection.data[:head_end].lower()
        length = int(_header(head, b"content-length") or b"0")
        if len(connection.data) < head_end + 4 + length:
            return None
        received_s = time.monotonic()
        status = int(head[9:12])
        self._tally.latency_ms.append((received_s - connection.sent_s) * 1000)
        self._tally.num_failed += status != 200
        if self._is_recording:
            body = connection.data[head_end + 4 :].decode()
            named = [(_header(head, name) or b"").decode() for name in (b"x-streamrec-replica", b"x-streamrec-model")]
            self._tally.answers.append([connection.request, connection.sent_s, received_s, status, *named, body])
        connection.due_s = max(received_s, connection.due_s + self._pause_s)
        return self._reopen(connection, is_failure=False) if _header(head, b"connection") == b"close" else connection

    def _reopen(self, connection: _Connection, *, is_failure: bool = True) -> _Connection:
        self._tally.num_failed += is_failure
        self._selector.unregister(connection.sock)
        connection.sock.close()
        return self._open(connection.due_s)


def _header(head: bytes, name: bytes) -> bytes | None:
    start = head.find(b"\r\n" + name + b":")
    if start < 0:
        return None
    end = head.find(b"\r\n", start + 2)
    return head[start + len(name) + 3 : end if end >= 0 else len(head)].strip()


def main() -> None:
    """Read the order from standard input and print the result."""
    order = json.load(sys.stdin)
    requests = [base64.b64decode(request) for request in order["requests"]]
    load = Load(order["host"], order["port"], requests, order["connections"], order["rate"], record=order["record"])
    json.dump(load.run(order["seconds"]), sys.stdout)


if __name__ == "__main__":
    main()
