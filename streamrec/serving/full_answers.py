"""Answer what a plain request does not ask for: filters, several lists, explanations, similar items, given candidates, popular items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrec.serving.answers import CONTENT, DEADLINE, SCORE_DECIMALS, STUDENT, Answerer, Rows, missing_of, popular_source, short_of, shown_items
from streamrec.serving.bodies import RankBody, SimilarBody
from streamrec.serving.content import Floats, units
from streamrec.serving.exploring import Exploration
from streamrec.serving.filters import Extras, Filters, ListRequest, Seen
from streamrec.serving.new_items import Newcomers, direction_of
from streamrec.serving.recommender import Recommender
from streamrec.serving.requests import Known, RecommendRequest
from streamrec.serving.shelf import Among
from streamrec.serving.slot import LiveModel

_NO_ROWS: Rows = np.empty(0, np.int32)
_NOT_APART = "this version carries no words; what they add is within `because`"


_UNKNOWN = "nobody has used these items, as far as the version knows, and it has learned none of their words"


@dataclass
class FullAnswerer(Answerer):
    """Answer all kinds of requests; see `Answerer`.

    Args:
        exploration: Gives some places of the student's lists away; None gives none.
    """

    exploration: Exploration | None = None
    _newcomers: Newcomers = field(default_factory=Newcomers)

    def answer(self, request: RecommendRequest, model: LiveModel, request_id: str) -> dict[str, Any]:
        """Return the answer's JSON object; of a plain request that of `Answerer.answer`.

        With lists it has ``lists`` in place of ``items``. Whatever is short says why in ``short``.
        """
        if request.extras is None and self.exploration is None:
            return super().answer(request, model, request_id)
        extras, recommender = request.extras or Extras(), self._ready(model)
        seed = f"{model.version}\n{request.namespace}\n{request.user_id}\n{request_id}"
        known, given = self.known_rows(request, recommender), recommender.rows_of(request.namespace, request.history or ())
        history = (known if request.history is None else given)[::-1][: recommender.history_length]
        why = DEADLINE if request.is_late and len(history) else None
        history = _NO_ROWS if request.is_late else history
        asked = extras.lists or (ListRequest("", request.n, extras.filters, request.exclude, extras.seen or Seen(request.exclude_seen)),)
        lists, taken = [], _NO_ROWS
        for one in asked:
            barred = np.concatenate([taken, *_seen(one.seen, known, given)])
            rows, shown = self._list(request, one, recommender, history, barred, f"{seed}\n{one.name}", explains=extras.explain)
            taken = taken if extras.repeat_items else np.concatenate([taken, rows])
            lists.append(shown)
        source = {"source": STUDENT} if len(history) else popular_source(recommender, why or self.why(request, recommender))
        explained = _explained(recommender) if extras.explain and len(history) else {}
        found = {"lists": lists} if extras.lists else lists[0]
        return {**found, **self.facts(model, request_id), **source, **explained, **missing_of(request), "user_events": len(history)}

    def similar(self, body: SimilarBody, namespace: str, n: int, model: LiveModel, request_id: str) -> dict[str, Any]:
        """Return the items that point most in the direction of the given ones; these are left out.

        Items that nobody has used, and those that a catalogue has announced since the version was made, are placed by their words alone; the
        latter say ``"source": "content"``, and so does the answer where all given ones are such.
        """
        recommender, facts = self._ready(model), self.facts(model, request_id)
        given = recommender.rows_of(namespace, body.like)
        rows = given[recommender.is_placed(given)]
        new = [item for item in body.like if recommender.catalog.row_of(namespace, item) not in rows]
        by_words = {item: direction for item in new if (direction := self._direction_of(recommender, namespace, item)) is not None}
        if unknown := [item for item in new if item not in by_words]:
            facts["unknown"] = unknown
        source = {"source": STUDENT if len(rows) or not by_words else CONTENT}
        if not len(rows) and not by_words:
            return {"items": [], **facts, **source, "why": _UNKNOWN, "short": f"0 of {n}: {_UNKNOWN}"}
        (direction,) = units(np.concatenate([recommender.directions(rows), *(one[None] for one in by_words.values())]).mean(0, keepdims=True))
        filters = Filters.of(body)
        among = self._among(filters, namespace, recommender)
        excluded = np.concatenate([given, recommender.rows_of(namespace, body.exclude)])
        items = shown_items(recommender, *recommender.similar(direction, n, excluded, namespace, among))
        newer = self._new_like(recommender, direction, n, namespace, filters, {*body.like, *body.exclude})
        items = sorted([*items, *newer], key=lambda item: -item["score"])[:n]
        return {"items": items, **facts, **source, **self._short(recommender, filters, namespace, len(items), n, among, len(newer))}

    def rank(self, body: RankBody, namespace: str, model: LiveModel, request_id: str, known: Known | None = None) -> dict[str, Any]:
        """Return the candidates in order of score; those that can't be ranked, or had, are in ``left_out``."""
        recommender = self._ready(model)
        request = RecommendRequest(body.user_id, namespace, None if body.history is None else tuple(body.history), known=known)
        used = self.known_rows(request, recommender) if request.history is None else recommender.rows_of(namespace, request.history)
        history = used[::-1][: recommender.history_length]
        candidates = dict.fromkeys(body.candidates)
        rows = recommender.rows_of(namespace, candidates)
        barred = self._unavailable(recommender) if body.available else _NO_ROWS
        unknown = [item for item in candidates if not len(recommender.rows_of(namespace, [item]))]
        left_out = [{"item_id": item, "why": "unknown to the version"} for item in unknown]
        left_out += [{"item_id": item, "why": "can't be had"} for item in recommender.ids(rows[np.isin(rows, barred)])]
        rows = rows[~np.isin(rows, barred)]
        scores = recommender.score(history, rows) if len(history) else recommender.popularity(rows)
        order = np.argsort(-scores, kind="stable")[: body.n]
        items = shown_items(recommender, rows[order], scores[order])
        if body.explain and len(history):
            _explain(items, recommender, history, rows[order])
        source = {"source": STUDENT} if len(history) else popular_source(recommender, self.why(request, recommender))
        explained = _explained(recommender) if body.explain and len(history) else {}
        about = {**self.facts(model, request_id), **source, **explained, **missing_of(request)}
        return {"items": items, "left_out": left_out, **about, "user_events": len(history)}

    def popular(self, n: int, namespace: str, filters: Filters, model: LiveModel, request_id: str) -> dict[str, Any]:
        """Return the most popular items, with how often they were used, lately as ``popularity`` says."""
        recommender = self._ready(model)
        among = self._among(filters, namespace, recommender)
        rows, counts = recommender.popular(n, _NO_ROWS, namespace, among)
        facts = {**self.facts(model, request_id), **popular_source(recommender, "asked for")}
        return {"items": shown_items(recommender, rows, counts), **facts, **self._short(recommender, filters, namespace, len(rows), n, among)}

    def facts(self, model: LiveModel, request_id: str) -> dict[str, Any]:
        """Return what every answer of a version says."""
        return {"model_version": model.version, "model_age_s": self.age_s(model), "request_id": request_id}

    def _list(
        self, request: RecommendRequest, one: ListRequest, recommender: Recommender, history: Rows, taken: Rows, seed: str, *, explains: bool
    ) -> tuple[Rows, dict[str, Any]]:
        namespace = request.namespace
        among = self._among(one.filters, namespace, recommender)
        excluded = np.concatenate([taken, recommender.rows_of(namespace, one.exclude)])
        propensities: Mapping[int, float] = {}
        if not len(history):
            rows, scores = recommender.popular(one.n, excluded, namespace, among)
        elif self.exploration is None:
            rows, scores = recommender.rank(history, one.n, excluded, namespace, among)
        else:
            ranked = recommender.rank(history, self.exploration.num_ranked(one.n), excluded, namespace, among)
            rows, scores, propensities = self.exploration.draw(*ranked, one.n, seed)
        items = shown_items(recommender, rows, scores)
        for place, propensity in propensities.items():
            items[place] |= {"explored": True, "propensity": propensity}
        if explains and len(history):
            _explain(items, recommender, history, rows)
        name = {"name": one.name} if one.name else {}
        return rows, {**name, "items": items, **self._short(recommender, one.filters, namespace, len(rows), one.n, among)}

    def _direction_of(self, recommender: Recommender, namespace: str, item_id: str) -> Floats | None:
        """Return where the words point of an item that the version does not know; None when nothing is known of it, or its words are new, too."""
        code = None if self.view is None else self.view.table.codes.get((namespace, item_id))
        if self.view is None or code is None or recommender.content is None:
            return None
        return direction_of(self.view.table.attributes, code, recommender.content)

    def _new_like(
        self, recommender: Recommender, direction: Floats, n: int, namespace: str, filters: Filters, exclude: set[str]
    ) -> list[dict[str, Any]]:
        """Return the items that the version does not know yet whose words point most in a direction, as an answer shows them."""
        new = None if self.view is None else self._newcomers.of(self.map_of(recommender))
        found = [] if new is None else new.like(direction, n, namespace, filters, exclude)
        return [{"item_id": item, "score": round(score, SCORE_DECIMALS), "source": CONTENT} for item, score in found]

    def _short(
        self, recommender: Recommender, filters: Filters, namespace: str, num: int, n: int, among: Among | None, num_new: int = 0
    ) -> dict[str, str]:
        if num == n:
            return {}
        nothing = "; without a log nothing is known of items" if filters.asks_for_attributes and self.view is None else ""
        return {"short": short_of(recommender, namespace, num, n, among, num_new) + nothing}

    def _ready(self, model: LiveModel) -> Recommender:
        model.recommender.leave_out(self._unavailable(model.recommender))
        return model.recommender

    def _unavailable(self, recommender: Recommender) -> Rows:
        return _NO_ROWS if self.view is None else self.map_of(recommender).unavailable_rows()

    def _among(self, filters: Filters, namespace: str, recommender: Recommender) -> Among | None:
        """Return the rows that pass; None when all do that can be had."""
        if filters.passes_all:
            return None
        parts: list[NDArray[np.int32]] = []
        if filters.asks_for_attributes:
            parts.append(_NO_ROWS if self.view is None else self.map_of(recommender).passing_rows(filters))
        if filters.items is not None:
            parts.append(recommender.rows_of(namespace, filters.items))
        rows = parts[0] if parts else np.arange(recommender.num_rows, dtype=np.int32)
        for part in parts[1:]:
            rows = np.intersect1d(rows, part)
        return Among(rows, filters.available)


def _seen(seen: Seen, known: Rows, given: Rows) -> tuple[Rows, ...]:
    """Return the rows that count as seen: of the user's known items, and of a history that was given, the newest if the request says so."""
    if not seen.is_excluded:
        return ()
    return (known, given) if seen.last is None else (known[-seen.last :], given[-seen.last :])


def _explain(items: Sequence[dict[str, Any]], recommender: Recommender, history: Rows, rows: Rows) -> None:
    """Say of each item what its score is made of; the parts sum to it.

    They are ``because`` by history item, newest first, ``bias``, ``own_history`` and, where the version has words, ``content``. Beside them
    ``teachers``: each one's part of what the newest labels expect of the item, where any does.
    """
    parts, bias, own, words = recommender.explain(history, rows)
    names, shown = recommender.ids(history), parts.astype(np.float64).round(SCORE_DECIMALS).tolist()
    whole = {"bias": bias, "own_history": own} | ({} if words is None else {"content": words})
    for at, item in enumerate(items):
        item["because"] = [{"item_id": name, "part": part} for name, part in zip(names, shown[at], strict=True)]
        item.update({name: round(float(values[at]), SCORE_DECIMALS) for name, values in whole.items()})
        if recommender.say is not None and (said := recommender.say.of_row(int(rows[at]))) is not None:
            item["teachers"] = said


def _explained(recommender: Recommender) -> dict[str, Any]:
    """Return what an answer with explanations says of them all."""
    apart = {} if recommender.content is not None else {"content_part": _NOT_APART}
    return apart if recommender.say is None else {**apart, "labels": recommender.say.facts}
