"""Make a student of a given size with seeded random weights, users with histories, and the events that tell a server of them."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from streamrec.config import Config
from streamrec.log.base import LogAddress, Record
from streamrec.log.connect import open_admin, open_writer
from streamrec.registry.version import digest_arrays
from streamrec.serving.catalog import Catalog
from streamrec.serving.recommender import Recommender
from streamrec.state import pack_strings

NUM_ITEMS = 2000
DIM = 64
HISTORY_LENGTH = 50

Version = tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]], dict[str, Any]]


def make_version(name: str, seed: int, num_items: int = NUM_ITEMS, dim: int = DIM) -> Version:
    """Return (manifest, arrays, meta): unit vectors in random directions, small biases, weights that fall with age, probes of its own."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(num_items, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids, id_offsets = pack_strings([f"item-{row:06d}" for row in range(num_items)])
    names, name_offsets = pack_strings(["default"])
    arrays: dict[str, NDArray[Any]] = {
        "item_vectors": vectors,
        "item_bias": rng.normal(scale=0.3, size=num_items).astype(np.float32),
        "popularity": rng.zipf(1.5, num_items).clip(max=10_000).astype(np.float32),
        "item_namespace": np.zeros(num_items, np.int32),
        "item_id_bytes": ids,
        "item_id_offsets": id_offsets,
        "namespace_bytes": names,
        "namespace_offsets": name_offsets,
        "position_logits": (-0.1 * np.arange(HISTORY_LENGTH)).astype(np.float32),
        "own_bias": np.full(HISTORY_LENGTH, 0.5, np.float32),
        "pool_projection": np.eye(dim, dtype=np.float32),
        "last_projection": 0.5 * np.eye(dim, dtype=np.float32),
    }
    meta = {"scale": 9.0, "history_length": HISTORY_LENGTH, "dim": dim}
    recommender = Recommender(arrays, meta, Catalog(arrays))
    probes: dict[str, list[Any]] = {"history": [], "top": [], "score": []}
    for _ in range(4):
        history = rng.integers(0, num_items, 10).astype(np.int32)
        rows, scores = recommender.rank(history, 10)
        for key, value in zip(probes, (history, rows, scores), strict=True):
            probes[key].append(value.tolist())
    manifest = {"version": name, "created_ms": time.time_ns() // 1_000_000, "digest": digest_arrays(arrays, meta), "probes": probes}
    return manifest, arrays, meta


def make_histories(num_users: int, seed: int, num_items: int = NUM_ITEMS) -> dict[str, list[str]]:
    """Return each user's item ids, oldest first: lengths from one to sixty around twenty, popular items more often."""
    rng = np.random.default_rng(seed)
    weights = 1.0 / np.arange(1, num_items + 1) ** 0.8
    weights /= weights.sum()
    lengths = rng.geometric(1 / 20, num_users).clip(1, 60)
    return {
        f"user-{user:06d}": [f"item-{row:06d}" for row in rng.choice(num_items, length, p=weights)] for user, length in enumerate(lengths.tolist())
    }


def write_events(config: Config, address: LogAddress, histories: dict[str, list[str]]) -> int:
    """Append each history as events to a new topic and return how many events that is."""
    admin = open_admin(address, config.log)
    admin.ensure_topic(config.log.events_topic, config.log.num_partitions)
    admin.close()
    start_ms = time.time_ns() // 1_000_000 - 1_000_000
    records = [
        Record(
            user.encode(),
            orjson.dumps({"event_id": f"{user}-{at}", "user_id": user, "item_id": item, "event_type": "click", "event_time": start_ms + at}),
        )
        for user, items in histories.items()
        for at, item in enumerate(items)
    ]
    writer = open_writer(address, config.log)
    writer.append(config.log.events_topic, records)
    writer.close()
    return len(records)
