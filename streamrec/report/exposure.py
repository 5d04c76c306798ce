"""Ask a run's live version what it would recommend to a sample of its users, and count which items get seen."""

from __future__ import annotations

import numpy as np
import orjson
from numpy.typing import NDArray

from streamrec.config import Config
from streamrec.pipeline.layout import registry_url
from streamrec.pipeline.session import state_address
from streamrec.registry.registry import Registry
from streamrec.report.facts import Exposure, Shown
from streamrec.report.numbers import shares_of
from streamrec.serving.history_view import HistoryColumns
from streamrec.serving.recommender import Recommender
from streamrec.state import unpack_strings
from streamrec.storage import open_storage

MOST_HISTORIES = 500
"""Asking so many takes a second, and shares move by less than a hundredth with more."""
PLACES = 20
TOP = 10


def exposure_of(config: Config, student: str, columns: HistoryColumns) -> Exposure | None:
    """Return what the live version's answers show, None where nothing is live or nobody has a history.

    Users are taken evenly from all. Items that they know are left out of their answers, and so are those that can't be had.

    Args:
        config: Says where the registry is, and which namespace is looked at.
        student: Whose live version.
        columns: Histories of the newest commit.

    Raises:
        StreamrecError: The version can't be read.
    """
    registry = Registry(open_storage(registry_url(state_address(config))), student)
    live, namespace = registry.live(), config.events.namespace
    users = [place for place, (of, _) in enumerate(columns.users) if of == namespace and columns.indptr[place + 1] > columns.indptr[place]]
    if live is None or registry.is_withdrawn(live) or not users:
        return None
    version = registry.load_named(live)
    recommender = Recommender(version.arrays, version.meta)
    recommender.leave_out(_gone(columns, recommender, namespace))
    counts, num_asked = np.zeros(len(version.arrays["item_namespace"]), np.int64), 0
    for user in np.unique(np.linspace(0, len(users) - 1, min(len(users), MOST_HISTORIES)).astype(np.int64)).tolist():
        history = _rows(columns, recommender, users[user], namespace)
        if len(history):
            rows, _ = recommender.rank(history, PLACES, history, namespace)
            counts[rows] += 1
            num_asked += 1
    num_items = recommender.num_items(namespace)
    recommended = shares_of(counts, num_items)
    if recommended is None:
        return None
    code = unpack_strings(version.arrays["namespace_bytes"], version.arrays["namespace_offsets"]).index(namespace)
    used = shares_of(version.arrays["popularity"][version.arrays["item_namespace"] == code], num_items)
    return Exposure(live, namespace, num_asked, num_items, recommended, used, _top(columns, recommender, counts, num_asked, namespace))


def _rows(columns: HistoryColumns, recommender: Recommender, user: int, namespace: str) -> NDArray[np.int32]:
    """Return a user's items as the version's rows, newest first, those that it knows."""
    codes = columns.item_codes[columns.indptr[user] : columns.indptr[user + 1]].tolist()
    return recommender.rows_of(namespace, [columns.item_ids[code][1] for code in codes[::-1]])


def _gone(columns: HistoryColumns, recommender: Recommender, namespace: str) -> NDArray[np.int32]:
    if columns.unavailable is None:
        return np.zeros(0, np.int32)
    gone = [item for (of, item), is_gone in zip(columns.item_ids, columns.unavailable[0].tolist(), strict=False) if is_gone and of == namespace]
    return recommender.rows_of(namespace, gone)


def _top(columns: HistoryColumns, recommender: Recommender, counts: NDArray[np.int64], num_asked: int, namespace: str) -> tuple[Shown, ...]:
    first = np.argsort(-counts, kind="stable")[:TOP]
    rows = first[counts[first] > 0].astype(np.int32)
    items = recommender.ids(rows)
    titles = _titles(columns, items, namespace)
    nums = counts[rows].tolist()
    return tuple(Shown(item, titles.get(item, ""), num, num / num_asked) for item, num in zip(items, nums, strict=True))


def _titles(columns: HistoryColumns, items: list[str], namespace: str) -> dict[str, str]:
    if columns.attributes is None:
        return {}
    wanted, titles = {(namespace, item) for item in items}, {}
    for key, told in zip(columns.item_ids, columns.attributes[0], strict=False):
        if key in wanted and told and (title := orjson.loads(told).get("title")):
            titles[key[1]] = str(title)
    return titles
