"""Keep what refreshes are decided by: how teachers do, what came since their newest refresh, what it cost, and how a new version compares."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray

from streamrec.evaluation.drift import NUM_CLASSES, class_counts, moved
from streamrec.registry.gate import Window
from streamrec.state import ComponentState, Impersonal, digest_of
from streamrec.teachers.policy import RefreshFacts, Score

FIRST_QUERIES = 2048
"""A version's score is that of so many queries after it has come into use."""

RECENT_QUERIES = 2048
"""The newest-window score looks back over so many."""

ENOUGH_QUERIES = RECENT_QUERIES // 2
"""Before so many the newest-window score says nothing."""

KEPT = 0.5
"""What choices of before the refresh before count beside those of since: a version is made from a window that holds both."""

_HOUR_MS = 3_600_000
_DAY_HOURS = 24
_SAMPLES = ("before", "held", "since")


@dataclass
class Held:
    """Hold what is counted since a refresh began; also what one that fails gives back.

    Attributes:
        began_ms: When it began.
        num_admitted: Items that had been admitted by then.
        num_items: Items that had rows.
        num_events: Interactions since; of the newest refresh the stream's own state counts them.
        forget_since_ms: First deletion since; likewise.
    """

    began_ms: int
    num_admitted: int = 0
    num_items: int = 0
    num_events: int = 0
    forget_since_ms: int | None = None


@dataclass
class Record:
    """Hold what is kept of one teacher.

    Attributes:
        now: Since the newest refresh.
        held: Since the one before; None when there is nothing to give back.
        code: Why the newest began, a `streamrec.teachers.policy.Reason`; empty when a person asked.
        cost_s: Worker-seconds of the newest complete one.
        num_failed: Refreshes that have failed in a row.
        retry_ms: When the next may begin after failures.
        version: That ``first`` and ``recent`` are of.
        first: Number, sum and sum of squares of its first scores.
        recent: The same of its newest scores, fading.
        challenger: Version that ``pairs`` are of.
        pairs: Its queries, its sum, that of the version in use, the sum of squared differences.
    """

    now: Held
    held: Held | None = None
    code: str = ""
    cost_s: float = 0.0
    num_failed: int = 0
    retry_ms: int = 0
    version: str = ""
    first: list[float] = field(default_factory=lambda: [0.0] * 3)
    recent: list[float] = field(default_factory=lambda: [0.0] * 3)
    challenger: str = ""
    pairs: list[float] = field(default_factory=lambda: [0.0] * 4)


class RefreshState(Impersonal):
    """Hold a record for each teacher that comes in versions, and what refreshes took lately; a component.

    What they took is not in the digest: it is measured, and says nothing of what was learned.
    """

    name = "refreshes"

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self._samples: dict[str, dict[str, NDArray[np.float64]]] = {}
        self._spent_s: dict[int, float] = {}

    def hear_of(self, teachers: Iterable[str], now_ms: int, items: Mapping[str, int]) -> None:
        """Begin a record for each teacher that has none; ``items`` are `Vocabulary.facts`."""
        for teacher in teachers:
            if teacher not in self.records:
                self.records[teacher] = Record(Held(now_ms, items["admitted"], items["held"]))
                self._samples[teacher] = {name: np.zeros(NUM_CLASSES) for name in _SAMPLES}

    def facts(self, teacher: str, now_ms: int, items: Mapping[str, int]) -> RefreshFacts:
        """Return what is known of a teacher here; of what the stream's own state says nothing."""
        spent_s = self._spent_by(now_ms)
        held = self.records.get(teacher)
        if held is None:
            return RefreshFacts(teacher, spent_s=spent_s)
        samples = self._samples[teacher]
        return RefreshFacts(
            teacher,
            had_version=bool(held.version),
            new_items=(items["admitted"] - held.now.num_admitted) / max(1, held.now.num_items),
            began_ms=held.now.began_ms,
            first=_score(held.first, FIRST_QUERIES),
            recent=_score(held.recent, ENOUGH_QUERIES),
            drift=moved(KEPT * samples["before"] + samples["held"], samples["since"]),
            spent_s=spent_s,
            cost_s=held.cost_s,
            serves_ms=held.held.forget_since_ms if held.held is not None else None,
            num_failed=held.num_failed,
            retry_ms=held.retry_ms,
        )

    def begin(self, teacher: str, now_ms: int, items: Mapping[str, int], code: str, counted: tuple[int, int | None]) -> None:
        """Note that a refresh begins.

        Args:
            teacher: Its name.
            now_ms: When.
            items: `Vocabulary.facts`.
            code: Why.
            counted: Interactions and first deletion since the one before began.
        """
        self.hear_of([teacher], now_ms, items)
        record, samples = self.records[teacher], self._samples[teacher]
        record.held = Held(record.now.began_ms, record.now.num_admitted, record.now.num_items, *counted)
        record.now, record.code = Held(now_ms, items["admitted"], items["held"]), code
        samples["before"] = KEPT * samples["before"] + samples["held"]
        samples["held"], samples["since"] = samples["since"], np.zeros(NUM_CLASSES)

    def fail(self, teacher: str, now_ms: int, num_workers: int, retry_ms: int) -> Held | None:
        """Note that the refresh under way failed: what was counted before it counts again, and its time is spent.

        Args:
            teacher: Its name.
            now_ms: When.
            num_workers: It had.
            retry_ms: When the next may begin.

        Returns:
            What the stream's own state must count again.
        """
        record, samples = self.records[teacher], self._samples[teacher]
        self._spend(now_ms, num_workers * max(0, now_ms - record.now.began_ms) / 1000)
        record.num_failed, record.retry_ms = record.num_failed + 1, retry_ms
        samples["since"], samples["held"] = samples["since"] + samples["held"], np.zeros(NUM_CLASSES)
        held, record.held = record.held, None
        if held is not None:
            record.now = Held(held.began_ms, held.num_admitted, held.num_items)
        return held

    def complete(self, teacher: str, now_ms: int, cost_s: float | None) -> None:
        """Note that the refresh under way has made its version, and what it took in worker-seconds, as far as that is known."""
        record = self.records[teacher]
        record.num_failed, record.retry_ms = 0, 0
        if cost_s is not None:
            record.cost_s = cost_s
            self._spend(now_ms, cost_s)

    def count(self, rows: NDArray[np.int32]) -> None:
        """Count target rows [T] for the drift."""
        counts = class_counts(rows)
        for samples in self._samples.values():
            samples["since"] = samples["since"] + counts

    def add_scores(self, teacher: str, version: str, values: NDArray[np.float32]) -> None:
        """Add a version's scores [Q]; those of another one begin anew."""
        record = self.records.get(teacher)
        if record is None or not len(values):
            return
        if record.version != version:
            record.version, record.first, record.recent = version, [0.0] * 3, [0.0] * 3
        scores = values.astype(np.float64)
        sums = [float(len(scores)), float(scores.sum()), float((scores**2).sum())]
        if record.first[0] < FIRST_QUERIES:
            record.first = [old + new for old, new in zip(record.first, sums, strict=True)]
            return
        keep = math.exp(-len(scores) / RECENT_QUERIES)
        record.recent = [keep * old + new for old, new in zip(record.recent, sums, strict=True)]

    def add_pairs(self, teacher: str, version: str, new: NDArray[np.float32], old: NDArray[np.float32]) -> None:
        """Add scores [Q] that a new version and the one in use got on the same queries; those of another new version begin anew."""
        record = self.records[teacher]
        if record.challenger != version:
            record.challenger, record.pairs = version, [0.0] * 4
        window = Window.from_scores(0, new, old)
        sums = (window.num_queries, window.candidate_sum, window.live_sum, window.difference_squares)
        record.pairs = [held + more for held, more in zip(record.pairs, sums, strict=True)]

    def window(self, teacher: str, version: str) -> Window:
        """Return the paired scores of a new version so far."""
        record = self.records.get(teacher)
        if record is None or record.challenger != version:
            return Window(0)
        num, new, old, squares = record.pairs
        return Window(0, int(num), new, old, squares)

    def _spend(self, now_ms: int, cost_s: float) -> None:
        hour = now_ms // _HOUR_MS
        self._spent_s = {when: spent for when, spent in self._spent_s.items() if when >= hour - _DAY_HOURS}
        self._spent_s[hour] = self._spent_s.get(hour, 0.0) + cost_s

    def _spent_by(self, now_ms: int) -> float:
        """Return what the last 24 hours took, and up to one hour more: it is kept by whole ones."""
        return sum(spent for when, spent in self._spent_s.items() if when >= now_ms // _HOUR_MS - _DAY_HOURS)

    def snapshot(self) -> ComponentState:
        """Return everything."""
        arrays = {f"{teacher}/{name}": sample for teacher, samples in self._samples.items() for name, sample in samples.items()}
        records = {teacher: asdict(record) for teacher, record in self.records.items()}
        return ComponentState(arrays, {"records": records, "spent_s": {str(hour): spent for hour, spent in self._spent_s.items()}})

    def digest(self) -> str:
        """Return the SHA-256 of the state, in hex."""
        state = self.snapshot()
        records = {teacher: {**values, "cost_s": 0.0} for teacher, values in state.meta["records"].items()}
        return digest_of(ComponentState(state.arrays, {"records": records}))

    def restore(self, base: ComponentState, deltas: Iterable[ComponentState] = ()) -> None:
        """Replace the state; see `streamrec.state.Component`. One of before there were records begins without any."""
        self.records, self._samples = {}, {}
        for teacher, values in base.meta.get("records", {}).items():
            held = Held(**values["held"]) if values["held"] is not None else None
            self.records[teacher] = Record(**{**values, "now": Held(**values["now"]), "held": held})
            self._samples[teacher] = {name: np.array(base.arrays[f"{teacher}/{name}"]) for name in _SAMPLES}
        self._spent_s = {int(hour): spent for hour, spent in base.meta.get("spent_s", {}).items()}


def _score(sums: list[float], enough: int) -> Score | None:
    num, total, squares = sums
    if num < enough:
        return None
    mean = total / num
    return Score(mean, math.sqrt(max(0.0, squares / num - mean * mean) / num), int(num))
