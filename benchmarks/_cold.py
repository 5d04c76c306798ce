"""Start cold replicas beside empty ones: from a checkpoint's histories and a board's version to ready."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
from ray import serve
from ray.serve import Application

from benchmarks._client import Client
from benchmarks._student import make_version
from benchmarks.serve import Noop
from serve.deployments import build_application, deployment_options
from serve.replica import ReplicaSettings
from streamrec.config import parse_config
from streamrec.features.vocabulary import Vocabulary
from streamrec.log.connect import local_address, open_admin
from streamrec.pipeline.checkpoint import CheckpointStore
from streamrec.pipeline.layout import checkpoint_url, registry_url
from streamrec.registry.registry import Registry
from streamrec.registry.remote_board import RemoteBoard
from streamrec.state import ComponentState, pack_strings
from streamrec.storage import open_storage

NUM_ITEMS = 10_000
NUM_USERS = 100_000
LENGTH = 50
TURNS = 3


def make_state(folder: str) -> None:
    """Commit histories of `NUM_USERS` users of `NUM_ITEMS` items, and promote a version."""
    rng = np.random.default_rng(0)
    sizes = rng.geometric(1 / 20, NUM_USERS).clip(1, LENGTH)
    user_bytes, user_offsets = pack_strings([f"user-{user:06d}" for user in range(NUM_USERS)])
    bounds = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    histories = {
        "namespace": np.zeros(NUM_USERS, np.int32), "hash": np.zeros(NUM_USERS, np.int64), "touched": np.arange(1, NUM_USERS + 1),
        "user_bytes": user_bytes, "user_offsets": user_offsets, "entry_offsets": bounds,
        "entry_rows": rng.integers(0, NUM_ITEMS, bounds[-1]).astype(np.int32), "entry_times": np.arange(bounds[-1]),
    }  # fmt: skip
    vocabulary = Vocabulary(NUM_ITEMS)
    vocabulary.rows_for(["default"] * NUM_ITEMS, [f"item-{row:06d}" for row in range(NUM_ITEMS)])
    store = CheckpointStore(open_storage(checkpoint_url(folder)))
    store.acquire()
    stream = ComponentState({}, {"offsets": {"0": 0}})
    store.commit(
        {"histories": ComponentState(histories, {"namespaces": ["default"]}), "vocabulary": vocabulary.snapshot(), "stream": stream}, {}, None
    )
    registry = Registry(open_storage(registry_url(folder)))
    manifest, arrays, meta = make_version("v00000001", seed=0, num_items=NUM_ITEMS)
    registry.publish(manifest["version"], arrays, meta)
    registry.promote(manifest["version"], "a benchmark")
    RemoteBoard.get_or_create(registry_url(folder)).promote_from_registry()


def start_s(application: Application, name: str) -> float:
    """Return how long it takes until the application's one replica runs."""
    began_s = time.perf_counter()
    serve.run(application, name=name, route_prefix=f"/{name}")
    return time.perf_counter() - began_s


def ready_ratio(folder: str, client: Client) -> float:
    """Return how much longer a replica takes than an empty one, in turns, on the Serve that runs."""
    make_state(folder)
    config = parse_config({"state": folder, "serving": {"num_replicas": 1}})
    address = local_address(f"{folder}/log")
    open_admin(address, config.log).ensure_topic(config.log.events_topic, 1)
    settings = ReplicaSettings(config, address, folder, registry_url(folder))
    empty: Any = serve.deployment(serve.ingress()(Noop), name="Empty", **deployment_options(config.serving, 0.2))
    times: dict[str, list[float]] = {"empty": [], "cold": []}
    for turn in range(TURNS):
        for name, application in (("empty", empty.bind(b"{}")), ("cold", build_application(settings))):
            times[name].append(start_s(application, f"{name}{turn}"))
            if name == "cold":
                status, _, body = client.once("GET", f"/{name}{turn}/v1/recommend/user-000007")
                assert (status, b'"source":"student"' in body) == (200, True), body
            serve.delete(f"{name}{turn}")
    print(f"to ready: {[round(value, 2) for value in times['cold']]} s, an empty replica {[round(value, 2) for value in times['empty']]} s")
    return statistics.median(times["cold"]) / statistics.median(times["empty"])
