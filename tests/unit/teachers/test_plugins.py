"""Teachers that an installed package brings: a folder with its metadata on the path is one."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import EntryPoint
from pathlib import Path
from threading import Event, Lock
from typing import Any

import numpy as np
import pytest

from streamrec.config import TeachersConfig, parse_config, teacher_names
from streamrec.errors import ConfigError, OperatorError, RegistryError
from streamrec.events.synthetic import synthetic_dataset
from streamrec.pipeline.backtest import run_backtest
from streamrec.pipeline.plan import StreamFacts, refresh_decisions
from streamrec.state import ComponentState
from streamrec.teachers.counted import MAKERS
from streamrec.teachers.kinds import KINDS, kind_of, load_teacher
from streamrec.teachers.plugins import plugin_kind
from streamrec.teachers.protocol import Window
from streamrec.testing.circles import Circles
from streamrec.testing.contracts.teacher import TeacherContract

PACKAGE = Path(__file__).parents[2] / "plugins" / "cooccurrence"


@pytest.fixture
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PACKAGE))


@pytest.mark.usefixtures("_installed")
class TestCoOccurrence(TeacherContract):
    @pytest.fixture
    def teacher(self) -> str:
        return "cooccurrence"


@pytest.mark.usefixtures("_installed")
def test_a_packages_teacher_takes_part_in_a_backtest_by_its_name() -> None:
    settings: dict[str, Any] = {
        "features": {"history_length": 8, "word_buckets": 32},
        "teachers": {"enabled": ["cooccurrence"], "plugins": {"cooccurrence": {"fade": 0.9}}},
        "student": {"dim": 8, "bootstrap_passes": 2},
    }
    dataset = synthetic_dataset(num_users=30, num_items=60, num_events=800)
    result = run_backtest(dataset, parse_config(settings), "progressive", max_blocks=2, num_threads=1)
    assert result.metrics["cooccurrence"]["recall@20"] > 20 / 60


@pytest.mark.usefixtures("_installed")
def test_a_packages_teacher_is_due_after_its_own_number_of_events() -> None:
    config = parse_config({"teachers": {"enabled": ["cooccurrence", "linear"], "plugin_refresh_events": 50, "linear_refresh_events": 200}})
    state = StreamFacts(1, {}, {}, {}, {"cooccurrence": 60, "linear": 60}, None, False)
    assert {name: decision.refresh for name, decision in refresh_decisions(state, 0, config).items()} == {"cooccurrence": True, "linear": False}


def test_a_name_that_nobody_brings_is_refused_with_those_that_are_there(request: pytest.FixtureRequest) -> None:
    with pytest.raises(ConfigError, match=r"got .*'oracle'.*allowed transformer, linear, .*neighbours, and of installed plug-ins .*: none"):
        parse_config({"teachers": {"enabled": ["oracle"]}})
    request.getfixturevalue("_installed")
    with pytest.raises(ConfigError, match=r"of installed plug-ins \(streamrec\.teachers\): cooccurrence, do|cooccurrence, correct"):
        parse_config({"teachers": {"enabled": ["oracle"]}})
    assert parse_config({"teachers": {"enabled": ["cooccurrence"]}}).teachers.refreshed == ("cooccurrence",)
    with pytest.raises(RegistryError, match=r"unknown kind, got 'oracle', allowed .*cooccurrence, install the package"):
        load_teacher(ComponentState({}, {"kind": "oracle"}))


def test_two_packages_can_not_bring_one_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for package in ("one", "two"):
        folder = tmp_path / package / f"{package}-1.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1\n")
        (folder / "entry_points.txt").write_text(f"[streamrec.teachers]\noracle = {package}:Oracle\nlinear = {package}:Oracle\nensemble = x:Y\n")
        monkeypatch.syspath_prepend(str(folder.parent))
    with pytest.raises(ConfigError, match="oracle comes from one and two"):
        parse_config({"teachers": {"enabled": ["oracle"]}})
    assert set(teacher_names.plugins()) == {"oracle"}, "ours stay ours, and a metric's name is taken"
    assert kind_of("linear") is KINDS["linear"]


def test_the_names_in_the_configuration_are_those_of_the_tables() -> None:
    assert tuple(KINDS) == teacher_names.VERSIONED
    assert tuple(MAKERS) == teacher_names.COUNTED


class Plain:
    """Says the same of everything; tests change what it gives."""

    made: Callable[[Window], Any] = staticmethod(lambda window: ComponentState({"a": np.zeros(2)}))
    answer: Callable[[int, int], Any] = staticmethod(lambda num, candidates: np.zeros((num, candidates), np.float32))

    @classmethod
    def refresh(cls, window: Window, previous: ComponentState | None) -> Any:
        return cls.made(window)

    def __init__(self, version: ComponentState) -> None:
        self.version = version

    def score(self, histories: Any, candidates: Any) -> Any:
        return self.answer(len(histories), len(candidates))


class TestPlain(TeacherContract):
    @pytest.fixture
    def teacher(self) -> type[Plain]:
        return Plain

    test_nothing_of_an_item_goes_over_to_the_next_one_on_its_row = None  # It follows no circle.


@pytest.mark.parametrize(
    ("made", "answer", "message"),
    [
        (lambda window: {"a": 1}, None, "returned no version, got dict from the plug-in plain"),
        (lambda window: ComponentState({"a": [1, 2]}), None, "returned no version"),
        (lambda window: ComponentState({"generation": window.generations[:2]}), None, "knows other items"),
        (lambda window: ComponentState({"generation": window.generations + 1}), None, "knows other items"),
        (None, lambda num, candidates: np.zeros((num, candidates + 1), np.float32), r"another shape, got \(\d, 13\) .*allowed \(\d, 12\)"),
        (None, lambda num, candidates: np.full((num, candidates), np.nan, np.float32), "no numbers, got float32 with .* NaN"),
        (None, lambda num, candidates: np.zeros((num, candidates), np.int64), "no numbers, got int64"),
    ],
)
def test_a_version_that_can_not_be_used_is_never_published(monkeypatch: pytest.MonkeyPatch, made: Any, answer: Any, message: str) -> None:
    for name, value in (("made", made), ("answer", answer)):
        if value is not None:
            monkeypatch.setattr(Plain, name, staticmethod(value))
    config = TeachersConfig()
    kind = plugin_kind("plain", lambda: Plain)
    with pytest.raises(OperatorError, match=message):
        kind.refresh(kind.request(Circles().material(config), config), None, config, 0, None)


def test_a_teacher_is_not_asked_about_rows_that_it_does_not_know() -> None:
    seen: list[Any] = []

    class Curious(Plain):
        def score(self, histories: Any, candidates: Any) -> Any:
            seen.append((histories.tolist(), candidates.tolist()))
            return np.zeros((len(histories), len(candidates)), np.float32)

    kind = plugin_kind("curious", lambda: Curious)
    version = ComponentState({"generation": np.asarray([0, -1, 2, 0], np.int32)}, {})
    scores = kind.load(version).score(np.asarray([[1, 3, 9, -1]], np.int32), np.arange(6, dtype=np.int32))
    assert seen == [([[-1, 3, -1, -1]], [0, 2, 3])]
    assert np.flatnonzero(np.isfinite(scores[0])).tolist() == [0, 2, 3]


def test_a_packages_teacher_is_asked_one_question_at_a_time() -> None:
    inside, overlaps = Lock(), []

    class Alone(Plain):
        def score(self, histories: Any, candidates: Any) -> Any:
            is_alone = inside.acquire(blocking=False)
            overlaps.append(not is_alone)
            asked.wait(0.2)  # Long enough for another question to come in, if it can.
            if is_alone:
                inside.release()
            return np.zeros((len(histories), len(candidates)), np.float32)

    asked = Event()
    version = ComponentState({"generation": np.zeros(3, np.int32)}, {})
    teacher = plugin_kind("alone", lambda: Alone).load(version)
    with ThreadPoolExecutor(2) as pool:
        for pending in [pool.submit(teacher.score, np.zeros((1, 2), np.int32), np.arange(3, dtype=np.int32)) for _ in range(2)]:
            pending.result()
    assert overlaps == [False, False]


def test_a_package_that_does_not_import_is_told_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("lost", "no_such_module_anywhere:Teacher", teacher_names.GROUP)
    monkeypatch.setattr("streamrec.teachers.kinds.plugins", lambda: {"lost": point})
    with pytest.raises(OperatorError, match=r"can't be imported .*no_such_module_anywhere.*got 'lost'"):
        kind_of("lost").check(TeachersConfig())
