"""Say what a job would do and what it needs, for ``--dry-run``: from storage and log alone, changing and starting nothing.

Sentences go to the error output, one JSON object with the same to the output. The exit status is the one that the job would end with at once: 0
where it would begin.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from jobs import cli
from streamrec.clock import SystemClock
from streamrec.config import Config
from streamrec.environment import ray_address
from streamrec.errors import StreamrecError
from streamrec.events.datasets import Dataset
from streamrec.pipeline.alone import check_alone
from streamrec.pipeline.bootstrap import chunk_of
from streamrec.pipeline.cluster import LOCAL_CPUS
from streamrec.pipeline.resources import Needs, needed, reading, told_places
from streamrec.pipeline.standing import Standing, standing
from streamrec.room import Process

NO_VERSION = 2
"""What stream and refresh end with where nothing is live."""


@dataclass(frozen=True)
class DryRun:
    """Hold what a job would do.

    Attributes:
        job: Its name.
        steps: What it would do, in order, a sentence each.
        needs: Of the Ray cluster at the same time; None where it uses no Ray.
        status: With what it would end at once; 0 where it would begin.
        places: Which processes need nodes of their kind, a sentence each.
    """

    job: str
    steps: tuple[str, ...]
    needs: Needs | None = None
    status: int = 0
    places: tuple[str, ...] = ()


def show(plan: DryRun) -> int:
    """Print a plan, and return the exit status."""
    for step in plan.steps:
        cli.say(step)
    if plan.needs is not None:
        cli.say(_needs(plan.needs))
    for place in plan.places:
        cli.say(place)
    cli.say("a dry run: nothing was changed")
    facts: dict[str, Any] = asdict(plan)
    sys.stdout.write(json.dumps({"dry_run": True, **facts}) + "\n")
    return plan.status


def of_stream(config: Config, *, takes_over: bool = False) -> DryRun:
    """Return what `jobs.stream` would do."""
    found = _look(config)
    if found.commit is None or not _live(found):
        return DryRun("stream", (f"it would stop at once: {cli.not_live(config)}",), status=NO_VERSION)
    steps = [*_state(found), f"it would go on after batch {found.commit.batch + found.commit.steps_since}, {_behind(found)}", *_refreshes(config)]
    return _alone(config, "stream", steps, takes_over=takes_over)


def of_bootstrap(config: Config, dataset: Dataset | None, max_events: int | None) -> DryRun:
    """Return what `jobs.bootstrap` would do."""
    found, steps = _look(config), []
    to_send = 0
    if dataset is not None:
        to_send = min(max_events or dataset.events.num_rows, dataset.events.num_rows)
        steps.append(f"it would send {to_send} events of {dataset.name}, or what an earlier run did not, to {config.log.events_topic}")
    try:
        check_alone(config, may_take_over=False)
    except StreamrecError as error:
        return _on_ray(config, "bootstrap", (*_state(found), f"it would stop at once: {error}"), status=1)
    if _live(found):
        return _on_ray(config, "bootstrap", (*_state(found), *steps, f"{_live(found)} is live: there is nothing to learn first"))
    lag = sum(lag.records for lag in found.lag)
    backlog = f"{lag} records of the log" if found.log is not None else "what is in the log, which does not run yet"
    size = chunk_of({}, {0: lag + to_send})
    teachers = ", ".join(config.teachers.refreshed) or "none"
    at_once = f", {size} in a step" if lag + to_send else ""
    steps += [f"it would learn {backlog}{f' and {to_send} of the file' if to_send else ''}{at_once}"]
    steps += [f"it would train the first teachers ({teachers}), and publish the first version"]
    return _on_ray(config, "bootstrap", (*_state(found), *steps))


def of_refresh(config: Config, teachers: Sequence[str], *, takes_over: bool = False) -> DryRun:
    """Return what `jobs.refresh_teachers` would do."""
    found = _look(config)
    if found.commit is None or not _live(found):
        return DryRun("refresh_teachers", (f"it would stop at once: {cli.not_live(config)}",), status=NO_VERSION)
    steps = [*_state(found), f"it would execute {found.commit.steps_since} steps that are planned, train {', '.join(teachers)}, and commit"]
    if takes_over and found.writer is not None and found.writer.is_alive:
        steps.append(f"it would take the state over from process {found.writer.pid} on {found.writer.host}, which stops at its next step")
    return _alone(config, "refresh_teachers", steps, takes_over=takes_over)


def of_rebuild(config: Config, what: str) -> DryRun:
    """Return what `jobs.rebuild` would do; ``what`` is the sentence of its options."""
    found = _look(config)
    return _on_ray(config, "rebuild", (*_state(found), what))


def of_replay(config: Config, broker: str | None, what: str) -> DryRun:
    """Return what `jobs.replay` would do; ``what`` names the events."""
    return DryRun("replay", (f"it would send {what} to {config.log.events_topic} of {broker or config.log.broker}",))


def _look(config: Config) -> Standing:
    return standing(config, config.log.broker, SystemClock())


def _live(found: Standing) -> str | None:
    live = found.students[0].live if found.students else None
    return None if live is None else live.version


def _state(found: Standing) -> tuple[str, ...]:
    commit = found.commit
    held = "has no commit yet" if commit is None else f"has commit {commit.number}, and {commit.steps_since} steps since that come first"
    return f"state {found.state} {held}", *(f"trouble: {trouble}" for trouble in found.troubles)


def _behind(found: Standing) -> str:
    if found.log is None:
        return "at a log that does not run yet and would be started"
    return f"{sum(lag.records for lag in found.lag)} records behind the end of {found.log}"


def _refreshes(config: Config) -> tuple[str, ...]:
    teachers = config.teachers.refreshed
    return (f"it would refresh {', '.join(teachers)} when they are due",) if teachers else ()


def _alone(config: Config, job: str, steps: Sequence[str], *, takes_over: bool) -> DryRun:
    """Return what a job would do that moves the state alone."""
    try:
        if not takes_over:
            check_alone(config)
    except StreamrecError as error:
        return _on_ray(config, job, (*steps, f"it would stop at once: {error}"), status=1)
    return _on_ray(config, job, steps)


def _on_ray(config: Config, job: str, steps: Sequence[str], status: int = 0) -> DryRun:
    needs = needed(config)
    return DryRun(job, tuple(steps), needs, status, tuple(told_places(config, needs)))


def batch_needs(num_workers: int) -> Needs:
    """Return what `jobs.recommend_batch` needs."""
    return Needs.of([Process("worker", {"CPU": 1.0}, num_workers), reading()])


def _needs(needs: Needs) -> str:
    gpus = f"{needs.gpus:g} GPUs" if needs.gpus else "no GPU"
    address = ray_address()
    there = f"of the cluster at {address}" if address else f"of a Ray of its own, which has {max(LOCAL_CPUS, os.cpu_count() or 1)} on this machine"
    return f"it needs {needs.cpus:g} logical CPUs and {gpus}, {needs.node_cpus:g} CPUs of them on one node, {there}"
