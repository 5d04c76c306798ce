"""Choose what is killed, where and when: a pure function of a seed and the windows that an undisturbed run has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

import numpy as np

from streamrec.testing.failpoints import Failpoint

T = TypeVar("T")

LONGEST_DELAY_S = 2.0
"""About as long as an actor takes to restart: a driver that goes on sooner meets a dead one, later one that refuses it."""


class Target(StrEnum):
    """What can die."""

    CONTROLLER = "controller"
    JOB = "jobs.stream"
    STUDENT = "student actor"
    CONTROL = "control student's actor"
    LINEAR = "linear teacher's actor"
    SCORER = "scoring actor"
    BOARD = "board actor"
    DATA_WORKER = "Ray Data worker"
    REFRESH = "refresh worker"
    BROKER = "broker"
    NODE = "Ray node"


ACTORS = {Target.STUDENT: "student", Target.CONTROL: "control", Target.LINEAR: "linear", Target.SCORER: "scorer"}
"""Actors that a controller adopts, with their roles."""

OTHERS = (*ACTORS, Target.BOARD, Target.DATA_WORKER, Target.NODE, Target.BROKER, Target.JOB, Target.REFRESH)
_FIXED = {
    Target.DATA_WORKER: Failpoint.PLAN_DURABLE,  # The read follows.
    Target.REFRESH: Failpoint.REFRESH_STARTED,
    Target.JOB: Failpoint.PLAN_DURABLE,
}
_IN_DELETION = (Failpoint.USERS_LEFT_LAKE, Failpoint.BEFORE_RECEIPT, Failpoint.RECEIPT_WRITTEN)
_JOB_BATCHES = range(5, 13)
"""A job refuses a state whose last commit has no live version, and its first steps must end before the plans do."""


@dataclass(frozen=True)
class Kill:
    """Kill a target while the controller waits at a failpoint of a batch.

    Attributes:
        target: What.
        failpoint: Where the controller is.
        batch: In which step.
        delay_s: For the controller: it goes on for so long first, so that it dies at a random instant. For an actor: so much later the controller
            goes on.
    """

    target: Target
    failpoint: Failpoint
    batch: int
    delay_s: float = 0.0


def choose(rng: np.random.Generator, wanted: Sequence[tuple[Target, Failpoint | None]], windows: Mapping[Failpoint, Sequence[int]]) -> list[Kill]:
    """Give each target a window of its own, at most one a batch, and return them in the order of batches.

    Args:
        rng: Decides.
        wanted: What to kill, and where; None lets chance choose among the failpoints that there are.
        windows: By failpoint the batches that pass it.

    Raises:
        ValueError: There are more kills than windows.
    """
    for _ in range(1000):
        kills = _try(rng, wanted, windows)
        if kills is not None:
            return sorted(kills, key=lambda kill: kill.batch)
    msg = f"Chaos: the kills do not fit into one run, got {len(wanted)}, allowed one a batch, at a failpoint that the batch passes"
    raise ValueError(msg)


def _try(
    rng: np.random.Generator, wanted: Sequence[tuple[Target, Failpoint | None]], windows: Mapping[Failpoint, Sequence[int]]
) -> list[Kill] | None:
    taken: set[int] = set()
    kills = []
    for target, where in sorted(wanted, key=lambda pair: len(windows[pair[1]]) if pair[1] is not None else 100):
        failpoint = where or _FIXED.get(target) or _pick(rng, sorted(windows))
        allowed: Sequence[int] = _JOB_BATCHES if target is Target.JOB else windows[failpoint]
        if target is Target.REFRESH:  # The first refresh is a fit, which lasts long enough to be found.
            allowed = allowed[:1]
        free = [batch for batch in windows[failpoint] if batch in allowed and batch not in taken and batch > 0]
        if not free:
            return None
        batch = _pick(rng, free)
        taken.add(batch)
        is_exact = target in {Target.DATA_WORKER, Target.REFRESH, Target.BROKER, Target.NODE} or where is not None
        kills.append(Kill(target, failpoint, batch, 0.0 if is_exact else float(rng.uniform(0.0, LONGEST_DELAY_S))))
    return kills


def wanted_of_run(seed: int, run: int, *, with_transformer: bool) -> list[tuple[Target, Failpoint | None]]:
    """Return eight kills: the controller at four failpoints in turn and at a random instant, and three of the others in turn.

    A refresh is killed in its middle only where the transformer is fitted: the other ones are too short to be found.
    """
    deck = _shuffled(seed, list(Failpoint))
    deck_of_others = _shuffled(seed + 1, OTHERS[:-1])
    others = [deck_of_others[(3 * run + number) % len(deck_of_others)] for number in range(3)]
    if with_transformer:
        others[run // 3 % 3] = Target.REFRESH  # Not always the same one's place: it would never die.
    exact: list[tuple[Target, Failpoint | None]] = [(Target.CONTROLLER, deck[(4 * run + number) % len(deck)]) for number in range(4)]
    return [*exact, (Target.CONTROLLER, None), *((target, None) for target in others)]


def wanted_in_ci(seed: int) -> list[tuple[Target, Failpoint | None]]:
    """Return the selection of continuous integration: every target once, and the controller at three failpoints besides, two of a deletion's."""
    of_deletion = [_shuffled(seed, _IN_DELETION)[0], Failpoint.LAKE_VACUUMED]
    exact = [*of_deletion, _shuffled(seed, [failpoint for failpoint in Failpoint if failpoint not in of_deletion])[0]]
    rest = [*OTHERS, Target.CONTROLLER]
    return [*((Target.CONTROLLER, failpoint) for failpoint in exact), *((target, None) for target in rest)]


def _pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    return options[int(rng.integers(len(options)))]


def _shuffled(seed: int, options: Sequence[T]) -> list[T]:
    return [options[int(index)] for index in np.random.default_rng(seed).permutation(len(options))]
