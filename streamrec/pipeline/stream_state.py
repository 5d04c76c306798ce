"""Keep the stream's own state: offsets, books, watermark, teachers in use, the gate's candidate."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from streamrec.code_version import code_version
from streamrec.pipeline.ingest import Ingested
from streamrec.pipeline.learned_since import of_a_new_topic
from streamrec.pipeline.lineage import Current
from streamrec.pipeline.plan import Plan, StreamFacts, take_ranges, version_name
from streamrec.pipeline.refresh_state import RefreshState
from streamrec.state import ComponentState, Impersonal, digest_of
from streamrec.teachers.policy import RefreshFacts

OUTCOMES = ("published", "promoted", "rejected")
BOOK_COLUMNS = ("received", "applied", "duplicate", "rejected", "late", "quarantined")
_BY_PARTITION = ("offsets", "watermarks_ms")
_NOT_LEARNED = ("topic_id", "topic_batch", "planned_ms", "spent_s", "waits", "num_steps")

KEPT_LABELS = 20
"""Versions of a teacher whose labels are counted each by itself: a stream makes new ones for ever, and every commit tells of all that are kept."""

LIVE = "live"
"""Stands for the student among the live versions that a commit tells."""

EARLIER = "earlier"
"""Stands for the versions before these."""


@dataclass
class Line:
    """Hold how far a further student's versions are: `StreamState` has the same of the student's own."""

    newest: str | None = None
    candidate: str | None = None
    live: str | None = None
    evidence: dict[str, float] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    usual: dict[str, Any] = field(default_factory=dict)
    tainted: str = ""
    guard: dict[str, Any] = field(default_factory=dict)


def held_by(line: Line | StreamState) -> set[str]:
    """Return the versions that a student's line goes on with: without one of them it does not end in the same bits, or not go on at all."""
    held = (line.live, line.candidate, line.guard.get("vouched"), line.guard.get("first"))
    return {version for version in held if version is not None}


@dataclass
class StreamState(Impersonal):
    """Hold what no other component owns; a component itself.

    Attributes:
        batch: Number of the last micro-batch.
        offsets: Next offset of each partition.
        counts: `BOOK_COLUMNS` over everything read; also ``lost``, once records were skipped on purpose that had left the log.
        watermarks_ms: Highest event time seen in each partition.
        planned_ms: Processing time of the last plan, since plans go once they are committed; not in the digest, as `topic_id`.
        teachers: Teacher name to the version whose labels are used.
        pending: Teacher name to the version being made.
        challengers: Teacher name to the version that is compared with the one in use.
        events_since: Teacher name to interactions since its last refresh began.
        newest: Version that was published last.
        candidate: Published version that waits for the gate.
        live: Promoted version.
        versions: How many were published, promoted, rejected.
        lines: The same five of each further student.
        labels: "teacher version" to the number of queries that it labelled, for each teacher's newest `KEPT_LABELS`; "teacher earlier": all before.
        topic_id: Id of the topic that the offsets belong to, as far as the log gives one; not in the digest, because it says nothing of what was
            learned.
        topic_batch: The micro-batch by which the stream went on with a topic that was made anew: offsets of rows up to it are another topic's; 0
            while there was none. Not in the digest, as `topic_id`.
        forgot_batch: The last micro-batch that deleted a user; 0 while there is none.
        forget_since_ms: Teacher name to the processing time of the first deletion since its last refresh began.
        rounds_gain: Whether the last step that learned in rounds gained by the last of them; see `streamrec.pipeline.students.Students.learn`.
        good: Version whose state the students go back to when too many in a row are rejected; None while there is none.
        rejections: How many the gate has rejected since it was promoted, or since the students went back; ``rejected_for`` says why the last one was.
        usual: What the live version usually finds; see `streamrec.registry.usual.Usual`.
        tainted: Why the students have learned from events that were unlike those before; empty where they have not, or went back since.
        marks: ``good``, the candidate and what the guard goes back to, to where the stream was when it was published; see
            `streamrec.pipeline.quarantine`.
        guard: What came of answers; see `streamrec.registry.guard.Watch`.
        queries: How many queries all steps had, less those that returns took back.
        told_batch: The last micro-batch that read words of items; 0 while there is none.
        evidence: What is known of the candidate; see `streamrec.registry.evidence.Evidence`.
        num_steps: Steps that were measured; like what they took, of what a report tells and nothing was learned from, so not in the digest.
        spent_s: Stage to seconds of all of them.
        waits: How long records waited in the log, by bucket of `streamrec.pipeline.spending`.
    """

    name: str = "stream"
    batch: int = 0
    offsets: dict[int, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(BOOK_COLUMNS, 0))
    watermarks_ms: dict[int, int] = field(default_factory=dict)
    planned_ms: int = 0
    teachers: dict[str, str] = field(default_factory=dict)
    pending: dict[str, str] = field(default_factory=dict)
    challengers: dict[str, str] = field(default_factory=dict)
    events_since: dict[str, int] = field(default_factory=dict)
    newest: str | None = None
    candidate: str | None = None
    live: str | None = None
    versions: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    lines: dict[str, Line] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    topic_id: str = ""
    topic_batch: int = 0
    forgot_batch: int = 0
    forget_since_ms: dict[str, int] = field(default_factory=dict)
    rounds_gain: bool = True
    evidence: dict[str, float] = field(default_factory=dict)
    good: str | None = None
    rejections: int = 0
    rejected_for: str = ""
    usual: dict[str, Any] = field(default_factory=dict)
    tainted: str = ""
    marks: dict[str, dict[str, Any]] = field(default_factory=dict)
    guard: dict[str, Any] = field(default_factory=dict)
    queries: int = 0
    told_batch: int = 0
    applied_batch: int = 0
    num_steps: int = 0
    spent_s: dict[str, float] = field(default_factory=dict)
    waits: list[int] = field(default_factory=list)

    @property
    def entered(self) -> int:
        """How many events went into histories and the lake: those that are quarantined did, too."""
        return self.counts["applied"] + self.counts["quarantined"]

    def plan_to_commit(self, topic: str, now_ms: int) -> Plan:
        """Return the next plan, one that reads nothing and commits."""
        return Plan(
            batch=self.batch + 1,
            ranges=take_ranges(topic, self.offsets, self.offsets, 1),
            now_ms=now_ms,
            seed=0,
            evaluate=False,
            new_passes=0,
            teachers=self.teachers,
            challengers=self.challengers,
            publish=False,
            checkpoint=True,
        )

    def facts(
        self, has_uncommitted: bool, must_publish: bool, tidy_at_ms: int | None, record: RefreshState, refreshes: Mapping[str, RefreshFacts]
    ) -> StreamFacts:
        """Return what planning depends on.

        Args:
            has_uncommitted: Whether steps were taken since the last commit.
            must_publish: Whether no version was published since users did something or were deleted, or words of items were told.
            tidy_at_ms: A commit is due then even if nothing comes.
            record: Has the scores of versions that are compared.
            refreshes: What is known of each teacher that comes in versions.
        """
        rejected = (self.rejections, self.good)
        shared = (self.batch, self.offsets, self.teachers, self.pending, self.events_since, self.candidate)
        windows = {teacher: record.window(teacher, version) for teacher, version in self.challengers.items()}
        return StreamFacts(*shared, has_uncommitted, must_publish, self.forget_since_ms, tidy_at_ms, self.challengers, windows, refreshes, *rejected)

    def account(self, ingested: Ingested, plan: Plan, labelled_by: Mapping[str, str], teachers: Iterable[str]) -> None:
        """Book what a micro-batch read and what became of it.

        Args:
            ingested: Its events.
            plan: Its plan.
            labelled_by: Teacher name to the version whose labels were used.
            teachers: Names of those that are refreshed after so many interactions.
        """
        self.batch, self.planned_ms = plan.batch, plan.now_ms
        self.queries += len(ingested.examples)
        self.told_batch = plan.batch if ingested.told else self.told_batch
        self.applied_batch = plan.batch if ingested.num_interactions and plan.new_passes else self.applied_batch
        # Ahead of the plan only where a clock was: see `streamrec.pipeline.plan_time`.
        self.forget_since_ms = {name: min(since_ms, plan.now_ms) for name, since_ms in self.forget_since_ms.items()}
        self.watermarks_ms = dict(ingested.watermarks_ms)
        if plan.topic_id is not None:
            self.topic_id, self.topic_batch = plan.topic_id, plan.batch
            self.offsets, self.watermarks_ms = {}, {}
            self.marks = of_a_new_topic(self.marks, plan.batch, {part.partition: part.start for part in plan.ranges})
        self.offsets |= {part.partition: part.end for part in plan.ranges}
        if lost := max(0, plan.lost - ingested.counts["received"]):  # The others came from the lake: see `streamrec.pipeline.given_up`.
            for name in ("received", "lost"):
                self.counts[name] = self.counts.get(name, 0) + lost
        for name, num in ingested.counts.items():
            self.counts[name] += num
        for name in teachers:
            self.events_since[name] = self.events_since.get(name, 0) + ingested.num_interactions
        for name, version in labelled_by.items():
            key = f"{name} {version}"
            self.labels[key] = self.labels.get(key, 0) + len(ingested.examples)
            self._bound_labels(name)

    def spend(self, stages: Mapping[str, float], waits: Sequence[int]) -> None:
        """Add what a step took by stage, and how long its records had waited."""
        self.num_steps += 1
        self.spent_s = {name: round(self.spent_s.get(name, 0.0) + seconds, 6) for name, seconds in stages.items()}
        held = self.waits if len(self.waits) == len(waits) else [0] * len(waits)  # Other buckets begin anew.
        self.waits = [old + new for old, new in zip(held, waits, strict=True)]

    def _bound_labels(self, teacher: str) -> None:
        earlier = f"{teacher} {EARLIER}"
        versions = sorted(key for key in self.labels if key.startswith(f"{teacher} ") and key != earlier)
        for key in versions[:-KEPT_LABELS]:
            self.labels[earlier] = self.labels.get(earlier, 0) + self.labels.pop(key)

    def forgot(self, batch: int, now_ms: int, teachers: Iterable[str]) -> None:
        """Note that a micro-batch deleted users, planned at ``now_ms``: every teacher must be refreshed within a time."""
        self.forgot_batch = batch
        self.forget_since_ms = {**dict.fromkeys(teachers, now_ms), **self.forget_since_ms}

    def go_on_as(self, current: Current) -> None:
        """Number batches as a lineage does that is current, whatever they were before; what earlier lineages learned of users goes as before."""
        if self.batch < current.first_batch - 1:
            self.batch = current.first_batch - 1
            self.forgot_batch = current.first_batch if self.forgot_batch else current.forgot_batch

    def commit_facts(self) -> dict[str, Any]:
        """Return what a commit says of the stream: by student the live version and all that are held. A candidate is not older than the live one."""
        lines: dict[str, Line | StreamState] = {LIVE: self, **self.lines}
        live = {name: line.live for name, line in lines.items() if line.live is not None}
        held = {name: sorted(versions) for name, line in lines.items() if (versions := held_by(line))}
        return {"offsets": self.offsets, "counts": self.counts, "teachers": self.teachers, "versions": live, "held": held, "code": code_version()}

    def line(self, name: str) -> Line:
        """Return a further student's, which begins when it is first asked for."""
        return self.lines.setdefault(name, Line())

    @property
    def waiting(self) -> str | None:
        """A version that waits for the gate, of any student."""
        return self.candidate or next((line.candidate for line in self.lines.values() if line.candidate is not None), None)

    def keep_lines(self, names: Iterable[str]) -> None:
        """Forget the lines of students that there are no more."""
        self.lines = {name: line for name, line in self.lines.items() if name in set(names)}

    @property
    def not_before(self) -> str | None:
        """The oldest version that has learned from nobody who was deleted since; None while nobody was."""
        return version_name(self.forgot_batch) if self.forgot_batch else None

    @property
    def due(self) -> str | None:
        """The oldest version that has what users did and all words of items, and nobody who was deleted.

        One is published even if nothing was learned then and no more comes: of what came while a candidate waited, too.
        """
        return _named(max(self.forgot_batch, self.told_batch, self.applied_batch))

    @property
    def due_for_each(self) -> str | None:
        """The same without what users did, which may be in namespaces of which a further student learns nothing."""
        return _named(max(self.forgot_batch, self.told_batch))

    def versions_not_before(self, needed: str | None) -> str | None:
        """Return the oldest version that has learned from nobody who was deleted since; None while nobody was, or no kept commit has a version.

        Args:
            needed: Version that the oldest kept commit was made with.
        """
        return self.not_before if needed else None

    def _meta(self) -> dict[str, Any]:
        meta = {key: copy.deepcopy(value) for key, value in vars(self).items() if key not in {"name", "lines"}}
        return {**meta, "lines": {name: asdict(line) for name, line in self.lines.items()}}

    def snapshot(self) -> ComponentState:
        """Return everything."""
        by_partition = {name: {str(partition): value for partition, value in getattr(self, name).items()} for name in _BY_PARTITION}
        return ComponentState({}, {**self._meta(), **by_partition})

    def restore(self, base: ComponentState, deltas: Iterable[ComponentState] = ()) -> None:
        """Replace the state; see `streamrec.state.Component`."""
        fresh = StreamState()
        vars(self).update(vars(fresh))
        vars(self).update(copy.deepcopy(dict(base.meta)))
        self.lines = {name: Line(**copy.deepcopy(line)) for name, line in base.meta.get("lines", {}).items()}
        for name in _BY_PARTITION:
            setattr(self, name, {int(partition): value for partition, value in base.meta.get(name, {}).items()})

    def digest(self) -> str:
        """Return the SHA-256 of the state, in hex."""
        snapshot = self.snapshot()
        return digest_of(ComponentState(snapshot.arrays, {name: value for name, value in snapshot.meta.items() if name not in _NOT_LEARNED}))


def _named(batch: int) -> str | None:
    return version_name(batch) if batch else None


def books(state: StreamState, committed: dict[str, int]) -> dict[str, int]:
    """Return the books: received = applied + duplicate + rejected + late + quarantined + pending, + lost where something was.

    Args:
        state: The state as of the last step.
        committed: ``counts`` as of the last commit; what came since is pending.
    """
    result = {**committed, "received": state.counts["received"]}
    result["pending"] = state.counts["received"] - committed["received"]
    return result
