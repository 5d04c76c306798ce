"""Score with a published version's arrays, exactly as serving does, over many histories at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from streamrec.evaluation.ranking import UNRANKED, ranks_from_scores
from streamrec.features.examples import Examples
from streamrec.features.vocabulary import item_generations
from streamrec.soft_labels.scorer import mask_namespaces, mask_seen
from streamrec.state import Arrays

_CHUNK = 2048


class FrozenStudent:
    """Rank with immutable version arrays, in a stream that may have given some of their rows to other items since.

    Args:
        arrays: See the format of a version in docs/formats.md.
        meta: ``scale`` and ``history_length``.
    """

    def __init__(self, arrays: Arrays, meta: dict[str, Any]) -> None:
        self.arrays = arrays
        self.meta = meta
        self.num_rows = len(arrays["item_bias"])
        self.generations = item_generations(arrays)
        self.namespaces = np.where(self.generations >= 0, arrays["item_namespace"], np.int32(-1))
        names = ("item_vectors", "item_bias", "position_logits", "own_bias", "pool_projection", "last_projection")
        self._tensors = {name: torch.from_numpy(np.array(arrays[name])) for name in names}

    def forget_rows(self, rows: NDArray[np.int32]) -> None:
        """Make rows unknown, because their items have left: no candidates, and skipped in histories."""
        self.namespaces[rows[rows < self.num_rows]] = -1

    def knows(self, rows: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Return which rows hold an item that the version has."""
        inside = (rows >= 0) & (rows < self.num_rows)
        if not inside.any():
            return inside
        return inside & (self.namespaces[np.where(inside, rows, 0)] >= 0)

    def scores(self, history: NDArray[np.int32]) -> torch.Tensor:
        """Score all rows: history [Q, N], newest first, -1 pads; items the version lacks are skipped → [Q, V].

        A history without a known item gives -inf everywhere.
        """
        known = np.where(self.knows(history), history, -1)
        compact = np.take_along_axis(known, np.argsort(known < 0, axis=1, kind="stable"), 1)
        index = torch.from_numpy(compact.astype(np.int64))
        inside = index >= 0
        index = index.clamp(min=0)
        tensors = self._tensors
        vectors = tensors["item_vectors"]
        logits = tensors["position_logits"].expand_as(index).masked_fill(~inside, float("-inf"))
        empty = ~inside[:, 0]
        weights = torch.softmax(logits.masked_fill(empty[:, None], 0.0), 1)
        pooled = torch.nn.functional.embedding_bag(index, vectors, per_sample_weights=weights, mode="sum")
        num = len(tensors["last_projection"]) // vectors.shape[1]
        recent = (vectors[index[:, :num]] * inside[:, :num, None]).flatten(1)  # [Q, num * D]
        query = pooled @ tensors["pool_projection"] + recent @ tensors["last_projection"][: recent.shape[1]]
        query = query / query.norm(dim=1, keepdim=True).clamp(min=1e-6)
        scores = torch.addmm(tensors["item_bias"], query, vectors.T, alpha=float(self.meta["scale"]))
        scores.scatter_add_(1, index, tensors["own_bias"].expand(index.shape) * inside)
        scores[empty] = float("-inf")
        return scores

    def ranks(self, examples: Examples, seen: list[NDArray[np.int32]] | None = None) -> NDArray[np.int32]:
        """Rank each target among the rows of its namespace, less the seen ones. [T] int32."""
        if self.num_rows == 0:
            return np.full(len(examples.target_rows), UNRANKED, np.int32)
        namespaces = self.namespaces
        parts = [np.zeros(0, np.int32)]
        for start in range(0, len(examples), _CHUNK):
            index = np.arange(start, min(start + _CHUNK, len(examples)))
            chunk = examples.take(index)
            scores = self.scores(chunk.history)
            mask_namespaces(scores, chunk.namespace, namespaces)
            if seen is not None:
                scores = mask_seen(scores, [rows[rows < self.num_rows] for rows in (seen[i] for i in index)])
            parts.append(ranks_from_scores(scores, chunk))
        return np.concatenate(parts)

    def target_log_probs(self, examples: Examples) -> NDArray[np.float32]:
        """Return each target's log-probability among the rows of its namespace, -inf where it is none of them. [T] float32."""
        if not self.num_rows:
            return np.full(len(examples.target_rows), -np.inf, np.float32)
        scores = self.scores(examples.history)
        mask_namespaces(scores, examples.namespace, self.namespaces)
        norm = torch.logsumexp(scores, 1)
        query, target = examples.query_of_target, examples.target_rows.astype(np.int64)
        known = (target < self.num_rows) & torch.isfinite(norm).numpy()[query]
        result = np.full(len(target), -np.inf, np.float32)
        rows = torch.from_numpy(query[known])
        result[known] = (scores[rows, torch.from_numpy(target[known])] - norm[rows]).numpy()
        return result

    def probes(self, examples: Examples, num_probes: int = 4, top: int = 10) -> dict[str, list[list[float]]]:
        """Return the expected answers to a few histories, for whoever loads the version to check.

        Returns:
            ``history`` (item rows, newest first), ``top`` (item rows, best first) and ``score``, a list per probe. Candidates are the
            rows of the history's namespace.
        """
        probes: dict[str, list[list[float]]] = {"history": [], "top": [], "score": []}
        usable = np.flatnonzero((examples.history[:, 0] >= 0) & (self.knows(examples.history) == (examples.history >= 0)).all(1))
        if len(usable) == 0:
            return probes
        chosen = examples.take(usable[np.linspace(0, len(usable) - 1, min(num_probes, len(usable))).astype(int)])
        scores = self.scores(chosen.history)
        mask_namespaces(scores, chosen.namespace, self.namespaces)
        best, rows = scores.topk(min(top, self.num_rows), dim=1)
        for history, score, row in zip(chosen.history.tolist(), best.tolist(), rows.tolist(), strict=True):
            real = [value > float("-inf") for value in score]
            probes["history"].append([item for item in history if item >= 0])
            probes["top"].append([item for item, ok in zip(row, real, strict=True) if ok])
            probes["score"].append([value for value, ok in zip(score, real, strict=True) if ok])
        return probes
