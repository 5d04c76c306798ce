"""Turn a request into an honest answer: ranked items, the version that ranked them, and where they come from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrec.clock import Clock, SystemClock
from streamrec.serving.history_view import HistoryView
from streamrec.serving.recommender import Recommender
from streamrec.serving.requests import RecommendRequest
from streamrec.serving.row_map import RowMap
from streamrec.serving.shelf import Among
from streamrec.serving.slot import LiveModel

STUDENT = "student"
POPULAR = "popular"
CONTENT = "content"
DEADLINE = "deadline"
"""Why an answer that would have come too late is popular."""

SCORE_DECIMALS = 6
"""What a float32 of a few units holds; more digits would only be noise on the wire."""

Rows = NDArray[np.int32]
_NO_ROWS: Rows = np.empty(0, np.int32)


@dataclass
class Answerer:
    """Answer requests from a version and the history view.

    Args:
        view: Histories of known users; None when this server follows no log.
        clock: Processing time, for a version's age.

    **Contract.** `answer` is called by one thread; `prepare` may be called by the loading thread for a version that isn't live yet.
    """

    view: HistoryView | None
    clock: Clock = field(default_factory=SystemClock)
    _maps: tuple[RowMap, ...] = ()

    def prepare(self, model: LiveModel) -> None:
        """Do before the swap what the version's first answer would otherwise wait for."""
        row_map = self._new_map(model.recommender)
        self._keep(row_map)
        if row_map is not None:
            model.recommender.leave_out(row_map.unavailable_rows())
        for namespace in model.recommender.namespaces:
            model.recommender.rank(np.zeros(1, np.int32), 1, namespace=namespace)

    def answer(self, request: RecommendRequest, model: LiveModel, request_id: str) -> dict[str, Any]:
        """Return the answer's JSON object.

        A history in the request is used in place of the view's; the view's items count as seen all the same. When there is no known
        item to start from, or no time, the answer's source is ``popular`` and ``why`` says what was missing. Items that can't be had count in
        histories and are not returned.
        """
        recommender = model.recommender
        if self.view is not None:
            recommender.leave_out(self.map_of(recommender).unavailable_rows())
        known = self.known_rows(request, recommender)
        given = recommender.rows_of(request.namespace, request.history) if request.history else _NO_ROWS
        history = known if request.history is None else given
        excluded = self._excluded(request, recommender, known, given)
        if len(history) and not request.is_late:
            newest_first = history[::-1][: recommender.history_length]
            rows, scores = recommender.rank(newest_first, request.n, excluded, request.namespace)
            num_used, source = len(newest_first), {"source": STUDENT}
        else:
            rows, scores = recommender.popular(request.n, excluded, request.namespace)
            num_used, source = 0, popular_source(recommender, DEADLINE if len(history) else self.why(request, recommender))
        short = {} if len(rows) == request.n else {"short": short_of(recommender, request.namespace, len(rows), request.n)}
        return {
            "items": shown_items(recommender, rows, scores),
            "model_version": model.version,
            "model_age_s": self.age_s(model),
            **source,
            **short,
            **missing_of(request),
            "user_events": num_used,
            "request_id": request_id,
        }

    def age_s(self, model: LiveModel) -> float:
        """Return how long ago the version was made."""
        return round((self.clock.now_ms() - model.created_ms) / 1000, 3)

    def known_rows(self, request: RecommendRequest, recommender: Recommender) -> Rows:
        """Return the rows of the user's known items, newest last."""
        if request.known is not None:
            return recommender.rows_of(request.namespace, request.known.item_ids)
        if self.view is None or request.user_id is None:
            return _NO_ROWS
        # The map holds the table that its codes belong to: a table that is loaded meanwhile is not mixed in.
        row_map = self.map_of(recommender)
        codes = row_map.table.get(request.namespace, request.user_id)
        if not len(codes):
            return _NO_ROWS
        rows = row_map.rows(codes)
        return rows if min(rows.tolist()) >= 0 else rows[rows >= 0]

    def _excluded(self, request: RecommendRequest, recommender: Recommender, known: Rows, given: Rows) -> Rows:
        parts = [known, given] if request.exclude_seen else []
        if request.exclude:
            parts.append(recommender.rows_of(request.namespace, request.exclude))
        present = [part for part in parts if len(part)]
        return np.concatenate(present) if len(present) > 1 else (present[0] if present else _NO_ROWS)

    def why(self, request: RecommendRequest, recommender: Recommender) -> str:
        """Return why the student does not answer."""
        if not recommender.num_items(request.namespace):
            return "the model has no items in this namespace"
        if request.history is not None:
            return "no known items in history"
        if request.known is not None and request.known.missing:
            return "the user's history can't be known"
        if request.known is None and self.view is None:
            return "no log is followed and no history was given"
        if self._knows_nothing(request):
            return "unknown user"
        return "no known items in history"

    def _knows_nothing(self, request: RecommendRequest) -> bool:
        if request.known is not None:
            return not request.known.item_ids
        return self.view is not None and not len(self.view.get(request.namespace, request.user_id or ""))

    def map_of(self, recommender: Recommender) -> RowMap:
        """Return how the view's item codes become the version's rows."""
        assert self.view is not None
        table = self.view.table
        for row_map in self._maps:
            if row_map.recommender is recommender and row_map.table is table:
                return row_map
        fresh = self._new_map(recommender)
        assert fresh is not None
        self._keep(fresh)
        return fresh

    def _new_map(self, recommender: Recommender) -> RowMap | None:
        if self.view is None:
            return None
        newest = self._maps[0] if self._maps else None
        return RowMap(self.view.table, recommender, newest)

    def _keep(self, row_map: RowMap | None) -> None:
        # Three: the live version's, the previous one's for a rollback, and the candidate's.
        if row_map is not None:
            self._maps = (row_map, *self._maps)[:3]


def missing_of(request: RecommendRequest) -> dict[str, str]:
    """Return what an answer says that could not take the user's history into account."""
    return {"missing": request.known.missing} if request.known is not None and request.known.missing else {}


def popular_source(recommender: Recommender, why: str) -> dict[str, Any]:
    """Return what an answer says that shows popular items: why it does, and how uses are counted."""
    return {"source": POPULAR, "why": why, "popularity": recommender.popularity_facts}


def shown_items(recommender: Recommender, rows: Rows, scores: NDArray[np.float32]) -> list[dict[str, Any]]:
    """Return rows and their scores as an answer shows them."""
    unit = 10**SCORE_DECIMALS
    return [{"item_id": item_id, "score": round(score * unit) / unit} for item_id, score in zip(recommender.ids(rows), scores.tolist(), strict=True)]


def short_of(recommender: Recommender, namespace: str, got: int, wanted: int, among: Among | None = None, num_new: int = 0) -> str:
    """Return why an answer has fewer items than were asked for; ``num_new`` of those that may be in it are newer than the version."""
    num_allowed, num_items = recommender.num_allowed(namespace, among), recommender.num_items(namespace)
    what = "can be had" if among is None else "pass the filters"
    num_left = num_allowed + num_new - got
    newer, rest = f" and {num_new} newer ones" if num_new else "", f", {num_left} of them are seen or excluded" if num_left > 0 else ""
    return f"{got} of {wanted}: {num_allowed} of the {num_items} items of this namespace{newer} {what}{rest}"
