"""Move the stream by one micro-batch per `Controller.step`: plan → read → evaluate → gate → label → learn → publish → checkpoint.

**Contract.** Before a step reads anything its plan is durable; a step is a function of the state and its plan. After a crash `recover`
goes back to the last commit, and the plans made since are executed unchanged, so that a killed run ends in the same bits as an undisturbed
one. Nothing in here sleeps.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from streamrec.config.teacher_names import CONTROL
from streamrec.errors import OperatorError
from streamrec.evaluation.gain import Gain
from streamrec.evaluation.progressive import Progressive
from streamrec.evaluation.ranking import known_queries, per_query_metrics
from streamrec.features.examples import Examples
from streamrec.pipeline.components import WorkerComponent, itself
from streamrec.pipeline.dead_letters import send_dead_letters
from streamrec.pipeline.forgetting import Forgetting
from streamrec.pipeline.given_up import take_over
from streamrec.pipeline.guarding import Guarding
from streamrec.pipeline.ingest import POPULAR, Ingest, Ingested
from streamrec.pipeline.intake import Intake
from streamrec.pipeline.labelling import Labelling
from streamrec.pipeline.lost_plans import check_plans
from streamrec.pipeline.parts import Parts
from streamrec.pipeline.plan import Measured, Plan, next_plan, version_name
from streamrec.pipeline.plan_time import PlanTime
from streamrec.pipeline.publisher import ItemFacts
from streamrec.pipeline.quarantine import Quarantine
from streamrec.pipeline.refreshing import Refreshing
from streamrec.pipeline.report import StageTimer, StepReport
from streamrec.pipeline.saving import Saver, shape_of
from streamrec.pipeline.stream_state import LIVE, StreamState, books
from streamrec.pipeline.students import Students
from streamrec.pipeline.switches import Flip, Switches, Watched, why_held
from streamrec.pipeline.version_line import MAIN, VersionLine
from streamrec.registry.version import VersionFacts
from streamrec.soft_labels.say import say_of
from streamrec.soft_labels.schema import SoftLabels
from streamrec.state import Component
from streamrec.student.learner import CURRENT, Learner
from streamrec.teachers.linear import LinearStatistics
from streamrec.workers import Pending


class Controller:
    """Own the stream's state and move it; see the module's contract.

    Args:
        parts: Collaborators; which of them live in actors makes no difference here.
    """

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.config = parts.config
        self.state = StreamState()
        self.ingest = Ingest(self.config, parts.traces.stage)
        self.intake = Intake(parts.reader, self.state, self.config)
        self.progressive, self.gain = Progressive(), Gain()
        self.refreshing = Refreshing(parts, self.ingest, self.state, self.gain)
        self.labelling = Labelling(parts, self.ingest, self.progressive, self.refreshing.record)
        self.students = Students(parts, self.labelling, self.ingest.vocabulary, self.state)
        self.line = VersionLine(parts, MAIN, lambda: self.state, self._check_owner)
        self._further = {name: VersionLine(parts, name, partial(self.state.line, name), self._check_owner) for name in parts.students}
        self.quarantine = Quarantine(parts, self.state, self.labelling.store, self._lines(), self.ingest.vocabulary)
        self.guarding = Guarding(parts, self.state, self._lines())
        self._forgetting = Forgetting(parts, self.ingest, self.components(), self.labelling.store, self.students)
        self._saver = Saver(parts.checkpoints, self.components(), shape_of(self.config))
        self._committed_counts, self._committed_batch = dict(self.state.counts), self.state.batch
        self._checkpoint_s = parts.clock.monotonic_s()
        self.time = PlanTime(parts.clock, parts.plans, self.state)
        self._plans_ahead: dict[int, int] | None = None  # By the batch that they follow.
        self._is_torn = False
        self._switches = Watched(parts.switches.now if parts.switches is not None else None, parts.clock)

    def components(self) -> dict[str, Component]:
        """Return all state by name."""
        parts = self.parts
        own: list[Component] = [self.state, *self.ingest.components(), *self.labelling.components()]
        own += [self.progressive, self.gain, self.refreshing.record]
        own += [WorkerComponent(name, worker, itself) for name, worker in parts.learners().items()]
        own += [WorkerComponent(f"{name}.returns", worker, Learner.remembered) for name, worker in parts.learners().items()]
        if parts.linear is not None:
            own.append(WorkerComponent("linear_statistics", parts.linear, itself))
        own += filter(None, (parts.lake, parts.other_lakes))
        return {component.name: component for component in own}

    def recover(self) -> bool:
        """Go back to the last commit; return False when there is none and the state is new.

        Raises:
            StorageError: The state can't be read.
            Damaged: No commit is whole, or a plan is lost whose rows the lake has.
        """
        is_restored = self._saver.restore()
        if is_restored:
            self.state.go_on_as(self.parts.current)
            self.state.keep_lines(self.parts.students)
        check_plans(self.parts, self.state.batch)
        if not is_restored:
            return False
        self._committed_counts, self._committed_batch = dict(self.state.counts), self.state.batch
        for line in self._lines():
            line.recover()
        self.students.greet_newcomers()
        self.refreshing.restart()
        self._prune(self.state.planned_ms)  # Who made the commit may have died before it did so, and an idle stream makes no other.
        return True

    def step(self, given: Plan | None = None) -> StepReport | None:
        """Plan and execute one micro-batch; return None when there is nothing to do.

        A plan that an earlier run left behind comes first, unchanged; then one that is given, as a backtest does.

        Raises:
            Fenced: Another driver has taken over the state.
        """
        self._check_owner()
        plan = self.planned() or given or self._new_plan()
        return None if plan is None else self.run(plan)

    def run(self, plan: Plan) -> StepReport:
        """Make a plan durable, unless another of its number is, then execute the one that stands; raises `Fenced` as `step` does."""
        self._check_owner()
        if self.parts.plans is not None:
            # A stored plan keeps the fields that it was written with: a streamrec before this one may have known fewer.
            stands = self.parts.plans.write(plan.model_dump(mode="json", exclude_unset=plan == self.planned()), plan.batch)
            plan = Plan.model_validate(stands)
            if plan.follows != self.state.batch:
                what = f"Stream: the plan of batch {plan.batch} was made by another driver meanwhile, and is not the next one"
                got, allowed = f"one that follows batch {plan.follows}", f"one that follows batch {self.state.batch}"
                raise OperatorError(what, got=got, allowed=allowed, do="end the other driver, and start this one again")
            if self._plans_ahead is not None:  # If this step fails before it changes anything, it is tried again as planned.
                self._plans_ahead = {follows: batch for follows, batch in self._plans_ahead.items() if batch > plan.batch}
                self._plans_ahead[plan.follows] = plan.batch
        return self.execute(plan)

    def _check_owner(self) -> None:
        if self.parts.checkpoints is not None:
            self.parts.checkpoints.check_owner()

    def finish(self) -> StepReport | None:
        """Execute what an earlier run planned, then commit what is not committed yet, by a plan that reads nothing; wait until it is durable."""
        report = None
        while (stored := self.planned()) is not None:
            report = self.run(stored)
        while self._has_uncommitted():  # More than once, where another driver's plan of this number stands.
            report = self.run(self._plan_to_commit())
        self._saver.wait()
        return report

    def _plan_to_commit(self) -> Plan:
        return self.state.plan_to_commit(self.config.log.events_topic, self.time.now_ms())

    def switches(self) -> Switches:
        """Return what operators have turned."""
        return self._switches.now()

    @property
    def paused(self) -> Flip | None:
        """Who has paused the stream, since when and why; None while nobody has."""
        return self._switches.now().paused if self.parts.obeys_pause else None

    def lag(self) -> int:
        """Return how many records of the log have not been read."""
        return self.intake.lag()

    def books(self) -> dict[str, int]:
        """Return the balance: what is read but not committed is pending."""
        return books(self.state, self._saver.durable.get("counts", self._committed_counts))

    def planned(self) -> Plan | None:
        """Return the next plan if an earlier run left it behind, and no other gives it up."""
        if self.parts.plans is None:
            return None
        if self._plans_ahead is None:
            stored = map(Plan.model_validate, self.parts.plans.ahead(self.state.batch).values())
            self._plans_ahead = {plan.follows: plan.batch for plan in stored}
        batch = self._plans_ahead.get(self.state.batch)
        return None if batch is None else Plan.model_validate(self.parts.plans.read(batch))

    def _new_plan(self) -> Plan | None:
        if self.paused is not None:  # What has been done is committed once, so that a pause leaves nothing pending.
            return self._plan_to_commit() if self._has_uncommitted() else None
        switches = self._switches.now()
        holds = why_held(switches, [line.student_name for line in self._lines()])
        for line in self._lines():
            if (kept := switches.held.get(line.student_name)) is not None:
                line.keep_live(kept.version, f"pinned live {kept}")
        measured = Measured(
            ends=self.intake.ends(),
            finished=self.refreshing.finished(),
            now_ms=self.time.now_ms(),
            since_publish_s=self.line.since_publish_s(),
            since_checkpoint_s=self.parts.clock.monotonic_s() - self._checkpoint_s,
            live=self.line.now_live(),
            lives={name: live for name, line in self._further.items() if (live := line.now_live()) is not None},
            waits_s={name: line.since_publish_s() for name, line in self._further.items() if line.state.candidate is not None},
            seconds_per_event=self.intake.seconds_per_event,
            ahead=self.intake.ahead,
            costs_s=self.refreshing.costs_s(),
            failed=self.refreshing.failed(),
            holds=holds,
            guarded=self.guarding.findings(holds),
        )
        due_ms = [lakes.vacuum_at_ms for lakes in (self.parts.lake, self.parts.other_lakes) if lakes is not None and lakes.vacuum_at_ms is not None]
        if self._saver.holds_older(self.state.forgot_batch):  # Commits that know a deleted user go with later ones, which come in any case.
            due_ms.append(self.state.planned_ms)
        refreshes = self.refreshing.facts(measured.now_ms, switches)
        must_publish = any(line.must_publish(self.state) for line in self._lines() if line.student_name not in holds)
        facts = self.state.facts(self._has_uncommitted(), must_publish, min(due_ms, default=None), self.refreshing.record, refreshes)
        return next_plan(facts, measured, self.config)

    def _has_uncommitted(self) -> bool:
        return self.parts.checkpoints is not None and self.state.batch != self._committed_batch

    def execute(self, plan: Plan) -> StepReport:
        """Execute a plan, which must be the next one.

        Raises:
            OperatorError: An earlier step broke off after it had begun to change the state; only a new controller can go on.
        """
        if self._is_torn:
            what = "Stream: the step before broke off in its middle"
            raise OperatorError(what, got=f"batch {plan.batch}", do="build a new controller and recover it from the last commit")
        timer, report, began_s = StageTimer(self.parts.traces.step(plan)), StepReport(plan), self.parts.clock.monotonic_s()
        self.time.note(plan.now_ms)
        with timer.stage("refresh"):
            self.refreshing.check(plan)
        for line in self._lines():
            line.follow(plan.live if line is self.line else plan.lives.get(line.name))
        with timer.stage("read"):
            rows = self.intake.read(plan) if plan.after is None else take_over(self.parts, self.state, plan)
        num_known, self._is_torn = len(self.ingest.vocabulary), True
        if plan.topic_id is not None:
            self.ingest.tombstones.leave_places()
        self.guarding.carry_out(plan, report)
        self.quarantine.carry_out(plan, report)
        self.refreshing.apply(plan, report)
        with timer.stage("ingest"):
            forgetting = self._forgetting
            ingested = self.ingest.apply(rows, plan.now_ms, self.state.watermarks_ms, forgetting.remove, forgetting.forget_rows)
            send_dead_letters(self.parts.dead_letters, self.config.log.dead_letter_topic, ingested.rejected)
            if self.parts.lake is not None:
                self.parts.lake.record(plan.batch, ingested.kept, ingested.counts["applied"], self.state.entered)
        examples = ingested.examples
        self.progressive.begin(plan.batch, plan.now_ms, ingested.counts["received"])
        with timer.stage("label"):
            self.labelling.begin(examples, plan, self._seen(examples, plan))
        judged = np.arange(len(examples)) if not self.parts.known_only else known_queries(examples, num_known)
        self._evaluate(examples, judged, plan, report, timer)
        with timer.stage("label"):
            labels = self.labelling.finish(examples, judged, plan, report)
        self.refreshing.note(ingested.targets[0])
        with timer.stage("learn"):
            self._learn(ingested, labels, plan, report)
        self.state.account(ingested, plan, labels.versions, self.config.teachers.refreshed)
        report.deletions = forgetting.correct(plan)
        if report.deletions:
            before = self.state.not_before
            self.state.forgot(plan.batch, plan.now_ms, self.config.teachers.refreshed)
            self._saver.rewrite()
            for line in self._lines():
                line.give_up(version_name(plan.batch), before)
        with timer.stage("publish"):
            self._publish(examples, plan, report)
            self.guarding.note(report, ingested.outcomes)
            self.quarantine.note(report, self.students.broken if report.learned is not None else set())
        with timer.stage("refresh"):
            self.refreshing.start(plan, report)
        with timer.stage("checkpoint"):
            self._checkpoint(plan, report)
        self._is_torn = False
        self.intake.note(plan, self.parts.clock.monotonic_s() - began_s, timer.seconds, self.parts.clock.now_ms())
        report.books, report.items, report.seconds = self.books(), self.ingest.vocabulary.facts(), timer.seconds
        report.worth = self.ingest.worth.of(self.line.student_name)
        return report

    def _seen(self, examples: Examples, plan: Plan) -> list[NDArray[np.int32]] | None:
        return self.parts.seen(examples) if self.parts.seen is not None and plan.evaluate else None

    def _evaluate(self, new: Examples, judged: NDArray[np.int64], plan: Plan, report: StepReport, timer: StageTimer) -> None:
        """Score the students on the new events before they learn from them, then let the gate decide."""
        if not plan.evaluate:
            return
        examples, report.num_queries = new.take(judged), len(judged)
        with timer.stage("evaluate"):
            seen = self._seen(examples, plan)
            student = self.parts.student.submit(Learner.ranks, examples, self.line.asked(), seen)
            further = {name: self._ask(line, examples) for name, line in self._further.items()}
            control = self.parts.control.submit(Learner.ranks, examples, [CURRENT], seen) if self.parts.control is not None else None
            self.students.begin(new, plan)
            baselines = self.ingest.baselines(examples, seen)
            report.metrics |= {name: self.progressive.add(name, values) for name, values in baselines.items()}
            by_version = {version: per_query_metrics(ranks, examples) for version, ranks in student.result().items()}
            report.metrics["student"] = self.progressive.add("student", by_version[CURRENT])
        with timer.stage("gate"):
            report.decision = self.line.decide(plan, by_version, baselines[POPULAR], examples.user)
        if control is not None:
            with timer.stage("evaluate"):
                values = per_query_metrics(control.result()[CURRENT], examples)
                report.metrics[CONTROL] = self.progressive.add(CONTROL, values)
                self.progressive.compare(by_version[CURRENT], values)
                report.gain = self.gain.add(by_version[CURRENT]["recall@20"], values["recall@20"])
        for name, (own, pending) in further.items():
            with timer.stage("evaluate"):
                scores = {version: per_query_metrics(ranks, own) for version, ranks in pending.result().items()}
                report.metrics[f"students.{name}"] = self.progressive.add(f"students.{name}", scores[CURRENT])
            with timer.stage("gate"):
                popular = (baselines if own is examples else self.ingest.baselines(own))[POPULAR]
                report.note(name, decision=self._further[name].decide(plan, scores, popular, own.user))

    def _ask(self, line: VersionLine, examples: Examples) -> tuple[Examples, Pending[dict[str, NDArray[np.int32]]]]:
        own = self.students.of(line.name, examples)
        return own, line.student.submit(Learner.ranks, own, line.asked(), self.parts.seen(own) if self.parts.seen is not None else None)

    def live(self) -> dict[str, str]:
        """Return what is live in the registry, by student's name: somebody may have moved it since the last step."""
        return {line.student_name: live for line in self._lines() if (live := line.now_live()) is not None}

    def _lines(self) -> list[VersionLine]:
        return [self.line, *self._further.values()]

    def _learn(self, ingested: Ingested, labels: SoftLabels, plan: Plan, report: StepReport) -> None:
        self.students.put_items()
        self.intake.look_ahead(plan)  # Not before: from here on a core may have nothing to do.
        if plan.new_passes and len(ingested.examples):
            statistics = self.parts.linear.submit(LinearStatistics.update, ingested.examples) if self.parts.linear is not None else None
            report.learned = self.students.learn(ingested.examples, labels, plan, partial(self._note, ingested, plan, report, is_learned=True))
            if statistics is not None:
                statistics.result()
        else:
            self._note(ingested, plan, report)

    def _note(self, ingested: Ingested, plan: Plan, report: StepReport, *, is_learned: bool = False) -> None:
        """Do what has to wait for labels, and can be done while students learn by them."""
        self.labelling.judge(report)
        self.ingest.count(ingested, plan.now_ms)
        if is_learned:
            self.labelling.learn()

    def _publish(self, examples: Examples, plan: Plan, report: StepReport) -> None:
        """Publish each student's weights as its next candidate, unless one is still waiting for evidence."""
        if self.parts.publisher is None or not plan.publish:
            return
        # Where teachers make it worse, the same student on events alone takes its place.
        chosen = self.parts.control if self.gain.is_harmful and self.parts.control is not None else self.parts.student
        facts = VersionFacts(
            offsets={self.config.log.events_topic: dict(self.state.offsets)},
            metrics={**self.progressive.told()},
            teachers=dict(self.state.teachers),
            config=self.config.model_dump(mode="json"),
            seed=self.config.seed,
        )
        ever = self.ingest.popularity.counts(len(self.ingest.vocabulary))
        recent = self.ingest.recent
        items = ItemFacts(self.ingest.vocabulary, recent.counts(ever), recent.facts(), lambda: say_of(self.labelling.store))
        mine = facts if chosen is self.parts.student else facts.model_copy(update={"teachers": {}})
        own = items if chosen is self.parts.student else items.without_say()
        report.published = self.line.publish(plan, examples, chosen, own, mine, self.state)
        if report.published is not None and self.state.live is None:  # Nothing to compare with: the first version goes live on its probes.
            report.decision = self.line.decide_first(plan)
        for name, line in self._further.items():
            version = line.publish(plan, self.students.of(name, examples), line.student, items, facts, self.state)
            if version is not None:
                report.note(name, published=version)
                if line.state.live is None:
                    report.note(name, decision=line.decide_first(plan))

    def _checkpoint(self, plan: Plan, report: StepReport) -> None:
        if not plan.checkpoint or self.parts.checkpoints is None:
            return
        self.refreshing.wait_for_linear()
        for lakes in (self.parts.lake, self.parts.other_lakes):
            if lakes is not None:
                lakes.commit(plan.now_ms)
        needed = self._saver.commit(self.state.batch, {**self.state.commit_facts(), "seed": self.config.seed})
        self._committed_batch = self.state.batch
        report.committed, report.is_commit_under_way = True, self._saver.is_under_way
        if self._saver.durable:
            self.parts.progress(self.config.log.events_topic, {int(name): next_ for name, next_ in self._saver.durable["offsets"].items()})
        self._checkpoint_s = self.parts.clock.monotonic_s()
        if self.parts.plans is not None:
            self.parts.plans.prune(needed)
        self._prune(plan.now_ms)

    def _prune(self, now_ms: int) -> None:
        """Remove versions of students and teachers that no kept commit needs and the policy gives up, or that know a deleted user."""
        kept = self._saver.oldest_kept("versions")
        for line in self._lines():
            name = LIVE if line is self.line else line.name
            line.prune(now_ms, self.state.versions_not_before(kept.get(name)), {kept.get(name), *self._saver.all_kept("held", name)})
        if (former := self.parts.former_students()) is not None:
            former.prune(now_ms, self.state.not_before, self._saver.names_kept("versions"))
        self.parts.refresher.prune(self._saver.oldest_kept("teachers"))
