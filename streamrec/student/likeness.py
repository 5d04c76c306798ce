"""Compare what two versions of a student answer to the same histories: how much of it is the same, and how many items there are in it at all."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from streamrec.features.examples import Examples
from streamrec.soft_labels.scorer import mask_namespaces
from streamrec.student.frozen import FrozenStudent

NUM_HISTORIES, TOP = 16, 20
LEAST_HISTORIES = 8
"""Answers to fewer say nothing of a version."""
MOST_ROWS = 100_000
"""Of more items nobody asks: all are scored, by both versions, before the next step begins."""


class Likeness(NamedTuple):
    """Hold a comparison.

    Attributes:
        coverage: Distinct items in the answers of the one, as a share of those in the other's.
        overlap: Of an answer's items, the share that is in the other's answer too; mean over the histories.
        num: How many histories.
    """

    coverage: float
    overlap: float
    num: int


def likeness(examples: Examples, one: FrozenStudent, other: FrozenStudent) -> Likeness | None:
    """Compare a version with another one, on some of the histories; None where it knows too few of them, or there are too many items.

    The other one's answer to a history of which it knows nothing shares nothing: one that items have turned over since must be beaten measurably.
    """
    if one.num_rows > MOST_ROWS:
        return None
    newest = examples.history[:, :1]
    usable = np.flatnonzero(one.knows(newest)[:, 0])
    if len(usable) < LEAST_HISTORIES:
        return None
    chosen = examples.take(usable[np.linspace(0, len(usable) - 1, min(NUM_HISTORIES, len(usable))).astype(int)])
    mine, theirs = _answers(one, chosen), _answers(other, chosen)
    shared = [len(np.intersect1d(row, beside)) / max(1, len(beside)) for row, beside in zip(mine, theirs, strict=True)]
    covered = [len(np.unique(np.concatenate(rows))) for rows in (mine, theirs)]
    return Likeness(covered[0] / max(1, covered[1]), float(np.mean(shared)), len(chosen))


def _answers(version: FrozenStudent, examples: Examples) -> list[NDArray[np.int64]]:
    scores = version.scores(examples.history)
    mask_namespaces(scores, examples.namespace, version.namespaces)
    best, rows = scores.topk(min(TOP, version.num_rows), dim=1)
    return [
        row[value > float("-inf")].numpy() for row, value in zip(rows, torch.nan_to_num(best, nan=float("-inf"), neginf=float("-inf")), strict=True)
    ]
