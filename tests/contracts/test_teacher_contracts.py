from __future__ import annotations

from pathlib import Path

import pytest

from streamrec.teachers.kinds import kind_of
from streamrec.testing.contracts.counted import CountedContract
from streamrec.testing.contracts.teacher import SMALL, Made, TeacherContract


class TestTransformer(TeacherContract):
    @pytest.fixture
    def teacher(self) -> str:
        return "transformer"


class TestLinear(TeacherContract):
    @pytest.fixture
    def teacher(self) -> str:
        return "linear"


class TestLinearByEntries(TeacherContract):
    @pytest.fixture
    def made(self, tmp_path: Path) -> Made:
        bounded = SMALL.linear.model_copy(update={"dense_items": 2, "rank": 6})
        return Made(kind_of("linear"), SMALL.model_copy(update={"linear": bounded}), tmp_path)


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
