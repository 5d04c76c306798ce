"""Make small seeded worlds of interactions with tastes, for tests and first runs."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streamrec.events.assemble import Dataset, RawEvents, assemble, item_table
from streamrec.events.schema import Kind

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


class ArrivingWorld:
    """Give events for ever, with new users and new items throughout, while the oldest ones are heard of no more.

    The users that may act, and the items that may be clicked, are a window each that moves on with every event. A user clicks on an item of
    their own taste with the chance ``loyalty``; inside the window the newer items are the more popular (Zipf). Each new item is announced by an
    item update before its first click.

    Args:
        num_users: How many users may act at a time.
        num_items: How many items may be clicked at a time.
        new_users: New users an event.
        new_items: New items an event.
        num_tastes: How many clusters of users and items.
        loyalty: The chance that a click is of the user's own taste.
        seed: The same seed and the same calls give the same world.
    """

    def __init__(
        self,
        *,
        num_users: int = 4000,
        num_items: int = 1500,
        new_users: float = 0.05,
        new_items: float = 0.02,
        num_tastes: int = 6,
        loyalty: float = 0.85,
        seed: int = 0,
    ) -> None:
        self._num_users, self._num_items = num_users, num_items
        self._new_users, self._new_items = new_users, new_items
        self._num_tastes, self._loyalty = num_tastes, loyalty
        self._rng = np.random.default_rng(seed)
        self._num_events = self._num_announced = 0

    def take(self, num: int, first_ms: int, last_ms: int) -> pa.Table:
        """Return the next ``num`` clicks, spread over event times [first, last], after the updates of items that are new among them.

        Columns: kind, event_id, user_id?, item_id, event_type?, event_time, title?.
        """
        rng, numbers = self._rng, self._num_events + np.arange(num)
        user = (numbers * self._new_users).astype(np.int64) + rng.integers(0, self._num_users, num)
        taste = np.where(rng.random(num) < self._loyalty, user, rng.integers(0, self._num_tastes, num)) % self._num_tastes
        newest = (numbers * self._new_items).astype(np.int64) + self._num_items - 1
        age = _zipf_ranks(rng.random(num), np.full(num, self._num_items))
        item = newest - age
        item = np.maximum(item - (item - taste) % self._num_tastes, 0)
        self._num_events += num
        fresh = np.arange(self._num_announced, int(newest.max(initial=-1)) + 1)
        self._num_announced += len(fresh)
        nothing = pa.nulls(len(fresh), pa.string())
        updates = {
            "kind": pa.repeat(Kind.ITEM_UPDATE.value, len(fresh)), "event_id": _names("item-", fresh), "user_id": nothing,
            "item_id": _names("i", fresh), "event_type": nothing, "event_time": pa.array(np.full(len(fresh), first_ms, np.int64)),
            "title": pa.array([f"{_WORDS[index % self._num_tastes % len(_WORDS)]} {index}" for index in fresh.tolist()], pa.string()),
        }  # fmt: skip
        clicks = {
            "kind": pa.repeat(Kind.INTERACTION.value, num), "event_id": _names("e", numbers), "user_id": _names("u", user),
            "item_id": _names("i", item), "event_type": pa.repeat("click", num),
            "event_time": pa.array(np.linspace(first_ms, last_ms, num).astype(np.int64)), "title": pa.nulls(num, pa.string()),
        }  # fmt: skip
        return pa.concat_tables([pa.table(updates), pa.table(clicks)])
