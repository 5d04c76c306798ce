"""A toy world of new items with informative titles: what nobody has touched is told by what it is called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrec.features.examples import Examples
from streamrec.features.item_content import ItemContent
from streamrec.teachers.protocol import Material
from streamrec.teachers.window import EventWindow

_WORDS = ("amber", "birch", "copper", "delta", "ember", "fjord")
_DIMS, _STEPS = 6, 12


@dataclass(frozen=True)
class Novelties:
    """Hold items of a few tastes, the last of them new. Whoever took items of one taste takes one of the same, or ``moved`` tastes further on.

    A title is the taste's word and the item's number. So the right answer for a new item is known: a share of 1 / tastes by chance.

    Attributes:
        num_tastes: How many.
        num_old: Items that users have taken.
        num_new: Items that were only announced.
        num_users: Users, who take `_STEPS` items each.
        moved: A user's next item is of the taste so many further on than the newest one's.
    """

    num_tastes: int = 5
    num_old: int = 60
    num_new: int = 40
    num_users: int = 80
    moved: int = 0

    @property
    def num_items(self) -> int:
        """Number of rows."""
        return self.num_old + self.num_new

    @property
    def new_rows(self) -> NDArray[np.int32]:
        """Rows that nobody has touched, ascending."""
        return np.arange(self.num_old, self.num_items, dtype=np.int32)

    def taste_of(self, rows: NDArray[Any]) -> NDArray[np.int64]:
        """Return the taste of each row's item."""
        return np.asarray(rows % self.num_tastes, np.int64)

    def material(self, shown: str = "") -> Material:
        """Return what a stream of these users leaves to refreshes; ``shown`` names a modality whose vectors say the taste instead of titles."""
        rng, generations = np.random.default_rng(0), np.zeros(self.num_items, np.int32)
        window, content = EventWindow(100_000), ItemContent(lambda: generations)
        for user in range(self.num_users):
            taste = user + self.moved * np.arange(_STEPS)
            rows = taste % self.num_tastes + self.num_tastes * rng.integers(0, self.num_old // self.num_tastes, _STEPS)
            window.add(np.full(_STEPS, user), rows.astype(np.int32), np.arange(_STEPS))
        rows, now = np.arange(self.num_items, dtype=np.int32), np.ones(self.num_items, np.int64)
        tastes = self.taste_of(rows)
        if shown:
            noisy = np.eye(_DIMS)[tastes] + 0.1 * rng.standard_normal((len(rows), _DIMS))
            content.show(rows, [{shown: vector} for vector in noisy.tolist()], now)
        else:
            content.say(rows, [f"{_WORDS[taste]} {row}" for taste, row in zip(tastes.tolist(), rows.tolist(), strict=True)], now)
        return Material(window, generations, np.zeros(self.num_items, np.int32), content=content.of_rows)

    def draw_new(self, num: int, seed: int) -> Examples:
        """Return queries with one old item whose target is a new one."""
        rng = np.random.default_rng(seed)
        newest = rng.integers(0, self.num_old, num)
        wanted = (newest + self.moved) % self.num_tastes
        first = self.num_old + (wanted - self.num_old) % self.num_tastes
        targets = first + self.num_tastes * rng.integers(0, self.num_new // self.num_tastes, num)
        zeros = np.zeros(num, np.int32)
        history = newest[:, None].astype(np.int32)
        return Examples(history, np.arange(num + 1), targets.astype(np.int32), np.ones(num, np.float32), np.arange(num), zeros)
