"""Say how much of what was learned block by block is still there at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Forgetting(NamedTuple):
    """Hold what a model kept of blocks that it learned one after the other.

    Attributes:
        la: Learning accuracy: mean score on a block right after it was learned.
        ra: Retained accuracy: mean score on the same blocks after the last one.
        h_mean: Harmonic mean of both, high only when both are.
    """

    la: float
    ra: float
    h_mean: float


def forgetting(learned: Sequence[float], retained: Sequence[float]) -> Forgetting | None:
    """Return LA, RA and their harmonic mean, each block counting once; None without a block.

    The questions are ones that the model has learned the answers to, so figures compare within a protocol only. What a model is worth, the
    progressive metrics say.

    Args:
        learned: Score on each block right after it was learned.
        retained: Score on each after the last one.

    References: Lee et al., "Continual Collaborative Distillation for Recommender System", KDD 2024, arXiv:2405.19046 (CCD, which reports all three).

    Example:
        >>> forgetting([0.75, 0.25], [0.5, 0.0])
        Forgetting(la=0.5, ra=0.25, h_mean=0.3333333333333333)
    """
    if not learned:
        return None
    la, ra = sum(learned) / len(learned), sum(retained) / len(retained)
    return Forgetting(la, ra, 2 * la * ra / (la + ra) if la + ra else 0.0)
