"""Join what was shown with what came of it, as part of the stream's state, so that each answer and each interaction counts once.

An interaction is attributed to one answer that showed its item to its user, no longer than a window before: where it names a request, to that
request's; else to the last such answer, because that is the one the user looked at. With several answers to a user in a window the first one
would count for versions that are long gone. An interaction that names a request whose answer was not logged is nobody else's.

An answer's time is over when an answer that is younger by the window was read from the same partition; what is read later counts for nothing.
Answers are dated by the servers, so a client's clock that is ahead ends nothing early. Within a micro-batch answers come before
interactions; one that is read in a later micro-batch than what it led to gets no credit for it.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streamrec.evaluation.worth import Giver, Worth, weight_of
from streamrec.events.tables import numpy_of
from streamrec.features.hashes import hash_id, hash_ids, namespace_seeds
from streamrec.state import ComponentState, digest_of

_LOOKS_AT = 64
"""Answers to one user that an interaction may belong to, the newest: a user who asks without end shall not make the stream slow."""

_PLACE = {"number": np.int64, "user": np.uint64, "request": np.uint64, "time": np.int64, "partition": np.int32, "before": np.int64}


class Outcome(NamedTuple):
    """Say what came of one answer whose time is over.

    Attributes:
        giver: Who gave it.
        user: Hash of who got it.
        is_taken: Whether the user took something that was shown.
        is_heard: Whether any interaction at all, of anybody, has come since: else nothing says that nobody took anything.
    """

    giver: Giver
    user: int
    is_taken: bool
    is_heard: bool


@dataclass(slots=True)
class _Answer:
    """An answer whose time is not over; ``before`` counts the interactions that had come when it was read."""

    user: int
    request: int
    time_ms: int
    partition: int
    before: int
    giver: Giver
    weight: float
    items: NDArray[np.uint64]
    actions: int = 0


class Shown:
    """Hold answers until their time is over; a component.

    Users, requests and items are kept as hashes. Memory is bounded by ``most``: of more the oldest go uncounted, which their number tells
    (``num_cut``), taken or not, so that the rates stay right.

    **Contract.** A function of what `join` was given, in order. ``delta`` holds what has changed since the last snapshot or delta.

    Args:
        window_s: How long what a user takes is put down to an answer, event time.
        most: Answers that may wait.
        worth: Counts those whose time is over.
    """

    name = "shown"

    def __init__(self, window_s: float, most: int, worth: Worth) -> None:
        self._window_ms, self._most, self._worth = round(window_s * 1000), most, worth
        self._reset()

    def _reset(self) -> None:
        self.num_cut = 0
        self._answers: dict[int, _Answer] = {}
        self._next = self._num_interactions = 0
        self._clocks: dict[int, int] = {}
        self._of_user: dict[int, list[int]] = {}
        self._due: dict[int, list[tuple[int, int]]] = {}  # Of each partition a heap by time.
        self._saved: int | None = None  # None asks for a snapshot.
        self._touched: set[int] = set()
        self._gone: list[int] = []

    def __len__(self) -> int:
        """Return how many answers wait."""
        return len(self._answers)

    def join(self, impressions: pa.Table, interactions: pa.Table) -> list[Outcome]:
        """Take a micro-batch and return what came of the answers whose time is over by it.

        Args:
            impressions: Valid ones, by event time.
            interactions: Those that are targets, by event time.
        """
        if impressions.num_rows:
            self._take(impressions)
        if self._answers and interactions.num_rows:
            self._attribute(interactions)
        self._num_interactions += interactions.num_rows
        outcomes = self._closed()
        self._worth.bound()
        while len(self._answers) > self._most:
            self._drop(next(iter(self._answers)))
            self.num_cut += 1
        return outcomes

    def _take(self, impressions: pa.Table) -> None:
        seeds = namespace_seeds(impressions["namespace"])
        users, requests = hash_ids(seeds, impressions["user_id"]), hash_ids(seeds, impressions["request_id"])
        lists = impressions["items"].combine_chunks()
        sizes = np.diff(numpy_of(pa.chunked_array([lists.offsets])))
        items = hash_ids(np.repeat(seeds, sizes), pa.chunked_array([lists.flatten()]))
        ends = np.cumsum(sizes)
        times, partitions = (numpy_of(impressions[name]).tolist() for name in ("event_time", "partition"))
        for place, cell in enumerate(impressions["context"].to_pylist()):
            self._clocks[partitions[place]] = max(times[place], self._clocks.get(partitions[place], 0))
            context = dict(cell or ())
            giver = Giver.of(context)
            if giver is None:
                continue
            shown = items[ends[place] - sizes[place] : ends[place]]
            who = (int(users[place]), int(requests[place]), times[place], partitions[place], self._num_interactions)
            self._put(self._next, _Answer(*who, giver, weight_of(context), shown))
            self._next += 1

    def _put(self, number: int, answer: _Answer) -> None:
        self._answers[number] = answer
        self._of_user.setdefault(answer.user, []).append(number)
        heapq.heappush(self._due.setdefault(answer.partition, []), (answer.time_ms, number))

    def _attribute(self, interactions: pa.Table) -> None:
        seeds = namespace_seeds(interactions["namespace"])
        users = hash_ids(seeds, interactions["user_id"]).tolist()
        mine = [place for place, user in enumerate(users) if user in self._of_user]
        if not mine:
            return
        requests, items = (hash_ids(seeds, interactions[name]).tolist() for name in ("request_id", "item_id"))
        times = numpy_of(interactions["event_time"]).tolist()
        for place in mine:
            self._credit(users[place], requests[place], items[place], times[place])

    def _credit(self, user: int, request: int, item: int, time_ms: int) -> None:
        """Attribute one interaction. Where it names the request, it may be dated before the answer: a client's clock may be behind."""
        for number in itertools.islice(reversed(self._of_user[user]), _LOOKS_AT):
            answer = self._answers[number]
            after_ms = time_ms - answer.time_ms
            is_its_own = answer.request == request if request else after_ms >= 0
            if is_its_own and after_ms <= self._window_ms and item in answer.items:
                answer.actions += 1
                self._touched.add(number)
                return

    def _closed(self) -> list[Outcome]:
        """Take out the answers whose time is over, and count them."""
        outcomes = list[Outcome]()
        for partition, due in sorted(self._due.items()):
            while due and due[0][0] + self._window_ms <= self._clocks[partition]:
                _, number = heapq.heappop(due)
                answer = self._answers.get(number)
                if answer is not None:
                    self._worth.add(answer.giver, answer.weight, answer.actions)
                    outcomes.append(Outcome(answer.giver, answer.user, answer.actions > 0, self._num_interactions > answer.before))
                    self._drop(number)
        return outcomes

    def _drop(self, number: int) -> None:
        answer = self._answers.pop(number)
        others = self._of_user[answer.user]
        others.remove(number)
        if not others:
            del self._of_user[answer.user]
        self._gone.append(number)

    def delete_user(self, namespace: str, user_id: str) -> int:
        """Let go of the user's answers, uncounted, and return how many there were."""
        numbers = list(self._of_user.get(hash_id(namespace, user_id), ()))
        for number in numbers:
            self._drop(number)
        return len(numbers)

    def forget_rows(self, rows: NDArray[np.int32]) -> int:
        """Return 0: items are kept by their ids' hashes, not by rows."""
        return 0

    def snapshot(self) -> ComponentState:
        """Return everything."""
        self._note_saved()
        return self._whole()

    def _whole(self) -> ComponentState:
        return ComponentState(self._arrays(self._answers), self._meta())

    def delta(self) -> ComponentState | None:
        """Return the answers that came, what came of older ones, and which went, since the last snapshot or delta; None before the first snapshot."""
        saved = self._saved
        if saved is None:
            return None
        arrays = self._arrays(number for number in self._answers if number >= saved)
        touched = sorted(number for number in self._touched if number < saved and number in self._answers)
        arrays["touched"] = np.asarray([(number, self._answers[number].actions) for number in touched], np.int64).reshape(-1, 2)
        arrays["gone"] = np.asarray([number for number in self._gone if number < saved], np.int64)
        self._note_saved()
        return ComponentState(arrays, self._meta())

    def _note_saved(self) -> None:
        self._saved, self._touched, self._gone = self._next, set(), []

    def _arrays(self, numbers: Iterable[int]) -> dict[str, NDArray[Any]]:
        held = [(number, self._answers[number]) for number in numbers]
        places = [(number, each.user, each.request, each.time_ms, each.partition, each.before) for number, each in held]
        columns = list(zip(*places, strict=True)) or [()] * len(_PLACE)
        arrays: dict[str, NDArray[Any]] = {name: np.asarray(column, kind) for (name, kind), column in zip(_PLACE.items(), columns, strict=True)}
        arrays["weight"] = np.asarray([each.weight for _, each in held], np.float64)
        arrays["actions"] = np.asarray([each.actions for _, each in held], np.int64)
        arrays["size"] = np.asarray([len(each.items) for _, each in held], np.int64)
        arrays["items"] = np.concatenate([np.zeros(0, np.uint64), *(each.items for _, each in held)])
        names = sorted({each.giver for _, each in held})
        code = {giver: place for place, giver in enumerate(names)}
        arrays["giver"] = np.asarray([code[each.giver] for _, each in held], np.int32)
        arrays["givers"] = np.frombuffer("\n".join(" ".join(giver) for giver in names).encode(), np.uint8)
        return arrays

    def _meta(self) -> dict[str, Any]:
        counts = {"next": self._next, "num_interactions": self._num_interactions, "num_cut": self.num_cut}
        clocks = {str(partition): time_ms for partition, time_ms in sorted(self._clocks.items())}
        return {**counts, "clocks": clocks}

    def restore(self, base: ComponentState, deltas: Iterable[ComponentState] = ()) -> None:
        """Replace the state; see `streamrec.state.Component`."""
        self._reset()
        answers: dict[int, _Answer] = {}
        for state in (base, *deltas):
            if "number" not in state.arrays:
                continue
            for number, actions in state.arrays.get("touched", np.zeros((0, 2), np.int64)).tolist():
                answers[number].actions = actions
            for number in state.arrays.get("gone", np.zeros(0, np.int64)).tolist():
                answers.pop(number, None)
            answers |= _answers_in(state)
            self._next, self._num_interactions, self.num_cut = (int(state.meta[name]) for name in ("next", "num_interactions", "num_cut"))
            self._clocks = {int(partition): time_ms for partition, time_ms in state.meta["clocks"].items()}
        for number, answer in answers.items():
            self._put(number, answer)
        self._note_saved()

    def digest(self) -> str:
        """Return the SHA-256 of the state, in hex."""
        return digest_of(self._whole())


def _answers_in(state: ComponentState) -> dict[int, _Answer]:
    arrays = state.arrays
    names = [Giver(*line.split(" ")) for line in arrays["givers"].tobytes().decode().splitlines()]
    items = np.split(arrays["items"], np.cumsum(arrays["size"])[:-1]) if len(arrays["size"]) else []
    columns = [arrays[name].tolist() for name in (*_PLACE, "giver", "weight", "actions")]
    return {
        number: _Answer(user, request, time_ms, partition, before, names[code], weight, shown, actions)
        for (number, user, request, time_ms, partition, before, code, weight, actions), shown in zip(zip(*columns, strict=True), items, strict=True)
    }
