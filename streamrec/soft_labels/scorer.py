"""Score examples with teacher versions; lives in a long-lived actor, but knows nothing of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from streamrec.config import TransformerConfig
from streamrec.errors import RegistryError
from streamrec.evaluation.ranking import ranks_from_scores
from streamrec.features.examples import Examples
from streamrec.soft_labels.schema import CANDIDATES_A_LABEL, PROBE_FACTORS, TeacherScores
from streamrec.state import ComponentState
from streamrec.storage import open_storage
from streamrec.teachers.store import TeacherStore
from streamrec.teachers.train_loop import build_transformer

_CHUNK = 1024
_PROBED = 128


class LoadedTeacher(Protocol):
    """A teacher version ready to score.

    Attributes:
        generations: Generation of the item that it learned on each row, -1 on rows that it does not know. [rows] int32
    """

    generations: NDArray[np.int32]

    def scores(self, history: NDArray[np.int32], num_rows: int) -> torch.Tensor:
        """Return raw logits of all rows, -inf where unknown: history [Q, N], newest first → [Q, num_rows]."""
        ...


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


class TransformerTeacher:
    """Score with the sequential transformer's state after the newest item."""

    def __init__(self, state: ComponentState) -> None:
        shape = state.meta["shape"]
        self._length = int(shape["length"])
        self._num_items = int(state.meta["num_items"])
        self.generations = np.asarray(state.arrays.get("generation", np.zeros(self._num_items, np.int32)))
        config = TransformerConfig(dim=shape["dim"], num_layers=shape["num_layers"], num_heads=shape["num_heads"], sequence_length=shape["length"])
        self._model = build_transformer(self.generations, config, state).eval()

    def scores(self, history: NDArray[np.int32], num_rows: int) -> torch.Tensor:
        """Return raw logits; see `LoadedTeacher`. A history of nothing but newer items gives -inf everywhere."""
        known = np.where(history < self._num_items, history, -1)
        order = np.argsort(known < 0, axis=1, kind="stable")  # Known items to the front, still newest first.
        compact = np.take_along_axis(known, order, 1)[:, : self._length]
        sizes = (compact >= 0).sum(1)
        position = np.arange(compact.shape[1])[None, :]
        oldest_first = np.take_along_axis(compact, np.where(position < sizes[:, None], sizes[:, None] - 1 - position, position), 1)
        last = self._last_states(torch.from_numpy(oldest_first.astype(np.int64)), sizes)
        result = torch.full((len(history), num_rows), float("-inf"))
        result[:, : self._num_items] = self._model.logits(last)
        result[torch.from_numpy(sizes == 0)] = float("-inf")
        return result

    def _last_states(self, sequences: torch.Tensor, sizes: NDArray[np.int64]) -> torch.Tensor:
        """Return the state after each sequence's last item; sequences of like length go together, so that little padding is computed."""
        last = torch.zeros(len(sequences), self._model.items.weight.shape[1])
        order = np.argsort(sizes, kind="stable")
        for index in np.array_split(order, max(1, len(order) // 128)):
            if len(index):
                chosen, ends = torch.from_numpy(index), torch.from_numpy(np.maximum(sizes[index] - 1, 0))
                last[chosen] = self._model.states_at(sequences[chosen, : int(ends.max()) + 1], ends)
        return last


class LinearTeacher:
    """Score with the closed-form item-item weights."""

    def __init__(self, state: ComponentState) -> None:
        self._weights = torch.tensor(np.array(state.arrays["weights"]))
        self._rows = torch.tensor(state.arrays["rows"].astype(np.int64))
        self._decay = float(state.meta["decay"])
        self._slot = np.full(int(state.arrays["rows"].max(initial=-1)) + 1, -1, np.int64)
        self._slot[state.arrays["rows"]] = np.arange(len(self._rows))
        self.generations = np.full(len(self._slot), -1, np.int32)
        self.generations[state.arrays["rows"]] = state.arrays.get("generation", 0)

    def scores(self, history: NDArray[np.int32], num_rows: int) -> torch.Tensor:
        """Return raw logits; see `LoadedTeacher`."""
        known = (history >= 0) & (history < len(self._slot))
        slots = torch.from_numpy(np.where(known, self._slot[np.where(known, history, 0)], -1))
        result = torch.full((len(history), num_rows), float("-inf"))
        inside = slots >= 0
        decay = self._decay ** torch.arange(slots.shape[1], dtype=torch.float32) * inside
        # The history's few rows of the weights, summed: the same as the decayed history times the weights.
        result[:, self._rows] = torch.nn.functional.embedding_bag(slots.clamp(min=0), self._weights, per_sample_weights=decay, mode="sum")
        result[(slots < 0).all(1)] = float("-inf")
        return result


def load_teacher(state: ComponentState) -> LoadedTeacher:
    """Make a scorer of a stored version.

    Raises:
        RegistryError: The version is of a kind that this release does not know.
    """
    kinds: dict[str, Callable[[ComponentState], LoadedTeacher]] = {"transformer": TransformerTeacher, "linear": LinearTeacher}
    kind = str(state.meta.get("kind"))
    if kind not in kinds:
        what = "Teacher: unknown kind"
        raise RegistryError(what, got=repr(kind), allowed=", ".join(kinds), do="use the release that wrote the version")
    return kinds[kind](state)


class Scorer:
    """Score batches with the teacher versions that a plan names.

    **Contract.** `score` gives the same answer for the same versions and examples, whoever asks and however often. Versions are loaded
    when first asked for; of each teacher only the version last asked for, and one that was to be kept beside it, stay in memory.
    """

    def __init__(self, storage_url: str, top_k: int) -> None:
        torch.set_num_threads(1)
        self._store = TeacherStore(open_storage(storage_url))
        self._top_k = top_k
        self._loaded: dict[str, dict[str, LoadedTeacher]] = {}

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
        with torch.no_grad():
            return {
                name: self._score_one(self._teacher(name, version), version, examples, temperatures.get(name, 1.0), rows, seen)
                for name, version in teachers.items()
            }

    def _teacher(self, name: str, version: str) -> LoadedTeacher:
        held = self._loaded.setdefault(name, {})
        if version not in held:
            held[version] = load_teacher(self._store.load(name, version))
        return held[version]

    def _score_one(
        self,
        teacher: LoadedTeacher,
        version: str,
        examples: Examples,
        temperature: float,
        rows: RowFacts,
        seen: list[NDArray[np.int32]] | None,
    ) -> TeacherScores:
        parts = []
        known = rows.known_to(teacher)
        namespaces = np.where(known, rows.namespaces, np.int32(-1))
        for start in range(0, max(len(examples), 1), _CHUNK):
            index = np.arange(start, min(start + _CHUNK, len(examples)))
            chunk = examples.take(index)
            history = np.where(chunk.history >= 0, np.where(known[np.maximum(chunk.history, 0)], chunk.history, -1), -1).astype(np.int32)
            scores = teacher.scores(history, len(namespaces))
            mask_namespaces(scores, chunk.namespace, namespaces)
            parts.append(_summarise(scores, chunk, version, temperature, self._top_k, None if seen is None else [seen[i] for i in index]))
        probe = {factor: float(np.mean([part.probe[factor] for part in parts])) for factor in PROBE_FACTORS}
        joined = {
            name: np.concatenate([getattr(part, name) for part in parts]) for name in ("rows", "logits", "log_norm", "target_logits", "target_ranks")
        }
        return TeacherScores(version=version, temperature=temperature, probe=probe, **joined)


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
