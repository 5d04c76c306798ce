"""Settings of all tests: one torch thread, so that results are the same bits on every machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import settings

# Before Ray is imported: a local cluster of a test leaves no token in the home folder.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

settings.register_profile("streamrec", deadline=None, max_examples=40, derandomize=True, database=None)
settings.load_profile("streamrec")


def pytest_configure(config: pytest.Config) -> None:
    # Third-party code that we can't mend; our own warnings stay errors.
    config.addinivalue_line("filterwarnings", "ignore:Using extra keyword arguments on `Field` is deprecated")  # Ray Serve's own.
    for module in ("ray", "starlette", "fastapi", "kafka", "google"):
        config.addinivalue_line("filterwarnings", rf"ignore::DeprecationWarning:{module}(\.|$)")


@pytest.fixture(autouse=True, scope="session")
def _one_torch_thread() -> None:
    torch.set_num_threads(1)


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
