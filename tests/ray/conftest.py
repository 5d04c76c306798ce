"""One small local Ray per module, in a folder of its own that goes with it."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile

import pytest
import ray

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
