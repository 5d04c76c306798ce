from __future__ import annotations

import pytest

from streamrec.testing.contracts.counted import CountedContract
from streamrec.testing.contracts.teacher import TeacherContract


class TestTransformer(TeacherContract):
    @pytest.fixture
    def teacher(self) -> str:
        return "transformer"


class TestLinear(TeacherContract):
    @pytest.fixture
    def teacher(self) -> str:
        return "linear"


class TestText(TeacherContract):
    @pytest.fixture
    def teacher(self) -> str:
        return "text"


class TestRepeats(CountedContract):
    @pytest.fixture
    def teacher(self) -> str:
        return "repeats"


class TestTransitions(CountedContract):
    @pytest.fixture
    def teacher(self) -> str:
        return "transitions"


class TestNeighbours(CountedContract):
    @pytest.fixture
    def teacher(self) -> str:
        return "neighbours"
