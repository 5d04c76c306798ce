"""Keep the last examples with what each teacher said of them, made once and shared by all students."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from streamrec.features.dedupe import hash_key
from streamrec.features.examples import Examples
from streamrec.soft_labels.schema import Answer, SoftLabels, padded
from streamrec.state import ROWS, ChangedRows, ComponentState, digest_of, merge

MAX_TARGETS = 32
"""A stored basket keeps at most so many targets: a bound on memory, far above a usual basket."""

RECENT_SHARE, RECENT_PART = 0.5, 0.1
"""Mixed with recency, so much of a draw is of the newest queries: exponentially old, on average so much of what is kept."""

ReplayKind = Literal["uniform", "recency", "quota"]

_EXAMPLE = {"history": np.int32, "targets": np.int32, "weight": np.float32, "user": np.int64, "namespace": np.int32}
_LABELS = {"label_rows": np.int32, "label_probs": np.float16}
_ANSWER = {"rows": np.int32, "chances": np.float16, "temperature": np.float16, "version": np.int32, "say": np.float16}
"""Columns of each teacher, ``TEACHER/NAME``. All zeros: the teacher was not asked."""
MANY_VERSIONS = 64
"""Beyond so many names those that no answer has any more are dropped."""


class LabelStore:
    """Hold up to ``capacity`` queries in a ring, the oldest leave first: for each its labels, and what every teacher that was asked said of it.

    Labels stay those made before anyone learned from the example: teachers that have seen it since would answer from memory. Mixed anew by the
    weights of today they are worth less, because the weights are those of better versions (docs/experiments.md). The answers are there for
    `replace`, and to tell who said what; with their say they mix to the labels. A query and teacher take 6 bytes a candidate and 10 more.

    Kinds of drawing: ``uniform``; ``recency``, half of it among the newest; ``quota``, where an item that more queries than the average have as their
    first target is drawn as often as the average.

    **Contract.** `draw` is a function of the contents and the seed. Places mean the same queries until the next change. `delta` holds the places of
    the ring that were written since the last snapshot or delta; it is None after a removal and when all were written.
    """

    name = "labels"

    _data: dict[str, NDArray[Any]]
    _names: dict[str, dict[int, str]]
    _next: int
    _size: int
    _turn: int
    _changed: ChangedRows
    _has_lost: bool

    def __init__(self, capacity: int, history_length: int, top_k: int, kind: ReplayKind = "uniform") -> None:
        self.kind = kind
        self.capacity = capacity
        self._history_length = history_length
        self._top_k = top_k
        self.restore(ComponentState())

    def __len__(self) -> int:
        return self._size

    def add(self, examples: Examples, labels: SoftLabels, answers: Mapping[str, Answer]) -> None:
        """Append queries with their labels and what teachers said of them; of a batch larger than the capacity the last ones stay."""
        num = len(examples)
        if num == 0 or self.capacity == 0:
            return
        kept = np.arange(max(0, num - self.capacity), num)
        columns = self._columns(examples.take(kept) if len(kept) < num else examples)
        columns |= {"label_rows": labels.rows[kept], "label_probs": labels.probs[kept].astype(np.float16)}
        for name, answer in answers.items():
            columns |= {f"{name}/{column}": values for column, values in self._answer_columns(name, answer, kept).items()}
        self._append(columns, len(kept))

    def _columns(self, examples: Examples) -> dict[str, NDArray[Any]]:
        num = len(examples)
        place = np.arange(len(examples.target_rows)) - examples.indptr[:-1][examples.query_of_target]
        kept = place < MAX_TARGETS
        targets = np.full((num, MAX_TARGETS), -1, np.int32)
        targets[examples.query_of_target[kept], place[kept]] = examples.target_rows[kept]
        return {
            "history": examples.history,
            "targets": targets,
            "weight": examples.weight,
            "user": examples.user,
            "namespace": examples.namespace,
        }

    def _answer_columns(self, teacher: str, answer: Answer, kept: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        width = self._top_k
        chances = padded(answer.chances[kept, :width], width, 0).astype(np.float16)
        numbers = np.asarray([*(self._number_of(teacher, version) for version in answer.versions), 0], np.int32)
        return {
            "rows": np.where(chances > 0, padded(answer.rows[kept, :width], width, -1), 0).astype(np.int32),
            "chances": chances,
            "temperature": answer.temperature[kept].astype(np.float16),
            "say": answer.say[kept].astype(np.float16),
            "version": numbers[answer.version[kept]],
        }

    def _number_of(self, teacher: str, version: str) -> int:
        """Return the number that stands for a teacher's version; numbers rise from 1 and none is given twice."""
        names = self._names.setdefault(teacher, {})
        last = max(names, default=0)
        if last and names[last] == version:
            return last
        if len(names) >= MANY_VERSIONS:
            held = {*np.unique(self._data[f"{teacher}/version"][: self._size]).tolist(), last}
            self._names[teacher] = names = {number: name for number, name in names.items() if number in held}
        names[last + 1] = version
        return last + 1

    def _append(self, columns: dict[str, NDArray[Any]], num: int) -> None:
        for name, values in columns.items():
            if name not in self._data:
                self._data[name] = np.zeros((len(self._data["weight"]), *values.shape[1:]), values.dtype)
        needed = min(self.capacity, max(self._next + num, self._size))
        if needed > len(self._data["weight"]):
            self._fit_to(min(self.capacity, max(1024, 2 * needed)))
        places = (self._next + np.arange(num)) % self.capacity
        for name, held in self._data.items():
            held[places] = columns.get(name, 0)
        self._changed.mark(places)
        self._next = int((self._next + num) % self.capacity)
        self._size = min(self.capacity, self._size + num)

    def _fit_to(self, num: int) -> None:
        for name, held in self._data.items():
            if len(held) < num:
                self._data[name] = np.zeros((num, *held.shape[1:]), held.dtype)
                self._data[name][: len(held)] = held

    def draw(self, num: int, seed: int) -> NDArray[np.int64]:
        """Draw places of ``num`` queries with replacement, as the kind says; none when the store is empty."""
        return self._drawn(num, np.random.default_rng([seed, 7])) if self._size else np.zeros(0, np.int64)

    def _drawn(self, num: int, rng: np.random.Generator) -> NDArray[np.int64]:
        uniform = rng.integers(0, self._size, num)
        if self.kind == "recency":
            age = rng.exponential(RECENT_PART * self._size, num).astype(np.int64) % self._size
            return np.asarray(np.where(rng.random(num) < RECENT_SHARE, (self._next - 1 - age) % self.capacity, uniform))
        if self.kind == "quota":
            _, item, count = np.unique(self._data["targets"][: self._size, 0], return_inverse=True, return_counts=True)
            bounds = np.cumsum(np.minimum(1.0, count.mean() / count)[item])
            return np.asarray(np.minimum(np.searchsorted(bounds, rng.random(num) * bounds[-1], side="right"), self._size - 1))
        return uniform

    def draw_holding(self, rows: NDArray[np.int32], num: int, seed: int) -> NDArray[np.int64]:
        """Draw places of queries with replacement, uniformly from those with one of the item rows in their history or targets.

        At most ``num``, and at most four times as many as there are: a few queries shall not be learned by heart.
        """
        places = np.flatnonzero(self._holding(rows))
        num = min(num, 4 * len(places))
        return places[np.random.default_rng([seed, 13]).integers(0, len(places), num)] if len(places) else places

    def examples(self, places: NDArray[np.int64]) -> Examples:
        """Return the queries at places."""
        data = {name: self._data[name][places] for name in _EXAMPLE}
        filled = data["targets"] >= 0
        indptr = np.concatenate([[0], np.cumsum(filled.sum(1))]).astype(np.int64)
        return Examples(data["history"], indptr, data["targets"][filled], data["weight"], data["user"], data["namespace"])

    def labels(self, places: NDArray[np.int64]) -> SoftLabels:
        """Return the labels of the queries at places."""
        return SoftLabels(self._data["label_rows"][places], self._data["label_probs"][places].astype(np.float32), {})

    def answers(self, places: NDArray[np.int64]) -> dict[str, Answer]:
        """Return what each teacher said of the queries at places; teachers that were asked for none of those kept are left out."""
        return {teacher: self._answer(teacher, places) for teacher in self.teachers}

    def _answer(self, teacher: str, places: NDArray[np.int64]) -> Answer:
        data = {name: self._data[f"{teacher}/{name}"][places] for name in _ANSWER}
        names = self._names[teacher]
        number = np.zeros(max(names, default=0) + 1, np.int32) - 1
        number[list(names)] = np.arange(len(names))
        held = data["chances"] > 0
        rows, version = np.where(held, data["rows"], -1), number[data["version"]]
        return Answer(tuple(names.values()), rows, data["chances"], data["temperature"], version, data["say"])

    def newest(self, num: int) -> NDArray[np.int64]:
        """Return the places of the newest queries, newest first, at most ``num``."""
        return (self._next - 1 - np.arange(min(num, self._size))) % max(self.capacity, 1)

    def take_turn(self, num: int) -> NDArray[np.int64]:
        """Return the places of the next queries to be labelled anew: around the ring, so that none waits longer than any other."""
        places = (self._turn + np.arange(min(num, self._size))) % max(self._size, 1)
        self._turn = int((self._turn + len(places)) % max(self._size, 1))
        return places

    def replace(self, places: NDArray[np.int64], labels: SoftLabels, answers: Mapping[str, Answer]) -> None:
        """Take other labels of the queries at places, and other answers of some teachers, made without knowing the examples."""
        self._data["label_rows"][places], self._data["label_probs"][places] = labels.rows, labels.probs
        for teacher, answer in answers.items():
            for column, values in self._answer_columns(teacher, answer, np.arange(len(places))).items():
                self._data[f"{teacher}/{column}"][places] = values
        self._changed.mark(places)

    @property
    def teachers(self) -> tuple[str, ...]:
        """Names of the teachers that have said something of a query that is kept."""
        return tuple(self._names)

    def rows_of(self, namespace: str, user_id: str) -> NDArray[np.int32]:
        """Return the item rows of the user's queries, each once."""
        mine = self._data["user"][: self._size] == hash_key(namespace, user_id)
        rows = np.unique(np.concatenate([self._data[name][: self._size][mine].ravel() for name in ("history", "targets")]))
        return rows[rows >= 0].astype(np.int32)

    def of_user(self, namespace: str, user_id: str) -> Examples:
        """Return the user's queries whose baskets are kept whole."""
        mine = self._data["user"][: self._size] == hash_key(namespace, user_id)
        return self.examples(np.flatnonzero(mine & (self._data["targets"][: self._size, -1] < 0)))

    def users_of(self, rows: NDArray[np.int32]) -> NDArray[np.int64]:
        """Return the hashes of the users of queries with one of the item rows in their history or targets, each once."""
        return np.unique(self._data["user"][: self._size][self._holding(rows)])

    def held(self, rows: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Return which of the item rows any query has in its history or targets. [num]."""
        return np.isin(rows, np.concatenate([self._data[name][: self._size].ravel() for name in ("history", "targets")]))

    def _holding(self, rows: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Return which queries hold one of the rows. [size]."""
        return np.asarray(np.isin(self._data["history"][: self._size], rows).any(1) | np.isin(self._data["targets"][: self._size], rows).any(1))

    def snapshot(self) -> ComponentState:
        """Return the ring's contents."""
        self._changed.take()
        self._has_lost = False
        return self._state()

    def _state(self) -> ComponentState:
        return ComponentState({name: held[: self._size].copy() for name, held in self._data.items()}, self._meta())

    def _meta(self) -> dict[str, Any]:
        names = {teacher: {str(number): version for number, version in held.items()} for teacher, held in self._names.items()}
        return {"next": self._next, "size": self._size, "turn": self._turn, "versions": names}

    def delta(self) -> ComponentState | None:
        """Return the places written since the last snapshot or delta."""
        if self._has_lost or self._changed.count() >= self.capacity > 0:
            return None
        places = self._changed.take()
        return ComponentState({ROWS: places, **{f"{name}@values": held[places] for name, held in self._data.items()}}, self._meta())

    def restore(self, base: ComponentState, deltas: Iterable[ComponentState] = ()) -> None:
        """Replace the state; see `streamrec.state.Component`."""
        state, labels = merge(base, deltas), (self._top_k,)
        widths = {"history": (self._history_length,), "targets": (MAX_TARGETS,), "label_rows": labels, "label_probs": labels}
        self._data = {name: np.zeros((0, *widths.get(name, ())), kind) for name, kind in (_EXAMPLE | _LABELS).items()}
        self._data |= {name: np.array(array) for name, array in state.arrays.items()}
        self._next, self._size = int(state.meta.get("next", 0)), int(state.meta.get("size", 0))
        versions: dict[str, dict[str, str]] = state.meta.get("versions", {})
        self._names = {teacher: {int(number): version for number, version in held.items()} for teacher, held in versions.items()}
        self._turn = int(state.meta.get("turn", 0))
        self._fit_to(self._size)
        self._changed, self._has_lost = ChangedRows(), False

    def forget_newest(self, num: int) -> int:
        """Remove the newest ``num`` queries and return how many went."""
        age = (self._next - 1 - np.arange(self._size)) % self.capacity if self.capacity else np.zeros(0, np.int64)
        return self._keep(age >= num)

    def delete_user(self, namespace: str, user_id: str) -> int:
        """Remove the user's queries and return how many went."""
        return self._keep(self._data["user"][: self._size] != hash_key(namespace, user_id))

    def forget_rows(self, rows: NDArray[np.int32]) -> int:
        """Take the rows out of histories, targets and answers; a query without a history or a target goes. Return how many entries went."""
        num = 0
        for name in ("history", "targets"):
            held = self._data[name][: self._size]
            gone = np.isin(held, rows)
            num += int(gone.sum())
            held[gone] = -1
        for name, partner, none in (("label_rows", "label_probs", -1), *((f"{teacher}/rows", f"{teacher}/chances", 0) for teacher in self.teachers)):
            held, chances = self._data[name][: self._size], self._data[partner][: self._size]
            gone = np.isin(held, rows) & (chances > 0)
            num += int(gone.sum())
            held[gone], chances[gone] = none, 0
        if num == 0:
            return 0
        # The newest item must come first, whatever has gone before it.
        history = self._data["history"][: self._size]
        history[:] = np.take_along_axis(history, np.argsort(history < 0, axis=1, kind="stable"), 1)
        self._keep((history[:, 0] >= 0) & (self._data["targets"][: self._size] >= 0).any(1))
        self._has_lost = True
        return num

    def _keep(self, wanted: NDArray[np.bool_]) -> int:
        kept = np.flatnonzero(wanted)
        order = kept if self._size < self.capacity else kept[np.argsort((kept - self._next) % self.capacity, kind="stable")]
        removed = self._size - len(kept)
        if removed:
            meta = {**self._meta(), "turn": 0, "next": len(order) % self.capacity, "size": len(order)}
            base = ComponentState({name: held[order] for name, held in self._data.items()}, meta)
            self.restore(base)
            self._has_lost = True  # A delta can't say what went.
        return removed

    def digest(self) -> str:
        """Return the SHA-256 of the state, in hex."""
        return digest_of(self._state())
