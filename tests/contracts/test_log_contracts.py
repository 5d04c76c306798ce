from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from streamrec.log.connect import local_address, memory_address
from streamrec.testing.contracts.log import LogContract, LogUnderTest


class TestMemoryLog(LogContract):
    @pytest.fixture
    def log(self) -> LogUnderTest:
        return LogUnderTest.at(memory_address(uuid.uuid4().hex))


class TestLocalLog(LogContract):
    @pytest.fixture
    def log(self, tmp_path: Path) -> LogUnderTest:
        return LogUnderTest.at(local_address(tmp_path / "made" / "later"))
