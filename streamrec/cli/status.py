"""Show on one screen how a deployment stands."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from streamrec.cli.options import ShowStatus
from streamrec.cli.show_config import resolve
from streamrec.cli.telling import ago, lines_of, size
from streamrec.clock import SystemClock
from streamrec.pipeline.standing import Lag, Standing, TeacherStanding, standing
from streamrec.pipeline.stream_state import OUTCOMES
from streamrec.pipeline.student_standing import StudentStanding

METRIC = "recall@20"
"""The one of a version's numbers that has room; ``--json`` has all."""

_MOST_FOLDERS = 5


def run(options: ShowStatus) -> int:
    """Print how it stands; return 1 when something can't be read or does not add up."""
    config = resolve(options.settings, options.broker)
    found = standing(config, options.broker or config.log.broker, SystemClock())
    sys.stdout.write(json.dumps(asdict(found)) + "\n" if options.json else lines_of(_lines(found)))
    if not options.json:
        sys.stderr.writelines(f"{trouble}\n" for trouble in found.troubles)
    return 1 if found.troubles else 0


def _lines(found: Standing) -> Iterator[tuple[str, str]]:
    yield "state", f"{found.state}{f', lineage {found.lineage}' if found.lineage else ''}"
    yield "stream", _writer(found)
    yield "commit", _commit(found)
    if found.books is not None:
        yield "books", _books(found.books)
    yield "log", found.log or "no embedded Kafka runs, so nothing is known of it"
    for lag in found.lag:
        yield "lag", _lag(lag)
    for student in found.students:
        yield from _student(student, found.at_ms)
    if found.teachers:
        yield "teachers", "their say is for histories of 1, 2–3, 4–10 and more items"
        for teacher in found.teachers:
            yield f"  {teacher.name}", _teacher(teacher, found)
    yield "switches", "; ".join(found.switches) or "nothing is held"
    yield "quarantine", f"{found.quarantine['ranges']} ranges, {found.quarantine['events']} events"
    if found.dead_letters is not None:
        yield "dead letters", f"{found.dead_letters} records"
    yield "disk", "in a bucket, which was not measured" if found.disk is None else _disk(found.disk)


def _writer(found: Standing) -> str:
    writer = found.writer
    if writer is None:
        return "none has ever run on this state"
    process = f"process {writer.pid} on {writer.host}"
    seen = {True: f"{process} runs", False: f"none runs: {process} has ended", None: f"{process}, which can't be seen from here"}[writer.is_alive]
    return f"{seen}, epoch {writer.epoch}{f': {writer.why}' if writer.why else ''}"


def _commit(found: Standing) -> str:
    commit = found.commit
    if commit is None:
        return "none"
    return f"number {commit.number}, batch {commit.batch}, {ago(commit.at_ms, found.at_ms)}, {commit.steps_since} steps since"


def _books(books: Mapping[str, int]) -> str:
    booked = {name: value for name, value in books.items() if name != "received"}
    sign = "=" if sum(booked.values()) == books["received"] else "≠"
    return f"{books['received']} received {sign} {' + '.join(f'{value} {name}' for name, value in booked.items())}"


def _lag(lag: Lag) -> str:
    partitions = " ".join(f"{partition}:{start}/{end}" for partition, (start, end) in lag.partitions.items())
    return f"{lag.topic} {lag.records} records behind ({partitions})"


def _student(student: StudentStanding, now_ms: int) -> Iterator[tuple[str, str]]:
    live = student.live
    if not student.is_readable:
        yield "student", f"{student.name}: its versions can't be read"
        return
    if live is None:
        yield "student", f"{student.name}: nothing is live"
    else:
        since = f"live since {ago(live.since_ms, now_ms)}: {live.because}"
        yield "student", f"{student.name}: {live.version} is live, made {ago(live.created_ms, now_ms)}, {since}"
        offsets = "; ".join(f"{topic} {' '.join(f'{part}:{end}' for part, end in ends.items())}" for topic, ends in live.offsets.items())
        teachers = ", ".join(f"{name} {version}" for name, version in live.teachers.items()) or "no teachers"
        yield "  made of", f"{live.parent or 'nothing before'}, up to {offsets or 'nothing'}, with {teachers}"
        if shown := _of_metric(live.metrics):
            yield f"  {METRIC}", shown
        if live.worth is not None and live.worth["shown"]:
            yield "  answers", f"{live.worth['taken']} of {live.worth['shown']} logged ones were taken"
        yield "  rollback", f"would go to {live.previous}" if live.previous else "has nothing to go to"
    counts = ", ".join(f"{student.counts.get(name, 0)} {name}" for name in OUTCOMES)
    pinned = f"; pinned {' '.join(student.pinned)}" if student.pinned else ""
    yield "  versions", f"{counts}; {student.num_versions} are there{f' up to {student.newest}' if student.newest else ''}{pinned}"
    yield "  candidate", f"{student.candidate} waits for the gate" if student.candidate else "none waits"
    for decision in student.decisions:
        yield "  decision", f"{decision['verdict']} {decision['candidate']}: {decision['reason']}"


def _teacher(teacher: TeacherStanding, found: Standing) -> str:
    kind = "counts with each event"
    if teacher.version is not None:
        kind = f"{teacher.version}, begun {ago(teacher.began_ms, found.at_ms)}"
    elif teacher.events_since is not None or teacher.pending is not None:
        kind = "no version yet"
    say = f"say {' '.join(f'{weight:.2f}' for weight in teacher.weights)}" if teacher.weights else ""
    since = f"{teacher.events_since} interactions since" if teacher.events_since is not None else ""
    is_made = found.writer is None or found.writer.is_alive is not False
    pending = f"{teacher.pending} {'is being made' if is_made else 'was begun, and is made when a stream runs'}" if teacher.pending else ""
    compared = f"{teacher.challenger} is made, and compared with it on new events: {teacher.compared} queries so far" if teacher.challenger else ""
    # Until that is over, failed ones' wait, the budget, or something new.
    asked = f"the next was asked for {teacher.asked} and waits" if teacher.asked else ""
    return ", ".join(filter(None, (kind, since, say, pending, compared, asked)))


def _of_metric(metrics: Mapping[str, Any]) -> str:
    found = {name.removesuffix(f".{METRIC}"): value for name, value in metrics.items() if name.endswith(f".{METRIC}") and value is not None}
    queries = metrics.get("student.queries")  # Of versions from before these were told it is not known.
    of = "" if queries is None else f" of the newest {queries:.0f} queries"
    return ", ".join(f"{name} {value:.4f}" for name, value in found.items()) + (of if found else "")


def _disk(disk: Mapping[str, int]) -> str:
    folders = sorted(((value, name) for name, value in disk.items() if name not in {"total", "free"}), reverse=True)
    parts = ", ".join(f"{name} {size(value)}" for value, name in folders[:_MOST_FOLDERS])
    free = f"; {size(disk['free'])} free" if "free" in disk else ""
    return f"{size(disk['total'])}{f': {parts}' if parts else ''}{free}"
