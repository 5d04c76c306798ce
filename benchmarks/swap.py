"""Swap versions under load and measure, from outside, how long it takes until every replica answers with the new one.

A process of its own sends requests at a fixed rate over 16 connections and keeps every answer with the replica and the version that it
names. The board publishes a new version every half second. A swap lasts from the call of ``publish`` until the first answer with the new
version has come from the last of the replicas; so it includes the way to the board and the wait for each replica's next request. An answer is
mixed when its items are not those that the version it names gives.
"""

from __future__ import annotations

import sys
from pathlib import Path

# As a script this folder would come first, and its serve.py would hide the package `serve`, here and in Ray's workers.
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import json
import tempfile
import time
from typing import Any

import numpy as np
import orjson

from benchmarks._client import Client
from benchmarks._common import arguments, facts, finish
from benchmarks._student import NUM_ITEMS, Version, make_histories, make_version
from serve.haproxy import free_port, has_haproxy
from serve.launch import launch, shutdown
from streamrec.config import parse_config
from streamrec.registry.board import RemoteBoard
from streamrec.serving.catalog import Catalog
from streamrec.serving.recommender import Recommender
from streamrec.testing.percentiles import percentile

NUM_REPLICAS = 2
CONNECTIONS = 16
RATE = 400.0
EVERY_S = 0.5
N = 20
BARS = {"all_replicas_ms_max": "<= 100", "failed": "0", "mixed": "0"}

# request, sent_s, received_s, status, replica, version, body
Answer = list[Any]


def expected_items(versions: list[Version], histories: list[list[str]]) -> dict[tuple[int, str], list[str]]:
    """Return what each request must be answered by each version."""
    catalog = Catalog(versions[0][1])
    expected = {}
    for manifest, arrays, meta in versions:
        recommender = Recommender(arrays, meta, catalog)
        for number, items in enumerate(histories):
            rows = catalog.rows_of("default", items)[::-1]
            expected[number, manifest["version"]] = recommender.recommend(rows[: recommender.history_length], N, rows)[0]
    return expected


def swap_times_ms(published: list[tuple[str, float]], answers: list[Answer], replicas: set[str]) -> list[float]:
    """Return per publication the time until the last replica's first answer with the new version."""
    first: dict[tuple[str, str], float] = {}
    for _, _, received_s, _, replica, version, _ in answers:
        first[version, replica] = min(received_s, first.get((version, replica), received_s))
    waits = [[first.get((version, replica)) for replica in replicas] for version, _ in published]
    return [
        (max(wait for wait in seen if wait is not None) - start_s) * 1000
        for seen, (_, start_s) in zip(waits, published, strict=True)
        if all(wait is not None for wait in seen)
    ]


def run(board: RemoteBoard, client: Client, versions: list[Version], histories: list[list[str]]) -> tuple[list[tuple[str, float]], dict[str, Any]]:
    """Publish the versions under load and return when each was published, and what the load generator saw."""
    bodies = [orjson.dumps({"history": items, "n": N}) for items in histories]
    seconds = len(versions) * EVERY_S + 1.0
    load = client.start("/v1/recommend", bodies, CONNECTIONS, seconds, RATE, record=True)
    start_s = time.monotonic()
    published = []
    try:
        for number, version in enumerate(versions):
            time.sleep(max(0.0, start_s + 0.5 + number * EVERY_S - time.monotonic()))
            version[0]["created_ms"] = time.time_ns() // 1_000_000
            published.append((version[0]["version"], time.monotonic()))
            board.publish(*version)
        return published, json.loads(load.communicate(timeout=seconds + 60)[0])
    finally:
        load.kill()


def main() -> None:
    """Measure and print."""
    args = arguments(__doc__.splitlines()[0])
    keys = ("swaps", "requests", "failed", "mixed", "all_replicas_ms_p50", "all_replicas_ms_max")
    result: dict[str, float | int | None] = dict.fromkeys(keys)
    config = parse_config({"serving": {"port": free_port(), "num_replicas": NUM_REPLICAS}})
    versions = [make_version(f"v{number:08d}", seed=number) for number in range(1, (16 if args.quick else 61))]
    histories = [items[-20:] for items in make_histories(64, seed=2).values()]
    try:
        with tempfile.TemporaryDirectory():
            launch(config)
            board = RemoteBoard.get_or_create()
            client = Client(config.serving.host, config.serving.port)
            board.publish(*make_version("v00000000", seed=1000))
            expected = expected_items([*versions, make_version("v00000000", seed=1000)], histories)
            published, seen = run(board, client, versions, histories)
            acked = [swap["all_replicas_ms"] for swap in board.swap_report()][1:]
    finally:
        shutdown()
    answers: list[Answer] = seen["answers"]
    replicas = {answer[4] for answer in answers}
    times_ms = swap_times_ms(published, answers, replicas)
    result["swaps"], result["requests"], result["failed"] = len(times_ms), len(answers), seen["failed"]
    result["mixed"] = sum(
        answer[3] == 200 and [item["item_id"] for item in orjson.loads(answer[6])["items"]] != expected[answer[0], answer[5]] for answer in answers
    )
    if len(replicas) == NUM_REPLICAS:
        result["all_replicas_ms_p50"], result["all_replicas_ms_max"] = percentile(times_ms, 0.5), max(times_ms)
    known = [value for value in acked if value is not None]
    print(
        f"{len(published)} versions of {NUM_ITEMS} items published under {len(answers) / seen['seconds']:.0f} requests/s to {len(replicas)} replicas"
    )
    print(f"acknowledged by all replicas, on the board's clock: p50 {np.median(known):.1f} ms, max {max(known):.1f} ms, {len(known)} swaps")
    proxy = "haproxy" if has_haproxy() else "python"
    finish(result, facts(proxy=proxy, replicas=NUM_REPLICAS, items=NUM_ITEMS, rate=RATE, connections=CONNECTIONS), BARS)


if __name__ == "__main__":
    main()
