"""A teacher that a package brings, in numpy alone: what followed what, with the counts of the version before fading."""

from __future__ import annotations

from typing import Any

import numpy as np

from streamrec.state import ComponentState
from streamrec.teachers.protocol import Window


class CoOccurrence:
    @staticmethod
    def refresh(window: Window, previous: ComponentState | None) -> ComponentState:
        counts = np.zeros((window.num_items, window.num_items), np.float32)
        if previous is not None:
            kept = np.flatnonzero(window.known(previous))
            counts[np.ix_(kept, kept)] = float(window.settings.get("fade", 0.5)) * previous.arrays["counts"][np.ix_(kept, kept)]
        before, after = window.sequences[:, :-1].ravel(), window.sequences[:, 1:].ravel()
        np.add.at(counts, (before[after >= 0], after[after >= 0]), 1.0)
        return ComponentState({"counts": counts})

    def __init__(self, version: ComponentState) -> None:
        self._counts = np.asarray(version.arrays["counts"])

    def score(self, histories: Any, candidates: Any) -> Any:
        held = histories >= 0
        if not histories.shape[1]:
            return np.full((len(histories), len(candidates)), -np.inf, np.float32)
        newest = np.take_along_axis(histories, held.argmax(1)[:, None], 1)[:, 0]
        counts = self._counts[newest][:, candidates]
        scores = np.log(counts + 0.1, dtype=np.float32)
        scores[~held.any(1)] = -np.inf
        return scores
