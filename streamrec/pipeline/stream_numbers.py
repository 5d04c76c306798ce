"""Count what a stream does, step by step, and tell the boards of it, so that whoever asks a server for metrics hears of the stream, too."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from streamrec.pipeline.plan import STUDENT
from streamrec.registry import gate
from streamrec.teachers.policy import Reason
from streamrec.telemetry.numbers import Numbers, Taken

if TYPE_CHECKING:
    from streamrec.pipeline.controller import Controller
    from streamrec.pipeline.report import StepReport

TELL_EVERY_S = 1.0
MOST_PARTITIONS = 256
"""Offsets of more are not told: a board keeps what it was told last, and a scrape has two series for each."""

ALARMS = {Reason.DRIFT: "choices_moved", Reason.DROP: "teacher_fell", Reason.HARM: "labels_harm"}
"""What begins a refresh because something is wrong; a teacher that is merely old is no alarm."""
UNLIKE = "unlike_events"

_BESIDE = ("received", "pending", "applied")
"""Columns of the books that are no outcome: the whole, what is none yet, and what loses events to those that are quarantined."""


_FROM_ZERO = tuple(f"streamrec_{what}_total" for what in ("steps", "queries", "returns", "rollbacks", "deletions", "commits"))


class StreamNumbers:
    """Keep a stream's numbers.

    Args:
        tells: Take the numbers, each a board's.
    """

    def __init__(self, tells: Sequence[Callable[[Taken], None]]) -> None:
        self.numbers = Numbers()
        self._tells = tells
        self._due_s = -math.inf
        self._most: dict[tuple[str, ...], int] = {}
        for name in _FROM_ZERO:  # So that a stream to which nothing comes has them, too.
            self.numbers.add(name, 0)
        for what in (*ALARMS.values(), UNLIKE):
            self.numbers.add("streamrec_alarms_total", 0, what=what)

    def __call__(self, controller: Controller, report: StepReport | None, lag: Callable[[], int | None]) -> None:
        """Count a step, None where there was nothing to do; tell the boards once a second.

        Args:
            controller: Who took it.
            report: What it did.
            lag: Says how many records are left in the log, None where nobody knows; it is only asked when the boards are told.
        """
        if report is not None:
            self.stepped(report, controller)
        now_s = controller.parts.clock.monotonic_s()
        if now_s < self._due_s:
            return
        if report is None and self._due_s == -math.inf and controller.state.planned_ms:  # It goes on from a commit.
            self.numbers.put("streamrec_last_commit_timestamp_seconds", controller.state.planned_ms / 1000)
        self._due_s = now_s + TELL_EVERY_S
        if (left := lag()) is not None:
            self.numbers.put("streamrec_lag_records", left)
        self._tell(controller)

    def ended(self, controller: Controller, report: StepReport | None) -> None:
        """Count the last step and tell the boards, which nobody does any more."""
        if report is not None:
            self.stepped(report, controller)
        self._tell(controller)

    def _tell(self, controller: Controller) -> None:
        self._put_state(controller)
        taken = self.numbers.taken()
        for tell in self._tells:
            tell(taken)

    def stepped(self, report: StepReport, controller: Controller) -> None:
        """Add what a step did."""
        add, put = self.numbers.add, self.numbers.put
        add("streamrec_steps_total")
        self.numbers.observe("streamrec_step_seconds", sum(report.seconds.values()))
        for stage, seconds in report.seconds.items():
            add("streamrec_stage_seconds_total", seconds, stage=stage)
        add("streamrec_queries_total", report.num_queries)
        add("streamrec_returns_total", report.returned is not None)
        add("streamrec_rollbacks_total", len(report.guarded))
        add("streamrec_deletions_total", report.deletions)
        add("streamrec_commits_total", report.committed)
        if report.committed:
            put("streamrec_last_commit_timestamp_seconds", controller.parts.clock.now_ms() / 1000)
        for outcome, teachers in (("started", report.refreshes_started), ("failed", report.refreshes_failed), ("used", report.activated)):
            for teacher in teachers:
                add("streamrec_refreshes_total", teacher=teacher, outcome=outcome)
        for what in alarms_of(report):
            add("streamrec_alarms_total", what=what)
        for teacher, took in report.refreshes_took.items():
            put("streamrec_refresh_seconds", took.total_s, teacher=teacher)
        if report.weights:
            self._put_weights(report.weights)
        if report.gain is not None:
            put("streamrec_teachers_gain", report.gain.mean)
            put("streamrec_teachers_gain_error", report.gain.error)

    def _put_weights(self, weights: Mapping[str, Sequence[float]]) -> None:
        self.numbers.clear("streamrec_teacher_weight")  # A teacher that is gone has none.
        for teacher, by_length in weights.items():
            self.numbers.put("streamrec_teacher_weight", sum(by_length) / max(1, len(by_length)), teacher=teacher)

    def _put_state(self, controller: Controller) -> None:
        put, state, ingest = self.numbers.put, controller.state, controller.ingest
        for column, num in controller.books().items():
            if column != "received":
                put("streamrec_books_records", num, column=column)
        for outcome, num in {**state.counts, "entered": state.entered}.items():
            if outcome not in _BESIDE:
                self._count(num, "streamrec_events_total", outcome="applied" if outcome == "entered" else outcome)
        for student, versions in {STUDENT: state.versions, **{name: line.versions for name, line in state.lines.items()}}.items():
            for outcome, num in versions.items():
                self._count(num, "streamrec_versions_total", student=student, outcome=outcome)
        for (student, source), (taken, passed) in ingest.worth.by_source().items():
            for outcome, weight in (("taken", taken), ("passed", passed)):
                put("streamrec_worth_answers", weight, student=student, source=source, outcome=outcome)
        self.numbers.clear("streamrec_score")
        for model, values in controller.progressive.recent().items():
            for measure, value in values.items():
                put("streamrec_score", value, model=model, measure=measure)
        topic = controller.config.log.events_topic
        for partition, ends in itertools.islice(controller.intake.known().items(), MOST_PARTITIONS):
            for name, offset in zip(("streamrec_read_offset", "streamrec_end_offset"), ends, strict=True):
                put(name, offset, topic=topic, partition=str(partition))
        put("streamrec_items", ingest.vocabulary.num_items)
        put("streamrec_users", len(ingest.histories))
        switches = controller.switches()
        for switch, held in (("pause", switches.paused), ("freeze-publishing", switches.frozen), ("pin", switches.held or None)):
            put("streamrec_held", held is not None, switch=switch)

    def _count(self, num: int, name: str, **labels: str) -> None:
        """Count on to what the state counts: from what it was when this process began, and no step twice that is done again after a failure."""
        key = (name, *labels.values())
        most = self._most.setdefault(key, num)
        self.numbers.add(name, max(0, num - most), **labels)
        self._most[key] = max(num, most)


def alarms_of(report: StepReport) -> list[str]:
    """Return what a step found to have changed, or to do harm, in the words of `ALARMS`, each once."""
    found = [ALARMS[each.code] for each in report.plan.decisions if each.refresh and each.code in ALARMS]
    if report.decision is not None and report.decision.code is gate.Reason.UNLIKE:
        found.append(UNLIKE)
    return list(dict.fromkeys(found))
