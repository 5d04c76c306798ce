"""Say what is known of one item and of one user."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from streamrec.serving.history_view import HistoryView
from streamrec.serving.slot import LiveModel


def item_facts(view: HistoryView | None, model: LiveModel | None, namespace: str, item_id: str) -> dict[str, Any] | None:
    """Return what is known of an item; None when nothing is.

    ``in_model`` says whether the live version has it, so that it can be recommended.
    """
    recommender = model.recommender if model is not None else None
    row = recommender.catalog.row_of(namespace, item_id) if recommender is not None else -1
    in_model = recommender is not None and 0 <= row < recommender.num_rows
    # Read once: a table that is loaded meanwhile is not mixed in.
    table = view.table if view is not None else None
    code = table.codes.get((namespace, item_id)) if table is not None else None
    if code is None and not in_model:
        return None
    said = dict(table.attributes.of(code)) if table is not None and code is not None else {}
    available = table is None or code is None or not bool(np.isin(code, table.availability.codes))
    return {"item_id": item_id, "namespace": namespace, **said, "available": available, "in_model": in_model}


def user_facts(view: HistoryView | None, namespace: str, user_id: str) -> dict[str, Any]:
    """Return a user's history, newest first, with event times; without one ``why`` says so."""
    user = {"user_id": user_id, "namespace": namespace}
    if view is None:
        return {**user, "items": [], "why": "no log is followed"}
    table = view.table
    codes, times = table.entries.get((namespace, user_id), (b"", b""))
    items = [table.item_ids[code][1] for code in np.frombuffer(codes, np.int32).tolist()]
    return stored_user_facts(namespace, user_id, items, np.frombuffer(times, np.int64).tolist())


def stored_user_facts(namespace: str, user_id: str, item_ids: Sequence[str], times: Sequence[int]) -> dict[str, Any]:
    """Return a history, given oldest first, as `user_facts` does."""
    items = [{"item_id": item_id, "event_time": time_ms} for item_id, time_ms in zip(item_ids[::-1], times[::-1], strict=True)]
    user = {"user_id": user_id, "namespace": namespace, "items": items}
    return user if items else {**user, "why": "unknown user"}
