"""Hold any teacher that counts to the promises of `streamrec.teachers.counted`.

Example:
    class TestRepeats(CountedContract):
        @pytest.fixture
        def teacher(self):
            return "repeats"
"""

from __future__ import annotations

import numpy as np
import pytest

from streamrec.config import TeachersConfig
from streamrec.features.examples import Examples
from streamrec.state import from_bytes, to_bytes
from streamrec.teachers.counted import CountedTeacher, CountedTeachers
from streamrec.testing.circles import CIRCLE, OTHERS, Circles

TOP = 6


class CountedContract:
    """Tests that every teacher that counts passes; a subclass gives the fixture ``teacher``, its name."""

    @pytest.fixture
    def counted(self, teacher: str) -> CountedTeachers:
        """The teacher alone, and its state."""
        return CountedTeachers(TeachersConfig(enabled=(teacher,)))

    def test_equal_batches_make_equal_states(self, counted: CountedTeachers, teacher: str) -> None:
        """Bit for bit, also from stored bytes of the one in the middle."""
        again = CountedTeachers(TeachersConfig(enabled=(teacher,)))
        counted.update(_batch(0))
        for mine, other in zip(counted.components(), again.components(), strict=True):
            other.restore(from_bytes(to_bytes(mine.snapshot())))
        for one in (counted, again):
            one.update(_batch(1))
        assert [part.digest() for part in again.components()] == [part.digest() for part in counted.components()]

    def test_an_answer_changes_nothing_and_is_best_first(self, counted: CountedTeachers, teacher: str) -> None:
        """Candidates come once a query, -1 pads, with falling values above 0."""
        counted.update(_batch(0))
        before = [part.digest() for part in counted.components()]
        rows, values = _only(counted, teacher).answer(_strangers(_batch(1)), TOP)
        assert [part.digest() for part in counted.components()] == before
        assert rows.shape == values.shape
        assert rows.shape[1] <= TOP
        assert (np.diff(np.where(rows >= 0, values, 0), axis=1) <= 0).all()
        assert (values[rows >= 0] > 0).all()
        assert all(len(set(held)) == len(held) for held in (row[row >= 0].tolist() for row in rows))
        assert (rows >= 0).any()

    def test_candidates_are_of_the_querys_namespace(self, counted: CountedTeachers, teacher: str) -> None:
        """Histories hold their own namespace's items alone, and so do the answers."""
        counted.update(_batch(0))
        asked = _strangers(_batch(1))
        rows, _ = _only(counted, teacher).answer(asked, TOP)
        for namespace, own in ((0, range(CIRCLE)), (1, OTHERS)):
            assert set(rows[asked.namespace == namespace].ravel().tolist()) <= {-1, *own}

    def test_a_row_whose_item_has_left_is_in_no_answer(self, counted: CountedTeachers, teacher: str) -> None:
        """Whoever asks about it has a history without it."""
        counted.update(_batch(0))
        gone = np.asarray([4], np.int32)
        for part in counted.components():
            part.forget_rows(gone)
        asked = _strangers(_batch(1))
        history = np.where(asked.history == 4, -1, asked.history).astype(np.int32)
        rows, _ = _only(counted, teacher).answer(Examples(history, asked.indptr, asked.target_rows, asked.weight, asked.user, asked.namespace), TOP)
        assert 4 not in rows

    def test_who_says_so_leaves_the_users_own_session_out(self, counted: CountedTeachers, teacher: str) -> None:
        """Of what one user alone has taken after an item, an answer to that user's query says nothing; to another's it may."""
        alone = _only(counted, teacher)
        counted.update(_batch(0))
        history, target = np.full((1, _batch(0).history.shape[1]), -1, np.int32), np.asarray([40], np.int32)
        history[0, 0] = 41
        secret = Examples(history, np.asarray([0, 1]), target, np.ones(1, np.float32), np.asarray([77]), np.zeros(1, np.int32))
        counted.update(secret)
        if alone.leaves_own_out:
            assert 40 not in alone.answer(secret, TOP)[0]

    def test_an_empty_batch_changes_nothing_and_an_empty_teacher_has_no_answer(self, counted: CountedTeachers, teacher: str) -> None:
        """It says so with ``num_queries`` 0."""
        counted.update(_batch(0).take(np.zeros(0, np.int64)))
        alone = _only(counted, teacher)
        assert alone.num_queries == 0
        assert (alone.answer(_batch(1), TOP)[0] == -1).all()
        counted.update(_batch(0))
        assert alone.num_queries > 0


def _only(counted: CountedTeachers, name: str) -> CountedTeacher:
    return counted.teachers[name]


def _batch(number: int) -> Examples:
    world = Circles()
    return Examples.concat([world.examples(user) for user in range(6 * number, 6 * number + 6)])


def _strangers(examples: Examples) -> Examples:
    """Return the same queries of users that nobody has seen: a teacher may leave out what it knows of the user that asks."""
    return Examples(examples.history, examples.indptr, examples.target_rows, examples.weight, examples.user + 1, examples.namespace)
