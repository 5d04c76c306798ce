"""One small local Ray per module, in a folder of its own that goes with it; random students."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile

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


@pytest.fixture(scope="module")
def ray_cluster():
    """Start Ray with two logical CPUs and leave neither process nor file behind."""
    # Not tmp_path: a socket's name may have 107 characters.
    folder = tempfile.mkdtemp(prefix="sr-", dir="/tmp")
    ray.init(
        address="local",
        num_cpus=2,
        namespace="streamrec",
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.WARNING,
        object_store_memory=200 * 2**20,
        _temp_dir=folder,
    )
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


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
