"""Test without a fixed number of looks whether paired scores fall short: an e-process, which may be looked at after each step.

With the scores c and l, of 0 to 1, of a candidate and of what it is compared with on the same query, and a tolerance t, the shortfall is
ξ = (1 - t) l - c, never below -1. While the candidate is not worse by more than the tolerance, so that E[ξ | past] <= 0, for each λ in [0, 1)

    E_n(λ) = exp(λ Σ ξ_i - ψ(λ) Σ ξ_i²),  ψ(λ) = -log(1 - λ) - λ,

is a supermartingale that begins at 1, because exp(λ ξ - ψ(λ) ξ²) <= 1 + λ ξ for ξ >= -1, and so is its mean over a grid of λ. By Ville's
inequality it ever reaches 1 / α with a probability of at most α, however often and whenever somebody looks, for any number of queries.

References:
    Howard, Ramdas, McAuliffe, Sekhon: Time-uniform, nonparametric, nonasymptotic confidence sequences, Annals of Statistics 2021,
    arXiv:1810.08240, Theorem 4. Fan, Grama, Liu: Exponential inequalities for martingales with applications, 2015, arXiv:1311.6273 (the bound).

**Deviation**: the squares are taken around 0 instead of a running mean, so that sums are all that has to be kept; paired differences are near 0.
Queries of one step are scored by fixed weights, so "past" may be read as the steps before; queries of one user are not independent of each other.
"""

from __future__ import annotations

import math

import numpy as np

_RATES = np.geomspace(0.005, 0.9, 12)
"""The grid: small ones find small losses over many queries, large ones a collapse over few."""
_COSTS = -np.log1p(-_RATES) - _RATES


def log_evidence(total: float, squares: float) -> float:
    """Return the e-process' logarithm.

    Args:
        total: Sum of the shortfalls, each at least -1.
        squares: Sum of their squares.

    Example:
        >>> round(log_evidence(0.0, 0.0), 3), log_evidence(40.0, 40.0) > 6.0 > 0.0 > log_evidence(-40.0, 40.0)
        (0.0, True)
    """
    exponents = _RATES * total - _COSTS * squares
    largest = float(exponents.max())
    return largest + math.log(float(np.exp(exponents - largest).mean()))
