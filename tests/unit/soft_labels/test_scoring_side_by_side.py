from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from streamrec.features.examples import Examples
from streamrec.soft_labels.scorer import RowFacts, Scorer
from streamrec.state import ComponentState
from streamrec.storage import LocalStorage
from streamrec.teachers.store import TeacherStore

NUM_ITEMS, NUM_QUERIES = 50, 2500
FACTS = RowFacts(np.zeros(NUM_ITEMS, np.int32), np.zeros(NUM_ITEMS, np.int32))


class Watched:
    """A teacher whose first answer waits until another question is asked."""

    generations = np.zeros(NUM_ITEMS, np.int32)
    meeting: threading.Barrier
    have_met: threading.Event

    def __init__(self, state: ComponentState) -> None:
        self.name = str(state.meta["name"])

    def score(self, histories: NDArray[np.int32], candidates: NDArray[np.int32]) -> NDArray[np.float32]:
        if not self.have_met.is_set():
            self.meeting.wait(10.0)
            self.have_met.set()
        return np.asarray(np.sin(histories[:, :1] * (len(self.name) + 1.0) + candidates[None, :]), np.float32)

    def represent(self, histories: NDArray[np.int32]) -> None:
        return None


@pytest.fixture
def scorer(tmp_path: Path) -> Scorer:
    Watched.meeting, Watched.have_met = threading.Barrier(2), threading.Event()
    store = TeacherStore(LocalStorage(str(tmp_path)))
    for name in ("a", "bb"):
        store.publish(name, "v1", ComponentState(meta={"name": name}), {})
    return Scorer(str(tmp_path), 4, Watched)


def some_examples() -> Examples:
    rng = np.random.default_rng(0)
    history = rng.integers(0, NUM_ITEMS, (NUM_QUERIES, 4)).astype(np.int32)
    targets = rng.integers(0, NUM_ITEMS, NUM_QUERIES).astype(np.int32)
    one, index = np.ones(NUM_QUERIES, np.float32), np.arange(NUM_QUERIES + 1)
    return Examples(history, index, targets, one, index[:-1], np.zeros(NUM_QUERIES, np.int32))


def test_a_teacher_is_asked_about_two_chunks_at_a_time(scorer: Scorer) -> None:
    scorer.score(some_examples(), {"a": "v1"}, {}, FACTS)
    assert Watched.have_met.is_set()


def test_teachers_answer_together_as_they_do_alone(scorer: Scorer) -> None:
    together: dict[str, Any] = scorer.score(some_examples(), {"a": "v1", "bb": "v1"}, {}, FACTS)
    for name, found in together.items():
        alone = scorer.score(some_examples(), {name: "v1"}, {}, FACTS)[name]
        for column in ("rows", "logits", "log_norm", "target_logits", "target_ranks"):
            np.testing.assert_array_equal(getattr(found, column), getattr(alone, column))
        assert found.probe == alone.probe


def test_a_teacher_that_fails_fails_the_question(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        what = "no such thing"
        raise ValueError(what)

    monkeypatch.setattr(Watched, "score", fail)
    with pytest.raises(ValueError, match="no such thing"):
        scorer.score(some_examples(), {"a": "v1", "bb": "v1"}, {}, FACTS)
