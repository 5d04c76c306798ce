"""Drive one port with one client for all contestants: wrk where it is on PATH, else this folder's own load generator."""

from __future__ import annotations

import base64
import http.client
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_UNITS_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0}
_LUA = """
local path, bodies = {path}, {{{bodies}}}
local requests, at = {{}}, 0
init = function()
  for index, body in ipairs(bodies) do
    requests[index] = wrk.format("POST", path, {{["content-type"] = "application/json"}}, body)
  end
end
request = function()
  at = at % #requests + 1
  return requests[at]
end
"""


@dataclass(frozen=True)
class Measured:
    """Hold one window's figures; latencies in milliseconds."""

    rps: float
    p50_ms: float
    p99_ms: float
    failed: int


class Client:
    """Send JSON bodies to a path of one server.

    Args:
        host: Where it listens.
        port: Where it listens.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._wrk = shutil.which("wrk")

    @property
    def name(self) -> str:
        """Return which client measures."""
        return "wrk" if self._wrk else "benchmarks/_load.py"

    def once(self, method: str, path: str, body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
        """Send one request and return status, headers (names in lower case) and body."""
        connection = http.client.HTTPConnection(self._host, self._port, timeout=30)
        try:
            connection.request(method, path, body, {"content-type": "application/json"})
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def measure(self, path: str, bodies: Sequence[bytes], connections: int, seconds: float) -> Measured:
        """Send as fast as answers come back, over so many connections, for so long."""
        if self._wrk is not None:
            return self._measure_with_wrk(path, bodies, connections, seconds)
        result = json.loads(self.start(path, bodies, connections, seconds).communicate()[0])
        latency_ms = sorted(result["latency_ms"])
        return Measured(
            rps=len(latency_ms) / result["seconds"],
            p50_ms=latency_ms[len(latency_ms) // 2],
            p99_ms=latency_ms[int(len(latency_ms) * 0.99)],
            failed=result["failed"],
        )

    def start(
        self, path: str, bodies: Sequence[bytes], connections: int, seconds: float, rate: float = 0.0, *, record: bool = False
    ) -> subprocess.Popen[str]:
        """Start this folder's load generator; its result comes on standard output. ``rate`` and ``record``: see `_load`."""
        requests = [base64.b64encode(http_request(self._host, self._port, path, body)).decode() for body in bodies]
        order: dict[str, Any] = {"host": self._host, "port": self._port, "requests": requests, "connections": connections}
        order |= {"seconds": seconds, "rate": rate, "record": record}
        script = Path(__file__).with_name("_load.py")
        process = subprocess.Popen([sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdin is not None
        process.stdin.write(json.dumps(order))
        process.stdin.close()
        process.stdin = None
        return process

    def _measure_with_wrk(self, path: str, bodies: Sequence[bytes], connections: int, seconds: float) -> Measured:
        assert self._wrk is not None
        with tempfile.TemporaryDirectory() as folder:
            script = Path(folder) / "requests.lua"
            quoted = ", ".join(f"[==[{body.decode()}]==]" for body in bodies)
            script.write_text(_LUA.format(path=json.dumps(path), bodies=quoted), encoding="utf-8")
            command = [self._wrk, "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--latency", "-s", str(script)]
            done = subprocess.run([*command, f"http://{self._host}:{self._port}"], capture_output=True, text=True, check=True)
        return parse_wrk(done.stdout)


def parse_wrk(text: str) -> Measured:
    """Read wrk's report."""
    rates = re.search(r"Requests/sec:\s+([\d.]+)", text)
    latency = {share: float(value) * _UNITS_MS[unit] for share, value, unit in re.findall(r"\s(50|99)%\s+([\d.]+)(us|ms|s)", text)}
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    lost = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    assert rates is not None
    failed = (int(refused.group(1)) if refused else 0) + (sum(map(int, lost.groups())) if lost else 0)
    return Measured(float(rates.group(1)), latency["50"], latency["99"], failed)


def http_request(host: str, port: int, path: str, body: bytes) -> bytes:
    """Return a raw POST of a JSON body."""
    head = f"POST {path} HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body
