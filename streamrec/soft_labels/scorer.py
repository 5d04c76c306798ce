"""Score examples with teacher versions; lives in a long-lived actor, but knows nothing of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from streamrec.evaluation.ranking import ranks_from_scores
from streamrec.features.examples import Examples
from streamrec.soft_labels.schema import CANDIDATES_A_LABEL, PROBE_FACTORS, TeacherScores
from streamrec.state import ComponentState
from streamrec.storage import open_storage
from streamrec.teachers.kinds import load_teacher
from streamrec.teachers.protocol import LoadedTeacher
from streamrec.teachers.store import TeacherStore

_CHUNK = 512
_PROBED = 128

NUM_THREADS = 2
"""While one chunk is scored another one is: most of a step nobody else asks for the second core."""


class RowFacts(NamedTuple):
    """Hold what rows are at this moment.

    Attributes:
        namespaces: Namespace code of each row, -1 where it is free. [V] int32
        generations: Generation of each row's item. [V] int32
    """

    namespaces: NDArray[np.int32]
    generations: NDArray[np.int32]

    def known_to(self, teacher: LoadedTeacher) -> NDArray[np.bool_]:
        """Return which rows hold the items that the teacher learned on them. [V] bool."""
        known = np.zeros(len(self.generations), bool)
        num = min(len(known), len(teacher.generations))
        known[:num] = (self.generations[:num] >= 0) & (self.generations[:num] == teacher.generations[:num])
        return known


class Scorer:
    """Score batches with the teacher versions that a plan names.

    **Contract.** `score` gives the same answer for the same versions and examples, whoever asks and however often. Versions are loaded
    when first asked for; of each teacher only the version last asked for, and one that was to be kept beside it, stay in memory.
    """

    def __init__(self, storage_url: str, top_k: int, load: Callable[[ComponentState], LoadedTeacher] = load_teacher) -> None:
        torch.set_num_threads(1)
        self._load = load
        self._store = TeacherStore(open_storage(storage_url))
        self._top_k = top_k
        self._loaded: dict[str, dict[str, LoadedTeacher]] = {}
        self._pool: ThreadPoolExecutor | None = None

    def score(
        self,
        examples: Examples,
        teachers: Mapping[str, str],
        temperatures: Mapping[str, float],
        rows: RowFacts,
        seen: list[NDArray[np.int32]] | None = None,
        beside: Mapping[str, str] | None = None,
    ) -> dict[str, TeacherScores]:
        """Score all rows of each query's namespace with each teacher.

        Args:
            examples: Q queries.
            teachers: Teacher name to version.
            temperatures: Teacher name to temperature.
            rows: What rows hold now; a teacher does not know rows that held other items when it was asked for.
            seen: Rows that are no candidates when ranks are taken, per query.
            beside: Teacher name to a version that is asked for in turn with this one, and so stays loaded.
        """
        for name, version in teachers.items():
            kept = {version, (beside or {}).get(name)}
            self._loaded[name] = {held: teacher for held, teacher in self._loaded.get(name, {}).items() if held in kept}
        asked = {name: self._teacher(name, version) for name, version in teachers.items()}
        known = {name: rows.known_to(teacher) for name, teacher in asked.items()}
        chunks = [np.arange(start, min(start + _CHUNK, len(examples))) for start in range(0, max(len(examples), 1), _CHUNK)]

        def score_chunk(name: str, index: NDArray[np.int64]) -> TeacherScores:
            chunk, own_seen = examples.take(index), None if seen is None else [seen[query] for query in index]
            namespaces = np.where(known[name], rows.namespaces, np.int32(-1))
            with torch.no_grad():  # It is each thread's own.
                began_s = time.thread_time()  # Two score at a time: what one costs is no matter of how long it waited for a core.
                scores = torch.from_numpy(asked[name].score(_known_of(chunk.history, known[name]), np.arange(len(namespaces), dtype=np.int32)))
                mask_namespaces(scores, chunk.namespace, namespaces)
                answer = _summarise(scores, chunk, teachers[name], temperatures.get(name, 1.0), self._top_k, own_seen)
                return replace(answer, seconds=time.thread_time() - began_s)

        if self._pool is None:  # How many threads torch has is each thread's own, too.
            self._pool = ThreadPoolExecutor(NUM_THREADS, "score", torch.set_num_threads, (torch.get_num_threads(),))
        pairs = [(name, chunk) for chunk in chunks for name in teachers]
        parts = list(self._pool.map(score_chunk, *zip(*pairs, strict=True))) if pairs else []
        return {name: _joined(parts[at :: len(teachers)]) for at, name in enumerate(teachers)}

    def represent(self, examples: Examples, teachers: Mapping[str, str], rows: RowFacts) -> dict[str, NDArray[np.float32]]:
        """Return each teacher's vector of each query's history, of those that have vectors; zeros for one of items that it does not know. [Q, E]."""
        found = {}
        for name, version in teachers.items():
            teacher = self._teacher(name, version)
            known = rows.known_to(teacher)
            with torch.no_grad():
                vectors = teacher.represent(_known_of(examples.history, known))
            if vectors is not None:
                found[name] = vectors
        return found

    def hold(self, teacher: str, version: str) -> None:
        """Load a version before it is asked for.

        Raises:
            Damaged: See `streamrec.teachers.store.TeacherStore.load`.
        """
        self._teacher(teacher, version)

    def _teacher(self, name: str, version: str) -> LoadedTeacher:
        held = self._loaded.setdefault(name, {})
        if version not in held:
            held[version] = self._load(self._store.load(name, version))
        return held[version]


def _known_of(history: NDArray[np.int32], known: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Return histories without the items that a teacher does not know. [Q, N]."""
    return np.where(history >= 0, np.where(known[np.maximum(history, 0)], history, -1), -1).astype(np.int32)


def _joined(parts: list[TeacherScores]) -> TeacherScores:
    """Join a teacher's answers to chunks of queries."""
    probe = {factor: float(np.mean([part.probe[factor] for part in parts])) for factor in PROBE_FACTORS}
    joined: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in ("rows", "logits", "log_norm", "target_logits", "target_ranks")
    }
    return replace(parts[0], probe=probe, seconds=sum(part.seconds for part in parts), **joined)


def mask_namespaces(scores: torch.Tensor, of_query: NDArray[np.int32], of_rows: NDArray[np.int32]) -> None:
    """Set rows of other namespaces, and of none (-1), to -inf, in place: scores [Q, V]."""
    if len(of_rows) and (of_rows[0] < 0 or (of_rows != of_rows[0]).any()):
        scores[torch.from_numpy(of_query[:, None] != of_rows[None, :])] = float("-inf")


def mask_seen(scores: torch.Tensor, seen: list[NDArray[np.int32]]) -> torch.Tensor:
    """Return scores with each query's seen rows at -inf: scores [Q, V]."""
    query = np.repeat(np.arange(len(seen)), [len(rows) for rows in seen])
    masked = scores.clone()
    masked[torch.from_numpy(query), torch.from_numpy(np.concatenate([*seen, np.zeros(0, np.int32)]).astype(np.int64))] = float("-inf")
    return masked


def _summarise(
    scores: torch.Tensor, chunk: Examples, version: str, temperature: float, top_k: int, seen: list[NDArray[np.int32]] | None
) -> TeacherScores:
    logits, rows = scores.topk(min(CANDIDATES_A_LABEL * top_k, scores.shape[1]), dim=1)
    padded = torch.where(torch.isneginf(logits), torch.full_like(rows, -1), rows)
    query = torch.from_numpy(chunk.query_of_target)
    target_logits = scores[query, torch.from_numpy(chunk.target_rows.astype(np.int64))]
    target_logits[target_logits < logits[query, -1]] = float("-inf")
    # Other temperatures are tried on some of the queries.
    probed = torch.arange(0, len(chunk), max(1, len(chunk) // _PROBED))
    known = torch.isin(query, probed) & ~torch.isneginf(target_logits)
    probe = dict.fromkeys(PROBE_FACTORS, 0.0)
    for factor in PROBE_FACTORS if bool(known.any()) else ():
        norm = torch.logsumexp(logits[query[known]] / (temperature * factor), 1)
        probe[factor] = float((target_logits[known] / (temperature * factor) - norm).mean())
    log_norm = torch.logsumexp(logits / temperature, 1)
    return TeacherScores(
        version, padded.numpy().astype(np.int32), logits.numpy(), log_norm.numpy(), target_logits.numpy(),
        ranks_from_scores(scores if seen is None else mask_seen(scores, seen), chunk), temperature, probe,
    )  # fmt: skip
