from __future__ import annotations

import pytest

from streamrec.testing.contracts.log import LogContract, LogUnderTest


class TestKafkaLog(LogContract):
    @pytest.fixture
    def log(self, kafka: LogUnderTest) -> LogUnderTest:
        return kafka
