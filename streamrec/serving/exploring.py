"""Give a capped share of a list's places to items drawn by chance, and say by which chance, so that others than the best are tried out.

References: Kool et al., "Stochastic Beams and Where to Find Them", ICML 2019, arXiv:1903.06059 (drawing without replacement by Gumbel noise).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int32]
Floats = NDArray[np.float32]

MAX_SHARE = 0.2
"""Of a list's places more are never given away, whatever the configuration says."""

_ROUNDING = 1e-9
"""A share of 0.1 of 30 places is 3 places, though 0.1 * 30 is a little more or less."""


class Drawn(NamedTuple):
    """Hold a list.

    Attributes:
        rows: Its rows in order [n].
        scores: Their scores [n].
        propensities: Place in it → the chance that its item was drawn by.
    """

    rows: Rows
    scores: Floats
    propensities: dict[int, float]


@dataclass(frozen=True)
class Exploration:
    """Draw items by a softmax over their scores.

    Attributes:
        share: So large a share of each list's places, rounded down.
        among: So many of the next items may be drawn, beside those whose places are given away.
        temperature: Scores are logits of the student's chances, which they are divided by; higher is more even.
    """

    share: float
    among: int
    temperature: float

    def num_places(self, n: int) -> int:
        """Return how many of n places are given away.

        Example:
            >>> [Exploration(0.1, 100, 1.0).num_places(n) for n in (5, 10, 29, 30)]
            [0, 1, 2, 3]
        """
        return int(min(self.share, MAX_SHARE) * n + _ROUNDING)

    def num_ranked(self, n: int) -> int:
        """Return how many items a list of n is made from."""
        return n + self.among if self.num_places(n) else n

    def draw(self, rows: Rows, scores: Floats, n: int, seed: str) -> Drawn:
        """Return a list of n of the best rows: some of the lower ones, drawn one after the other, at places that are drawn evenly.

        Each is drawn by the softmax over what is left of the pool then, and that is its propensity, given those that were drawn before; so their
        product is the chance of the draws in this order. The others stand in the order of their scores, as without exploration. With n rows or
        fewer nothing is drawn, because all are shown.

        Args:
            rows: Best first, at most as many as `num_ranked` says.
            scores: Theirs.
            n: Length of the list.
            seed: The same seed gives the same list.
        """
        num = self.num_places(n)
        if not num or len(rows) <= n:
            return Drawn(rows[:n], scores[:n], {})
        rng = np.random.default_rng(int.from_bytes(hashlib.blake2b(seed.encode("utf-8", "surrogatepass"), digest_size=16).digest()))
        pool = scores[n - num :].astype(np.float64) / self.temperature
        picked = np.argsort(-(pool + rng.gumbel(size=len(pool))), kind="stable")[:num]
        chances = np.exp(pool - pool.max())
        left = chances.sum() - np.concatenate([[0.0], np.cumsum(chances[picked])[:-1]])
        places = rng.permutation(n)[:num]
        order = np.empty(n, np.int64)
        order[places] = n - num + picked
        order[np.setdiff1d(np.arange(n), places)] = np.arange(n - num)
        propensities = chances[picked] / left
        return Drawn(rows[order], scores[order], dict(zip(places.tolist(), propensities.tolist(), strict=True)))
