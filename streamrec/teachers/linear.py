"""Keep the linear teacher's additive statistics and solve for new versions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from streamrec.config import LinearConfig, TeachersConfig
from streamrec.errors import ConfigError
from streamrec.features.examples import Examples
from streamrec.models.linear import Runs, add_cross, add_gram, solve_ridge
from streamrec.state import ComponentState, digest_of
from streamrec.teachers.protocol import Kind, Material
from streamrec.teachers.train_loop import GENERATION
from streamrec.teachers.training import Place

CHUNK_ENTRIES = 2**21
"""Entries of C that an update adds at a time; bounds its memory."""

NUM_BUCKETS = 2**20
"""Users are counted by a part of their hash: 4 MB whoever comes, and a count that other users share is only too high."""


class LinearStatistics:
    """Hold G = XᵀX and C = XᵀY over the first ``max_items`` items that became targets or history, most frequent first.

    An item row gets a slot when it first appears and a slot is free; within one batch the most frequent rows come first.

    **Contract.** `update` is additive: the sum over batches equals one pass over all of them up to float rounding, and the same batches in
    the same order give the same bits. `take_back` leaves what the statistics were without the queries, up to float rounding. `delta` holds the
    batches and the rows forgotten since the last snapshot, not the matrices; it is None before the first one.
    """

    name = "linear_statistics"

    _rows: list[int]
    _slot: NDArray[np.int64]
    _gram: torch.Tensor
    _cross: torch.Tensor
    _num_queries: int
    _num_of: NDArray[np.uint32]
    _is_known: bool
    _unsaved: list[dict[str, NDArray[Any]]] | None

    def __init__(self, config: LinearConfig) -> None:
        self.config = config
        self.restore(ComponentState())
        self._unsaved = None

    @property
    def num_queries(self) -> int:
        """Number of queries added so far."""
        return self._num_queries

    def update(self, examples: Examples) -> None:
        """Add a batch of queries."""
        if len(examples) == 0:
            return
        self._add(examples)
        self._note(_arrays_of(examples))

    def take_back(self, examples: Examples, user: int) -> int:
        """Take a user's queries out again and return how many more of theirs may be in the sums; -1 where nothing bounds it.

        Args:
            examples: Queries of this user that were added before, as they were then but for rows that were forgotten since.
            user: Hash of (namespace, user), as `Examples` carry it.
        """
        if len(examples):
            self._add(examples, sign=-1)
            self._note({**_arrays_of(examples), "sign": np.array([-1], np.int8)})
        return int(self._num_of[_buckets(np.array([user]))[0]]) if self._is_known else -1

    def doubt(self, users: NDArray[np.int64]) -> None:
        """Note that queries of these users [n] are no longer known as they were added: what is taken back of them is an approximation."""
        if len(users):
            np.add.at(self._num_of, _buckets(users), 1)
            self._note({"doubted": users})

    def _note(self, part: dict[str, NDArray[Any]]) -> None:
        if self._unsaved is not None:
            self._unsaved.append(part)

    def _add(self, examples: Examples, sign: int = 1) -> None:
        if sign > 0:
            self._give_slots(examples)
        history = torch.from_numpy(self._slots_of(examples.history))
        targets = torch.from_numpy(self._slots_of(examples.target_rows))
        query = torch.from_numpy(examples.query_of_target)
        share = torch.from_numpy((1.0 / np.sqrt(np.diff(examples.indptr))).astype(np.float32))[query]
        known = targets >= 0
        targets, query, share = targets[known], query[known], share[known]
        share = share * sign
        decay, length = self.config.history_decay, history.shape[1]
        runs = Runs.of(history.numpy())
        add_gram(self._gram, runs._replace(ends=runs.ends * sign), decay)
        size = max(1, CHUNK_ENTRIES // length)
        for start in range(0, len(targets), size):
            part = slice(start, start + size)
            add_cross(self._cross, history[query[part]], targets[part], share[part], decay)
        self._num_queries += sign * len(examples)
        buckets, num = np.unique(_buckets(examples.user), return_counts=True)
        self._num_of[buckets] += (sign * num).astype(np.uint32)

    def matrices(self) -> ComponentState:
        """Return copies of G, C and the slots, which a refresh solves while updates go on."""
        state = self._state()
        return ComponentState({name: state.arrays[name] for name in ("gram", "cross", "rows")}, state.meta)

    def _give_slots(self, examples: Examples) -> None:
        rows = np.concatenate([examples.target_rows, examples.history[examples.history >= 0]])
        if int(rows.max()) >= len(self._slot):
            grown = np.full(2 * int(rows.max()) + 1, -1, np.int64)
            grown[: len(self._slot)] = self._slot
            self._slot = grown
        values, counts = np.unique(rows, return_counts=True)
        values, counts = values[self._slot[values] < 0], counts[self._slot[values] < 0]
        room = self.config.max_items - len(self._rows)
        self._is_known &= len(values) <= room  # An item that is left out now may get a slot later: what it adds in between is not in the sums.
        chosen = values[np.argsort(-counts, kind="stable")][:room]
        self._slot[chosen] = np.arange(len(self._rows), len(self._rows) + len(chosen))
        self._rows.extend(chosen.tolist())
        if len(self._rows) > len(self._gram):
            capacity = min(self.config.max_items, max(256, 2 * len(self._rows)))
            for name in ("_gram", "_cross"):
                old = getattr(self, name)
                new = torch.zeros(capacity, capacity)
                new[: len(old), : len(old)] = old
                setattr(self, name, new)

    def _slots_of(self, rows: NDArray[np.int32]) -> NDArray[np.int64]:
        inside = (rows >= 0) & (rows < len(self._slot))
        return np.where(inside, self._slot[np.where(inside, rows, 0)], -1)

    def snapshot(self) -> ComponentState:
        """Return the matrices and slots."""
        self._unsaved = []
        return self._state()

    def _state(self) -> ComponentState:
        size = len(self._rows)
        arrays = {
            "gram": self._gram[:size, :size].numpy().copy(),
            "cross": self._cross[:size, :size].numpy().copy(),
            "rows": np.asarray(self._rows, np.int32),
            "num_of": self._num_of.copy(),
        }
        return ComponentState(arrays, {"num_queries": self._num_queries, "is_known": self._is_known})

    def delta(self) -> ComponentState | None:
        """Return the batches added since the last snapshot or delta."""
        if self._unsaved is None:
            return None
        arrays = {f"{number}/{name}": values for number, part in enumerate(self._unsaved) for name, values in part.items()}
        state = ComponentState(arrays, {"num_batches": len(self._unsaved)})
        self._unsaved = []
        return state

    def restore(self, base: ComponentState, deltas: Iterable[ComponentState] = ()) -> None:
        """Replace the state; see `streamrec.state.Component`."""
        rows = base.arrays.get("rows", np.zeros(0, np.int32))
        self._rows = rows.tolist()
        self._slot = np.full(max(1024, 2 * int(rows.max(initial=0)) + 1), -1, np.int64)
        self._slot[rows] = np.arange(len(rows))
        self._gram = torch.zeros(len(rows), len(rows))
        self._cross = torch.zeros(len(rows), len(rows))
        if len(rows):
            self._gram += torch.from_numpy(np.array(base.arrays["gram"]))
            self._cross += torch.from_numpy(np.array(base.arrays["cross"]))
        self._num_queries = int(base.meta.get("num_queries", 0))
        self._num_of = np.array(base.arrays.get("num_of", np.zeros(NUM_BUCKETS, np.uint32)))
        # A commit of before users were counted, in its base or in a delta, says nothing of whose the sums are.
        self._is_known = bool(base.meta.get("is_known", not len(rows)))
        self._unsaved = None
        for delta in deltas:
            for number in range(delta.meta["num_batches"]):
                self._repeat({name.split("/")[1]: values for name, values in delta.arrays.items() if name.startswith(f"{number}/")})
        self._unsaved = []

    def _repeat(self, part: dict[str, NDArray[Any]]) -> None:
        """Do once more what a part of a delta tells of."""
        if "forgotten" in part:
            self._forget(part["forgotten"])
            return
        if "doubted" in part:
            self.doubt(part["doubted"])
            return
        num = len(part["history"])
        self._is_known &= "user" in part
        users, zeros = part.get("user", np.zeros(num, np.int64)), np.zeros(num, np.int32)
        examples = Examples(part["history"], part["indptr"], part["targets"], np.ones(num, np.float32), users, zeros)
        self._add(examples, int(part.get("sign", np.ones(1))[0]))

    def delete_user(self, namespace: str, user_id: str) -> int:
        """Return 0: the statistics are sums over users, and `take_back` needs the user's queries."""
        return 0

    def forget_rows(self, rows: NDArray[np.int32]) -> int:
        """Take the rows' sums out, free their slots and return how many these were."""
        num = self._forget(rows)
        if num:
            self._note({"forgotten": rows})
        return num

    def _forget(self, rows: NDArray[np.int32]) -> int:
        gone = np.isin(self._rows, rows)
        if not gone.any():
            return 0
        kept = torch.from_numpy(np.flatnonzero(~gone))
        for name in ("_gram", "_cross"):
            old = getattr(self, name)
            new = torch.zeros_like(old)
            new[: len(kept), : len(kept)] = old[kept][:, kept]
            setattr(self, name, new)
        self._rows = np.asarray(self._rows)[~gone].tolist()
        self._slot[:] = -1
        self._slot[self._rows] = np.arange(len(self._rows))
        return int(gone.sum())

    def digest(self) -> str:
        """Return the SHA-256 of the state, in hex."""
        return digest_of(self._state())


def _arrays_of(examples: Examples) -> dict[str, NDArray[Any]]:
    return {"history": examples.history, "indptr": examples.indptr, "targets": examples.target_rows, "user": examples.user}


def _buckets(users: NDArray[np.int64]) -> NDArray[np.int64]:
    return users & (NUM_BUCKETS - 1)


def solve_version(matrices: ComponentState, config: LinearConfig) -> ComponentState:
    """Return a version from what `LinearStatistics.matrices` gave: B [M, M], the item row of each slot [M] and its ``generation`` [M]."""
    gram, cross = (torch.tensor(matrices.arrays[name]) for name in ("gram", "cross"))
    weights = solve_ridge(gram, cross, config.ridge)
    rows = matrices.arrays["rows"]
    arrays = {"weights": weights.numpy(), "rows": rows, GENERATION: matrices.arrays.get(GENERATION, np.zeros(len(rows), np.int32))}
    return ComponentState(arrays, {"kind": "linear", "decay": config.history_decay, "num_queries": matrices.meta["num_queries"]})


class LinearTeacher:
    """Score with the closed-form item-item weights; see `streamrec.teachers.protocol.LoadedTeacher`."""

    def __init__(self, state: ComponentState) -> None:
        self._weights = torch.tensor(np.array(state.arrays["weights"]))
        self._rows = np.asarray(state.arrays["rows"], np.int64)
        self._decay = float(state.meta["decay"])
        self._slot = np.full(int(self._rows.max(initial=-1)) + 1, -1, np.int64)
        self._slot[self._rows] = np.arange(len(self._rows))
        self.generations = np.full(len(self._slot), -1, np.int32)
        self.generations[self._rows] = state.arrays.get(GENERATION, 0)

    def score(self, histories: NDArray[np.int32], candidates: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return the decayed history times the weights."""
        result = np.full((len(histories), len(candidates)), -np.inf, np.float32)
        known = (histories >= 0) & (histories < len(self._slot))
        slots = torch.from_numpy(np.where(known, self._slot[np.where(known, histories, 0)], -1) if len(self._slot) else np.full(known.shape, -1))
        inside = slots >= 0
        if not len(self._rows):
            return result
        decay = self._decay ** torch.arange(slots.shape[1], dtype=torch.float32) * inside
        # The history's few rows of the weights, summed: the same as the decayed history times the weights.
        scores = torch.nn.functional.embedding_bag(slots.clamp(min=0), self._weights, per_sample_weights=decay, mode="sum").numpy()
        place = np.searchsorted(candidates, self._rows)
        asked = place < len(candidates)
        asked[asked] = candidates[place[asked]] == self._rows[asked]
        result[:, place[asked]] = scores if asked.all() else scores[:, asked]
        result[~inside.any(1).numpy()] = -np.inf
        return result

    def represent(self, histories: NDArray[np.int32]) -> None:
        """Return None: it has no vectors."""


def _request(material: Material, config: TeachersConfig) -> ComponentState:
    if material.statistics is None:
        what = "Teacher: there are no statistics to solve"
        raise ConfigError(what, got="a refresh of linear", do="have linear among teachers.enabled when the stream starts")
    held = material.statistics()
    return ComponentState({**held.arrays, GENERATION: material.generations[held.arrays["rows"]]}, held.meta)


def _refresh(
    payload: ComponentState, previous: ComponentState | None, config: TeachersConfig, seed: int, place: Place | None
) -> tuple[ComponentState, dict[str, object]]:
    return solve_version(payload, config.linear), {}


LINEAR = Kind(_request, _refresh, LinearTeacher, keeps_request=False)
"""Its request is as large as its statistics, and lives in memory only."""
