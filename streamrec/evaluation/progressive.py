"""Keep running means of progressive (test-then-train) metrics per model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from streamrec.evaluation.curve import GAIN, METRIC, Curve, without_times
from streamrec.evaluation.ranking import METRICS, PerQuery
from streamrec.state import ComponentState, Impersonal, digest_of

RECENT_QUERIES = 2048
"""Queries that the newest-window means look back over, about one or two batches."""


class Progressive(Impersonal):
    """Sum each model's per-query metrics, over everything and with an exponential window, and keep how they went.

    When steps were is not in the digest: it says nothing of what was learned.

    References: Dawid, "Statistical Theory: The Prequential Approach", JRSS A 1984; Gama et al., "On evaluating stream learning algorithms",
    Machine Learning 2013.

    Attributes:
        curve: Recall@20 over the course of the run.
    """

    name = "metrics"

    def __init__(self) -> None:
        self._sums: dict[str, list[float]] = {}
        self._queries: dict[str, int] = {}
        self._recent: dict[str, list[float]] = {}
        self._recent_weight: dict[str, float] = {}
        self._errors: dict[str, float] = {}
        self.curve = Curve()

    def begin(self, batch: int, at_ms: int, num_events: int) -> None:
        """Begin a step that has read so many records; one that reads none is none."""
        self._errors = {}
        if num_events:
            self.curve.begin(batch, at_ms, num_events)

    def add(self, model: str, values: PerQuery) -> dict[str, float]:
        """Add a batch's per-query values and return its means; an empty batch changes nothing."""
        num = len(values["recall@20"])
        if num == 0:
            return {}
        totals = [float(np.sum(values[name], dtype=np.float64)) for name in METRICS]
        held = self._sums.setdefault(model, [0.0] * len(METRICS))
        self._sums[model] = [old + new for old, new in zip(held, totals, strict=True)]
        self._queries[model] = self._queries.get(model, 0) + num
        keep = float(np.exp(-num / RECENT_QUERIES))
        means = [total / num for total in totals]
        recent = self._recent.get(model, [0.0] * len(METRICS))
        self._recent[model] = [keep * old + (1 - keep) * new for old, new in zip(recent, means, strict=True)]
        self._recent_weight[model] = keep * self._recent_weight.get(model, 0.0) + 1 - keep
        self._errors[model] = self.curve.add(model, values[METRIC])
        return dict(zip(METRICS, means, strict=True))

    def compare(self, student: PerQuery, control: PerQuery) -> None:
        """Add what both found on the same queries, so that the curve also tells their difference with its error."""
        if len(student[METRIC]):
            self._errors[GAIN] = self.curve.add(GAIN, student[METRIC] - control[METRIC])

    def means(self) -> dict[str, dict[str, float]]:
        """Return each model's metric means over all its queries."""
        return {model: {name: total / self._queries[model] for name, total in zip(METRICS, sums, strict=True)} for model, sums in self._sums.items()}

    def recent(self) -> dict[str, dict[str, float]]:
        """Return each model's metric means over about the last `RECENT_QUERIES` queries."""
        weights = self._recent_weight
        # Rounding may bring a mean of ones above 1.
        return {
            model: {name: min(1.0, value / weights[model]) for name, value in zip(METRICS, values, strict=True)}
            for model, values in self._recent.items()
        }

    def told(self) -> dict[str, float]:
        """Return what a version says of itself: each model's recent means as ``MODEL.METRIC``, and over how many queries as ``MODEL.queries``."""
        queries = {f"{model}.queries": float(min(num, RECENT_QUERIES)) for model, num in self._queries.items()}
        return {f"{model}.{name}": value for model, values in self.recent().items() for name, value in values.items()} | queries

    def errors(self) -> dict[str, float]:
        """Return the standard error of each model's mean recall@20 in the step that began last, and of `GAIN`."""
        return dict(self._errors)

    def num_queries(self) -> Mapping[str, int]:
        """Return how many queries each model answered."""
        return dict(self._queries)

    def snapshot(self) -> ComponentState:
        """Return all sums."""
        arrays, meta = self.curve.state()
        meta |= {"sums": dict(self._sums), "queries": dict(self._queries), "recent": dict(self._recent), "recent_weight": dict(self._recent_weight)}
        return ComponentState(arrays, meta)

    def restore(self, base: ComponentState, deltas: Iterable[ComponentState] = ()) -> None:
        """Replace the state; see `streamrec.state.Component`."""
        self._sums = {model: list(values) for model, values in base.meta.get("sums", {}).items()}
        self._queries = dict(base.meta.get("queries", {}))
        self._recent = {model: list(values) for model, values in base.meta.get("recent", {}).items()}
        # Those of states that have no weights began with the first batch's means.
        self._recent_weight = dict.fromkeys(self._recent, 1.0) | base.meta.get("recent_weight", {})
        self._errors = {}
        self.curve.restore(base.arrays, base.meta)

    def digest(self) -> str:
        """Return the SHA-256 of the state but for times, in hex."""
        held = self.snapshot()
        return digest_of(ComponentState(without_times(held.arrays), held.meta))
