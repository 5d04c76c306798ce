"""Toy worlds whose right answers are known, for tests of whatever learns from examples.

Shapes: ``Q`` queries, ``V`` items, ``N`` history length.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from streamrec.features.examples import Examples
from streamrec.soft_labels.lists import list_scores
from streamrec.soft_labels.schema import TeacherScores

Quality = Literal["good", "random", "inverted", "stale"]
_EVER = 1e-6
"""What an item that a taste leaves out is taken with."""


@dataclass(frozen=True)
class Tastes:
    """A checkerboard: whoever has taken items of one taste takes another one of the same taste, the earlier ones more often.

    Item ``v`` is of taste ``v % num_tastes``. A share of all choices is an item of the own history again.

    Attributes:
        num_tastes: How many there are.
        num_items: V.
        length: Longest history, N.
        moved: After a drift, users with a history of taste t take items of taste t + moved.
        repeats: Share of choices that repeat an item of the history.
    """

    num_tastes: int = 5
    num_items: int = 200
    length: int = 5
    moved: int = 0
    repeats: float = 0.0

    def drifted(self, moved: int = 1) -> Tastes:
        """Return the world after all tastes have moved on."""
        return replace(self, moved=self.moved + moved)

    def draw(self, num: int, seed: int) -> Examples:
        """Return queries of one target each."""
        rng = np.random.default_rng([seed, self.moved])
        taste = rng.integers(0, self.num_tastes, num)
        kept = np.arange(self.length)[None, :] < rng.integers(1, self.length + 1, num)[:, None]
        history = np.where(kept, self._drawn(np.repeat(taste, self.length), rng).reshape(num, self.length), -1).astype(np.int32)
        targets = self._drawn((taste + self.moved) % self.num_tastes, rng)
        again = history[np.arange(num), rng.integers(0, kept.sum(1))]
        targets = np.where(rng.random(num) < self.repeats, again, targets)
        zeros = np.zeros(num, np.int32)
        return Examples(history, np.arange(num + 1), targets.astype(np.int32), np.ones(num, np.float32), np.arange(num), zeros)

    def chances(self, examples: Examples) -> NDArray[np.float64]:
        """Return the chance of each item to be the target. [Q, V]."""
        taste = examples.history[:, 0] % self.num_tastes
        if self.repeats:  # What was repeated may be of any taste once tastes have moved; the newest item alone does not tell.
            assert not self.moved
        chances = self._chances[(taste + self.moved) % self.num_tastes]
        held = examples.history >= 0
        again = np.zeros_like(chances)
        np.add.at(again, (np.nonzero(held)[0], examples.history[held]), 1.0)
        return np.asarray((1 - self.repeats) * chances + self.repeats * again / held.sum(1, keepdims=True))

    def best(self, examples: Examples, k: int) -> float:
        """Return the Recall@k that nobody can be expected to exceed."""
        return float(np.sort(self.chances(examples), 1)[:, -k:].sum(1).mean())

    @property
    def _chances(self) -> NDArray[np.float64]:
        items = np.arange(self.num_items)
        liked = 1.0 / (1.0 + items // self.num_tastes)
        chances = np.where(items[None, :] % self.num_tastes == np.arange(self.num_tastes)[:, None], liked[None, :], _EVER)
        return np.asarray(chances / chances.sum(1, keepdims=True))

    def _drawn(self, taste: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw an item of each taste."""
        bounds = np.cumsum(self._chances, 1)
        return np.asarray(np.minimum((rng.random(len(taste))[:, None] > bounds[taste]).sum(1), self.num_items - 1), np.int64)


def planted(world: Tastes, examples: Examples, quality: Quality, top_k: int, temperature: float = 1.0) -> TeacherScores:
    """Return what a teacher of known quality answers.

    Args:
        world: As it is.
        examples: The queries.
        quality: ``good`` knows the chances, ``stale`` those before tastes moved, ``inverted`` has learned the opposite, ``random`` nothing.
        top_k: Labels that are kept of a mixture.
        temperature: That its answer is taken at.
    """
    known = replace(world, moved=0) if quality == "stale" else world
    chances = known.chances(examples)
    if quality == "inverted":
        chances = 1.0 / chances
    if quality == "random":
        chances = np.random.default_rng(len(examples)).permuted(chances, axis=1)
    rows = np.argsort(-chances, 1, kind="stable").astype(np.int32)
    return list_scores(rows, np.take_along_axis(chances, rows, 1).astype(np.float32), examples, temperature, top_k)
