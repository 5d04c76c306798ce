"""Swap versions under load and measure, from outside, how long it takes until every replica answers with the new one.

    python -m benchmarks.swap [--quick]

A process of its own sends 300 requests a second over 16 connections and keeps every answer with the replica and the version that it names. A swap
lasts from the call of ``publish``, right after its promotion, until the first answer with the new version has come from the last of the replicas; so
it includes the way to the board and the wait for each replica's next request. An answer is mixed when its items are not those that the version it
names gives. Nine of ten versions change a tenth of the rows, and come as deltas; the tenth changes all. A rollback lasts from the request, or from
the moment at which the command line has moved the alias, until the last replica's first answer by the version before.

The full run also starts cold replicas (10,000 items, 100,000 users' histories from a checkpoint) and empty ones in turns, and takes 1,000,000
items: deltas of 20,000 rows, a second apart, and one whole version by a driver that was made anew. Its p99 while deltas come is divided by that of
the same load without.
The last line is one flat JSON object; what was not measured is null.
"""

from __future__ import annotations

import sys
from pathlib import Path

# As a script this folder would come first, and its serve.py would hide the package `serve`, here and in Ray's workers.
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import orjson
import ray

from benchmarks._client import Client
from benchmarks._cold import ready_ratio
from benchmarks._common import arguments, facts, finish
from benchmarks._student import NUM_ITEMS, Version, make_histories, make_version
from serve.haproxy import free_port, has_haproxy
from serve.launch import launch, shutdown
from streamrec.config import Config, parse_config
from streamrec.pipeline.layout import registry_url
from streamrec.registry.gate import Decision, Reason, Verdict
from streamrec.registry.registry import Registry
from streamrec.registry.remote_board import RemoteBoard
from streamrec.registry.version import Probes, VersionFacts, digest_arrays
from streamrec.serving.catalog import Catalog
from streamrec.serving.recommender import Recommender
from streamrec.storage import open_storage
from streamrec.testing.percentiles import percentile

NUM_REPLICAS = 2
CONNECTIONS = 16
RATE = 300.0
EVERY_S = 0.5
# A stream of so many items makes no version more often: to store one takes longer (docs/experiments.md, 2026-11-27).
LARGE_EVERY_S = 1.0
N = 20
MANY_ITEMS = 1_000_000
CHANGED_ROWS = 20_000
NUM_LARGE_DELTAS = 8
# Two whole versions of a million items, and deltas; the machine's memory is taken as they come.
STORE_BYTES = 2 * 2**30
BARS = {
    "failed": "0", "mixed": "0", "all_replicas_ms_max": "<= 50", "delta_1m_ms": "<= 300", "full_1m_s": "<= 3",
    "p99_ratio_while_swapping": "<= 1.5", "rollback_ms": "<= 100", "ready_ratio": "<= 1.5",
}  # fmt: skip
KEYS = ("swaps", "failed", "mixed", "all_replicas_ms_p50", "all_replicas_ms_max")

# request, sent_s, received_s, status, replica, version, body
Answer = list[Any]


class Seen(NamedTuple):
    """Hold when versions were asked for, and what the load generator saw."""

    asked: list[tuple[str, float]]
    answers: list[Answer]
    failed: int


def after(before: Version, name: str, seed: int, num_rows: int) -> Version:
    """Return a version that changes so many rows of another one, without probes."""
    rng, (_, old, meta) = np.random.default_rng(seed), before
    arrays = dict(old)
    rows = rng.choice(len(old["item_bias"]), num_rows, replace=False)
    for key in ("item_vectors", "item_bias", "popularity"):
        arrays[key] = old[key].copy()
    arrays["item_vectors"][rows] += 0.1 * rng.standard_normal((num_rows, old["item_vectors"].shape[1]), np.float32)
    arrays["popularity"][rows] += 1
    return {"version": name, "created_ms": time.time_ns() // 1_000_000, "digest": digest_arrays(arrays, meta)}, arrays, meta


def make_versions(num: int) -> list[Version]:
    """Return versions of which most change a tenth of the one before."""
    versions = [make_version("v00000000", seed=0)]
    for number in range(1, num + 1):
        name = f"v{number:08d}"
        versions.append(make_version(name, seed=number) if number % 10 == 0 else after(versions[-1], name, number, NUM_ITEMS // 10))
    return versions


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


def swap_times_ms(asked: list[tuple[str, float]], answers: list[Answer]) -> list[float]:
    """Return for each time at which a version was asked for that until the last replica's first answer with it, after that time."""
    replicas = {answer[4] for answer in answers}
    times = []
    for version, start_s in asked:
        first: dict[str, float] = {}
        for _, _, received_s, _, replica, named, _ in answers:
            if named == version and received_s >= start_s:
                first.setdefault(replica, received_s)
        if replicas == first.keys() and len(replicas) == NUM_REPLICAS:
            times.append((max(first.values()) - start_s) * 1000)
    return times


def under_load(client: Client, histories: list[list[str]], seconds: float, act: Callable[[], list[tuple[str, float]]]) -> Seen:
    """Act while requests are sent for so long, and return what was seen."""
    bodies = [orjson.dumps({"history": items, "n": N}) for items in histories]
    load = client.start("/v1/recommend", bodies, CONNECTIONS, seconds, RATE, record=True)
    try:
        time.sleep(1.0)
        asked = act()
        found = json.loads(load.communicate(timeout=seconds + 60)[0])
        return Seen(asked, sorted(found["answers"], key=lambda answer: answer[2]), found["failed"])
    finally:
        load.kill()


class Server:
    """Hold what answers and what moves it."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.client = Client(config.serving.host, config.serving.port)
        launch(config, state_url=config.state)
        self.registry = Registry(open_storage(registry_url(config.state)))
        self.board = RemoteBoard.get_or_create(registry_url(config.state))

    def store(self, version: Version) -> None:
        """Publish a version to the registry, as a stream does before its gate decides."""
        manifest, arrays, meta = version
        facts_of = VersionFacts(probes=Probes.model_validate(manifest.get("probes") or {}))
        manifest |= self.registry.publish(manifest["version"], arrays, meta, facts_of).model_dump(mode="json")

    def promote(self, version: Version) -> tuple[str, float]:
        """Promote as the gate does, push, and return the version with the moment of the push."""
        name = version[0]["version"]
        decision = Decision(verdict=Verdict.PROMOTE, code=Reason.NOT_WORSE, reason="a benchmark", candidate=name, live=None, batch=0, numbers={})
        number = self.registry.promote(name, decision.reason, decision).number
        start_s = time.monotonic()
        self.board.publish(*version, number)
        return name, start_s

    def swap_all(self, versions: list[Version]) -> list[tuple[str, float]]:
        """Promote one version after the other."""
        asked, due_s = [], time.monotonic()
        for version in versions:
            time.sleep(max(0.0, due_s - time.monotonic()))
            asked.append(self.promote(version))
            due_s += EVERY_S
        time.sleep(EVERY_S)
        return asked

    def roll_back(self, num: int) -> list[tuple[str, float]]:
        """Move back and forth by HTTP, then back by the command line, and return what was asked for when."""
        asked = []
        for _ in range(num):
            previous, live = self.registry.history(1)[0].previous, self.registry.live()
            assert previous is not None
            asked.append((previous, time.monotonic()))
            assert self.client.once("POST", "/v1/models:rollback", b"{}")[0] == 200
            time.sleep(EVERY_S)
            asked.append((str(live), time.monotonic()))
            assert self.client.once("POST", f"/v1/models/{live}:promote", b"{}")[0] == 200
            time.sleep(EVERY_S)
        command = [sys.executable, "-m", "streamrec", "rollback", "--set", f"state={self.config.state}", "--reason", "a benchmark"]
        subprocess.run(command, check=True, capture_output=True)
        move = self.registry.history(1)[0]
        asked.append((move.version, time.monotonic() - (time.time_ns() // 1_000_000 - move.at_ms) / 1000))
        time.sleep(EVERY_S)
        return asked


def small(folder: str, num: int, result: dict[str, Any]) -> Client:
    """Swap and roll back 2,000 items, and return the server's client."""
    histories = [items[-20:] for items in make_histories(64, seed=2).values()]
    versions = make_versions(num)
    expected = expected_items(versions, histories)
    server = Server(parse_config({"state": folder, "serving": {"port": free_port(), "num_replicas": NUM_REPLICAS}}))
    for version in versions:
        server.store(version)
    server.promote(versions[0])
    seen = under_load(server.client, histories, num * EVERY_S + 3.0, lambda: server.swap_all(versions[1:]))
    times_ms = swap_times_ms(seen.asked, seen.answers)
    num_back = max(2, num // 20)
    back = under_load(server.client, histories, 2 * num_back * EVERY_S + 9.0, lambda: server.roll_back(num_back))
    back_ms = swap_times_ms(back.asked, back.answers)
    answers = [*seen.answers, *back.answers]
    result |= {"swaps": len(times_ms), "failed": seen.failed + back.failed}
    result["mixed"] = sum(
        answer[3] == 200 and [item["item_id"] for item in orjson.loads(answer[6])["items"]] != expected[answer[0], answer[5]] for answer in answers
    )
    if times_ms:
        result["all_replicas_ms_p50"], result["all_replicas_ms_max"] = percentile(times_ms, 0.5), max(times_ms)
    if len(back_ms) == len(back.asked):
        result["rollback_ms"] = max(statistics.median(back_ms[:-1]), back_ms[-1])
        by_http, by_command = back_ms[:-1], back_ms[-1]
        print(f"rollbacks by HTTP p50 {statistics.median(by_http):.1f} ms, max {max(by_http):.1f} ms; by the command line {by_command:.1f} ms")
    known = [swap["all_replicas_ms"] for swap in server.board.swap_report()[1:] if swap["all_replicas_ms"] is not None]
    print(f"{len(seen.asked)} versions of {NUM_ITEMS} items, {len(answers)} requests, replicas {sorted({answer[4] for answer in answers})}")
    print(f"acknowledged by all replicas, on the board's clock: p50 {np.median(known):.1f} ms, max {max(known):.1f} ms, {len(known)} swaps")
    print(f"a replica on its board: {orjson.loads(server.client.once('GET', '/v1/models')[2])['board']}")
    return server.client


def large(folder: str, result: dict[str, Any]) -> None:
    """Swap a million items, by deltas and whole."""
    histories = [items[-20:] for items in make_histories(64, seed=2, num_items=MANY_ITEMS).values()]
    first = make_version("v00000000", seed=0, num_items=MANY_ITEMS)
    server = Server(parse_config({"state": folder, "serving": {"port": free_port(), "num_replicas": NUM_REPLICAS}}))
    board = RemoteBoard.get_or_create(registry_url(server.config.state))
    board.publish(*first)
    deadline = time.monotonic() + 120
    ready: set[str] = set()
    while len(ready) < NUM_REPLICAS and time.monotonic() < deadline:
        status, headers, _ = server.client.once("POST", "/v1/recommend", orjson.dumps({"history": histories[0], "n": N}))
        ready |= {headers["x-streamrec-replica"]} if status == 200 else set()
    under_load(server.client, histories, 4.0, list)  # Warms up.
    steady = under_load(server.client, histories, 10.0, list)
    versions = [first]
    for number in range(1, NUM_LARGE_DELTAS + 1):  # Ahead: nobody who publishes makes vectors at random meanwhile.
        versions.append(after(versions[-1], f"v{number:08d}", number, CHANGED_ROWS))

    def deltas() -> list[tuple[str, float]]:
        asked = []
        for version in versions[1:]:
            asked.append((version[0]["version"], time.monotonic()))
            board.publish(*version)
            time.sleep(LARGE_EVERY_S)
        return asked

    seen = under_load(server.client, histories, NUM_LARGE_DELTAS * 4.0, deltas)
    whole = after(versions[-1], "v90000000", 90, CHANGED_ROWS)

    def anew() -> list[tuple[str, float]]:
        asked = [(whole[0]["version"], time.monotonic())]
        RemoteBoard.get_or_create(registry_url(server.config.state)).publish(*whole)
        return asked

    full = under_load(server.client, histories, 20.0, anew)
    result["failed"] = (result["failed"] or 0) + steady.failed + seen.failed + full.failed
    times_ms, full_ms = swap_times_ms(seen.asked, seen.answers), swap_times_ms(full.asked, full.answers)
    latency_ms = [[(answer[2] - answer[1]) * 1000 for answer in one.answers] for one in (steady, seen)]
    p99 = [percentile(values, 0.99) for values in latency_ms]
    if times_ms:
        result["delta_1m_ms"] = percentile(times_ms, 0.5)
        print(f"deltas of {CHANGED_ROWS} of {MANY_ITEMS} rows: {[round(value) for value in times_ms]} ms")
    if full_ms:
        result["full_1m_s"] = full_ms[0] / 1000
    if p99[0] and p99[1]:
        result["p99_ratio_while_swapping"] = p99[1] / p99[0]
        print(f"p99 steady {p99[0]:.1f} ms, while deltas come {p99[1]:.1f} ms, {len(seen.answers)} requests")


def main() -> None:
    """Measure and print."""
    args = arguments(__doc__.splitlines()[0])
    result: dict[str, Any] = dict.fromkeys((*KEYS, "delta_1m_ms", "full_1m_s", "p99_ratio_while_swapping", "rollback_ms", "ready_ratio"))
    with tempfile.TemporaryDirectory() as folder:
        try:
            client = small(f"{folder}/small", 15 if args.quick else 200, result)
            if not args.quick:
                result["ready_ratio"] = ready_ratio(f"{folder}/cold", client)
        finally:
            shutdown()
        if not args.quick:
            try:
                ray.init(address="local", object_store_memory=STORE_BYTES, include_dashboard=False, log_to_driver=False)
                large(f"{folder}/large", result)
            finally:
                shutdown()
                ray.shutdown()
    proxy = "haproxy" if has_haproxy() else "python"
    finish(result, facts(proxy=proxy, replicas=NUM_REPLICAS, items=NUM_ITEMS, rate=RATE, connections=CONNECTIONS), BARS)


if __name__ == "__main__":
    main()
