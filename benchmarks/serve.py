"""Measure serving beside Ray Serve's own no-op in the same run: throughput and latency at 1, 16 and 64 connections.

Both run on one cluster behind one proxy, with the same flags, replicas and body sizes, and are driven by the same client (wrk where it is on
PATH, else `_load.py`, in a process of its own) in turns; figures are medians over the rounds. The student has 2,000 items of 64
dimensions; half of the requests name a user whose history came through the log, half bring a history along.
"""

from __future__ import annotations

import sys
from pathlib import Path

# As a script this folder would come first, and its serve.py would hide the package `serve`, here and in Ray's workers.
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import statistics
import tempfile
import time
from typing import Any

import orjson
from ray import serve

from benchmarks._client import Client, Measured
from benchmarks._common import arguments, facts, finish
from benchmarks._student import Version, make_histories, make_version, write_events
from serve.deployments import deployment_options
from serve.haproxy import free_port, has_haproxy
from serve.http import Receive, Scope, Send, read_body
from serve.launch import launch, shutdown
from streamrec.config import Config, ServingConfig, parse_config
from streamrec.log.connect import local_address
from streamrec.registry.board import RemoteBoard
from streamrec.serving.answers import Answerer
from streamrec.serving.requests import RecommendRequest
from streamrec.serving.slot import ModelSlot

NUM_REPLICAS = 2
NUM_USERS = 512
N = 20
# Of the 50 s that --quick may take, imports and the shutdown take the rest.
QUICK_S = 32.0
BARS = {"ratio_c16": ">= 0.5"}


class Noop:
    """Read the body and answer with fixed bytes: what Serve itself costs.

    Args:
        body: The answer.
    """

    def __init__(self, body: bytes) -> None:
        self._body = body

    def __serve_build_asgi_app__(self) -> Any:
        """Return the ASGI application."""
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(self._body)).encode())]

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                for _ in range(2):
                    await send({"type": (await receive())["type"] + ".complete"})
                return
            await read_body(scope, receive, 1 << 20)
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": self._body})

        return app


def request_bodies(histories: dict[str, list[str]]) -> list[bytes]:
    """Return the requests: users by turns known from the log and with their history along."""
    users = list(histories.items())
    return [
        orjson.dumps({"user_id": user, "n": N} if index % 2 else {"user_id": user, "history": items[-20:], "n": N})
        for index, (user, items) in enumerate(users)
    ]


def typical_body(histories: dict[str, list[str]], version: Version) -> bytes:
    """Return an answer of the usual size, for the no-op to send."""
    slot = ModelSlot()
    model = slot.load(*version)
    answerer = Answerer(None)
    requests = [RecommendRequest(user, "default", tuple(items), N) for user, items in histories.items()]
    return sorted((orjson.dumps(answerer.answer(request, model, "f" * 36)) for request in requests[:51]), key=len)[25]


def prepare(config: Config, folder: str) -> tuple[Client, list[bytes]]:
    """Start both contestants and return the client and the requests."""
    histories = make_histories(NUM_USERS, seed=1)
    version = make_version("v00000001", seed=0)
    address = local_address(folder)
    write_events(config, address, histories)
    noop: Any = serve.deployment(serve.ingress()(Noop), name="Noop", **deployment_options(ServingConfig(num_replicas=NUM_REPLICAS), 0.2))
    launch(config, address, beside={"noop": noop.bind(typical_body(histories, version))})
    RemoteBoard.get_or_create().publish(*version)
    client = Client(config.serving.host, config.serving.port)
    bodies = request_bodies(histories)
    wait_until_real(client, bodies)
    return client, bodies


def wait_until_real(client: Client, bodies: list[bytes]) -> None:
    """Return when the no-op answers and every replica answers known users from the log: that is what is measured."""
    ready: set[str] = set()
    deadline = time.monotonic() + 60
    while len(ready) < NUM_REPLICAS or client.once("POST", "/noop", bodies[0])[0] != 200:
        if time.monotonic() > deadline:
            msg = f"Benchmark: replicas did not become ready, got {sorted(ready)}, allowed {NUM_REPLICAS}, look at the logs of Ray Serve"
            raise RuntimeError(msg)
        status, headers, body = client.once("POST", "/v1/recommend", bodies[1])
        if status == 200 and orjson.loads(body)["source"] == "student":
            ready.add(headers["x-streamrec-replica"])


def rounds(client: Client, bodies: list[bytes], connections: int, seconds: float, num_rounds: int) -> tuple[list[Measured], list[Measured]]:
    """Measure no-op and recommender in turns; the first turn of each warms up and is thrown away."""
    noop: list[Measured] = []
    ours: list[Measured] = []
    for number in range(num_rounds + 1):
        window_s = seconds if number else 0.5
        noop.append(client.measure("/noop", bodies, connections, window_s))
        ours.append(client.measure("/v1/recommend", bodies, connections, window_s))
    return noop[1:], ours[1:]


def main() -> None:
    """Measure and print."""
    started_s = time.monotonic()
    args = arguments(__doc__.splitlines()[0])
    result: dict[str, float | int | None] = dict.fromkeys(("noop_rps_c16", "rps_c16", "ratio_c16", "p99_ms_c16", "noop_p99_ms_c16"))
    config = parse_config({"serving": {"port": free_port(), "num_replicas": NUM_REPLICAS}})
    name = ""
    try:
        with tempfile.TemporaryDirectory() as folder:
            client, bodies = prepare(config, folder)
            name = client.name
            left_s = QUICK_S - (time.monotonic() - started_s)
            seconds, num_rounds = (min(2.0, max(0.7, left_s / 8)), 3) if args.quick else (5.0, 5)
            for connections in (16,) if args.quick else (1, 16, 64):
                noop, ours = rounds(client, bodies, connections, seconds, num_rounds)
                level = {key: statistics.median(getattr(one, key) for one in ours) for key in ("rps", "p50_ms", "p99_ms")}
                floor = {key: statistics.median(getattr(one, key) for one in noop) for key in ("rps", "p50_ms", "p99_ms")}
                failed = sum(one.failed for one in (*noop, *ours))
                print(f"c={connections:<3} noop  {floor['rps']:8.0f} rps  p50 {floor['p50_ms']:6.2f} ms  p99 {floor['p99_ms']:6.2f} ms")
                print(
                    f"c={connections:<3} ours  {level['rps']:8.0f} rps  p50 {level['p50_ms']:6.2f} ms  p99 {level['p99_ms']:6.2f} ms  failed {failed}"
                )
                if connections == 16:
                    result |= {"noop_rps_c16": floor["rps"], "rps_c16": level["rps"], "ratio_c16": level["rps"] / floor["rps"]}
                    result |= {"p99_ms_c16": level["p99_ms"], "noop_p99_ms_c16": floor["p99_ms"]}
    finally:
        shutdown()
    proxy = "haproxy" if has_haproxy() else "python"
    finish(result, facts(client=name, proxy=proxy, replicas=NUM_REPLICAS, items=2000, dim=64, n=N), BARS)


if __name__ == "__main__":
    main()
