"""Hold many vectors in numbered slots that several versions share, with inverted lists over them that change while others search.

Shapes: C slots, m vectors, d dimensions. Positions count within a version, slots within `Slots`.
"""

from __future__ import annotations

import math
import threading
from typing import Any, Protocol
from weakref import WeakSet

import faiss
import numpy as np
from numpy.typing import NDArray

from streamrec.serving.waiting import Waiting

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
Codes = NDArray[np.uint8]

# FAISS scores codes of a multiple of so many dimensions with vector instructions, others four times as slowly.
_ALIGNED = 8
_SPARE = 0.5
_MIN_SPARE = 64
_MOST_LISTS = 2048
_ROWS_PER_CENTROID = 32
_TRAINING_ROUNDS = 8
_SEED = 1
# A request waits for the lock at most as long as so many rows take to write, a fraction of a millisecond.
_WRITTEN_AT_ONCE = 128
# Their products with all centroids, 4 MB, stay in the processor's cache.
_ASSIGNED_AT_ONCE = 512
_FILLED_AT_ONCE = 4096
# Lists are made so much longer than they are, so that they take no room twice while they grow and shrink.
_ROOM = 1.2
# How far beyond the range that was seen at the build, as a share of it, codes reach.
_HEADROOM = 0.2
# Codes are the numbers themselves up to so much memory: their products need no second look.
EXACT_BYTES = 64 * 2**20


class User(Protocol):
    """Use slots: none of ``slot_of`` is overwritten while the user lives."""

    slot_of: Ints

    def entered(self, now: Waiting) -> None:
        """Know that lists hold these now; under ``Slots.bits_lock``."""
        ...


class Slots:
    """Hold vectors, and find those of the largest inner product with a query approximately.

    An inverted file (FAISS) with fixed centroids; the bias is one more dimension, in units of a query's norm, so that a list and a code know the
    whole score. Codes are the numbers themselves while they take at most `EXACT_BYTES`. Beyond, they have 8 bits a dimension, and what is found is
    meant to be scored again from ``vectors`` and ``bias``.

    Args:
        vectors: [m, d]; slot i gets row i.
        bias: [m].
        query_norm: How long queries are.

    Attributes:
        is_exact: Whether a search gives scores as they are.
        vectors: [C, d]; only those in use mean something.
        bias: [C].
        norms: Of the vectors. [C]
        position_of: Where a version has what the slot holds. [C]
        num_lists: How many lists there are.
        waiting: What was written and is not in lists yet; replaced, never changed, and after the users have been told.
        bits_lock: Whoever changes what a user finds in lists holds it.

    **Contract.** One thread writes and settles, any number search meanwhile. A slot that a living user holds never changes. Nothing grows. What is
    written waits until `settle` enters it into lists: who searches lists reads ``waiting`` before it does, and looks through that, too.
    """

    def __init__(self, vectors: Floats, bias: Floats, query_norm: float) -> None:
        # Replicas are processes; threads inside one would only take the cores of its neighbours.
        faiss.omp_set_num_threads(1)
        num, dim = vectors.shape
        capacity = num + max(int(num * _SPARE), _MIN_SPARE)
        # Pages that nothing was written to take no memory.
        self.vectors, self.bias = np.empty((capacity, dim), np.float32), np.empty(capacity, np.float32)
        self.position_of, self.norms = np.empty(capacity, np.int32), np.empty(capacity, np.float32)
        self.norms[:num] = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
        self.vectors[:num], self.bias[:num], self.position_of[:num] = vectors, bias, np.arange(num)
        self.query_norm = query_norm
        self.width = -(-(dim + 1) // _ALIGNED) * _ALIGNED
        self.num_lists = num_lists(num)
        self.is_exact = num * self.width * vectors.itemsize <= EXACT_BYTES
        self._num_used = self._num_written = 0
        self._lock, self.bits_lock = threading.Lock(), threading.Lock()
        self.waiting: Waiting | None = None
        self._users: WeakSet[User] = WeakSet()
        self._train(num)
        self._fill(num)

    @property
    def capacity(self) -> int:
        """Return C."""
        return len(self.bias)

    @property
    def num_used(self) -> int:
        """Return how many slots, the first ones, ever were in lists."""
        return self._num_used

    @property
    def num_written(self) -> int:
        """Return how many slots, the first ones, ever held something."""
        return self._num_written

    @property
    def num_waiting(self) -> int:
        """Return how many slots wait."""
        return 0 if self.waiting is None else len(self.waiting.slots)

    def add_user(self, user: User) -> None:
        """Keep the user's slots as they are until it is gone."""
        self._users.add(user)

    def search(self, query: Any, num: int, scores: Any, found: Any, parameters: Any) -> None:
        """Fill ``found`` with the slots of the ``num`` largest codes' products with a query; -1 stands where there are no others.

        Args:
            query: FAISS's pointer to [1, width].
            num: How many are wanted.
            scores: Its pointer to [num] float32.
            found: Its pointer to [num] int64.
            parameters: Its search parameters.
        """
        with self._lock:
            self._lists.search_c(1, query, num, scores, found, parameters)

    def write(self, positions: Ints, vectors: Floats, bias: Floats) -> Ints | None:
        """Put vectors where nobody looks and return their slots, ascending; None when there are not as many free ones. Lists hold them later."""
        slots = self._free(len(positions))
        if slots is None:
            return None
        self._num_written = max(self._num_written, int(slots.max(initial=-1)) + 1)
        self.vectors[slots], self.bias[slots], self.position_of[slots] = vectors, bias, positions
        self.norms[slots] = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
        if len(slots):
            written = Waiting(slots, positions, vectors, bias)
            self.waiting = written if self.waiting is None else self.waiting.merged(written)
        return slots

    def settle(self) -> bool:
        """Enter the first slots that wait into lists, a few milliseconds' work; False when none is left."""
        if self.waiting is None:
            return False
        now, rest = self.waiting.split()
        self._enter(now.slots)
        with self.bits_lock:
            for user in list(self._users):
                user.entered(now)
            self.waiting = rest
        return rest is not None

    def _free(self, num: int) -> Ints | None:
        """Return the lowest ``num`` slots that no living user holds."""
        is_free = np.ones(self.capacity, np.bool_)
        for user in list(self._users):
            is_free[user.slot_of] = False
        free = np.flatnonzero(is_free)[:num].astype(np.int32)
        return free if len(free) == num else None

    def _augmented(self, slots: Ints | slice) -> Floats:
        """Return what lists and codes are made of. [num, width]."""
        vectors = self.vectors[slots]
        rows = np.zeros((len(vectors), self.width), np.float32)
        rows[:, : vectors.shape[1]] = vectors
        rows[:, vectors.shape[1]] = self.bias[slots] / self.query_norm
        return rows

    def _train(self, num: int) -> None:
        """Make centroids and codes from a sample of the first ``num`` slots."""
        faiss_api: Any = faiss  # Its stubs know only the signatures of C++.
        self._quantizer = faiss_api.IndexFlatIP(self.width)
        kind, metric = faiss_api.ScalarQuantizer.QT_8bit, faiss_api.METRIC_INNER_PRODUCT
        if self.is_exact:
            self._lists = faiss_api.IndexIVFFlat(self._quantizer, self.width, self.num_lists, metric)
        else:
            self._lists = faiss_api.IndexIVFScalarQuantizer(self._quantizer, self.width, self.num_lists, kind, metric, False)
            self._lists.sq.rangestat_arg = _HEADROOM
        clustering = self._lists.cp
        clustering.seed, clustering.niter = _SEED, _TRAINING_ROUNDS
        clustering.min_points_per_centroid, clustering.max_points_per_centroid = 1, _ROWS_PER_CENTROID
        sample = np.random.default_rng(_SEED).permutation(num)[: _ROWS_PER_CENTROID * self.num_lists]
        self._lists.train(self._augmented(np.sort(sample).astype(np.int32)))
        self._lists.set_direct_map_type(faiss_api.DirectMap.Array)
        self._centroids = np.ascontiguousarray(self._quantizer.reconstruct_n(0, self.num_lists).T)
        self._products = np.empty((_ASSIGNED_AT_ONCE, self.num_lists), np.float32)

    def _fill(self, num: int) -> None:
        """Put the first ``num`` slots into lists that have room for as many and some more."""
        bounds = [(start, min(start + _FILLED_AT_ONCE, num)) for start in range(0, num, _FILLED_AT_ONCE)]
        lists = np.concatenate([self._assigned(self._augmented(slice(*bound))) for bound in bounds])
        for number, size in enumerate(np.bincount(lists, minlength=self.num_lists).tolist()):
            self._lists.invlists.resize(number, int(_ROOM * size) + _ALIGNED)
            self._lists.invlists.resize(number, 0)
        for start, end in bounds:
            self._append(self._augmented(slice(start, end)), lists[start:end])

    def _enter(self, slots: Ints) -> None:
        """Move slots, ascending, to the lists that suit what they hold now; those that are new follow the used ones without a gap."""
        rows = self._augmented(slots)
        lists = self._assigned(rows)
        codes = np.empty((len(rows), self._lists.code_size), np.uint8)
        self._lists.encode_vectors(len(rows), faiss.swig_ptr(rows), faiss.swig_ptr(lists), faiss.swig_ptr(codes))
        num_old, ids = int(np.searchsorted(slots, self._num_used)), slots.astype(np.int64)
        for start in range(0, num_old, _WRITTEN_AT_ONCE):
            end = min(start + _WRITTEN_AT_ONCE, num_old)
            pointers = [faiss.swig_ptr(part[start:end]) for part in (ids, lists, codes)]
            with self._lock:
                self._lists.direct_map.update_codes(self._lists.invlists, end - start, *pointers)
        for start in range(num_old, len(rows), _WRITTEN_AT_ONCE):
            self._append(rows[start : start + _WRITTEN_AT_ONCE], lists[start : start + _WRITTEN_AT_ONCE])

    def _append(self, rows: Floats, lists: NDArray[np.int64]) -> None:
        with self._lock:
            self._lists.add_core(len(rows), faiss.swig_ptr(rows), None, faiss.swig_ptr(lists))
        self._num_used += len(rows)
        self._num_written = max(self._num_written, self._num_used)

    def _assigned(self, rows: Floats) -> NDArray[np.int64]:
        """Return each row's list, that of the centroid with the largest product. [num]."""
        lists = np.empty(len(rows), np.int64)
        for start in range(0, len(rows), _ASSIGNED_AT_ONCE):  # Three times as fast as the library where rows come in small pieces.
            piece = rows[start : start + _ASSIGNED_AT_ONCE]
            products = np.dot(piece, self._centroids, out=self._products[: len(piece)])
            lists[start : start + len(piece)] = products.argmax(1)
        return lists


def num_lists(num: int) -> int:
    """Return how many lists ``num`` vectors get: a power of two near four times the root, bounded because each written row is compared with all.

    Example:
        >>> num_lists(1_000_000), num_lists(100_000), num_lists(20)
        (2048, 1024, 2)
    """
    return max(1, min(num // _ALIGNED, 1 << round(math.log2(4 * math.sqrt(max(num, 1)))), _MOST_LISTS))
