"""Make a student of a given size that looks like a trained one, its next versions, users with histories, and the events that tell a server of them.

The law of the vectors is that of a student that learned DIGINETICA's sessions (43,136 items, 64 dimensions, events alone, seven minutes on a core):
unit vectors in clusters of clusters of clusters, whose cosines to the nearest items are, here and there,

    nearest          1st   2nd   5th   20th  100th 1000th
    DIGINETICA       .878  .848  .810  .722  .506  .264
    this law         .869  .858  .836  .711  .509  .310

with variances by direction of .027 to .005 there and .049 to .004 here, biases of standard deviation .057 that follow the logarithm of popularity
(.85), and projections near 2.1 and 1.9 times the identity. A larger catalogue has more clusters and larger ones. Histories stay in one cluster
mostly, so that queries lie near items, as sessions do. A step of training moves a touched row by an angle of a hundredth (cosine .9998, of one in a
hundred .999); an item that comes or changes its words moves wholly.
"""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Any, NamedTuple

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

# Of an item's squared length: what it shares with all items of its region, of its group, of its cluster; and how many items these have on average.
_SHARED = (0.08, 0.32, 0.42)
_SIZES = (3000, 250, 20)
_SIZES_OF = 43_136
_STEP = 0.02
_WHOLLY = 0.05

Version = tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]], dict[str, Any]]


class World(NamedTuple):
    """Hold items as training places them.

    Attributes:
        vectors: Of length 1. [m, dim]
        cluster: The cluster of each item. [m]
        group: The group of each item. [m]
    """

    vectors: NDArray[np.float32]
    cluster: NDArray[np.int64]
    group: NDArray[np.int64]


@lru_cache(maxsize=2)
def make_world(num_items: int, dim: int, seed: int) -> World:
    """Return items by the law that the module describes."""
    rng = np.random.default_rng([seed, num_items])
    spread = np.concatenate([np.ones(3 * dim // 8), np.linspace(1, 0.45, dim - 3 * dim // 8)]).astype(np.float32)
    spread /= np.sqrt((spread**2).sum())

    def normal(num: int, share: float) -> NDArray[np.float32]:
        return rng.standard_normal((num, dim), np.float32) * spread * np.float32(np.sqrt(share))

    def drawn(num: int, among: int) -> NDArray[np.int64]:
        weights = rng.pareto(3.0, among) + 0.3
        return rng.choice(among, num, p=weights / weights.sum())

    regions, groups, clusters = (max(1, int(num_items / (size * (num_items / _SIZES_OF) ** (1 / 3)))) for size in _SIZES)
    group_vectors = normal(regions, _SHARED[0])[drawn(groups, regions)] + normal(groups, _SHARED[1])
    group_of_cluster = drawn(clusters, groups)
    cluster_vectors = group_vectors[group_of_cluster] + normal(clusters, _SHARED[2])
    cluster = drawn(num_items, clusters)
    return World(_unit(cluster_vectors[cluster] + normal(num_items, 1 - sum(_SHARED))), cluster, group_of_cluster[cluster])


def make_version(name: str, seed: int, num_items: int = NUM_ITEMS, dim: int = DIM) -> Version:
    """Return (manifest, arrays, meta): vectors by the law that the module describes, weights that fall with age, probes of its own."""
    rng = np.random.default_rng(seed)
    ids, id_offsets = pack_strings([f"item-{row:06d}" for row in range(num_items)])
    names, name_offsets = pack_strings(["default"])
    popularity = rng.zipf(1.5, num_items).clip(max=10_000).astype(np.float32)
    logs = np.log(popularity)
    bias = 0.057 * (0.85 * (logs - logs.mean()) / max(float(logs.std()), 1e-6) + 0.53 * rng.standard_normal(num_items))
    arrays: dict[str, NDArray[Any]] = {
        "item_vectors": make_world(num_items, dim, seed).vectors.copy(),
        "item_bias": bias.astype(np.float32),
        "popularity": popularity,
        "item_namespace": np.zeros(num_items, np.int32),
        "item_id_bytes": ids,
        "item_id_offsets": id_offsets,
        "namespace_bytes": names,
        "namespace_offsets": name_offsets,
        "position_logits": (-0.1 * np.arange(HISTORY_LENGTH)).astype(np.float32),
        "own_bias": np.linspace(1.5, 0.5, HISTORY_LENGTH).astype(np.float32),
        "pool_projection": 2.1 * np.eye(dim, dtype=np.float32),
        "last_projection": 1.9 * np.eye(dim, dtype=np.float32),
    }
    return _described(name, arrays, {"scale": 9.0, "history_length": HISTORY_LENGTH, "dim": dim}, rng)


def next_version(name: str, before: Version, seed: int, num_changed: int, num_new: int = 0, *, probes: bool = True) -> Version:
    """Return the version after some training: of ``num_changed`` rows one in twenty moves wholly and the others a little, ``num_new`` follow.

    Args:
        name: The new version's.
        before: The old one, which stays.
        seed: Of what moves.
        num_changed: How many rows.
        num_new: How many rows more; they have neighbours as all others.
        probes: Whether it brings probes and a digest, which takes seconds for a million rows.
    """
    rng, (_, old, meta) = np.random.default_rng(seed), before
    num = len(old["item_bias"])
    arrays = dict(old)
    rows = rng.choice(num, num_changed, replace=False)
    vectors, bias, popularity = (np.concatenate([old[key], old[key][:num_new]]) for key in ("item_vectors", "item_bias", "popularity"))
    few = np.concatenate([rows[: int(_WHOLLY * num_changed)], np.arange(num, num + num_new)])
    vectors[rows] = _unit(vectors[rows] + _STEP * _noise(rng, num_changed, vectors.shape[1]))
    beside = old["item_vectors"][rng.integers(0, num, len(few))]
    vectors[few] = _unit(beside + np.sqrt(1 - sum(_SHARED)) * _noise(rng, len(few), vectors.shape[1]))
    bias[rows] += 0.001 * rng.standard_normal(num_changed).astype(np.float32)
    popularity[rows] += 1
    arrays |= {"item_vectors": vectors, "item_bias": bias, "popularity": popularity}
    if num_new:
        ids, offsets = pack_strings([f"item-{row:06d}" for row in range(num, num + num_new)])
        arrays["item_id_bytes"] = np.concatenate([old["item_id_bytes"], ids])
        arrays["item_id_offsets"] = np.concatenate([old["item_id_offsets"], offsets[1:] + old["item_id_offsets"][-1]])
        arrays["item_namespace"] = np.zeros(num + num_new, np.int32)
    return _described(name, arrays, meta, rng) if probes else ({"version": name, "created_ms": time.time_ns() // 1_000_000}, arrays, meta)


def _described(name: str, arrays: dict[str, NDArray[Any]], meta: dict[str, Any], rng: np.random.Generator) -> Version:
    num_items = len(arrays["item_bias"])
    recommender = Recommender(arrays, meta, Catalog(arrays), exact_rows=num_items)
    probes: dict[str, list[Any]] = {"history": [], "top": [], "score": []}
    for _ in range(4):
        history = rng.integers(0, num_items, 10).astype(np.int32)
        rows, scores = recommender.rank(history, 10)
        for key, value in zip(probes, (history, rows, scores), strict=True):
            probes[key].append(value.tolist())
    manifest = {"version": name, "created_ms": time.time_ns() // 1_000_000, "digest": digest_arrays(arrays, meta), "probes": probes}
    return manifest, arrays, meta


def _noise(rng: np.random.Generator, num: int, dim: int) -> NDArray[np.float32]:
    return np.asarray(rng.standard_normal((num, dim), np.float32) / np.float32(np.sqrt(dim)), np.float32)


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def make_histories(num_users: int, seed: int, num_items: int = NUM_ITEMS, world_seed: int = 0) -> dict[str, list[str]]:
    """Return each user's item ids, oldest first: lengths from one to sixty around twenty, in one or two clusters mostly.

    Args:
        num_users: How many users.
        seed: Of what they did.
        num_items: How many items there are.
        world_seed: The seed of the version whose items these are.
    """
    rng, world = np.random.default_rng(seed), make_world(num_items, DIM, world_seed)
    members = [np.argsort(of, kind="stable") for of in (world.cluster, world.group)]
    bounds = [np.searchsorted(of[order], np.arange(int(of.max()) + 2)) for of, order in zip((world.cluster, world.group), members, strict=True)]
    histories = {}
    for user, length in enumerate(rng.geometric(1 / 20, num_users).clip(1, 60).tolist()):
        tastes = rng.integers(0, num_items, rng.integers(1, 3))
        rows = []
        for kind in rng.choice(3, length, p=(0.6, 0.3, 0.1)).tolist():
            taste = rng.choice(tastes)
            if kind == 2:
                rows.append(int(rng.integers(0, num_items)))
                continue
            start, end = bounds[kind][(world.cluster, world.group)[kind][taste] + np.arange(2)]
            rows.append(int(members[kind][rng.integers(start, end)]))
        histories[f"user-{user:06d}"] = [f"item-{row:06d}" for row in rows]
    return histories


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
