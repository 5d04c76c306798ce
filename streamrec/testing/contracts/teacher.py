"""Hold any teacher that comes in versions to the promises of `streamrec.teachers.protocol`.

Example:
    class TestMyTeacher(TeacherContract):
        @pytest.fixture
        def teacher(self):
            return MyTeacher
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from streamrec.config import LinearConfig, TeachersConfig, TransformerConfig
from streamrec.errors import DataError
from streamrec.features.examples import Examples
from streamrec.soft_labels.schema import TeacherScores
from streamrec.soft_labels.scorer import RowFacts, Scorer
from streamrec.state import ComponentState, digest_of, from_bytes, to_bytes
from streamrec.storage import LocalStorage
from streamrec.teachers.kinds import kind_of
from streamrec.teachers.plugins import plugin_kind
from streamrec.teachers.protocol import Kind, LoadedTeacher, TeacherClass
from streamrec.teachers.requests import RefreshRequest, carry_out
from streamrec.teachers.store import TeacherStore
from streamrec.testing.circles import FREE, NUM_ITEMS, OTHERS, Circles

NAME = "under-test"
ROWS = np.arange(NUM_ITEMS, dtype=np.int32)
HISTORIES = np.asarray([[3, 2, 1, -1], [0, -1, -1, -1], [5, 4, -1, -1]], np.int32)
SMALL = TeachersConfig(
    transformer=TransformerConfig(
        dim=8, num_layers=1, num_heads=1, sequence_length=6, batch_events=112, first_epochs=100, first_steps=60, refresh_steps=20, dropout=0.0
    ),
    linear=LinearConfig(max_items=64, ridge=1.0, history_decay=0.7),
)


class TeacherContract:
    """Tests that every teacher passes; a subclass gives the fixture ``teacher``: a class, a `Kind`, or the name of an installed one.

    A teacher of a package gets settings from the fixture ``plugin_settings``.
    """

    @pytest.fixture
    def plugin_settings(self) -> dict[str, object]:
        """What ``teachers.plugins`` has for it."""
        return {}

    @pytest.fixture
    def made(self, teacher: Kind | TeacherClass | str, plugin_settings: dict[str, object], tmp_path: Path) -> Made:
        """Versions of the teacher, made as a stream makes them."""
        kind = teacher if isinstance(teacher, Kind) else kind_of(teacher) if isinstance(teacher, str) else plugin_kind(NAME, lambda: teacher)
        name = teacher if isinstance(teacher, str) else NAME
        config = SMALL.model_copy(update={"plugins": {name: plugin_settings}})
        return Made(kind, config, tmp_path)

    def test_the_same_request_gives_the_same_version(self, made: Made) -> None:
        """Also in another place, from stored bytes, and on top of a version of before."""
        for folder in ("one", "two"):
            made.refresh("v1", Circles(), folder=folder)
            made.refresh("v2", Circles(num_users=9), "v1", folder=folder)
        for version in ("v1", "v2"):
            assert digest_of(made.load(version, "one")) == digest_of(made.load(version, "two"))

    def test_a_refresh_changes_nothing_of_what_it_is_made_from(self, made: Made) -> None:
        """Neither the window nor the version before."""
        first = made.refresh("v1", Circles())
        before = digest_of(first)
        payload = made.kind.request(Circles().material(made.config), made.config)
        asked = digest_of(payload)
        made.kind.refresh(payload, first, made.config, 3, None)
        assert (digest_of(payload), digest_of(first)) == (asked, before)

    def test_a_version_is_arrays_and_runs_nothing(self, made: Made) -> None:
        """Its file is safetensors, and what comes back from it answers the same."""
        state = made.refresh("v1", Circles())
        files = {path.name.split("-")[0] for path in (made.folder / "state" / "teachers").rglob("*") if path.is_file()}
        assert files == {"manifest.json", "weights"}
        again = from_bytes(to_bytes(state))
        np.testing.assert_array_equal(made.kind.load(again).score(HISTORIES, ROWS), made.kind.load(state).score(HISTORIES, ROWS))

    def test_scores_are_one_number_for_each_history_and_candidate(self, made: Made) -> None:
        """Of some candidates they are what they are of all; asking changes nothing."""
        teacher = made.teacher(Circles())
        asked = HISTORIES.copy()
        scores = teacher.score(asked, ROWS)
        assert scores.shape == (len(HISTORIES), NUM_ITEMS)
        assert str(scores.dtype) == "float32"
        assert not np.isnan(scores).any()
        assert not np.isposinf(scores).any()
        some = np.asarray([1, 4, 5, 9], np.int32)
        np.testing.assert_allclose(teacher.score(asked, some), scores[:, some], rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(asked, HISTORIES)
        np.testing.assert_array_equal(teacher.score(asked, ROWS), scores)
        assert teacher.score(asked[:0], ROWS).shape == (0, NUM_ITEMS)

    def test_what_it_does_not_know_has_no_chance(self, made: Made) -> None:
        """A free row, and rows that came after it was asked for, are -inf; a history of these, or of nothing, gives no NaN."""
        teacher = made.teacher(Circles())
        candidates = np.arange(NUM_ITEMS + 3, dtype=np.int32)
        scores = teacher.score(np.asarray([[1, -1], [-1, -1], [NUM_ITEMS + 2, -1]], np.int32), candidates)
        assert np.isneginf(scores[:, [FREE, *range(NUM_ITEMS, NUM_ITEMS + 3)]]).all()
        assert np.isfinite(scores[0]).any()
        assert not np.isnan(scores).any()
        asked = np.asarray([[1, NUM_ITEMS + 2]], np.int32)
        np.testing.assert_allclose(teacher.score(asked, candidates)[0], scores[0], rtol=1e-4, atol=1e-5)

    def test_vectors_of_histories_are_finite_and_of_one_width(self, made: Made) -> None:
        """A history of unknown items has zeros; a teacher without vectors says None."""
        vectors = made.teacher(Circles()).represent(np.concatenate([HISTORIES, np.full((1, 4), -1, np.int32)]))
        if vectors is not None:
            assert vectors.ndim == 2
            assert len(vectors) == len(HISTORIES) + 1
            assert np.isfinite(vectors).all()
            assert not vectors[-1].any()

    def test_a_row_that_got_another_item_since_is_not_known(self, made: Made) -> None:
        """It is no candidate, and in a history it is a gap."""
        made.refresh("v1", Circles())
        now = Circles().facts()
        now.generations[4] += 1
        scores = made.ask([[3, 2, 1], [3, 4, 2]], now)
        assert 4 not in scores.rows
        np.testing.assert_array_equal(scores.rows[1], made.ask([[3, 2, 1], [3, -1, 2]], now).rows[1])

    def test_nothing_of_an_item_goes_over_to_the_next_one_on_its_row(self, made: Made) -> None:
        """After a refresh on top of a version that learned that 4 follows 3, the new item on row 4 is not what follows 3."""
        made.refresh("v1", Circles())
        assert made.ask([[3, 2, 1]], Circles().facts()).rows[0, 0] in {3, 4, 5}, "a teacher that follows the circle"
        reused = Circles(reused=4)
        made.refresh("v2", reused, "v1")
        assert made.ask([[3, 2, 1]], reused.facts(), "v2").rows[0, 0] != 4

    def test_candidates_are_of_the_querys_namespace(self, made: Made) -> None:
        """Never another namespace's rows, whoever asks."""
        made.refresh("v1", Circles())
        scores = made.ask([[3, 2, 1], [OTHERS[0], -1, -1]], Circles().facts(), namespaces=[0, 1])
        assert not set(scores.rows[0].tolist()) & set(OTHERS)
        assert set(scores.rows[1].tolist()) <= {*OTHERS, -1}

    def test_a_deleted_user_is_not_in_a_version_made_afterwards(self, made: Made) -> None:
        """It answers as one made of a stream that the user never was in."""
        made.refresh("v1", Circles(deleted=2))
        made.refresh("v2", Circles(without=2))
        one, other = (made.kind.load(made.load(version)).score(HISTORIES, ROWS) for version in ("v1", "v2"))
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)

    def test_an_empty_window_is_survived(self, made: Made) -> None:
        """Either it says that there is nothing to learn, or the version answers; also on top of a version of before."""
        made.refresh("v1", Circles())
        for version, previous in (("v2", None), ("v3", "v1")):
            try:
                state = made.refresh(version, Circles(num_users=0), previous)
            except DataError:
                continue
            assert not np.isnan(made.kind.load(state).score(HISTORIES, ROWS)).any()


class Made:
    """Make versions of a kind in a folder, and ask them."""

    def __init__(self, kind: Kind, config: TeachersConfig, folder: Path) -> None:
        self.kind, self.config, self.folder = kind, config, folder

    def refresh(self, version: str, world: Circles, previous: str | None = None, folder: str = "state") -> ComponentState:
        """Make a version as a stream does, the request through bytes, and return it."""
        material = world.material(self.config)
        payload = from_bytes(to_bytes(self.kind.request(material, self.config)))
        request = RefreshRequest(NAME, version, previous, 7, len(material.generations), payload)
        carry_out(request, self.config, str(self.folder / folder), kind=self.kind)
        return self.load(version, folder)

    def load(self, version: str, folder: str = "state") -> ComponentState:
        """Return a version."""
        return TeacherStore(LocalStorage(self.folder / folder)).load(NAME, version)

    def teacher(self, world: Circles) -> LoadedTeacher:
        """Return a first version, ready to score."""
        return self.kind.load(self.refresh("v1", world))

    def ask(self, histories: list[list[int]], now: RowFacts, version: str = "v1", namespaces: list[int] | None = None) -> TeacherScores:
        """Ask a version as the stream does."""
        num = len(histories)
        codes = np.asarray(namespaces or [0] * num, np.int32)
        targets, zeros = np.zeros(num, np.int32), np.zeros(num, np.int64)
        asked = Examples(np.asarray(histories, np.int32), np.arange(num + 1), targets, np.ones(num, np.float32), zeros, codes)
        return Scorer(str(self.folder / "state"), 6, self.kind.load).score(asked, {NAME: version}, {}, now)[NAME]
