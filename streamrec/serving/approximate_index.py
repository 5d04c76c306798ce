"""Search many rows approximately, for one version of a model among several that share slots.

Shapes: m positions, C slots, d dimensions, h history items.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray

from streamrec.serving.index import MIN_NORM, ExactIndex, Floats, Ints, Sample, product, top
from streamrec.serving.slots import Slots
from streamrec.serving.waiting import LEAST_WAITING, MOST_WAITING, Waiting

# What a build aims at: the share of the exact best 20 that is found, over its sample of queries; and what is enough once a search reads so many rows.
_TARGET, _ENOUGH, _MANY_READ = 0.995, 0.98, 5_000
_MEASURED_N = 20
# Where codes are rounded so many more than are wanted, and a share of these, are fetched and scored again.
_MORE, _MORE_SHARE = 4, 0.25
# So many are scored by hand: it is exact, and takes no longer than a search of many lists in which few are allowed.
BY_HAND_ROWS = 5_000
_FIRST_ROOM = 1024
# Above one changed position of so many a bitmap is made anew.
_FEW = 16


class Chosen(NamedTuple):
    """Say how an index searches and what that was measured to find.

    Attributes:
        num_probes: Lists that are read for 20 rows.
        overlap: Share of the exact best 20 that was found over a sample of queries.
    """

    num_probes: int
    overlap: float


class ApproximateIndex:
    """Search one version's rows by inverted lists, score exactly what they give, and return the best of it.

    What a search finds may lack a few of the best; its scores are exact, and it is never shorter than it has to be. What a delta has changed is
    scored one by one at first, so that the version can go live, and enters the lists by `settle`.

    Args:
        slots: Holds the vectors.
        slot_of: The slot of each position. [m]
        allowed: Positions that are not left out at first. [m]
        chosen: How to search; None reads every list.
        bitmap: The bits of the slots that lists hold for this version and that are allowed; None where they hold all.

    **Contract.** As `streamrec.serving.index.Index`; other versions of the same slots may be asked and made by other threads meanwhile.
    """

    def __init__(
        self,
        slots: Slots,
        slot_of: Ints,
        allowed: NDArray[np.bool_],
        chosen: Chosen | None = None,
        bitmap: NDArray[np.uint8] | None = None,
    ) -> None:
        self.slot_of = slot_of
        slots.add_user(self)
        self._slots, self._allowed, self._num_allowed = slots, allowed, int(allowed.sum())
        self._mine: tuple[Waiting, Waiting] | None = None
        self.chosen = Chosen(slots.num_lists, 1.0) if chosen is None else chosen
        self._asked = np.zeros((1, slots.width), np.float32)
        self._asked[0, slots.vectors.shape[1]] = slots.query_norm
        self._make_room(_FIRST_ROOM)
        self._bitmap = self._bitmap_of(slot_of[allowed]) if bitmap is None else bitmap
        self._parameters: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self.slot_of)

    def search(self, query: Floats, own: Ints, own_bias: Floats, excluded: Ints, n: int) -> tuple[Ints, Floats]:
        """Return the best positions and their scores; see `Index.search`."""
        if self._num_allowed > BY_HAND_ROWS:
            waiting = self._slots.waiting
            num_probes = self._probes_for(n, self._num_allowed)
            parameters = self._parameters.get(num_probes)
            if parameters is None:
                parameters = self._parameters[num_probes] = _under(self._bitmap, num_probes)
            best, scores = self._search(query, own, own_bias, excluded, n, parameters, self._allowed, waiting)
            if len(best) == n:
                return best, scores
        return self._by_hand(query, own, own_bias, excluded, n, np.flatnonzero(self._allowed).astype(np.int32))

    def search_among(self, query: Floats, own: Ints, own_bias: Floats, excluded: Ints, n: int, among: Ints) -> tuple[Ints, Floats]:
        """Score few by hand, search many under a bitmap; see `Index.search_among`."""
        if len(among) > BY_HAND_ROWS:
            waiting, is_allowed = self._slots.waiting, np.zeros(len(self), np.bool_)
            is_allowed[among] = True
            parameters = _under(self._bitmap_of(_without(waiting, self.slot_of[among])), self._probes_for(n, len(among)))
            best, scores = self._search(query, own, own_bias, excluded, n, parameters, is_allowed, waiting)
            if len(best) == n:
                return best, scores
        return self._by_hand(query, own, own_bias, excluded, n, among)

    def leave_out(self, mask: NDArray[np.bool_]) -> None:
        """Flip the bits of what has changed; see `Index.leave_out`."""
        allowed = ~mask
        with self._slots.bits_lock:
            changed = np.flatnonzero(allowed != self._allowed)
            self._allowed, self._num_allowed = allowed, int(allowed.sum())
            if len(changed) * _FEW > len(mask):
                self._bitmap[:] = self._bitmap_of(_without(self._slots.waiting, self.slot_of[allowed]))  # In place: searches hold it.
                return
            _set_bits(self._bitmap, _without(self._slots.waiting, self.slot_of[changed[~mask[changed]]]))
            _clear_bits(self._bitmap, self.slot_of[changed[mask[changed]]])

    def settle(self) -> bool:
        """Enter some of what waits into lists; see `Index.settle`."""
        return self._slots.settle()

    def entered(self, now: Waiting) -> None:
        """Let searches of lists find those that are this version's and allowed; see `streamrec.serving.slots.User`."""
        is_mine = now.owned(self.slot_of)
        _set_bits(self._bitmap, now.slots[is_mine][self._allowed[now.positions[is_mine]]])

    def updated(self, positions: Ints, vectors: Floats, bias: Floats, sample: Sample) -> ApproximateIndex:
        """Write what has changed into free slots; into new ones, measured anew, when there are not as many; see `Index.updated`."""
        num = max(len(self), int(positions.max(initial=-1)) + 1)
        written = self._slots.write(positions, vectors, bias)
        with self._slots.bits_lock:
            bitmap, allowed, slot_of = self._bitmap.copy(), np.ones(num, np.bool_), np.empty(num, np.int32)
            allowed[: len(self)], slot_of[: len(self)] = self._allowed, self.slot_of
        if written is not None:
            _clear_bits(bitmap, self.slot_of[positions[positions < len(self)]])
            slot_of[positions] = written
            result = ApproximateIndex(self._slots, slot_of, allowed, self.chosen, bitmap)
            while not LEAST_WAITING <= self._slots.num_waiting <= MOST_WAITING and self._slots.settle():
                pass
            return result
        whole, whole_bias = np.empty((num, vectors.shape[1]), np.float32), np.empty(num, np.float32)
        whole[: len(self)], whole_bias[: len(self)] = self._slots.vectors[self.slot_of], self._slots.bias[self.slot_of]
        whole[positions], whole_bias[positions] = vectors, bias
        rebuilt = build_approximate(whole, whole_bias, sample)
        rebuilt.leave_out(~allowed)
        return rebuilt

    def _mine_of(self, waiting: Waiting) -> Waiting:
        """Return what waits of this version."""
        if self._mine is None or self._mine[0] is not waiting:
            self._mine = waiting, waiting.only(waiting.owned(self.slot_of))
        return self._mine[1]

    def vectors(self, positions: Ints) -> Floats:
        """Return the vectors of some positions. [k, d]."""
        return self._slots.vectors.take(self.slot_of.take(positions), 0)

    def bias(self, positions: Ints) -> Floats:
        """Return their biases. [k]."""
        return self._slots.bias.take(self.slot_of.take(positions))

    def cosines(self, direction: Floats) -> Floats:
        """Return the cosine between each vector and a direction of length 1; see `Index.cosines`."""
        slots = self._slots
        used = slots.vectors[: slots.num_written]
        cosines = (used @ direction) / np.maximum(slots.norms[: len(used)], MIN_NORM)
        return np.asarray(cosines[self.slot_of], np.float32)

    def facts(self) -> dict[str, Any]:
        """Return how it searches, with how many ``lists`` there are and how many of them are ``read``; see `Index.facts`."""
        return {"kind": "lists", "overlap": round(self.chosen.overlap, 4), "lists": self._slots.num_lists, "read": self.chosen.num_probes}

    def measured(self, queries: Floats) -> Chosen:
        """Return the fewest lists to read that find as many of the best as is aimed at, for queries [num, d]; all lists when none do."""
        nothing, none = np.empty(0, np.int32), np.empty(0, np.float32)
        everything = np.arange(len(self), dtype=np.int32)
        n = min(_MEASURED_N, len(self))
        best = [set(self._by_hand(query, nothing, none, nothing, n, everything)[0].tolist()) for query in queries]
        overlap, num_probes, mean_size = 0.0, 0, len(self) / self._slots.num_lists
        while overlap < (_ENOUGH if num_probes * mean_size > _MANY_READ else _TARGET) and num_probes < self._slots.num_lists:
            # 1, 2, 3, 4, 6, 8, 12, 16 …
            num_probes = min(num_probes + max(1, 1 << num_probes.bit_length() >> 2), self._slots.num_lists)
            parameters = _under(self._bitmap, num_probes)
            found = [self._search(query, nothing, none, nothing, n, parameters, self._allowed, None)[0].tolist() for query in queries]
            overlap = float(np.mean([len(exact.intersection(rows)) / n for exact, rows in zip(best, found, strict=True)]))
        return Chosen(num_probes, overlap)

    def _search(
        self,
        query: Floats,
        own: Ints,
        own_bias: Floats,
        excluded: Ints,
        n: int,
        parameters: Any,
        is_allowed: NDArray[np.bool_],
        waiting: Waiting | None,
    ) -> tuple[Ints, Floats]:
        # What depends on the request touches few positions: those found are dropped, and those of the history scored by hand. In Python, whose steps
        # are cheaper than as many calls of numpy.
        barred = set(excluded.tolist())
        mine: dict[int, float] = {}
        for position, bias in zip(own.tolist(), own_bias.tolist(), strict=True):
            if position not in barred and is_allowed[position]:
                mine[position] = mine.get(position, 0.0) + bias
        num = n + len(barred) + len(mine)
        found = self._fetch(query, num, parameters)
        if waiting is not None:
            found = self._mine_of(waiting).with_best(found, query, num, is_allowed)
        best = [(-score, position) for score, position in found if position not in barred and position not in mine]
        if mine:
            positions = np.fromiter(mine, np.int32)
            scores = self.vectors(positions) @ query + self.bias(positions)
            best += [(-score - bias, position) for score, (position, bias) in zip(scores.tolist(), mine.items(), strict=True)]
        best.sort()  # Ties go to the lower position.
        del best[n:]
        return np.array([position for _, position in best], np.int32), np.array([-score for score, _ in best], np.float32)

    def _by_hand(self, query: Floats, own: Ints, own_bias: Floats, excluded: Ints, n: int, among: Ints) -> tuple[Ints, Floats]:
        slots, places = self._slots, self.slot_of[among]
        scores = product(slots.vectors[: slots.num_written], query, places) + slots.bias[places]
        at = np.searchsorted(among, own)
        inside = at < len(among)
        inside[inside] = among[at[inside]] == own[inside]
        np.add.at(scores, at[inside], own_bias[inside])
        scores[np.isin(among, excluded)] = -np.inf
        best, best_scores = top(scores, n)
        return among[best], best_scores

    def _fetch(self, query: Floats, num: int, parameters: Any) -> Iterable[tuple[float, int]]:
        """Return (score, position) of ``num`` or a few more of the largest products of codes with the query, fewer when the lists hold no more."""
        slots = self._slots
        num = min(num if slots.is_exact else num + _MORE + int(_MORE_SHARE * num), len(self))
        if num > len(self._found):
            self._make_room(2 * num)
        self._asked[0, : len(query)] = query
        slots.search(self._query, num, *self._results, parameters)
        found = self._found[:num]
        if found[-1] < 0:
            found = found[found >= 0]
        scores = self._scores[: len(found)]
        if not slots.is_exact:
            scores = slots.vectors.take(found, 0) @ query
            scores += slots.bias.take(found)
        return zip(scores.tolist(), slots.position_of.take(found).tolist(), strict=True)

    def _make_room(self, num: int) -> None:
        self._found, self._scores = np.empty(num, np.int64), np.empty(num, np.float32)
        self._query, self._results = faiss.swig_ptr(self._asked), (faiss.swig_ptr(self._scores), faiss.swig_ptr(self._found))

    def _probes_for(self, n: int, num_allowed: int) -> int:
        """Return how many lists hold as many that are allowed, for each one that is wanted, as in the measurement."""
        num_wanted = self.chosen.num_probes * max(n, _MEASURED_N) * len(self)
        return min(-(-num_wanted // (_MEASURED_N * num_allowed)), self._slots.num_lists)

    def _bitmap_of(self, slots: Ints) -> NDArray[np.uint8]:
        mask = np.zeros(self._slots.capacity, np.bool_)
        mask[slots] = True
        return np.packbits(mask, bitorder="little")


def _without(waiting: Waiting | None, slots: Ints) -> Ints:
    """Return the slots that don't wait."""
    return slots if waiting is None else slots[~np.isin(slots, waiting.slots, assume_unique=True)]


def _set_bits(bitmap: NDArray[np.uint8], slots: Ints) -> None:
    np.bitwise_or.at(bitmap, slots >> 3, np.left_shift(1, slots & 7).astype(np.uint8))


def _clear_bits(bitmap: NDArray[np.uint8], slots: Ints) -> None:
    np.bitwise_and.at(bitmap, slots >> 3, ~np.left_shift(1, slots & 7).astype(np.uint8))


def _under(bitmap: NDArray[np.uint8], num_probes: int) -> Any:
    """Return the library's parameters of a search in so many lists that finds only slots whose bit is set; they follow the bitmap's changes."""
    library: Any = faiss  # Its stubs know only the signatures of C++.
    return library.SearchParametersIVF(nprobe=num_probes, sel=library.IDSelectorBitmap(bitmap))


def build_approximate(vectors: Floats, bias: Floats, sample: Sample) -> ApproximateIndex:
    """Return an index over vectors [m, d] that reads as many lists as the queries of ``sample``, [num, d] and scaled, ask for."""
    queries = sample(ExactIndex(vectors, bias))
    slots = Slots(vectors, bias, max(float(np.linalg.norm(queries, axis=1).mean()), MIN_NORM))
    index = ApproximateIndex(slots, np.arange(len(bias), dtype=np.int32), np.ones(len(bias), np.bool_))
    index.chosen = index.measured(queries)
    return index
