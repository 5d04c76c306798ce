"""Settings of all tests: one torch thread, so that results are the same bits on every machine."""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings

settings.register_profile("streamrec", deadline=None, max_examples=40, derandomize=True, database=None)
settings.load_profile("streamrec")


def pytest_configure(config: pytest.Config) -> None:
    # Third-party code that we can't mend; our own warnings stay errors.
    for module in ("ray", "starlette", "fastapi", "kafka", "google"):
        config.addinivalue_line("filterwarnings", rf"ignore::DeprecationWarning:{module}(\.|$)")


@pytest.fixture(autouse=True, scope="session")
def _one_torch_thread() -> None:
    torch.set_num_threads(1)
