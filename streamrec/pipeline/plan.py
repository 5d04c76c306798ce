"""Plan micro-batches: a pure function from measured state to a durable plan, which is executed unchanged even after a crash."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pydantic import BaseModel, ConfigDict, field_validator

from streamrec.config import Config, PipelineConfig
from streamrec.log.offsets import OffsetRange
from streamrec.pipeline.challenge import LEAST_QUERIES, ChallengeDecision, decide_challenge
from streamrec.registry.gate import Window
from streamrec.registry.guard import Guarded
from streamrec.registry.version import version_id
from streamrec.teachers.policy import Reason, RefreshDecision, RefreshFacts, decide_refresh, latest_events, must_forget

STUDENT = "default"
"""Name of the student among those of a registry."""

LONGEST_INTERVAL = 4
"""A commit that a refresh puts off happens after so many intervals at the latest."""


class PlannedRange(BaseModel):
    """Name the offsets ``[start, end)`` of one partition."""

    model_config = ConfigDict(frozen=True)
    topic: str
    partition: int
    start: int
    end: int

    def to_range(self) -> OffsetRange:
        """Return it as the log's range."""
        return OffsetRange(self.topic, self.partition, self.start, self.end)


class Plan(BaseModel):
    """Fix everything that one `Controller.step` depends on besides the state.

    Attributes:
        batch: Number of the micro-batch, from 1.
        ranges: Offsets to read, every partition listed.
        now_ms: Processing time to validate event times against.
        seed: Of learning.
        evaluate: Score the students on the new events first.
        new_passes: Passes over the new examples; 0 does not learn.
        replay_passes: Replayed examples a pass, as a multiple of the new ones.
        rounds: Of ``new_passes`` passes each, at most; more than one are ended by held-out queries.
        teachers: Teacher name to the version whose labels are used.
        challengers: Teacher name to a new version that is compared with the one in use on this step's queries.
        verdicts: How comparisons have ended, by the steps before: `teachers` and `challengers` follow them.
        start_refresh: Teachers whose next version (named after this batch) starts after learning.
        decisions: Why; and of teachers whose refresh is put off, why that is.
        costs_s: Teacher name to the worker-seconds of the version that this plan is the first to name.
        failed: Teacher name to the reason why the version that was being made will not be.
        publish: Publish a version after learning, unless one is still waiting for the gate.
        checkpoint: Commit at the end.
        idle: A version has waited for a while, so too few events come to judge it: it is promoted unless it is measurably worse.
        live: What the registry had live when the step was planned: after a rollback another version than the state's. None says nothing.
        lives: The same of further students, by name.
        idles: Further students of which the same is true as ``idle`` says.
        holds: Student by its name in the registry to why nothing is published or promoted for it; see `streamrec.pipeline.switches`.
        return_to: Promoted version whose state the students go back to before this step: the gate has rejected too many in a row since, or the guard
            has found the later ones worse.
        guarded: Versions that are rolled back before this step.
        lag: Records of the log behind the ranges when this was planned.
        seconds_per_event: What the size of the ranges was chosen by; None while nothing was measured.
        lost: Records that the log no longer had; the ranges then begin behind them, and the step books as lost what the lake does not have either.
        topic_id: The topic that offsets belong to from this step on; None for the same as before.
        after: The batch that this plan is executed after, if not the one before: the plans between are given up, and never executed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    batch: int
    ranges: tuple[PlannedRange, ...]
    now_ms: int
    seed: int
    evaluate: bool = True
    new_passes: int = 1
    replay_passes: int = 1
    rounds: int = 1
    teachers: dict[str, str] = {}
    challengers: dict[str, str] = {}
    verdicts: tuple[ChallengeDecision, ...] = ()
    start_refresh: tuple[str, ...] = ()
    decisions: tuple[RefreshDecision, ...] = ()
    costs_s: dict[str, float] = {}
    failed: dict[str, str] = {}
    publish: bool = True
    checkpoint: bool = False
    idle: bool = False
    live: str | None = None
    lives: dict[str, str] = {}
    idles: tuple[str, ...] = ()
    holds: dict[str, str] = {}
    return_to: str | None = None
    guarded: tuple[Guarded, ...] = ()
    lag: int = 0
    seconds_per_event: float | None = None
    lost: int = 0
    topic_id: str | None = None
    after: int | None = None

    @field_validator("teachers", "challengers")
    @classmethod
    def _in_one_order(cls, versions: dict[str, str]) -> dict[str, str]:
        """Sort by name, as a stored plan is: the order in which teachers answer is part of the ensemble's state."""
        return dict(sorted(versions.items()))

    @property
    def follows(self) -> int:
        """The batch that this one is executed after."""
        return self.batch - 1 if self.after is None else self.after

    @property
    def num_records(self) -> int:
        """Number of records in the ranges."""
        return sum(part.end - part.start for part in self.ranges)


@dataclass(frozen=True)
class Measured:
    """Hold what the planner looks at besides the stream state.

    Attributes:
        ends: End offset (exclusive) of each partition.
        finished: Teacher name to its newest complete version.
        now_ms: Processing time.
        since_publish_s: Since the last publication.
        since_checkpoint_s: Since the last commit.
        live: What is live in the registry.
        lives: And in those of further students.
        waits_s: Name of a further student to the time since its last publication, for those whose candidate waits.
        seconds_per_event: Of recent micro-batches, None while there is none.
        ahead: Ranges that are being read already; taken when they follow the state's offsets.
        costs_s: Teacher name to the worker-seconds of its finished refresh.
        failed: Teacher name to reason for refreshes under way that have failed.
        holds: Student to why nothing is promoted for it.
        guarded: What the guard has found.
    """

    ends: Mapping[int, int]
    finished: Mapping[str, str]
    now_ms: int
    since_publish_s: float
    since_checkpoint_s: float
    live: str | None = None
    seconds_per_event: float | None = None
    lives: Mapping[str, str] = field(default_factory=dict)
    waits_s: Mapping[str, float] = field(default_factory=dict)
    ahead: tuple[PlannedRange, ...] = ()
    costs_s: Mapping[str, float] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    holds: Mapping[str, str] = field(default_factory=dict)
    guarded: tuple[Guarded, ...] = ()


def version_name(batch: int) -> str:
    """Return the name of whatever a batch makes; names sort by age."""
    return version_id(batch)


def take_ranges(topic: str, offsets: Mapping[int, int], ends: Mapping[int, int], limit: int) -> tuple[PlannedRange, ...]:
    """Take up to ``limit`` records over all partitions: one of each that has any, the rest in proportion to each one's lag.

    Args:
        topic: Topic name.
        offsets: Next offset of each partition; one that is missing starts at 0.
        ends: End offset (exclusive) of each partition.
        limit: At most so many records; where it is below the number of partitions that have any, the ones furthest behind come first.
    """
    lags = {partition: max(0, end - offsets.get(partition, 0)) for partition, end in ends.items()}
    behind = sorted((partition for partition, lag in lags.items() if lag), key=lambda partition: (-lags[partition], partition))[:limit]
    rest = sum(lags[partition] - 1 for partition in behind)
    spare = min(rest, limit - len(behind))
    taken = {partition: 1 + ((lags[partition] - 1) * spare // rest if rest else 0) for partition in behind}
    left = len(behind) + spare - sum(taken.values())
    for partition in behind:  # What rounding left over.
        more = min(left, 1, lags[partition] - taken[partition])
        taken[partition], left = taken[partition] + more, left - more
    return tuple(
        PlannedRange(topic=topic, partition=partition, start=start, end=start + taken.get(partition, 0))
        for partition, start in ((partition, offsets.get(partition, 0)) for partition in sorted(ends))
    )


def lag_of(offsets: Mapping[int, int], ends: Mapping[int, int]) -> int:
    """Return how many records lie at or above the next offsets; a partition without one starts at 0."""
    return sum(max(0, end - offsets.get(partition, 0)) for partition, end in ends.items())


def next_limit(lag: int, seconds_per_event: float | None, pipeline: PipelineConfig) -> int:
    """Return how many records the next micro-batch takes at most.

    As many as one interval is enough for, so that a version is no older than it must be; when that leaves a backlog, half of what waits,
    because large micro-batches are the cheaper ones. Always within the configured limits.

    Args:
        lag: Records that wait.
        seconds_per_event: Of recent micro-batches; None takes the upper limit.
        pipeline: The limits and the interval.
    """
    if not seconds_per_event:
        return pipeline.max_batch_events
    wanted = max(int(pipeline.batch_interval_s / seconds_per_event), lag // 2, pipeline.min_batch_events)
    return min(wanted, pipeline.max_batch_events)


def next_ranges(offsets: Mapping[int, int], measured: Measured, config: Config) -> tuple[PlannedRange, ...]:
    """Return what the next micro-batch reads: what is being read ahead if it follows, else what the limit allows."""
    if measured.ahead and all(offsets.get(part.partition, 0) == part.start for part in measured.ahead):
        return measured.ahead
    limit = next_limit(lag_of(offsets, measured.ends), measured.seconds_per_event, config.pipeline)
    return take_ranges(config.log.events_topic, offsets, measured.ends, limit)


def refresh_decisions(state: StreamFacts, now_ms: int, config: Config, lag: int = 0) -> dict[str, RefreshDecision]:
    """Decide for each teacher that comes in versions whether its next one begins while so many records wait."""
    facts = {name: replace(_facts_of(name, state), lag=lag) for name in config.teachers.refreshed}
    return {name: decide_refresh(each, now_ms, config.teachers) for name, each in facts.items()}


def _facts_of(name: str, state: StreamFacts) -> RefreshFacts:
    return replace(
        state.refreshes.get(name, RefreshFacts(name)),
        version=state.teachers.get(name),
        is_busy=name in state.pending or name in state.challengers,
        num_events=state.events_since.get(name, 0),
        forget_since_ms=state.forget_since_ms.get(name),
    )


@dataclass(frozen=True)
class _InUse:
    """Hold which versions the next step uses and compares, and how comparisons have ended."""

    teachers: dict[str, str]
    challengers: dict[str, str]
    verdicts: tuple[ChallengeDecision, ...]


def _in_use(state: StreamFacts, measured: Measured, must_go: set[str], config: Config) -> _InUse:
    """Let a finished version be compared with the one in use, unless there is none or it must go, and end comparisons that have told enough.

    One ends at the latest when the next refresh is due, by few queries if need be: or a stream of few queries would keep its teachers old.
    """
    teachers, challengers, verdicts = dict(state.teachers), dict(state.challengers), []
    num_wanted = config.teachers.challenge_queries
    for name, version in state.challengers.items():
        is_due = state.events_since.get(name, 0) >= latest_events(name, config.teachers)
        num, window = min(num_wanted, LEAST_QUERIES) if is_due else num_wanted, state.windows.get(name, Window(0))
        verdict = decide_challenge(name, version, teachers[name], window, num, must_forget=name in must_go)
        if verdict is None:
            continue
        verdicts.append(verdict)
        del challengers[name]
        if verdict.takes_over:
            teachers[name] = version
    for name, version in _finished(state, measured).items():
        if name not in teachers or not num_wanted or name in must_go:
            teachers[name] = version
        else:
            challengers[name] = version
    return _InUse(teachers, challengers, tuple(verdicts))


def _finished(state: StreamFacts, measured: Measured) -> dict[str, str]:
    return {name: version for name, version in state.pending.items() if measured.finished.get(name) == version}


def _must_forget(state: StreamFacts, now_ms: int, config: Config) -> set[str]:
    """Return the teachers whose time to begin a refresh without a deleted user is nearly over."""
    since_ms = state.forget_since_ms
    return {name for name in config.teachers.refreshed if must_forget(since_ms.get(name), now_ms, config.teachers)}


def _must_go(state: StreamFacts, now_ms: int, config: Config) -> set[str]:
    """Return the teachers whose version in use knows a user who is to be forgotten by now, and whose next version is made or compared."""
    busy = [_facts_of(name, state) for name in {*state.pending, *state.challengers}]
    return {each.teacher for each in busy if any(must_forget(since, now_ms, config.teachers) for since in (each.serves_ms, each.forget_since_ms))}


def next_plan(state: StreamFacts, measured: Measured, config: Config) -> Plan | None:
    """Plan the next micro-batch, or return None when there is nothing to do."""
    ranges = next_ranges(state.offsets, measured, config)
    num = sum(part.end - part.start for part in ranges)
    patience_s = config.pipeline.idle_promote_s
    idle = state.candidate is not None and measured.since_publish_s >= patience_s and STUDENT not in measured.holds
    idles = tuple(name for name, waits_s in measured.waits_s.items() if waits_s >= patience_s and name not in measured.holds)
    # What is live may know a user who was deleted, and nothing else may come for long.
    publish = (num > 0 or state.must_publish) and measured.since_publish_s >= config.pipeline.publish_interval_s
    forgets, finished = _must_forget(state, measured.now_ms, config), _finished(state, measured)
    failed = {name: reason for name, reason in measured.failed.items() if name in state.pending}
    lag = lag_of(state.offsets, measured.ends) - num
    decisions = tuple(each for each in refresh_decisions(state, measured.now_ms, config, lag).values() if each.refresh or each.is_put_off)
    start_refresh = tuple(each.teacher for each in decisions if each.refresh and (num or each.teacher in forgets or each.code is Reason.ASKED))
    # A refresh that began before the deletion must come into use, or be given up, before the one after it can begin.
    must_go = _must_go(state, measured.now_ms, config)
    # A version that is made, or could not be, is no longer "being made", also where no events come.
    settles = bool(finished or failed) or any(name in state.challengers for name in must_go)
    in_use = _in_use(state, measured, must_go, config)
    waits_for_solve = "linear" in start_refresh or ("linear" in state.pending and not {"linear"} & {*finished, *failed})
    checkpoint = _commit_is_due(measured.since_checkpoint_s, config.pipeline.checkpoint_interval_s, waits_for_solve)
    commits = checkpoint and (state.has_uncommitted or (state.tidy_at_ms is not None and measured.now_ms >= state.tidy_at_ms))
    return_to = state.good if 0 < config.registry.max_rejections <= state.rejections else None
    return_to = next((each.to for each in measured.guarded if each.student == STUDENT), return_to)
    is_moved = return_to is not None or bool(measured.guarded)
    if num == 0 and not (is_moved or publish or idle or idles or start_refresh or settles or commits):
        return None
    batch = state.batch + 1
    return Plan(
        batch=batch,
        ranges=ranges,
        now_ms=measured.now_ms,
        seed=(config.seed * 1_000_003 + batch) % 2**31,
        new_passes=config.student.new_passes,
        replay_passes=config.student.replay_passes,
        teachers=in_use.teachers,
        challengers=in_use.challengers,
        verdicts=in_use.verdicts,
        start_refresh=start_refresh,
        decisions=tuple(each for each in decisions if each.is_put_off or each.teacher in start_refresh),
        costs_s={name: measured.costs_s[name] for name in finished if name in measured.costs_s},
        failed=failed,
        publish=publish,
        checkpoint=checkpoint,
        idle=idle,
        live=measured.live,
        lives=dict(measured.lives),
        idles=idles,
        holds=dict(measured.holds),
        return_to=return_to,
        guarded=measured.guarded,
        lag=lag,
        seconds_per_event=measured.seconds_per_event,
    )


def _commit_is_due(since_s: float, interval_s: float, waits_for_solve: bool) -> bool:
    """Return whether to commit. A commit must wait for the linear teacher's solve, so it is rather put off until that is done, for a while."""
    return since_s >= (LONGEST_INTERVAL * interval_s if waits_for_solve else interval_s)


@dataclass(frozen=True)
class StreamFacts:
    """Hold the part of the stream state that planning depends on; see `streamrec.pipeline.stream_state.StreamState`."""

    batch: int
    offsets: Mapping[int, int]
    teachers: Mapping[str, str]
    pending: Mapping[str, str]
    events_since: Mapping[str, int]
    candidate: str | None
    has_uncommitted: bool
    must_publish: bool = False
    forget_since_ms: Mapping[str, int] = field(default_factory=dict)
    tidy_at_ms: int | None = None
    challengers: Mapping[str, str] = field(default_factory=dict)
    windows: Mapping[str, Window] = field(default_factory=dict)
    refreshes: Mapping[str, RefreshFacts] = field(default_factory=dict)
    rejections: int = 0
    good: str | None = None
