"""Make small seeded worlds of interactions with tastes, for tests and first runs."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streamrec.events.assemble import Dataset, RawEvents, assemble, item_table

START_MS = 1_600_000_000_000
_WORDS = ("river", "stone", "amber", "violet", "copper", "willow", "harbour", "meadow", "ember", "cedar", "linen", "marble")


def synthetic_dataset(
    *,
    num_users: int = 60,
    num_items: int = 120,
    num_events: int = 2000,
    num_tastes: int = 6,
    loyalty: float = 0.85,
    repeats: float = 0.1,
    seed: int = 0,
) -> Dataset:
    """Return a world in which a user clicks mostly on the items of one taste.

    Item i is of taste ``i % num_tastes``, user u of taste ``u % num_tastes``; a title begins with its taste's word, so that text tells too.
    Inside a taste some items are more popular (Zipf). The right answer is known: of a user's next clicks the share ``loyalty`` is of the
    user's own taste.

    Args:
        num_users: How many users.
        num_items: How many items.
        num_events: How many clicks, one a second.
        num_tastes: How many clusters of users and items.
        loyalty: The chance that a click is of the user's own taste.
        repeats: The chance that a click repeats the user's previous one.
        seed: The same seed gives the same world.
    """
    rng = np.random.default_rng(seed)
    user = rng.integers(0, num_users, num_events)
    own = rng.random(num_events) < loyalty
    taste = np.where(own, user % num_tastes, rng.integers(0, num_tastes, num_events))
    sizes = np.bincount(np.arange(num_items) % num_tastes, minlength=num_tastes)
    rank = _zipf_ranks(rng.random(num_events), sizes[taste])
    item = taste + num_tastes * rank
    newest: dict[int, int] = {}
    again = rng.random(num_events) < repeats
    for event, who in enumerate(user.tolist()):
        if again[event] and who in newest:
            item[event] = newest[who]
        newest[who] = int(item[event])
    times = START_MS + 1000 * np.arange(num_events)
    raw = RawEvents(user=_names("u", user), item=_names("i", item), event_type="click", time_ms=pa.array(times))
    everything = np.arange(num_items)
    titles = [f"{_WORDS[index % num_tastes % len(_WORDS)]} {index}" for index in everything.tolist()]
    categories = [[f"taste-{index % num_tastes}"] for index in everything.tolist()]
    items = item_table(_names("i", everything), pa.array(titles), pa.array(categories))
    return assemble(f"synthetic-{seed}", "synthetic", raw, items)


def _zipf_ranks(chance: NDArray[np.float64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Draw ranks 0 … size - 1 with density proportional to 1 / (rank + 1)."""
    ranks = np.floor((sizes + 1.0) ** chance).astype(np.int64) - 1
    return np.clip(ranks, 0, sizes - 1)


def _names(prefix: str, numbers: NDArray[np.int64]) -> pa.Array:
    return pa.array([f"{prefix}{number}" for number in numbers.tolist()], pa.string())
