"""Say how the teacher of item texts comes to a version, and score with one: it places items that nobody has touched."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from streamrec.config import TeachersConfig
from streamrec.models.projection import decayed, fit
from streamrec.models.text import Encoder, open_encoder
from streamrec.state import ComponentState
from streamrec.teachers.protocol import Kind, Window, content_request
from streamrec.teachers.train_loop import GENERATION
from streamrec.teachers.training import Place


class TextTeacher:
    """Score with what items say of themselves; see `streamrec.teachers.protocol.LoadedTeacher` and `streamrec.models.projection`."""

    def __init__(self, state: ComponentState) -> None:
        arrays = state.arrays
        self.generations = np.asarray(arrays[GENERATION])
        self._decay, self._scale = float(state.meta["decay"]), np.float32(state.meta["scale"])
        self._weights, self._prior = np.asarray(arrays["weights"]), np.asarray(arrays["prior"])
        self._features = features_of(arrays["vectors"], self.generations >= 0)

    def score(self, histories: NDArray[np.int32], candidates: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return raw logits; items without text or vectors are -inf, and so is everything for a history of such."""
        result = np.full((len(histories), len(candidates)), -np.inf, np.float32)
        num = int(np.searchsorted(candidates, len(self.generations)))
        rows = candidates[:num]
        known = np.flatnonzero(self.generations[rows] >= 0)
        query, is_empty = self._query(histories)
        result[:, known] = self._scale * (query @ self._features[rows[known]].T) + self._prior[rows[known]]
        result[is_empty] = -np.inf
        return result

    def represent(self, histories: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return where what follows each history lies among items' features, as a unit vector."""
        query, is_empty = self._query(histories)
        query[is_empty] = 0.0
        return np.asarray(query / np.maximum(np.linalg.norm(query, axis=1, keepdims=True), 1e-9), np.float32)

    def _query(self, histories: NDArray[np.int32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        inside = (histories >= 0) & (histories < len(self.generations))
        known = np.where(inside, histories, 0)
        known = np.where(inside & (self.generations[known] >= 0) if len(self.generations) else inside, known, np.int32(-1)).astype(np.int32)
        is_empty = np.asarray((known < 0).all(1))
        return np.asarray(decayed(self._features, known, self._decay) @ self._weights, np.float32), is_empty


def features_of(vectors: NDArray[np.float16], is_known: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return vectors less the mean of the known rows', zeros for the others. [V, D]."""
    features = vectors.astype(np.float32)
    if is_known.any():
        features -= features[is_known].mean(0)
    features[~is_known] = 0.0
    return features


def encode_rows(texts: Sequence[str], encoder: Encoder, previous: ComponentState | None) -> tuple[NDArray[np.float16], NDArray[np.uint64], int]:
    """Return each text's vector [V, D], its hash [V], 0 where there is no text, and how many texts were encoded.

    A vector that the previous version has of an equal text is taken over, whichever row it was of.
    """
    hashes = np.asarray([_hash(text) for text in texts], np.uint64)
    codes, first, place = np.unique(hashes, return_index=True, return_inverse=True)
    row_then, width = np.full(len(codes), -1), 0
    if previous is not None and previous.meta.get("encoder") == encoder.fingerprint:
        theirs, rows = np.unique(previous.arrays["text_hash"], return_index=True)
        index = np.minimum(np.searchsorted(theirs, codes), len(theirs) - 1)
        row_then = np.where(theirs[index] == codes, rows[index], -1) if len(theirs) else row_then
        width = int(previous.meta["text_dims"])
    new = np.flatnonzero((row_then < 0) & (codes != 0))
    encoded = encoder.encode([texts[row] for row in first[new].tolist()]) if len(new) else np.zeros((0, width), np.float32)
    table = np.zeros((len(codes), encoded.shape[1]), np.float16)
    table[new] = encoded
    held = np.flatnonzero((row_then >= 0) & (codes != 0))
    if previous is not None and len(held):
        table[held] = previous.arrays["vectors"][row_then[held], : table.shape[1]]
    return table[place], hashes, len(new)


def _hash(text: str) -> int:
    if not text.strip():
        return 0
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1


def _refresh(
    payload: ComponentState, previous: ComponentState | None, config: TeachersConfig, seed: int, place: Place | None
) -> tuple[ComponentState, dict[str, object]]:
    window, settings = Window.of(payload, seed, {}), config.text
    encoder = open_encoder(settings.model, settings.max_tokens)
    encoded, hashes, num_encoded = encode_rows(window.texts, encoder, previous)
    vectors = np.concatenate([encoded, *(_unit(given) for given in window.vectors.values())], 1)
    generations = np.where(vectors.any(1), window.generations, np.int32(-1)).astype(np.int32)
    is_known = generations >= 0
    found = fit(features_of(vectors, is_known), is_known, window.sequences, settings.history_decay, settings.max_examples, seed)
    arrays = {"vectors": vectors, "text_hash": hashes, "weights": found.weights, "prior": found.prior, GENERATION: generations}
    meta = {
        "kind": "text", "encoder": encoder.fingerprint, "text_dims": encoded.shape[1], "decay": settings.history_decay, "scale": found.scale,
    }  # fmt: skip
    return ComponentState(arrays, meta), {"num_encoded": num_encoded, "num_known": int(is_known.sum()), "num_sequences": len(window.sequences)}


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float16]:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9), np.float16)


def _check(config: TeachersConfig) -> None:
    open_encoder(config.text.model, config.text.max_tokens)


TEXT = Kind(content_request, _refresh, TextTeacher, _check)
