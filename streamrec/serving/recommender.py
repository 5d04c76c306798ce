"""Rank one namespace's items for a history with one student version, in numpy and FAISS only.

The formula is the student's own (``streamrec.models``); a contract test holds that both agree:
score[j] = ⟨v(j), q⟩ + item_bias[j] + Σ_{i: hᵢ = j} own_bias[i], with the query q of `streamrec.serving.encoder`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrec.errors import ModelRejected
from streamrec.features.vocabulary import item_generations
from streamrec.registry.version import apply_delta, make_delta
from streamrec.serving.catalog import IDENTITY, Catalog
from streamrec.serving.changes import Changes
from streamrec.serving.content import Content, check_content, units
from streamrec.serving.encoder import Encoder
from streamrec.serving.index import EXACT_ROWS, ExactIndex, Floats, Ints, top
from streamrec.serving.shelf import PER_ITEM, Among, Shelf
from streamrec.serving.teachers_say import TeachersSay
from streamrec.state import Arrays, ComponentState

_NO_ROWS: NDArray[np.int32] = np.empty(0, np.int32)
_BY_ROWS = (*PER_ITEM, "item_namespace")
# An index is measured on so many histories, half of them of one item and half of two that need not have anything in common.
_NUM_QUERIES = 128
_SEED = 1

MAX_BY_WORDS = 20_000
"""Of a namespace's items that nobody has used so many are placed by their words, those of the highest rows: 5 MB at 64 dimensions."""


class Recommender:
    """Hold one version, ready to answer.

    Args:
        arrays: The version's arrays; small catalogues of one namespace share the items' vectors, read-only, all else is copied.
        meta: ``scale``, ``history_length``, ``dim``, and ``popularity`` where that is of lately.
        catalog: Id translation that already covers these rows; None builds one.
        exact_rows: Rows above which a namespace is searched approximately.

    Attributes:
        popularity_facts: After how many seconds of event time a use counts half, and as of when; None in a version that counts all uses ever.

    Raises:
        ModelRejected: An array is missing or has another shape than the others ask for.

    **Contract.** One thread at a time asks; another one may meanwhile make the next version, and ask it.
    """

    def __init__(self, arrays: Arrays, meta: Mapping[str, Any], catalog: Catalog | None = None, exact_rows: int = EXACT_ROWS) -> None:
        check_shapes(arrays, meta)
        # Copies, so that a version doesn't keep the whole one alive that it came with.
        rest = {name: np.array(array) for name, array in arrays.items() if name not in PER_ITEM and name not in IDENTITY}
        self._take(rest, np.array(arrays["item_namespace"]), meta, catalog if catalog is not None else Catalog(arrays), exact_rows)
        self._shelve({}, None, lambda: arrays)

    def _take(self, rest: Arrays, codes: Ints, meta: Mapping[str, Any], catalog: Catalog, exact_rows: int) -> None:
        """Become a version without shelves; ``rest`` is what neither they nor the catalog hold."""
        self.catalog, self.num_rows = catalog, len(codes)
        self._codes, self.generations = codes, catalog.generations[: len(codes)]
        self.dim, self.history_length = int(meta["dim"]), int(meta["history_length"])
        self._rest, self._meta, self._exact_rows = rest, dict(meta), exact_rows
        self._encoder = Encoder(rest, float(meta["scale"]))
        self._own_bias: Floats = rest["own_bias"]
        self.content, self.say = Content.of(rest), TeachersSay.of(rest, meta)
        counted = meta.get("popularity") or {"factor": 1.0}
        self._popularity_factor = np.float32(counted["factor"])
        self.popularity_facts = {"half_life_s": counted.get("half_life_s"), "as_of_ms": counted.get("as_of_ms")}
        self._by_words: dict[str, tuple[Ints, Floats]] = {}
        self._left_out = _NO_ROWS

    def _shelve(self, older: Mapping[int, Shelf], changes: Changes | None, whole: Callable[[], Arrays]) -> None:
        """Make a shelf per namespace that has items, and one, -1, of the rows without an item if positions are not rows.

        Args:
            older: The shelves of the version before.
            changes: What has changed since, by rows; None when it is not known.
            whole: Gives the version's arrays, for shelves that can't be made from older ones.
        """
        codes = self._codes
        sizes = np.bincount(codes + 1)
        present = (np.flatnonzero(sizes) - 1).tolist()
        is_only = sum(code >= 0 for code in present) == 1
        self._by_code: dict[int, Shelf] = {}
        for code in present:
            if code < 0 and is_only:
                continue
            exact_rows = self._exact_rows if code >= 0 else len(codes)
            old, size = older.get(code), len(codes) if is_only else int(sizes[code + 1])
            shelf = None
            if changes is not None and old is not None and old.is_all == is_only and (len(old.index) <= exact_rows) == (size <= exact_rows):
                shelf = old.updated(code, codes, changes, self._sample)
            self._by_code[code] = Shelf.build(code, whole(), exact_rows, self._sample, is_only=is_only) if shelf is None else shelf
        self._shelves = {self.catalog.namespaces[code]: shelf for code, shelf in self._by_code.items() if code >= 0}
        self._only = self._by_code[present[-1]] if is_only else None

    def _sample(self, vectors: Callable[[Ints], Floats], counts: Floats) -> Floats:
        """Return queries [num, dim] of drawn histories; popular positions are drawn more often."""
        rng, weights = np.random.default_rng(_SEED), np.maximum(counts, 0) + 1.0
        drawn = rng.choice(len(counts), (_NUM_QUERIES, 2), p=weights / weights.sum()).astype(np.int32)
        return np.stack([self._encoder.query(vectors(pair[: 1 + at % min(2, self.history_length)])) for at, pair in enumerate(drawn)])

    def updated(self, delta: ComponentState) -> Recommender:
        """Return the version that a delta of `streamrec.registry.version.make_delta` makes of this one, which answers as before.

        It costs what has changed, and a few passes over a number per row. Where rows change their namespaces, shelves are made anew.

        Raises:
            Damaged: The delta does not fit.
            ModelRejected: What it makes does not fit itself.
        """
        changes = Changes(delta)
        if not changes.is_by_rows(_BY_ROWS) or changes.touches(("namespace_bytes", "namespace_offsets")):
            return self._updated_whole(delta)
        codes = changes.applied({"item_namespace": self._codes})["item_namespace"]
        rest = changes.applied(self._rest)
        num = {name: changes.num_rows(name, self.num_rows) for name in PER_ITEM}
        stand_ins: dict[str, NDArray[Any]] = {name: np.broadcast_to(np.float32(0), (size,)) for name, size in num.items()}
        stand_ins["item_vectors"] = np.broadcast_to(np.float32(0), (num["item_vectors"], *changes.of("item_vectors")[1].shape[1:]))
        offsets = changes.num_rows("item_id_offsets", self.num_rows + 1) if "item_id_offsets" in changes.names else 0
        check_shapes({**rest, **stand_ins, "item_namespace": codes, "item_id_offsets": np.broadcast_to(np.int64(0), (offsets,))}, changes.meta)
        catalog = self.catalog.changed(self.num_rows, changes, rest)
        result = object.__new__(Recommender)
        result._take(rest, codes, changes.meta, catalog, self._exact_rows)
        result._shelve(self._by_code, changes, lambda: apply_delta(self.arrays(), delta)[0])
        return result

    def settle(self) -> bool:
        """Do some of what an update left for later; False when nothing is left. See `streamrec.serving.index.Index.settle`."""
        return any(shelf.index.settle() for shelf in self._by_code.values())

    def followed_by(self, arrays: Arrays, meta: Mapping[str, Any]) -> Recommender:
        """Return the version that these arrays are; of a large catalogue it shares with this one what they have in common.

        Raises:
            ModelRejected: An array is missing or has another shape than the others ask for.
        """
        check_shapes(arrays, meta)
        if all(self.is_exact(name) for name in self.namespaces):
            return Recommender(arrays, meta, self.catalog.follow(arrays), self._exact_rows)
        return self.updated(make_delta(self.arrays(), arrays, meta))

    def _updated_whole(self, delta: ComponentState) -> Recommender:
        arrays, meta = apply_delta(self.arrays(), delta)
        check_shapes(arrays, meta)
        return Recommender(arrays, meta, self.catalog.follow(arrays), self._exact_rows)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the version's arrays, put together again; of a large catalogue a copy."""
        arrays = {**self._rest, **self.catalog.arrays(self.num_rows), "item_namespace": self._codes}
        whole: dict[str, NDArray[Any]] = {"item_vectors": np.zeros((self.num_rows, self.dim), np.float32)}
        whole |= {name: np.zeros(self.num_rows, np.float32) for name in ("item_bias", "popularity")}
        for shelf in self._by_code.values():
            positions = np.arange(len(shelf.index), dtype=np.int32)
            rows = shelf.rows(positions)
            whole["item_vectors"][rows], whole["item_bias"][rows] = shelf.index.vectors(positions), shelf.index.bias(positions)
            whole["popularity"][rows] = shelf.popularity.counts
        return arrays | whole

    @property
    def namespaces(self) -> tuple[str, ...]:
        """Return the namespaces that have items."""
        return tuple(self._shelves)

    def num_items(self, namespace: str) -> int:
        """Return how many items the namespace has."""
        shelf = self._shelves.get(namespace)
        return 0 if shelf is None else shelf.num_items

    def holds(self, namespace: str, row: int) -> bool:
        """Return whether the row is a candidate of the namespace."""
        shelf = self._shelves.get(namespace)
        return shelf is not None and shelf.holds(row)

    def is_exact(self, namespace: str) -> bool:
        """Return whether `rank` finds exactly the best rows of the namespace, whatever is asked."""
        shelf = self._shelves.get(namespace)
        return shelf is None or isinstance(shelf.index, ExactIndex)

    def index_facts(self) -> dict[str, dict[str, Any]]:
        """Return how each namespace is searched; see `streamrec.serving.index.Index.facts`."""
        return {name: shelf.index.facts() for name, shelf in self._shelves.items()}

    def rows_of(self, namespace: str, item_ids: Iterable[str]) -> NDArray[np.int32]:
        """Return the rows of the items that this version has, in the same order; a catalog may know more."""
        row_of, num_rows = self.catalog.rows_in(namespace), self.num_rows
        return np.array([row for item_id in item_ids if 0 <= (row := row_of.get(item_id, -1)) < num_rows], np.int32)

    def leave_out(self, rows: NDArray[np.int32]) -> None:
        """Return none of these rows from now on, and those of before again; they still count in histories. The same array again costs nothing."""
        if rows is not self._left_out:
            for shelf in self._shelves.values():
                shelf.leave_out(rows)
            self._left_out = rows

    def query(self, history: NDArray[np.int32]) -> Floats:
        """Return the scaled query vector [dim] of a non-empty history (rows, newest first, at most ``history_length``)."""
        return self._encoder.query(self._vectors(history))

    def num_allowed(self, namespace: str, among: Among | None = None) -> int:
        """Return how many items of the namespace may be returned at all."""
        shelf = self._shelves.get(namespace)
        if shelf is None:
            return 0
        return shelf.num_items - shelf.num_left_out() if among is None else len(shelf.among(among.rows, available=among.available))

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
        return shelf.rows(positions), scores

    def directions(self, rows: NDArray[np.int32]) -> Floats:
        """Return where items' vectors point, of length 1 [k, dim]; of one that nobody has used, whose own row says nothing, where its words do."""
        directions = units(self._vectors(rows))
        if self.content is not None:
            unused = np.flatnonzero(self.popularity(rows) == 0)
            by_words = units(self.content.of_rows(rows[unused]))
            placed = by_words.any(1)
            directions[unused[placed]] = by_words[placed]
        return directions

    def is_placed(self, rows: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Return of which rows `directions` says something: somebody has used the item, or the version has learned words of it. [k]."""
        is_used: NDArray[np.bool_] = self.popularity(rows) > 0
        return is_used if self.content is None else is_used | self.content.of_rows(rows).any(1)

    def _placed_by_words(self, namespace: str) -> tuple[Ints, Floats]:
        """Return the positions of items that nobody has used and that have words, the newest `MAX_BY_WORDS`, and where these point. [u], [u, d]."""
        found = self._by_words.get(namespace)
        if found is None:
            shelf = self._shelves[namespace]
            unused, directions = np.empty(0, np.int32), np.empty((0, self.dim), np.float32)
            if self.content is not None:
                unused = np.flatnonzero((shelf.popularity.counts == 0) & ~shelf.absent).astype(np.int32)[-MAX_BY_WORDS:]
                directions = units(self.content.of_rows(shelf.rows(unused)))
            placed = directions.any(1)
            found = self._by_words[namespace] = unused[placed], directions[placed]
        return found

    def similar(
        self, direction: Floats, n: int, excluded: NDArray[np.int32], namespace: str, among: Among | None = None
    ) -> tuple[NDArray[np.int32], Floats]:
        """Return the rows of the namespace that point most in a direction of length 1, see `directions`, and their cosines, best first."""
        shelf = self._shelves.get(namespace)
        if shelf is None:
            return _NO_ROWS, np.empty(0, np.float32)
        cosines = shelf.index.cosines(direction)
        unused, directions = self._placed_by_words(namespace)
        cosines[unused] = directions @ direction
        barred = shelf.positions(excluded)
        cosines[barred[barred >= 0]] = -np.inf
        allowed = np.flatnonzero(~shelf.left_out) if among is None else shelf.among(among.rows, available=among.available)
        best, values = top(cosines[allowed], n)
        return shelf.rows(allowed[best].astype(np.int32)), values

    def score(self, history: NDArray[np.int32], rows: NDArray[np.int32]) -> Floats:
        """Return the scores of some rows [k] for a history, as `rank` gives them."""
        history = history[: self.history_length]
        scores: Floats = self._vectors(rows) @ self.query(history) + self._bias(rows) + self._own(history, rows)
        return scores

    def popularity(self, rows: NDArray[np.int32]) -> Floats:
        """Return how often some rows were used lately, as `popularity_facts` says; ever, where these say nothing. [k]."""
        counts = self._gathered(rows, lambda shelf, positions: shelf.popularity.counts[positions], ())
        return np.asarray(counts * self._popularity_factor, np.float32)

    def explain(self, history: NDArray[np.int32], rows: NDArray[np.int32]) -> tuple[Floats, Floats, Floats, Floats | None]:
        """Return what the scores of some rows are made of: from each history item [k, h], the bias, the own-history bias and their words' part [k].

        With a row's vector less its words' that is what history items add, with its words' it is what these add; None where the version has none.
        """
        history = history[: self.history_length]
        parts = self._encoder.parts(self._vectors(history))
        own, words = self._vectors(rows), None
        if self.content is not None:
            content = self.content.of_rows(rows)
            own, words = own - content, np.asarray(content @ parts.sum(0), np.float32)
        return own @ parts.T, self._bias(rows), self._own(history, rows), words

    def popular(
        self, n: int, excluded: NDArray[np.int32] = _NO_ROWS, namespace: str = "default", among: Among | None = None
    ) -> tuple[NDArray[np.int32], Floats]:
        """Return the namespace's most popular rows and their popularity, best first."""
        shelf = self._shelves.get(namespace)
        if shelf is None:
            return _NO_ROWS, np.empty(0, np.float32)
        rows, counts = shelf.popular(n, excluded, among)
        return rows, np.asarray(counts * self._popularity_factor, np.float32)

    def recommend(
        self, history: NDArray[np.int32], n: int, excluded: NDArray[np.int32] = _NO_ROWS, namespace: str = "default"
    ) -> tuple[list[str], list[float]]:
        """Return item ids and scores, best first; see `rank`."""
        rows, scores = self.rank(history, n, excluded, namespace)
        return self.ids(rows), scores.tolist()

    def ids(self, rows: NDArray[np.int32]) -> list[str]:
        """Return the rows' item ids."""
        return self.catalog.ids_of(rows.tolist())

    def _own(self, history: NDArray[np.int32], rows: NDArray[np.int32]) -> Floats:
        own: Floats = (rows[:, None] == history[None, :]) @ self._own_bias[: len(history)]
        return own

    def _vectors(self, rows: NDArray[np.int32]) -> Floats:
        if self._only is not None:
            return self._only.index.vectors(rows)
        return self._gathered(rows, lambda shelf, positions: shelf.index.vectors(positions), (self.dim,))

    def _bias(self, rows: NDArray[np.int32]) -> Floats:
        return self._gathered(rows, lambda shelf, positions: shelf.index.bias(positions), ())

    def _gathered(self, rows: NDArray[np.int32], of: Callable[[Shelf, Ints], Floats], shape: tuple[int, ...]) -> Floats:
        """Return what the rows' shelves say of them. [k, ...]."""
        if self._only is not None:
            return of(self._only, rows)
        values, codes = np.empty((len(rows), *shape), np.float32), self._codes[rows]
        for code in np.unique(codes).tolist():
            mine, shelf = codes == code, self._by_code[code]
            values[mine] = of(shelf, shelf.positions(rows[mine]))
        return values


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
    num_ordered = min(max(1, len(arrays.get("last_projection", ())) // dim), length)
    wanted: dict[str, tuple[int, ...]] = {
        "item_vectors": (rows, dim),
        "popularity": (rows,),
        "item_namespace": (rows,),
        "item_id_offsets": (rows + 1,),
        "position_logits": (length,),
        "own_bias": (length,),
        "pool_projection": (dim, dim),
        "last_projection": (num_ordered * dim, dim),
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
