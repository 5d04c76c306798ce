"""Bring students' weights to those who serve them: publish a candidate, compare it with the live version, promote it or not."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, replace

import numpy as np
from numpy.typing import NDArray

from streamrec.errors import Damaged, RegistryError
from streamrec.evaluation.ranking import PerQuery
from streamrec.features.examples import Examples
from streamrec.pipeline.parts import Parts
from streamrec.pipeline.plan import STUDENT, Plan, version_name
from streamrec.pipeline.publisher import ItemFacts, Publisher
from streamrec.pipeline.stream_state import Line, StreamState, held_by
from streamrec.registry.evidence import Evidence
from streamrec.registry.gate import Decision, Reason, Verdict, Window, held_back
from streamrec.registry.guard import Guarded
from streamrec.registry.usual import Doubts, Found, Usual
from streamrec.registry.version import VersionFacts
from streamrec.student.learner import CURRENT, Learner
from streamrec.workers import Worker

logger = logging.getLogger(__name__)

MAIN = ""
"""Name of the student's own line among those of further ones."""
JUDGED_BY = "recall@20"
"""What a candidate is compared with the live version by."""


class VersionLine:
    """Own the versions of one student.

    Args:
        parts: Its worker and its publisher.
        name: Of the further student, `MAIN` for the student itself.
        state: Gives what is remembered.
        check_owner: Raises once another driver owns the state: a step can be long, and one that was replaced must not move what is live.
    """

    def __init__(self, parts: Parts, name: str, state: Callable[[], StreamState | Line], check_owner: Callable[[], None]) -> None:
        self.name = name
        self._parts, self._state, self._check_owner = parts, state, check_owner
        self._published_s = -np.inf

    @property
    def state(self) -> StreamState | Line:
        """What is remembered."""
        return self._state()

    @property
    def student_name(self) -> str:
        """The student's name in the registry."""
        return self.name or STUDENT

    @property
    def student(self) -> Worker[Learner]:
        """Who learns, and scores versions."""
        return self._parts.student if self.name == MAIN else self._parts.students[self.name].worker

    @property
    def publisher(self) -> Publisher | None:
        """Who has the registry; None: nothing is published."""
        return self._parts.publisher if self.name == MAIN or self._parts.publisher is None else self._parts.students[self.name].publisher

    def now_live(self) -> str | None:
        """Return what is live in the registry, which an operator may have moved."""
        return None if self.publisher is None else self.publisher.live()

    def versions(self) -> list[str]:
        """Return the candidate and the live version, where there are any."""
        return [version for version in dict.fromkeys((self.state.candidate, self.state.live)) if version is not None]

    def since_publish_s(self) -> float:
        """Return the time since the last publication by this process, or since it recovered a candidate."""
        return self._parts.clock.monotonic_s() - self._published_s

    def must_publish(self, stream: StreamState) -> bool:
        """Return whether all that was published is older than what is due, and nothing waits; see `StreamState.due`.

        For a student of some namespaces alone that is what concerns every student: their events come with theirs.
        """
        is_of_some = self.name != MAIN and self._parts.students[self.name].namespaces
        due = stream.due_for_each if is_of_some else stream.due
        if self.publisher is None or due is None or self.state.live is None or self.state.candidate is not None:
            return False
        return (self.state.newest or "") < due

    def give_up(self, not_before: str, before: str | None) -> None:
        """Let a version that is older than ``not_before`` wait for the gate no more: it knows a user who was deleted.

        Unless what is live knows one more: of a series of deletions each would keep the next version from going live, for as long as it lasts.

        Args:
            not_before: As of now; see `StreamState.not_before`.
            before: As of the deletion before.
        """
        candidate, live = self.state.candidate, self.state.live
        is_better = before is not None and live is not None and candidate is not None and live < before <= candidate
        if candidate is not None and candidate < not_before and not is_better:
            logger.info("%s knows a deleted user and will not go live", self.state.candidate)
            self.state.candidate, self.state.evidence = None, {}
            self.state.versions["rejected"] += 1

    def withdraw(self, why: str = "what it has learned is taken back") -> None:
        """Let a version that waits for the gate wait no more."""
        if self.state.candidate is not None:
            logger.info("%s is withdrawn, %s", self.state.candidate, why)
            self.state.candidate, self.state.evidence = None, {}
            self.state.versions["rejected"] += 1

    def recover(self) -> None:
        """Give the student the versions that it must score. A candidate waits anew: a restart is no sign that events have stopped coming.

        A damaged candidate is given up. A damaged live version has the one follow that an operator has rolled back to.

        Raises:
            Damaged: The live version is, and is still live.
        """
        if self.state.candidate is not None:
            self._published_s = self._parts.clock.monotonic_s()
        if self.publisher is None:
            return
        for version in self.versions():
            try:
                self.student.submit(Learner.hold, version, *self.publisher.load(version)).result()
            except Damaged as error:
                self._do_without(version, error)

    def _do_without(self, version: str, error: Damaged) -> None:
        state, now = self.state, self.now_live()
        if version == state.candidate and version not in {state.live, now}:
            state.candidate, state.evidence = None, {}
            state.versions["rejected"] += 1
        elif now in {None, version} or not self._parts.current.holds(str(now)):
            raise _needed(error) from error
        else:
            self.follow(now)
        logger.error("going on without %s, which is damaged: %s", version, error)

    def follow(self, live: str | None) -> None:
        """Take the version that an operator has made live for the live one; what was scored against another says nothing of it.

        One of an earlier lineage ranks other rows: candidates are still compared with this lineage's own, and the alias stays where it is.
        """
        state, publisher = self.state, self.publisher
        if publisher is None or live is None or state.live in {None, live} or not self._parts.current.holds(live):
            return
        logger.info("%s is live by an operator or an earlier run, not %s: candidates are compared with it", live, state.live)
        try:
            loaded = publisher.load(live)
        except Damaged as error:
            raise _needed(error) from error
        self.student.submit(Learner.hold, live, *loaded).result()
        state.live, state.evidence = live, {}

    def keep_live(self, version: str, why: str) -> None:
        """Make a version live again that an operator keeps live: a step that was planned before that may have promoted another one since."""
        if self.publisher is None or self.publisher.live() == version:
            return
        try:
            self.publisher.put_back(version, why)
        except (RegistryError, Damaged) as error:  # Removed, or of before a deletion: who serves goes before who is on call.
            logger.warning("%s is not put back: %s", version, error)

    def go_back(self, guarded: Guarded, batch: int) -> None:
        """Make the version live again that was before; whatever waits for the gate has learned on from the one that goes.

        Raises:
            RegistryError: It is not there any more, or was made before a deletion.
            Damaged: It can't be read.
        """
        if self.publisher is None:
            return
        arrays, meta = self.publisher.load(guarded.to)
        self._check_owner()
        self.publisher.go_back(guarded, batch)
        self.student.submit(Learner.hold, guarded.to, arrays, meta)
        self.withdraw()
        self.state.live, self.state.evidence = guarded.to, {}

    def asked(self) -> list[str]:
        """Return what the student scores: its newest weights and `versions`."""
        return [CURRENT, *self.versions()]

    def decide(self, plan: Plan, scores: Mapping[str, PerQuery], popular: PerQuery, user: NDArray[np.int64]) -> Decision | None:
        """Ask the gate about the candidate; None without one.

        One that was held while the students learned makes way for their newest weights when it is held no more: it is as old as the live version.

        Args:
            plan: The step's.
            scores: Version to its metrics of the step's queries.
            popular: What the popular items find of them.
            user: Whose query each is.
        """
        state, publisher, candidate = self.state, self.publisher, self.state.candidate
        if candidate is None or publisher is None:
            return None
        evidence, why = Evidence.of(state.evidence, plan.batch), plan.holds.get(self.student_name)
        if not why and evidence.held and plan.publish and len(user):
            self.withdraw("it was held while the student learned: newer weights take its place")
            return None
        evidence = self._scored(evidence, plan.batch, (candidate, state.live), scores, popular, user)
        if why:
            decision = held_back(candidate, state.live, evidence.window, why)
            evidence = replace(evidence, held=evidence.held + len(user))
        else:
            decision = self._ask(publisher, candidate, evidence, plan)
        if decision.verdict is Verdict.WAIT:
            state.evidence = evidence.kept()
            return decision
        state.candidate, state.evidence = None, {}
        state.versions["promoted" if decision.promote else "rejected"] += 1
        if decision.promote:
            state.live = candidate
        return decision

    @staticmethod
    def _scored(
        evidence: Evidence, batch: int, versions: tuple[str, str | None], scores: Mapping[str, PerQuery], popular: PerQuery, user: NDArray[np.int64]
    ) -> Evidence:
        candidate, live = versions
        own = scores[candidate][JUDGED_BY]
        if live is None:
            return evidence.plus(Window.from_scores(batch, own), Found(), Found(), Found())
        theirs, recent = scores[live][JUDGED_BY], popular[JUDGED_BY]
        leads = (Found.of(one, other, user) for one, other in ((theirs, recent), (own, recent), (own, theirs)))
        return evidence.plus(Window.from_scores(batch, own, theirs), *leads)

    def _ask(self, publisher: Publisher, candidate: str, evidence: Evidence, plan: Plan) -> Decision:
        """Ask the gate, and note what is usual after its answer."""
        state, cfg = self.state, self._parts.config.registry
        self._check_owner()
        usual, error = Usual.of(state.usual), cfg.gate_error
        found, unlike = evidence.live, ""
        if usual.is_new_world(evidence.ahead, evidence.own, error):
            usual, found = usual.in_new_world(), evidence.own
            state.tainted = ""  # What was learned before this showed is of the same new world.
        else:
            unlike = usual.doubt(found, cfg.usual_share, error)
        doubts = Doubts(unlike, state.tainted, evidence.like, usual.is_better(evidence.ahead, error))
        is_idle = plan.idle if self.name == MAIN else self.name in plan.idles
        decision = publisher.decide(candidate, state.live, evidence.window, is_idle, doubts)
        if decision.verdict is not Verdict.WAIT:
            refused = None if decision.promote else (evidence.ahead, evidence.own)
            is_unlike, is_odd = decision.code is Reason.UNLIKE, decision.code in {Reason.STRANGE, Reason.TAINTED}
            state.usual = asdict(usual.after(found, cfg.usual_share, is_unlike=is_unlike, is_odd=is_odd, refused=refused))
        return decision

    def decide_first(self, plan: Plan) -> Decision | None:
        """Ask the gate about a candidate while nothing is live: it has nothing to be compared with, and goes live on its probes."""
        none: PerQuery = {JUDGED_BY: np.zeros(0, np.float32)}
        return self.decide(plan, dict.fromkeys(self.versions(), none), none, np.zeros(0, np.int64))

    def publish(
        self, plan: Plan, examples: Examples, source: Worker[Learner], items: ItemFacts, facts: VersionFacts, stream: StreamState
    ) -> str | None:
        """Publish weights as the next candidate and return its name; None while one is still waiting for evidence, or nothing was learned.

        Args:
            plan: The step's.
            examples: Some become probes.
            source: Whose weights: the student's, or those of one that takes its place.
            items: What a version says of items.
            facts: And of itself.
            stream: Says what a version is due for, even if nothing was learned; see `must_publish`.
        """
        state, publisher = self.state, self.publisher
        has_news = len(examples) or state.live is None or self.must_publish(stream)
        is_held = self.student_name in plan.holds
        if publisher is None or not plan.publish or is_held or state.candidate is not None or not has_news:
            return None
        export, probes = source.submit(Learner.export), source.submit(Learner.probes, examples)
        facts = facts.model_copy(update={"parent": state.live})
        version = publisher.publish(version_name(plan.batch), export.result(), probes.result(), items, facts)
        kept = [] if state.live is None else [state.live]
        if source is self.student:
            source.submit(Learner.hold_current, version, kept)
        else:
            self.student.submit(Learner.hold, version, *publisher.load(version), kept)
        state.newest = state.candidate = version
        found = self.student.submit(Learner.likeness, examples, version, state.live).result() if state.live is not None else None
        like = {} if found is None else {name: float(value) for name, value in found._asdict().items()}
        state.evidence = Evidence(like=like).kept()
        state.versions["published"] += 1
        self._published_s = self._parts.clock.monotonic_s()
        return version

    def prune(self, now_ms: int, not_before: str | None, kept: Collection[str | None]) -> None:
        """Remove versions that neither this line nor a kept commit goes on with; see `Publisher.prune`."""
        if self.publisher is not None:
            self.publisher.prune(now_ms, not_before, held_by(self.state).union(kept))


def _needed(error: Damaged) -> Damaged:
    """Return an error on a version without which no step can be taken."""
    do = f"{error.remedy}, or make the state anew: python -m jobs.rebuild --anew"
    return Damaged(str(error).removesuffix(f", {error.remedy}"), do=do)
