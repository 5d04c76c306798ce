"""A toy stream for contracts: users who go around circles of items, one circle in each of two namespaces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamrec.config import TeachersConfig
from streamrec.features.dedupe import hash_key
from streamrec.features.examples import Examples
from streamrec.features.item_content import ItemContent
from streamrec.soft_labels.scorer import RowFacts
from streamrec.teachers.linear import LinearStatistics
from streamrec.teachers.protocol import Material
from streamrec.teachers.window import EventWindow

NUM_ITEMS = 13
CIRCLE = 8
"""Items of the first namespace: rows 0 … 7."""
OTHERS = (8, 9, 10, 11)
"""Rows of the second namespace."""
FREE = 12
"""A row that holds no item."""
_COLOURS = ("amber", "blue", "copper", "dun", "ecru", "fawn", "green", "hazel")
_STEPS = 20
_LENGTH = 6


@dataclass(frozen=True)
class Circles:
    """Hold users who each take `_STEPS` items: the next one of their namespace's circle at each step.

    Attributes:
        num_users: How many; every third is of the second namespace.
        deleted: A user who was there, and was deleted.
        without: A user who was never there.
        reused: A row whose item has left; another item has the row, which nobody has touched.
    """

    num_users: int = 12
    deleted: int | None = None
    without: int | None = None
    reused: int | None = None

    def facts(self) -> RowFacts:
        """Return what rows hold."""
        namespaces, generations = np.zeros(NUM_ITEMS, np.int32), np.zeros(NUM_ITEMS, np.int32)
        namespaces[list(OTHERS)] = 1
        namespaces[FREE] = generations[FREE] = -1
        if self.reused is not None:
            generations[self.reused] = 1
        return RowFacts(namespaces, generations)

    def material(self, config: TeachersConfig) -> Material:
        """Return the state that such a stream leaves to refreshes."""
        window, statistics = EventWindow(1000), LinearStatistics(config.linear)
        for user in range(self.num_users):
            if user == self.without:
                continue
            rows = self._walk(user)
            window.add(np.full(len(rows), self._hash(user)), rows, np.arange(len(rows)) * 100 + user)
            statistics.update(self.examples(user))
        if self.deleted is not None:
            window.delete_user(*self._key(self.deleted))
            statistics.take_back(self.examples(self.deleted), self._hash(self.deleted))
        if self.reused is not None:
            for component in (window, statistics):
                component.forget_rows(np.asarray([self.reused], np.int32))
        facts = self.facts()
        content = ItemContent(lambda: facts.generations)
        rows = np.flatnonzero(facts.generations >= 0).astype(np.int32)
        titles = [f"{_COLOURS[row % CIRCLE]} {'second' if facts.generations[row] else 'first'}" for row in rows.tolist()]
        content.say(rows, titles, np.ones(len(rows), np.int64))
        return Material(window, facts.generations, facts.namespaces, statistics.matrices, content.of_rows)

    def _key(self, user: int) -> tuple[str, str]:
        return ("b" if user % 3 == 2 else "a"), f"u{user}"

    def _hash(self, user: int) -> int:
        return hash_key(*self._key(user))

    def _walk(self, user: int) -> NDArray[np.int32]:
        steps = user + np.arange(_STEPS)
        return (np.asarray(OTHERS)[steps % len(OTHERS)] if user % 3 == 2 else steps % CIRCLE).astype(np.int32)

    def examples(self, user: int) -> Examples:
        """Return the user's queries, as a stream cuts them."""
        rows, num = self._walk(user), _STEPS - 1
        back = np.arange(1, num + 1)[:, None] - 1 - np.arange(_LENGTH)[None, :]
        histories = np.where(back >= 0, rows[np.maximum(back, 0)], -1).astype(np.int32)
        codes = np.full(num, int(user % 3 == 2), np.int32)
        return Examples(histories, np.arange(num + 1), rows[1:], np.ones(num, np.float32), np.full(num, self._hash(user)), codes)
