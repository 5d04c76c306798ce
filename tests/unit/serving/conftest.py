"""Students with random weights, and the scoring formula written out naively."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from streamrec.state import pack_strings

Version = tuple[dict[str, np.ndarray], dict[str, Any]]


def make_version(
    num_rows: int, dim: int = 8, history_length: int = 6, namespaces: tuple[str, ...] = ("default",), seed: int = 0, prefix: str = "item"
) -> Version:
    """Return random arrays whose rows keep their ids when ``num_rows`` grows."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(num_rows, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids, id_offsets = pack_strings([f"{prefix}-{row}" for row in range(num_rows)])
    names, name_offsets = pack_strings(namespaces)
    arrays = {
        "item_vectors": vectors,
        "item_bias": rng.normal(scale=0.3, size=num_rows).astype(np.float32),
        "popularity": rng.integers(0, 1000, num_rows).astype(np.float32),
        "item_namespace": (np.arange(num_rows) % len(namespaces)).astype(np.int32),
        "item_id_bytes": ids,
        "item_id_offsets": id_offsets,
        "namespace_bytes": names,
        "namespace_offsets": name_offsets,
        "position_logits": (-0.3 * np.arange(history_length)).astype(np.float32),
        "own_bias": rng.normal(scale=2.0, size=history_length).astype(np.float32),
        "pool_projection": rng.normal(size=(dim, dim)).astype(np.float32),
        "last_projection": rng.normal(size=(dim, dim)).astype(np.float32),
    }
    return arrays, {"scale": 9.0, "history_length": history_length, "dim": dim}


def naive_scores(version: Version, history: list[int]) -> np.ndarray:
    """Return the score of every row, in float64, by the formula as it is written."""
    arrays, meta = version
    history = history[: meta["history_length"]]
    logits = arrays["position_logits"][: len(history)].astype(np.float64)
    weights = np.exp(logits) / np.exp(logits).sum()
    vectors = arrays["item_vectors"].astype(np.float64)
    pooled = sum(weight * vectors[row] for weight, row in zip(weights, history, strict=True))
    query = pooled @ arrays["pool_projection"] + vectors[history[0]] @ arrays["last_projection"]
    query /= max(np.linalg.norm(query), 1e-6)
    scores = meta["scale"] * (vectors @ query) + arrays["item_bias"]
    for place, row in enumerate(history):
        scores[row] += arrays["own_bias"][place]
    return scores


@pytest.fixture
def version() -> Callable[..., Version]:
    return make_version


@pytest.fixture
def naive() -> Callable[..., np.ndarray]:
    return naive_scores
