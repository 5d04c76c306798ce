"""Settings of all tests: one torch thread, so that results are the same bits on every machine; no waiting for disks; who runs beside whom."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

# Before Ray is imported: a local cluster of a test leaves no token in the home folder.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

settings.register_profile("streamrec", deadline=None, max_examples=40, derandomize=True, database=None)
settings.load_profile("streamrec")

STARTS_RAY = (
    "tests/ray/",
    "tests/e2e/",
    "tests/faults/",
    "tests/kafka/test_dataset_contracts.py",
    "tests/kafka/test_reader_actor.py",
    "tests/kafka/test_secure_connections.py",
)


class OneClusterAtATime(LoadScopeScheduling):
    """Share tests out by file, because a file's tests share fixtures; whatever starts Ray stays in one process, one after another."""

    def _split_scope(self, nodeid: str) -> str:
        return "ray" if nodeid.startswith(STARTS_RAY) else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneClusterAtATime:
    return OneClusterAtATime(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Move the tests of the one Ray cluster to the end: the others start their own, or hold that there is none. Most of a matrix is for releases."""
    numbers: Counter[str] = Counter()
    for item in items:
        matrix = item.get_closest_marker("matrix")
        if matrix is not None:
            name = item.nodeid.partition("[")[0]
            if numbers[name] % matrix.args[0]:
                item.add_marker("slow")
                item.add_marker("release")
            numbers[name] += 1
    items.sort(key=lambda item: "ray_cluster" in getattr(item, "fixturenames", ()))


def pytest_configure(config: pytest.Config) -> None:
    # Third-party code that we can't mend; our own warnings stay errors.
    config.addinivalue_line("filterwarnings", "ignore:Using extra keyword arguments on `Field` is deprecated")  # Ray Serve's own.
    for module in ("ray", "starlette", "fastapi", "kafka", "google"):
        config.addinivalue_line("filterwarnings", rf"ignore::DeprecationWarning:{module}(\.|$)")


@pytest.fixture(autouse=True, scope="session")
def _one_torch_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _no_waiting_for_disks() -> Iterator[None]:
    """A process that is killed loses nothing that it has written; only a machine that loses power would, and no test takes its power away."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def age() -> Callable[[Path, float], None]:
    """Let time pass, in seconds, for the files below a folder; a table's versions are as old as the entries of its log that made them."""

    def pass_time(folder: Path, by_s: float) -> None:
        for path in folder.rglob("*"):
            at_s = path.stat().st_mtime - by_s
            os.utime(path, (at_s, at_s))

    return pass_time


@pytest.fixture(scope="session")
def files_naming() -> Callable[[Path, str], list[str]]:
    """The files below a folder that hold a text: as bytes, or in a Parquet file's values and statistics."""

    def find(folder: Path, text: str) -> list[str]:
        found = []
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            held = path.read_bytes()
            if path.suffix == ".parquet":
                file = pq.ParquetFile(path)
                held += f"{file.read().to_pylist()} {file.metadata.to_dict()}".encode()
            if text.encode() in held:
                found.append(path.relative_to(folder).as_posix())
        return found

    return find


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """Start Ray with two logical CPUs, once, in a folder of its own, and leave neither process nor file behind."""
    ray = pytest.importorskip("ray")  # Tests without it don't wait for its import.
    # Not tmp_path: a socket's name may have 107 characters.
    folder = tempfile.mkdtemp(prefix="sr-", dir="/tmp")
    ray.init(
        address="local",
        num_cpus=2,
        namespace="streamrec",
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=200 * 2**20,
        _temp_dir=folder,
    )
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)
