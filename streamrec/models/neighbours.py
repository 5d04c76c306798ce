"""Define session neighbours: what others took who had the same recent items.

    sim(q, s) = Σ_{i: hᵢ ∈ s}  e^(-i / λ₁) idf(hᵢ) · e^(-age(s) / λ₂) / √|s|
    score(b) = Σ_{s ∈ best k}  sim(q, s) · e^(-dist(b, m) / λ₃)

m is the place in s of the newest item of the history that s holds, dist the number of steps from it; the matched click itself gets nothing. Of
each of the newest items the last S sessions that took it can be neighbours.

References: Garg et al., "Sequence and Time Aware Neighborhood for Session-based Recommendations: STAN", SIGIR 2019. **Deviation**: idf; the
age counts sessions, not days, so that a quiet stream forgets nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamrec.models.lists import best_rows, first_places

_QUERIES_AT_ONCE = 128
_NOBODY = -2
"""No session's slot, and no padding either."""


class Sessions(NamedTuple):
    """Hold what neighbours are looked for in.

    Attributes:
        items: Rows of each slot's session, newest first, -1 pads. [slots, L] int32
        factor: e^(-age / λ₂) / √size of each slot, 0 where it is empty. [slots] float32
        takers: Slots of the last S sessions that took each row, -1 pads. [V, S] int32
        idf: Of each row. [V] float32
    """

    items: NDArray[np.int32]
    factor: NDArray[np.float32]
    takers: NDArray[np.int32]
    idf: NDArray[np.float32]


def ask(
    history: NDArray[np.int32], own: NDArray[np.int64], sessions: Sessions, fade: tuple[float, float], limits: tuple[int, int, int]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return each query's best candidates and their scores; see `streamrec.models.lists.best_rows`.

    Args:
        history: Newest first, -1 pads. [Q, N]
        own: Slot of the session that the query itself belongs to, which is no neighbour; -1 for none. [Q]
        sessions: Where to look.
        fade: λ₁ in items and λ₃ in steps.
        limits: How many newest items are looked up, how many neighbours vote, how many candidates are kept.
    """
    num_items, num_neighbours, top = limits
    parts = [(np.zeros((0, top), np.int32), np.zeros((0, top), np.float32))]
    own = np.where(own >= 0, own, _NOBODY)
    for start in range(0, len(history), _QUERIES_AT_ONCE):
        part = slice(start, start + _QUERIES_AT_ONCE)
        recent = history[part, :num_items]
        recent = np.where(first_places(recent) & (recent < len(sessions.takers)), recent, -1)
        slots, similarity = _neighbours(recent, own[part], sessions, fade[0], num_neighbours)
        rows, votes = _votes(recent, slots, similarity, sessions.items, fade[1])
        parts.append(best_rows(rows, votes, top))
    return np.concatenate([rows for rows, _ in parts]), np.concatenate([sums for _, sums in parts])


def _neighbours(
    recent: NDArray[np.int32], own: NDArray[np.int64], sessions: Sessions, fade: float, num: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    place = np.maximum(recent, 0)
    slots = np.where(recent[:, :, None] >= 0, sessions.takers[place], -1)  # [Q, I, S]
    slots[slots == own[:, None, None]] = -1
    weight = np.exp(-np.arange(recent.shape[1]) / fade).astype(np.float32)[None, :] * sessions.idf[place]
    votes = weight[:, :, None] * sessions.factor[np.maximum(slots, 0)]
    return best_rows(slots.reshape(len(recent), -1), votes.reshape(len(recent), -1), num)


def _votes(
    recent: NDArray[np.int32], slots: NDArray[np.int32], similarity: NDArray[np.float32], items: NDArray[np.int32], fade: float
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return the items of the neighbours and their votes, [Q, k · L] each. A session that holds none of the recent items any more has no vote."""
    taken = np.where(slots[:, :, None] >= 0, items[np.maximum(slots, 0)], -1)  # [Q, k, L]
    num, length = recent.shape[1], taken.shape[2]
    steps = np.arange(length, dtype=np.int16)
    match = np.full(taken.shape, num * length, np.int16)
    for place in range(num - 1, -1, -1):  # The newest item has the last word.
        np.copyto(match, place * length + steps, where=taken == np.where(recent[:, place] >= 0, recent[:, place], _NOBODY)[:, None, None])
    matched = match[:, :, 0]
    for step in range(1, length):  # Faster than a minimum over an axis so short.
        matched = np.minimum(matched, match[:, :, step])
    distance = np.abs(steps - (matched % length)[:, :, None])
    table = np.exp(-np.arange(length) / fade).astype(np.float32)
    table[0] = 0.0  # The matched click itself.
    heard = np.where(matched < num * length, similarity, np.float32(0))
    votes = heard[:, :, None] * table[distance]
    return taken.reshape(len(taken), -1), votes.reshape(len(taken), -1)
