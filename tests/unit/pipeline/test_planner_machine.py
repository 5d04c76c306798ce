"""The planner beside a dictionary of offsets: it plans, dies, plans again, while the log grows, forgets, gets partitions and is made anew.

The controller is the real one; every record is one that can't be decoded, so that a step costs little and its books count what was read.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from streamrec.clock import ManualClock
from streamrec.config import parse_config
from streamrec.errors import RetentionGap, TopicReplaced
from streamrec.log.base import Record
from streamrec.log.memory import MemoryLog
from streamrec.log.offsets import OffsetRange
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.parts import Parts
from streamrec.pipeline.plan import Plan
from streamrec.pipeline.plan_store import PlanStore
from streamrec.pipeline.report import StepReport
from streamrec.pipeline.skipping import skip_lost
from streamrec.pipeline.wiring import build_local
from streamrec.storage import open_storage
from streamrec.testing.failpoints import Failpoint, observed

MOST, LEAST, MOST_PARTITIONS = 12, 4, 4
CONFIG = parse_config(
    {
        "log": {"num_partitions": MOST_PARTITIONS},
        "teachers": {"enabled": []},
        "student": {"control": False, "dim": 4},
        "lake": {"enabled": False},
        "pipeline": {"max_batch_events": MOST, "min_batch_events": LEAST, "checkpoint_interval_s": 3.0, "batch_interval_s": 1.0},
    }
)
TOPIC = CONFIG.log.events_topic
COMMITTED = (Failpoint.HEAD_MOVED, Failpoint.PRUNED)
FAILPOINTS = (Failpoint.PLAN_DURABLE, Failpoint.READ, Failpoint.DEAD_LETTERS_SENT, Failpoint.BEFORE_COMMIT, Failpoint.COMMIT_WRITTEN, *COMMITTED)


class Crash(BaseException):
    """The process is gone."""


class Topic:
    """A log whose topic shows some of its partitions, has an id, and takes its time for each record."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock, self.seconds_per_record, self.number = clock, 0.0, 0
        self.make_anew()

    def make_anew(self) -> None:
        self.number, self.num_partitions = self.number + 1, 1
        self.log = MemoryLog()
        self.log.ensure_topic(TOPIC, MOST_PARTITIONS)
        self.log.ensure_topic(CONFIG.log.dead_letter_topic, 1)

    def topic_id(self, topic: str) -> str:
        return f"topic {self.number}"

    def earliest(self, topic: str) -> dict[int, int]:
        return self.shown(self.log.earliest(topic))

    def latest(self, topic: str) -> dict[int, int]:
        return self.shown(self.log.latest(topic))

    def shown(self, offsets: Mapping[int, int]) -> dict[int, int]:
        return {partition: offset for partition, offset in offsets.items() if partition < self.num_partitions}

    def read_table(self, ranges: Sequence[OffsetRange]) -> pa.Table:
        table = self.log.read_table(ranges)
        self.clock.advance(self.seconds_per_record * table.num_rows)
        return table

    def __getattr__(self, name: str) -> Any:
        return getattr(self.log, name)


class Watched(Controller):
    """Tell of each plan that was executed."""

    def __init__(self, parts: Parts, machine: PlannerMachine) -> None:
        super().__init__(parts)
        self.machine = machine

    def execute(self, plan: Plan) -> StepReport:
        self.machine.executing, self.machine.known = plan, dict(self.state.offsets)
        report = super().execute(plan)
        self.machine.was_executed(plan, is_committed=report.committed)
        return report


class PlannerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = ManualClock(1_700_000_000_000)
        self.topic = Topic(self.clock)
        self.offsets: dict[int, int] = {}
        self.batch = self.received = 0
        self.committed: tuple[int, int, dict[int, int]] | None = None  # batch, records received, offsets
        self.first_ranges: dict[int, Any] = {}  # Batch to the ranges of its plan, as it was first made.
        self.armed: Failpoint | None = None
        self.reached = 0
        self.executing: Plan | None = None
        self.known: dict[int, int] = {}  # Where the controller was when it began to execute.
        self.is_other_topic = False
        self.began: dict[int, dict[int, int]] = {}  # Batch of a skip that died to where its controller was.

    @initialize()
    def begin(self) -> None:
        self.restart()

    def teardown(self) -> None:
        try:
            if hasattr(self, "controller") and not self.is_other_topic and not self.lost():
                self.drain()
        finally:
            self.folder.cleanup()

    @property
    def state_url(self) -> str:
        return str(Path(self.folder.name) / "state")

    def reach(self, failpoint: Failpoint, batch: int) -> None:
        self.reached = batch
        if failpoint is self.armed:
            raise Crash

    def lost(self) -> dict[int, int]:
        """Partition to the records that are gone though nobody has read them; a partition that nobody has looked at has no beginning yet."""
        standing = self.standing()
        planned = self.first_ranges.get(standing.batch, {}) if standing is not None else {}
        held = {**{partition: start for partition, (start, _) in planned.items()}, **self.controller.state.offsets}
        gaps = {partition: start - held.get(partition, start) for partition, start in self.topic.earliest(TOPIC).items()}
        return {partition: num for partition, num in gaps.items() if num > 0}

    def was_executed(self, plan: Plan, *, is_committed: bool) -> None:
        """Check a plan against the model, and move that."""
        ranges = {part.partition: (part.start, part.end) for part in plan.ranges}
        assert self.first_ranges.setdefault(plan.batch, ranges) == ranges
        assert len(ranges) == len(plan.ranges)  # No partition twice.
        assert plan.num_records <= MOST
        assert self.known.items() >= self.offsets.items()
        held = {} if plan.topic_id is not None else {**self.began.get(plan.batch, {}), **self.known}
        gaps = {partition: start - held.get(partition, start) for partition, (start, _) in ranges.items()}
        assert held.keys() <= ranges.keys()
        assert min(gaps.values(), default=0) >= 0  # Nothing twice,
        assert sum(gaps.values()) == plan.lost  # and nothing left out but what is booked as lost.
        assert plan.batch > self.batch
        self.batch, self.received = plan.batch, self.received + plan.num_records + plan.lost
        self.offsets = {**held, **{partition: end for partition, (_, end) in ranges.items()}}
        self.is_other_topic &= plan.topic_id != self.topic.topic_id(TOPIC)
        if is_committed:
            self.committed = (self.batch, self.received, dict(self.offsets))

    def stored(self) -> list[int]:
        return [batch for batch in PlanStore(open_storage(self.state_url)).batches() if batch > self.batch]

    def standing(self) -> Plan | None:
        """Return the plan that an earlier run made and that comes next."""
        ahead = map(Plan.model_validate, PlanStore(open_storage(self.state_url)).ahead(self.batch).values())
        return next((plan for plan in ahead if plan.follows == self.batch), None)

    def skip_stands(self) -> bool:
        standing = self.standing()
        return standing is not None and standing.after is not None

    def wanted(self) -> tuple[int, int] | None:
        """Return what the next new plan reads at least and at most; None when an earlier plan stands."""
        if self.standing() is not None:
            return None
        earliest = self.topic.earliest(TOPIC)
        lag = sum(end - self.controller.state.offsets.get(partition, earliest[partition]) for partition, end in self.topic.latest(TOPIC).items())
        return min(lag, LEAST), min(lag, MOST)

    @rule()
    def step(self) -> None:
        wanted = self.wanted()
        if self.skip_stands():  # Whoever starts executes it, whatever the log has by then.
            assert self.controller.step().plan.after is not None
        elif self.is_other_topic:
            with pytest.raises(TopicReplaced):
                self.controller.step()
        elif self.lost():
            with suppress(RetentionGap):  # Unless it reads other partitions.
                self.controller.step()
        else:
            report = self.controller.step()
            if wanted is not None:
                assert (report.plan.num_records if report is not None else 0) in range(wanted[0], wanted[1] + 1)
        self.note_stored()
        self.clock.advance(1.0)

    def note_stored(self) -> None:
        """Remember the ranges of a plan that was made and not executed."""
        store = PlanStore(open_storage(self.state_url))
        for batch in self.stored():
            plan = Plan.model_validate(store.read(batch))
            self.first_ranges.setdefault(batch, {part.partition: (part.start, part.end) for part in plan.ranges})

    @rule(num=st.integers(1, 30), partition=st.integers(0, MOST_PARTITIONS - 1))
    def append(self, num: int, partition: int) -> None:
        self.grow(num, partition)

    def grow(self, num: int, partition: int) -> None:
        where = partition % self.topic.num_partitions
        self.topic.log.append(TOPIC, [Record(b"k", b"{not json" + str(number).encode(), partition=where) for number in range(num)])

    @precondition(lambda self: self.topic.num_partitions < MOST_PARTITIONS)
    @rule(num=st.integers(0, 9), share=st.floats(0.0, 1.0))
    def get_a_partition(self, num: int, share: float) -> None:
        """Show one that has forgotten some of its records before anybody reads it."""
        self.topic.num_partitions += 1
        self.grow(num, self.topic.num_partitions - 1)
        self.forget_the_oldest(share, self.topic.num_partitions - 1)

    @rule(seconds=st.sampled_from([0.0, 0.05, 0.15, 1.0]))
    def become_slower_or_faster(self, seconds: float) -> None:
        self.topic.seconds_per_record = seconds

    @rule(share=st.floats(0.0, 1.0), partition=st.integers(0, MOST_PARTITIONS - 1))
    def retention_moves(self, share: float, partition: int) -> None:
        self.forget_the_oldest(share, partition)

    def forget_the_oldest(self, share: float, partition: int) -> None:
        where = partition % self.topic.num_partitions
        start, end = self.topic.earliest(TOPIC)[where], self.topic.latest(TOPIC)[where]
        self.topic.log.drop_before(TOPIC, {where: start + round(share * (end - start))})

    @rule()
    def restart(self) -> None:
        self.armed = None
        self.batch, self.received, self.offsets = self.committed or (0, 0, {})
        self.offsets = dict(self.offsets)
        parts = build_local(CONFIG, self.topic, self.state_url, self.clock, dead_letters=self.topic.log).parts
        self.controller = Watched(observed(parts, self.state_url, None, self.reach), self)
        assert self.controller.recover() == (self.committed is not None)
        assert (self.controller.state.batch, self.controller.state.counts["received"]) == (self.batch, self.received)
        assert self.controller.state.offsets == self.offsets

    @rule(failpoint=st.sampled_from(FAILPOINTS))
    def die_at(self, failpoint: Failpoint) -> None:
        """Step until the failpoint is passed, if that comes soon."""
        self.armed = failpoint
        for _ in range(4):
            if self.is_other_topic or self.lost():
                break
            try:
                self.controller.step()
            except Crash:
                self.note_stored()
                if failpoint in COMMITTED:
                    assert self.executing is not None
                    self.was_executed(self.executing, is_committed=True)
                break
            self.clock.advance(1.0)
        self.restart()

    @precondition(lambda self: self.committed is not None and self.committed[0] > 0 and not self.is_other_topic)
    @rule()
    def be_made_anew(self) -> None:
        self.topic.make_anew()
        self.is_other_topic = True
        self.restart()

    @rule()
    def go_on_where_the_log_begins(self) -> None:
        is_other, gives_up = self.is_other_topic, self.is_other_topic or bool(self.lost()) or self.skip_stands()
        report = skip_lost(self.controller, lambda _: None)
        if not self.lost() and not gives_up:
            assert report is None
        elif is_other:
            assert report is not None
            assert report.plan.topic_id == self.topic.topic_id(TOPIC)
        assert not self.is_other_topic
        assert self.lost() == {}
        if report is not None:  # What was planned and not executed is given up, and no number of it used again.
            self.first_ranges = {batch: ranges for batch, ranges in self.first_ranges.items() if batch <= self.batch}
            assert self.stored() == []

    @rule(failpoint=st.sampled_from((Failpoint.PLAN_DURABLE, Failpoint.BEFORE_COMMIT, Failpoint.HEAD_MOVED)))
    def die_while_going_on(self, failpoint: Failpoint) -> None:
        self.armed = failpoint
        try:
            skip_lost(self.controller, lambda _: None)
        except Crash:
            self.note_stored()
            newest = Plan.model_validate(PlanStore(open_storage(self.state_url)).read(self.reached))
            if newest.after is not None:
                is_begun = self.executing is not None and self.executing.batch == newest.batch
                self.began.setdefault(newest.batch, dict(self.known if is_begun else self.controller.state.offsets))
            if failpoint in COMMITTED:
                assert self.executing is not None
                self.was_executed(self.executing, is_committed=True)
        self.restart()

    def drain(self) -> None:
        for _ in range(200):
            if self.controller.step() is None:
                break
            self.clock.advance(1.0)
        earliest = self.topic.earliest(TOPIC)
        assert {partition: self.offsets.get(partition, start) for partition, start in earliest.items()} == self.topic.latest(TOPIC)
        assert self.controller.lag() == 0

    @invariant()
    def the_books_say_what_was_read(self) -> None:
        if hasattr(self, "controller"):
            counts = self.controller.state.counts
            assert counts["received"] == self.received
            assert counts["rejected"] + counts.get("lost", 0) == self.received


PlannerMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
TestPlannerAgainstOffsets = PlannerMachine.TestCase
