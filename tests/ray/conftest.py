"""Random students."""

from __future__ import annotations

import os

import numpy as np
import pytest
import ray

from streamrec.state import pack_strings

# Before the first cluster starts: its processes inherit both.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")

# Warnings of Ray's own code, which nobody here can heed.
_OF_RAY = ("ignore:Using extra keyword arguments on `Field` is deprecated",)


def pytest_configure(config):
    """Let Ray's own warnings pass; ours stay errors."""
    for line in _OF_RAY:
        config.addinivalue_line("filterwarnings", line)


@pytest.fixture(scope="session")
def named_actors():
    """Return a function that returns the namespace and name of each named actor of the cluster, sorted: Ray lists them in any order."""
    return lambda: sorted((actor["namespace"], actor["name"]) for actor in ray.util.list_named_actors(all_namespaces=True))


@pytest.fixture(scope="session")
def make_version():
    """Return a function of a seed and a number of items that returns a student's arrays and meta."""
    return _version


def _version(seed, num_items):
    """Return the arrays and the meta of a random student; every seed ranks differently."""
    rng = np.random.default_rng(seed)
    ids, id_offsets = pack_strings([f"item-{row}" for row in range(num_items)])
    names, name_offsets = pack_strings(["default"])
    arrays = {
        "item_vectors": rng.normal(size=(num_items, 8)).astype(np.float32),
        "item_bias": np.zeros(num_items, np.float32),
        "popularity": rng.permutation(num_items).astype(np.float32),
        "item_namespace": np.zeros(num_items, np.int32),
        "item_id_bytes": ids,
        "item_id_offsets": id_offsets,
        "namespace_bytes": names,
        "namespace_offsets": name_offsets,
        "position_logits": np.zeros(10, np.float32),
        "own_bias": np.zeros(10, np.float32),
        "pool_projection": np.eye(8, dtype=np.float32),
        "last_projection": np.eye(8, dtype=np.float32),
    }
    return arrays, {"scale": 9.0, "history_length": 10, "dim": 8}
