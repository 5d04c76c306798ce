"""Tell which teacher expects an item: each one's part of the probability that the newest labels give to it.

Shapes: ``k`` items, ``T`` teachers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamrec.soft_labels.store import LabelStore

NEWEST_QUERIES = 256
"""Labels of so many queries are summed up: a version is made every second or so, and this takes some milliseconds."""

MAX_ITEMS = 20_000
"""So many items are told of, those that most is expected of: 280 kB with five teachers."""


class Say(NamedTuple):
    """Hold the teachers' say by item.

    Attributes:
        rows: Items that any of the labels names, ascending. [k] int32
        parts: Each teacher's part, by ``versions`` in order; a row sums to 1. [k, T] float16
        versions: Teacher name to its newest version that answered, by name.
        num_queries: How many queries were summed up.
    """

    rows: NDArray[np.int32]
    parts: NDArray[np.float16]
    versions: Mapping[str, str]
    num_queries: int


def say_of(store: LabelStore) -> Say | None:
    """Sum up the newest labels: an item's chances by each teacher times that teacher's say in the query; None where no teacher said anything."""
    places = store.newest(NEWEST_QUERIES)
    answers = {name: answer for name, answer in sorted(store.answers(places).items()) if (answer.chances > 0).any()}
    if not answers:
        return None
    held = {name: answer.chances > 0 for name, answer in answers.items()}
    told = [answer.rows[held[name]] for name, answer in answers.items()]
    rows, place = np.unique(np.concatenate(told), return_inverse=True)
    parts, ends = np.zeros((len(rows), len(answers))), np.cumsum([len(part) for part in told])
    for number, (name, answer) in enumerate(answers.items()):
        weights = (answer.chances.astype(np.float64) * answer.say.astype(np.float64)[:, None])[held[name]]
        parts[:, number] = np.bincount(place[ends[number] - len(weights) : ends[number]], weights, len(rows))
    mass = parts.sum(1)
    kept = np.sort(np.argsort(-mass, kind="stable")[:MAX_ITEMS])
    kept = kept[mass[kept] > 0]
    if not len(kept):
        return None
    versions = {name: answer.versions[int(answer.version.max())] for name, answer in answers.items()}
    return Say(rows[kept].astype(np.int32), (parts[kept] / mass[kept, None]).astype(np.float16), versions, len(places))
