"""Rank one namespace's items for a history with one student version, in numpy only.

The formula is the student's own (``streamrec.models``); a contract test holds that both agree:
w = softmax(position_logits[:L]), p = Σ wᵢ v(hᵢ), q = p·pool_projection + v(h₀)·last_projection, q ← q / max(‖q‖, 1e-6),
score[j] = scale · ⟨v(j), q⟩ + item_bias[j] + Σ_{i: hᵢ = j} own_bias[i].
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamrec.errors import ModelRejected
from streamrec.features.vocabulary import item_generations
from streamrec.serving.catalog import Catalog
from streamrec.serving.content import Content, check_content, units
from streamrec.serving.index import EXACT_ROWS, Floats, Index, Ints, build_index, top
from streamrec.serving.teachers_say import TeachersSay
from streamrec.state import Arrays

_NO_ROWS: NDArray[np.int32] = np.empty(0, np.int32)

# Smallest query norm that is divided by, as in the student: a zero query keeps its direction undefined instead of becoming infinite.
_MIN_NORM = 1e-6

MAX_BY_WORDS = 20_000
"""Of a namespace's items that nobody has used so many are placed by their words, those of the highest rows: 5 MB at 64 dimensions."""


class Among(NamedTuple):
    """Say which rows may be returned.

    Attributes:
        rows: The rows; those of other namespaces do no harm.
        available: Whether those that are left out may not.
    """

    rows: NDArray[np.int32]
    available: bool = True


class _Shelf:
    """One namespace's rows: an index over them, and the way from row to position."""

    def __init__(self, members: NDArray[np.int32], arrays: Arrays, exact_rows: int) -> None:
        num_rows = len(arrays["item_bias"])
        self.members = members
        self.is_all = len(members) == num_rows
        vectors = arrays["item_vectors"] if self.is_all else arrays["item_vectors"][members]
        bias = arrays["item_bias"] if self.is_all else arrays["item_bias"][members]
        self.index: Index = build_index(vectors, bias, exact_rows)
        self.left_out = np.zeros(len(members), np.bool_)
        self._vectors, self._norms = vectors, np.empty(0, np.float32)
        self._by_words: tuple[Ints, Floats] | None = None
        self.by_popularity = np.argsort(-arrays["popularity"][members], kind="stable")
        self._position_of: Ints = np.empty(0, np.int32)
        if not self.is_all:
            self._position_of = np.full(num_rows, -1, np.int32)
            self._position_of[members] = np.arange(len(members))

    def positions(self, rows: NDArray[np.int32]) -> Ints:
        """Return the rows' positions, -1 for rows of another namespace."""
        return rows if self.is_all else self._position_of[rows]

    def among(self, rows: NDArray[np.int32], *, available: bool) -> Ints:
        """Return the positions of these rows, as far as they are members, ascending; without those that are left out if ``available``."""
        positions = np.unique(self.positions(rows))
        positions = positions[positions >= 0]
        return positions[~self.left_out[positions]] if available else positions

    def cosines(self, direction: Floats) -> Floats:
        """Return the cosine between each member's vector and a direction of length 1; zero for a member without a direction. [m]."""
        if not len(self._norms):
            self._norms = np.linalg.norm(self._vectors, axis=1).astype(np.float32)
        return np.asarray((self._vectors @ direction) / np.maximum(self._norms, _MIN_NORM), np.float32)

    def placed_by_words(self, popularity: Floats, content: Content | None) -> tuple[Ints, Floats]:
        """Return the positions of members that nobody has used and that have words, the newest `MAX_BY_WORDS`, and where these point. [u], [u, d]."""
        if self._by_words is None:
            unused = np.empty(0, np.int32) if content is None else self.members[popularity[self.members] == 0][-MAX_BY_WORDS:]
            directions = np.empty((0, self._vectors.shape[1]), np.float32) if content is None else units(content.of_rows(unused))
            placed = directions.any(1)
            self._by_words = self.positions(unused[placed]), directions[placed]
        return self._by_words

    def leave_out(self, rows: NDArray[np.int32]) -> None:
        """Make these rows, as far as they are members, the ones that are never chosen."""
        positions, mask = self.positions(rows), np.zeros(len(self.members), np.bool_)
        mask[positions[positions >= 0]] = True
        if not np.array_equal(mask, self.left_out):
            self.index.leave_out(mask)
            self.left_out = mask


class Recommender:
    """Hold one version, ready to answer.

    Args:
        arrays: The version's arrays; shared and read-only, never copied when there is one namespace.
        meta: ``scale``, ``history_length``, ``dim``, and ``popularity`` where that is of lately.
        catalog: Id translation that already covers these rows; None builds one.
        exact_rows: Rows above which a namespace is searched by FAISS.

    Attributes:
        popularity_facts: After how many seconds of event time a use counts half, and as of when; None in a version that counts all uses ever.

    Raises:
        ModelRejected: An array is missing or has another shape than the others ask for.

    **Contract.** One thread at a time asks.
    """

    def __init__(self, arrays: Arrays, meta: Mapping[str, Any], catalog: Catalog | None = None, exact_rows: int = EXACT_ROWS) -> None:
        check_shapes(arrays, meta)
        self.catalog = catalog if catalog is not None else Catalog(arrays)
        self.num_rows = len(arrays["item_bias"])
        self.generations = item_generations(arrays)
        self.dim = int(meta["dim"])
        self.history_length = int(meta["history_length"])
        self._scale = float(meta["scale"])
        self._vectors: Floats = arrays["item_vectors"]
        self._bias: Floats = arrays["item_bias"]
        self._popularity: Floats = arrays["popularity"]
        counted = meta.get("popularity") or {"factor": 1.0}
        self._popularity_factor = np.float32(counted["factor"])
        self.popularity_facts = {"half_life_s": counted.get("half_life_s"), "as_of_ms": counted.get("as_of_ms")}
        self._own_bias: Floats = arrays["own_bias"]
        self.content = Content.of(arrays)
        self.say = TeachersSay.of(arrays, meta)
        # Both projections as one product: of the pooled history and of the newest item, side by side. [2 dim, dim]
        self._projection: Floats = np.concatenate([arrays["pool_projection"], arrays["last_projection"]])
        self._weights = _weights_of_prefixes(arrays["position_logits"])
        names = self.catalog.namespaces
        codes = arrays["item_namespace"]
        self._left_out = _NO_ROWS
        self._shelves = {
            names[code]: _Shelf(np.flatnonzero(codes == code).astype(np.int32), arrays, exact_rows)
            for code in np.unique(codes).tolist()
            if code >= 0  # Else the row holds no item.
        }

    @property
    def namespaces(self) -> tuple[str, ...]:
        """Return the namespaces that have items."""
        return tuple(self._shelves)

    def num_items(self, namespace: str) -> int:
        """Return how many items the namespace has."""
        shelf = self._shelves.get(namespace)
        return 0 if shelf is None else len(shelf.members)

    def holds(self, namespace: str, row: int) -> bool:
        """Return whether the row is a candidate of the namespace."""
        shelf = self._shelves.get(namespace)
        return shelf is not None and bool((shelf.members == row).any())

    def known_rows(self, rows: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the rows that this version has, in the same order; -1 and rows of later versions go."""
        return rows[(rows >= 0) & (rows < self.num_rows)]

    def leave_out(self, rows: NDArray[np.int32]) -> None:
        """Return none of these rows from now on, and those of before again; they still count in histories. The same array again costs nothing."""
        if rows is not self._left_out:
            for shelf in self._shelves.values():
                shelf.leave_out(rows)
            self._left_out = rows

    def query(self, history: NDArray[np.int32]) -> Floats:
        """Return the scaled query vector [dim] of a non-empty history (rows, newest first, at most ``history_length``)."""
        pooled_and_last: Floats = self._weights[len(history) - 1] @ self._vectors[history]  # [2, dim]
        query: Floats = pooled_and_last.reshape(-1) @ self._projection
        query *= self._scale / max(math.sqrt(query @ query), _MIN_NORM)
        return query

    def num_allowed(self, namespace: str, among: Among | None = None) -> int:
        """Return how many items of the namespace may be returned at all."""
        shelf = self._shelves.get(namespace)
        if shelf is None:
            return 0
        return len(shelf.members) - int(shelf.left_out.sum()) if among is None else len(shelf.among(among.rows, available=among.available))

    def rank(
        self,
        history: NDArray[np.int32],
        n: int,
        excluded: NDArray[np.int32] = _NO_ROWS,
        namespace: str = "default",
        among: Among | None = None,
    ) -> tuple[NDArray[np.int32], Floats]:
        """Return the best rows of the namespace and their scores, best first.

        Args:
            history: Known rows, newest first; those beyond ``history_length`` are ignored. Not empty.
            n: How many rows are wanted; fewer come when the namespace has no more.
            excluded: Rows that may not be returned; rows of other namespaces do no harm.
            namespace: Whose items are candidates.
            among: Only these; None allows all that are not left out.

        Returns:
            Rows [<= n] int32 and scores [<= n] float32.
        """
        shelf = self._shelves.get(namespace)
        if shelf is None:
            return _NO_ROWS, np.empty(0, np.float32)
        history = history[: self.history_length]
        own, own_bias = shelf.positions(history), self._own_bias[: len(history)]
        barred = shelf.positions(excluded)
        if not shelf.is_all:
            inside = own >= 0
            own, own_bias, barred = own[inside], own_bias[inside], barred[barred >= 0]
        if among is None:
            positions, scores = shelf.index.search(self.query(history), own, own_bias, barred, n)
        else:
            allowed = shelf.among(among.rows, available=among.available)
            positions, scores = shelf.index.search_among(self.query(history), own, own_bias, barred, n, allowed)
        return shelf.members[positions], scores

    def directions(self, rows: NDArray[np.int32]) -> Floats:
        """Return where items' vectors point, of length 1 [k, dim]; of one that nobody has used, whose own row says nothing, where its words do."""
        directions = units(self._vectors[rows])
        if self.content is not None:
            unused = np.flatnonzero(self._popularity[rows] == 0)
            by_words = units(self.content.of_rows(rows[unused]))
            placed = by_words.any(1)
            directions[unused[placed]] = by_words[placed]
        return directions

    def similar(
        self, direction: Floats, n: int, excluded: NDArray[np.int32], namespace: str, among: Among | None = None
    ) -> tuple[NDArray[np.int32], Floats]:
        """Return the rows of the namespace that point most in a direction of length 1, see `directions`, and their cosines, best first."""
        shelf = self._shelves.get(namespace)
        if shelf is None:
            return _NO_ROWS, np.empty(0, np.float32)
        cosines = shelf.cosines(direction)
        unused, directions = shelf.placed_by_words(self._popularity, self.content)
        cosines[unused] = directions @ direction
        barred = shelf.positions(excluded)
        cosines[barred[barred >= 0]] = -np.inf
        allowed = np.flatnonzero(~shelf.left_out) if among is None else shelf.among(among.rows, available=among.available)
        best, values = top(cosines[allowed], n)
        return shelf.members[allowed[best]], values

    def score(self, history: NDArray[np.int32], rows: NDArray[np.int32]) -> Floats:
        """Return the scores of some rows [k] for a history, as `rank` gives them."""
        history = history[: self.history_length]
        scores: Floats = self._vectors[rows] @ self.query(history) + self._bias[rows] + self._own(history, rows)
        return scores

    def popularity(self, rows: NDArray[np.int32]) -> Floats:
        """Return how often some rows were used lately, as `popularity_facts` says; ever, where these say nothing. [k]."""
        counts: Floats = self._popularity[rows] * self._popularity_factor
        return counts

    def explain(self, history: NDArray[np.int32], rows: NDArray[np.int32]) -> tuple[Floats, Floats, Floats, Floats | None]:
        """Return what the scores of some rows are made of: from each history item [k, h], the bias, the own-history bias and their words' part [k].

        The query is linear in the history's vectors up to its norm, so each item's part of the score is its part of the query, by that norm. With
        a row's vector less its words' that is what history items add, with its words' it is what these add; None where the version has none.
        """
        history = history[: self.history_length]
        vectors, (pooled, last) = self._vectors[history], self._weights[len(history) - 1]
        parts = np.concatenate([pooled[:, None] * vectors, last[:, None] * vectors], axis=1) @ self._projection  # [h, dim]
        whole = parts.sum(0)
        parts *= self._scale / max(math.sqrt(whole @ whole), _MIN_NORM)
        own, words = self._vectors[rows], None
        if self.content is not None:
            content = self.content.of_rows(rows)
            own, words = own - content, np.asarray(content @ parts.sum(0), np.float32)
        return own @ parts.T, self._bias[rows], self._own(history, rows), words

    def _own(self, history: NDArray[np.int32], rows: NDArray[np.int32]) -> Floats:
        own: Floats = (rows[:, None] == history[None, :]) @ self._own_bias[: len(history)]
        return own

    def popular(
        self, n: int, excluded: NDArray[np.int32] = _NO_ROWS, namespace: str = "default", among: Among | None = None
    ) -> tuple[NDArray[np.int32], Floats]:
        """Return the namespace's most popular rows and their popularity, best first."""
        shelf = self._shelves.get(namespace)
        if shelf is None:
            return _NO_ROWS, np.empty(0, np.float32)
        if among is not None:
            allowed = np.zeros(len(shelf.members), np.bool_)
            allowed[shelf.among(among.rows, available=among.available)] = True
            candidates = shelf.members[shelf.by_popularity[allowed[shelf.by_popularity]]]
            chosen = candidates[~np.isin(candidates, excluded)][:n]
            return chosen, self.popularity(chosen)
        size = n + len(excluded)
        while True:
            best = shelf.by_popularity[:size]
            candidates = shelf.members[best[~shelf.left_out[best]]]
            chosen = candidates[~np.isin(candidates, excluded)][:n]
            if len(chosen) == n or size >= len(shelf.members):
                return chosen, self.popularity(chosen)
            size *= 4

    def recommend(
        self, history: NDArray[np.int32], n: int, excluded: NDArray[np.int32] = _NO_ROWS, namespace: str = "default"
    ) -> tuple[list[str], list[float]]:
        """Return item ids and scores, best first; see `rank`."""
        rows, scores = self.rank(history, n, excluded, namespace)
        return self.ids(rows), scores.tolist()

    def ids(self, rows: NDArray[np.int32]) -> list[str]:
        """Return the rows' item ids."""
        id_of = self.catalog.id_of
        return [id_of(row) for row in rows.tolist()]


def check_shapes(arrays: Arrays, meta: Mapping[str, Any]) -> None:
    """Refuse arrays that don't fit each other.

    Raises:
        ModelRejected: With the array, its shape and the shape that is needed.
    """
    missing = [key for key in ("scale", "history_length", "dim") if key not in meta]
    if missing or "item_bias" not in arrays:
        what = "Model: a part is missing"
        raise ModelRejected(what, got=f"no {', '.join(missing) or 'item_bias'}", do="publish the version again")
    rows, dim, length = len(arrays["item_bias"]), int(meta["dim"]), int(meta["history_length"])
    wanted: dict[str, tuple[int, ...]] = {
        "item_vectors": (rows, dim),
        "popularity": (rows,),
        "item_namespace": (rows,),
        "item_id_offsets": (rows + 1,),
        "position_logits": (length,),
        "own_bias": (length,),
        "pool_projection": (dim, dim),
        "last_projection": (dim, dim),
    }
    for name, shape in wanted.items():
        if name not in arrays or arrays[name].shape != shape:
            got = arrays[name].shape if name in arrays else "nothing"
            what = f"Model: array {name} does not fit the others"
            raise ModelRejected(what, got=got, allowed=shape, do="publish the version again")
    num_namespaces = len(arrays["namespace_offsets"]) - 1
    codes = arrays["item_namespace"]
    if rows and (codes.min() < -1 or codes.max() >= num_namespaces):
        what = "Model: array item_namespace names a namespace that isn't there"
        bad = int(codes.max() if codes.max() >= num_namespaces else codes.min())
        raise ModelRejected(what, got=bad, allowed=f"-1 to {num_namespaces - 1}", do="publish the version again")
    check_content(arrays)
    if item_generations(arrays).shape != (rows,):
        what = "Model: array item_generation does not fit the others"
        raise ModelRejected(what, got=item_generations(arrays).shape, allowed=(rows,), do="publish the version again")


def _weights_of_prefixes(logits: Floats) -> list[Floats]:
    """Return for L = 1 … len(logits) the rows (softmax(logits[:L]), 1 for the newest item) [2, L]: one table per version, no softmax per request."""
    tables: list[Floats] = []
    for length in range(1, len(logits) + 1):
        table = np.zeros((2, length), np.float32)
        table[0] = np.exp(logits[:length] - logits[:length].max())
        table[0] /= table[0].sum()
        table[1, 0] = 1.0
        tables.append(table)
    return tables
