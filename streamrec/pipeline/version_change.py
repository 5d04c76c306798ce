"""Say what changed between two versions of a student."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrec.features.vocabulary import item_generations
from streamrec.registry.version import ModelVersion
from streamrec.state import unpack_strings

_EPSILON = 1e-12


def version_change(old: ModelVersion, new: ModelVersion) -> dict[str, Any]:
    """Return what changed: offsets learned by topic and partition, teachers, metrics and settings as (old, new), items, and vectors.

    ``moved`` is of the items that both have: how many have another vector, and the mean and the least cosine between an item's two vectors; None
    where they are of different sizes.
    """
    before, after = _rows(old.arrays), _rows(new.arrays)
    shared = sorted(before.keys() & after.keys())
    ours, theirs = (np.array([rows[item] for item in shared], np.int64) for rows in (before, after))
    return {
        "learned": _learned(old.manifest.offsets, new.manifest.offsets),
        "teachers": _changed(old.manifest.teachers, new.manifest.teachers),
        "metrics": _changed(old.manifest.metrics, new.manifest.metrics),
        "config": _changed(_flat(old.manifest.config), _flat(new.manifest.config)),
        "items": {"before": len(before), "after": len(after), "added": len(after.keys() - before.keys()), "gone": len(before.keys() - after.keys())},
        "moved": _moved(old.arrays["item_vectors"], ours, new.arrays["item_vectors"], theirs),
    }


def _rows(arrays: Mapping[str, NDArray[Any]]) -> dict[tuple[int, str, int], int]:
    """Return the row of each item, by namespace, id and generation."""
    ids = unpack_strings(arrays["item_id_bytes"], arrays["item_id_offsets"])
    codes, generations = arrays["item_namespace"].tolist(), item_generations(arrays).tolist()
    return {(code, item, generation): row for row, (code, item, generation) in enumerate(zip(codes, ids, generations, strict=True)) if code >= 0}


def _moved(old: NDArray[Any], ours: NDArray[np.int64], new: NDArray[Any], theirs: NDArray[np.int64]) -> dict[str, Any] | None:
    if not len(ours) or old.shape[1:] != new.shape[1:]:
        return None
    left, right = old[ours].astype(np.float64), new[theirs].astype(np.float64)
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    cosines = np.where(norms > _EPSILON, (left * right).sum(1) / np.maximum(norms, _EPSILON), 1.0)
    changed = int((left != right).any(1).sum())
    return {"items": len(ours), "changed": changed, "mean_cosine": float(cosines.mean()), "least_cosine": float(cosines.min())}


def _learned(old: Mapping[str, Mapping[int, int]], new: Mapping[str, Mapping[int, int]]) -> dict[str, dict[int, int]]:
    """Return by topic and partition how many offsets lie between."""
    return {topic: {part: end - old.get(topic, {}).get(part, 0) for part, end in ends.items()} for topic, ends in new.items()}


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {name: (old.get(name), new.get(name)) for name in sorted({*old, *new}) if old.get(name) != new.get(name)}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat
