"""Measure serving beside Ray Serve's own no-op in the same run: throughput and latency, for 10,000, 100,000 and a million items.

Both run on one cluster behind one proxy, with the same flags, replicas and body sizes, and are driven by the same client (wrk where it is on
PATH, else `_load.py`, in a process of its own) in turns; figures are medians over the rounds. The student looks like a trained one (`_student.py`);
half of the requests name a user whose history came through the log, half bring a history along. ``ratio_*`` is requests a second at 16 connections by
the no-op's in the same rounds. ``overlap_*`` is the share of the exact best 20 that the index finds, over users' histories with the seen items
left out, measured here in the replicas' own code; of a million also after 100 deltas of 20,000 rows each, whichever is less.
``replica_mb_1m`` is what a replica's memory of its own grows by when it holds a million items and the version before, less what it had without a
model. ``--quick`` measures 10,000 items only.
"""

from __future__ import annotations

import sys
from pathlib import Path

# As a script this folder would come first, and its serve.py would hide the package `serve`, here and in Ray's workers.
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import contextlib
import math
import statistics
import tempfile
import time
from typing import Any

import numpy as np
import orjson
from ray import serve

from benchmarks._client import Client, Measured
from benchmarks._common import arguments, facts, finish
from benchmarks._student import DIM, Version, make_histories, make_version, next_version, write_events
from serve.deployments import deployment_options
from serve.haproxy import free_port, has_haproxy
from serve.http import Receive, Scope, Send, read_body
from serve.launch import launch, shutdown
from streamrec.config import Config, ServingConfig, parse_config
from streamrec.log.connect import local_address
from streamrec.registry.remote_board import RemoteBoard
from streamrec.registry.version import make_delta
from streamrec.serving.answers import Answerer
from streamrec.serving.recommender import Recommender
from streamrec.serving.requests import RecommendRequest
from streamrec.serving.slot import ModelSlot

NUM_REPLICAS = 2
NUM_USERS = 512
N = 20
SIZES = {"10k": 10_000, "100k": 100_000, "1m": 1_000_000}
# Of the 50 s that --quick may take, imports and the shutdown take the rest.
QUICK_S = 32.0
NUM_DELTAS, DELTA_ROWS = 100, 20_000
BARS = {
    "ratio_10k": ">= 0.65", "ratio_100k": ">= 0.45", "ratio_1m": ">= 0.30",
    "overlap_10k": ">= 0.99", "overlap_100k": ">= 0.99", "overlap_1m": ">= 0.97",
    "p99_ratio_10k": "<= 1.5", "replica_mb_1m": "<= 700",
}  # fmt: skip
KEYS = ("noop_rps_c16", "ratio_10k", "ratio_100k", "ratio_1m", "overlap_10k", "overlap_100k", "overlap_1m", "p99_ratio_10k", "replica_mb_1m")
_LOAD_S = 180.0


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


def typical_body() -> bytes:
    """Return an answer of the usual size, for the no-op to send."""
    histories, answerer = make_histories(64, seed=1), Answerer(None)
    model = ModelSlot().load(*make_version("v00000001", seed=0))
    requests = [RecommendRequest(user, "default", tuple(items), N) for user, items in histories.items()]
    return sorted((orjson.dumps(answerer.answer(request, model, "f" * 36)) for request in requests[:51]), key=len)[25]


def prepare(config: Config, folder: str, size: int) -> tuple[Client, list[bytes], Version]:
    """Start both contestants with a version of ``size`` items and return the client, the requests and the version."""
    histories = make_histories(NUM_USERS, seed=1, num_items=size)
    version = make_version("v00000001", seed=0, num_items=size)
    address = local_address(folder)
    write_events(config, address, histories)
    noop: Any = serve.deployment(serve.ingress()(Noop), name="Noop", **deployment_options(ServingConfig(num_replicas=NUM_REPLICAS), 0.2))
    launch(config, address, beside={"noop": noop.bind(typical_body())})
    return Client(config.serving.host, config.serving.port), request_bodies(histories), version


def go_live(client: Client, bodies: list[bytes], version: Version) -> None:
    """Publish a version and return when the no-op answers and every replica answers known users with it: that is what is measured."""
    RemoteBoard.get_or_create().publish(*version)
    ready: set[str] = set()
    deadline = time.monotonic() + _LOAD_S
    while len(ready) < NUM_REPLICAS or client.once("POST", "/noop", bodies[0])[0] != 200:
        if time.monotonic() > deadline:
            msg = f"Benchmark: replicas did not become ready, got {sorted(ready)}, allowed {NUM_REPLICAS}, look at the logs of Ray Serve"
            raise RuntimeError(msg)
        status, headers, body = client.once("POST", "/v1/recommend", bodies[1])
        answer = orjson.loads(body) if status == 200 else {}
        if answer.get("source") == "student" and answer["model_version"] == version[0]["version"]:
            ready.add(headers["x-streamrec-replica"])
        elif status != 200:
            time.sleep(0.1)


def rounds(client: Client, bodies: list[bytes], connections: int, seconds: float, num_rounds: int) -> tuple[list[Measured], list[Measured]]:
    """Measure no-op and recommender in turns; the first turn of each warms up and is thrown away."""
    noop: list[Measured] = []
    ours: list[Measured] = []
    for number in range(num_rounds + 1):
        window_s = seconds if number else 0.5
        noop.append(client.measure("/noop", bodies, connections, window_s))
        ours.append(client.measure("/v1/recommend", bodies, connections, window_s))
    return noop[1:], ours[1:]


def level_of(measured: list[Measured]) -> dict[str, float]:
    """Return the medians over the rounds."""
    return {key: statistics.median(getattr(one, key) for one in measured) for key in ("rps", "p50_ms", "p99_ms")}


def compare(client: Client, bodies: list[bytes], connections: int, seconds: float, num_rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """Measure, print and return the no-op's level and ours."""
    noop, ours = rounds(client, bodies, connections, seconds, num_rounds)
    floor, level = level_of(noop), level_of(ours)
    failed = sum(one.failed for one in (*noop, *ours))
    for name, found, more in (("noop", floor, ""), ("ours", level, f"  failed {failed}")):
        print(f"c={connections:<3} {name}  {found['rps']:8.0f} rps  p50 {found['p50_ms']:6.2f} ms  p99 {found['p99_ms']:6.2f} ms{more}", flush=True)
    return floor, level


def overlaps(version: Version, num_deltas: int) -> list[float]:
    """Return what the index finds of the exact best, of a version and after so many deltas in a row."""
    num_items = len(version[1]["item_bias"])
    rows = [[int(item.removeprefix("item-")) for item in items[::-1]] for items in make_histories(128, seed=3, num_items=num_items).values()]
    histories = [np.array(items, np.int32) for items in rows]
    live, found = Recommender(version[1], version[2]), []
    for number in range(num_deltas + 1):
        if number:
            changed = next_version("next", version, number, DELTA_ROWS, probes=False)
            live = live.updated(make_delta(version[1], changed[1], changed[2]))
            version = changed
        if number in (0, num_deltas):
            exact = Recommender(version[1], version[2], live.catalog, exact_rows=num_items)
            pairs = [(live.rank(history, N, history)[0], exact.rank(history, N, history)[0]) for history in histories]
            found.append(statistics.mean(len(np.intersect1d(*pair)) / N for pair in pairs))
    return found


def replica_mb() -> float:
    """Return the memory that the replicas have of their own, without what they share with others: the mean."""
    sizes = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if b"ServeReplica" in (line := (folder / "cmdline").read_bytes()) and b"Recommender" in line:
                status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines() if ":" in line)
                sizes.append(int(status["RssAnon"].split()[0]) / 1024)
    return statistics.mean(sizes) if sizes else math.nan


def measure(config: Config, name: str, result: dict[str, float | int | None], *, quick_s: float | None) -> str:
    """Measure one size into ``result`` and return the client's name.

    Args:
        config: Of the server.
        name: Of the size.
        result: Gets the figures.
        quick_s: How many seconds are left for it; None for as many as it takes.
    """
    size = SIZES[name]
    try:
        with tempfile.TemporaryDirectory() as folder:
            client, bodies, version = prepare(config, folder, size)
            bare_mb = replica_mb()
            go_live(client, bodies, version)
            seconds, num_rounds = (5.0, 5) if quick_s is None else (min(2.0, max(0.7, quick_s / 8)), 3)
            for connections in (1, 16, 64) if quick_s is None and name == "10k" else (16,):
                floor, level = compare(client, bodies, connections, seconds, num_rounds)
                if connections == 16:
                    result |= {f"ratio_{name}": level["rps"] / floor["rps"], f"rps_{name}": level["rps"]}
                    if name == "10k":
                        result |= {"noop_rps_c16": floor["rps"], "p99_ratio_10k": level["p99_ms"] / floor["p99_ms"]}
            if name == "1m":
                go_live(client, bodies, next_version("v00000002", version, 1, DELTA_ROWS))
                result["replica_mb_1m"] = replica_mb() - bare_mb
            return client.name
    finally:
        shutdown()


def main() -> None:
    """Measure and print."""
    started_s = time.monotonic()
    args = arguments(__doc__.splitlines()[0])
    result: dict[str, float | int | None] = dict.fromkeys(KEYS)
    client = ""
    for name, size in SIZES.items():
        if args.quick and name != "10k":
            continue
        print(f"{size} items", flush=True)
        config = parse_config({"serving": {"port": free_port(), "num_replicas": NUM_REPLICAS}})
        client = measure(config, name, result, quick_s=QUICK_S - (time.monotonic() - started_s) if args.quick else None)
        found = overlaps(make_version("v00000001", seed=0, num_items=size), NUM_DELTAS if name == "1m" else 0)
        result[f"overlap_{name}"] = min(found)
        print(f"overlap with the exact best {N}: {', '.join(f'{value:.4f}' for value in found)}", flush=True)
    proxy = "haproxy" if has_haproxy() else "python"
    finish(result, facts(client=client, proxy=proxy, replicas=NUM_REPLICAS, dim=DIM, n=N), BARS)


if __name__ == "__main__":
    main()
