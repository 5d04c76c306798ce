"""Measure a running deployment from outside, through HTTP alone: requests, state freshness, model freshness.

Runs as a process of its own, so that it shares nothing with what it measures:

    python -m streamrec.testing.measure --url http://127.0.0.1:8000 --users users.json --rate 20 --out measured.json

A deployment that asks for keys is given the one in STREAMREC_API_KEY.
It ends when its standard input closes, and writes one JSON object to ``--out``; every second it prints the same object as one line.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import threading
import time
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streamrec.environment import api_key
from streamrec.testing.percentiles import percentile

PROBE_EVERY_S = 1.0
POLL_S = 0.004
GIVE_UP_S = 60.0


@dataclass
class Tally:
    """Collect what the threads measure; a thread appends to its own lists only.

    Attributes:
        request_ms: Latency of each answered request.
        failed: Reasons of requests that were not answered with 200.
        state_ms: Acknowledgement of an event to the first answer that used it.
        model_s: Acknowledgement of an event to the first answer of a version that learned from it.
        versions: Versions seen in answers, in order.
        lost: Probe events that were not seen within `GIVE_UP_S`.
        posted: Probe events that the log acknowledged.
        num_open: Of these, how many no version has learned from yet; they are in no percentile.
        open_s_max: How long the oldest of them has waited, None when there is none.
    """

    request_ms: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    state_ms: list[float] = field(default_factory=list)
    model_s: list[float] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    posted: list[tuple[int, int]] = field(default_factory=list)
    num_open: int = 0
    open_s_max: float | None = None

    def summary(self) -> dict[str, Any]:
        """Return counts and percentiles; None where nothing was measured."""
        state, model, request = list(self.state_ms), list(self.model_s), list(self.request_ms)
        return {
            "sent": len(request) + len(self.failed),
            "failed": len(self.failed),
            "failures": self.failed[:5],
            "p50_ms": percentile(request, 0.5),
            "p99_ms": percentile(request, 0.99),
            "state_ms_p50": percentile(state, 0.5),
            "state_ms_p99": percentile(state, 0.99),
            "model_s_p50": percentile(model, 0.5),
            "model_s_p95": percentile(model, 0.95),
            "num_state": len(state),
            "num_model": len(model),
            "lost": len(self.lost),
            "posted": len(self.posted),
            "num_open": self.num_open,
            "open_s_max": self.open_s_max,
            "versions": list(dict.fromkeys(self.versions)),
        }


class Client:
    """Send JSON requests over one kept connection, which is opened again when the server closed it.

    Not `streamrec.client`, whose retries and models would be measured with the server.

    Args:
        url: Base URL.
        key: Sent with each request; None sends none.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        parts = urllib.parse.urlsplit(url)
        self._headers = {"content-type": "application/json", **({} if key is None else {"authorization": f"Bearer {key}"})}
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._connection: http.client.HTTPConnection | None = None

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def request(self, method: str, path: str, body: object | None = None) -> tuple[int, dict[str, Any]]:
        """Return (status, JSON body). One request is one attempt: nothing is retried.

        Raises:
            OSError: The connection broke.
            HTTPException: The answer is not HTTP.
        """
        if self._connection is None:
            self._connection = http.client.HTTPConnection(self._host, self._port, timeout=10.0)
        try:
            data = None if body is None else json.dumps(body).encode()
            self._connection.request(method, path, data, self._headers)
            response = self._connection.getresponse()
            payload = response.read()
        except BaseException:
            self.close()
            raise
        values: dict[str, Any] = json.loads(payload) if payload else {}
        return response.status, values


class Measure:
    """Run the measuring threads until stopped.

    Args:
        url: Base URL of the deployment.
        users: Ids to ask for.
        rate: Requests a second besides the probes.
        event_type: Type of the probe events.
        event_time: Event time of the probe events in ms UTC; None is now. A replay of old events needs one of its own time.
        every_s: Pause between probes.
        key: A key with the scopes read and events, where the deployment asks for one.
    """

    def __init__(
        self,
        url: str,
        users: Sequence[str],
        rate: float,
        event_type: str,
        event_time: int | None = None,
        every_s: float = PROBE_EVERY_S,
        key: str | None = None,
    ) -> None:
        self.tally = Tally()
        self._users = users
        self._rate = rate
        self._event_type = event_type
        self._event_time = event_time
        self._every_s = every_s
        self._stop = threading.Event()
        self._waiting: list[tuple[int, int, float]] = []
        self._lock = threading.Lock()
        loops = (self._load, self._probe_state, self._probe_model)
        self._clients = [Client(url, key) for _ in loops]
        self._threads = [threading.Thread(target=loop, args=(client,), daemon=True) for loop, client in zip(loops, self._clients, strict=True)]

    def start(self) -> None:
        """Start measuring."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop; returns when all threads have ended."""
        self._stop.set()
        for thread, client in zip(self._threads, self._clients, strict=True):
            thread.join()
            client.close()

    def _load(self, client: Client) -> None:
        """Ask for users at a fixed rate; a late request is sent at once, so that a stall is not hidden."""
        due, number = time.monotonic(), 0
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            user = urllib.parse.quote(self._users[number % len(self._users)], safe="")
            began = time.monotonic()
            try:
                status, answer = client.request("GET", f"/v1/recommend/{user}?n=20")
                if status == 200 and answer.get("items"):
                    self.tally.request_ms.append((time.monotonic() - began) * 1000)
                    self._saw(answer["model_version"])
                else:
                    self.tally.failed.append(f"status {status}: {answer}")
            except (OSError, http.client.HTTPException) as error:
                self.tally.failed.append(f"{type(error).__name__}: {error}")
            due, number = due + 1.0 / self._rate, number + 1

    def _saw(self, version: str) -> None:
        if not self.tally.versions or self.tally.versions[-1] != version:
            self.tally.versions.append(version)

    def _probe_state(self, client: Client) -> None:
        """Post an event of a user that nobody else writes for, and ask until an answer has used it."""
        number = 0
        while not self._stop.wait(self._every_s):
            number += 1
            user = f"freshness-{time.time_ns()}"
            try:
                _, before = client.request("GET", f"/v1/recommend/{user}?n=5")
                item = before["items"][number % len(before["items"])]["item_id"]
                event: dict[str, Any] = {"event_id": user, "user_id": user, "item_id": item, "event_type": self._event_type}
                event["event_time"] = self._event_time if self._event_time is not None else time.time_ns() // 1_000_000
                status, posted = client.request("POST", "/v1/events", event)
                acknowledged = time.monotonic()
                if status != 200 or posted["results"][0]["status"] != "accepted":
                    self.tally.failed.append(f"event: status {status}: {posted}")
                    continue
                place = (posted["results"][0]["partition"], posted["results"][0]["offset"])
                self.tally.posted.append(place)
                with self._lock:
                    self._waiting.append((*place, acknowledged))
                self._wait_for_use(client, user, acknowledged)
            except (OSError, http.client.HTTPException, KeyError, IndexError) as error:
                self.tally.failed.append(f"probe: {type(error).__name__}: {error}")

    def _wait_for_use(self, client: Client, user: str, acknowledged: float) -> None:
        while time.monotonic() - acknowledged < GIVE_UP_S:
            _, answer = client.request("GET", f"/v1/recommend/{user}?n=5")
            if answer.get("user_events", 0) > 0 and answer.get("source") == "student":
                self.tally.state_ms.append((time.monotonic() - acknowledged) * 1000)
                return
            if self._stop.wait(POLL_S):
                return
        self.tally.lost.append(user)

    def _probe_model(self, client: Client) -> None:
        """Look at the live version's offsets until they cover the probe events."""
        while not self._stop.wait(5 * POLL_S):
            try:
                _, models = client.request("GET", "/v1/models")
            except (OSError, http.client.HTTPException) as error:
                self.tally.failed.append(f"models: {type(error).__name__}: {error}")
                continue
            now = time.monotonic()
            offsets: dict[str, int] = next(iter((models.get("live") or {}).get("offsets", {}).values()), {})
            with self._lock:
                done = [probe for probe in self._waiting if int(offsets.get(str(probe[0]), 0)) > probe[1]]
                self._waiting = [probe for probe in self._waiting if probe not in done]
                self.tally.num_open = len(self._waiting)
                self.tally.open_s_max = max((now - acknowledged for _, _, acknowledged in self._waiting), default=None)
            self.tally.model_s.extend(now - acknowledged for _, _, acknowledged in done)


def _wait_for_end(ended: threading.Event) -> None:
    sys.stdin.read()
    ended.set()


def main(argv: Sequence[str] | None = None) -> int:
    """Measure until standard input closes."""
    parser = argparse.ArgumentParser(prog="python -m streamrec.testing.measure", description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--users", required=True, help="JSON list of user ids")
    parser.add_argument("--rate", type=float, default=20.0)
    parser.add_argument("--event-type", default="click")
    parser.add_argument("--event-time", type=int)
    parser.add_argument("--every", type=float, default=PROBE_EVERY_S)
    parser.add_argument("--out", required=True)
    options = parser.parse_args(argv)
    users = json.loads(Path(options.users).read_text(encoding="utf-8"))
    measure = Measure(options.url, users, options.rate, options.event_type, options.event_time, options.every, api_key())
    measure.start()
    ended = threading.Event()
    threading.Thread(target=_wait_for_end, args=(ended,), daemon=True).start()
    while not ended.wait(1.0):
        sys.stdout.write(json.dumps(measure.tally.summary()) + "\n")
        sys.stdout.flush()
    measure.stop()
    Path(options.out).write_text(json.dumps(measure.tally.summary()), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
