"""Learn what is already in the log, train the first teachers, publish the first version."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from streamrec.errors import DataError
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.plan import Plan, lag_of, take_ranges
from streamrec.pipeline.report import StepReport

NUM_STEPS = 4
"""The backlog is learned in at least so many steps, so that the last ones rehearse the first."""

LARGEST_STEP = 250_000
"""Records of one step at most; bounds its memory."""


OnStep = Callable[[StepReport], None]


def bootstrap(controller: Controller, ends: Mapping[int, int], on_step: OnStep = lambda report: None) -> None:
    """Move the controller over the log up to ``ends``, then bring the first version live, durably. Resumes after a crash where it was.

    Args:
        controller: New or recovered.
        ends: Where to stop in each partition, exclusive.
        on_step: Called after each step.

    Raises:
        DataError: The log holds nothing to learn from.
    """
    controller.intake.ends()
    if controller.state.live is None:
        learn(controller, ends, chunk_of(controller.state.offsets, ends), on_step)
        train_first(controller, on_step)


def chunk_of(offsets: Mapping[int, int], ends: Mapping[int, int]) -> int:
    """Return how many records a step takes on the way from ``offsets`` to ``ends``."""
    return min(max(1, -(-lag_of(offsets, ends) // NUM_STEPS)), LARGEST_STEP)


def learn(controller: Controller, ends: Mapping[int, int], chunk: int, on_step: OnStep, *, commits: bool = False) -> None:
    """Learn the log up to ``ends``, in steps of up to ``chunk`` records; what an earlier run planned comes first.

    Args:
        controller: New or recovered.
        ends: Where to stop in each partition, exclusive.
        chunk: Records of a step.
        on_step: Called after each step.
        commits: Commit with each step, and stop at the ends, whatever is planned behind them.
    """
    state, config = controller.state, controller.config
    while state.live is None:
        stored = controller.planned()
        ranges = take_ranges(config.log.events_topic, state.offsets, ends, chunk)
        if (stored is None or commits) and not any(part.end > part.start for part in ranges):
            break
        on_step(
            controller.run(
                stored
                or plan_of(
                    controller, ranges=ranges, new_passes=config.student.bootstrap_passes, rounds=config.student.bootstrap_rounds, checkpoint=commits
                )
            )
        )


def train_first(controller: Controller, on_step: OnStep) -> None:
    """Train the first teachers on what was learned, publish the first version if somebody takes it, and commit, durably."""
    state, config = controller.state, controller.config
    if state.live is not None:
        controller.finish()
        return
    check_learned(controller)
    pending = set(config.teachers.refreshed) - set(state.pending) - set(state.teachers)
    if pending:
        on_step(controller.run(plan_of(controller, start_refresh=tuple(name for name in config.teachers.refreshed if name in pending))))
    on_step(controller.run(plan_of(controller, teachers={**state.teachers, **state.pending}, publish=True, checkpoint=True)))
    controller.finish()


def check_learned(controller: Controller) -> None:
    """Return if there was something to learn from.

    Raises:
        DataError: The log holds no interactions.
    """
    if not len(controller.ingest.vocabulary):
        what = "Bootstrap: the log has nothing to learn from"
        raise DataError(
            what, got=f"{controller.state.counts['received']} records, {controller.state.counts['applied']} applied", do="send interactions first"
        )


def refresh(controller: Controller, teachers: tuple[str, ...], on_step: OnStep = lambda report: None) -> None:
    """Refresh teachers from the state as it is, wait for them, and commit, durably, that their labels are used from now on.

    Plans that an earlier run left behind are executed first.

    Args:
        controller: Recovered.
        teachers: Their names; one that is being refreshed already is only waited for.
        on_step: Called after each step.
    """
    while (stored := controller.planned()) is not None:
        on_step(controller.run(stored))
    state = controller.state
    chosen = tuple(name for name in teachers if name not in state.pending)
    if chosen:
        on_step(controller.run(plan_of(controller, start_refresh=chosen)))
    on_step(controller.run(plan_of(controller, teachers={**state.teachers, **state.pending}, checkpoint=True)))
    controller.finish()


def plan_of(controller: Controller, **values: object) -> Plan:
    """Return the next plan, which neither evaluates nor publishes unless told."""
    state, config = controller.state, controller.config
    batch = state.batch + 1
    empty = take_ranges(config.log.events_topic, state.offsets, state.offsets, 1)
    usual = {
        "batch": batch,
        "ranges": empty,
        "now_ms": controller.time.now_ms(),
        "seed": (config.seed * 1_000_003 + batch) % 2**31,
        "evaluate": False,
        "new_passes": 0,
        "replay_passes": config.student.replay_passes,
        "teachers": dict(state.teachers),
        "challengers": dict(state.challengers),
        "publish": False,
    }
    return Plan.model_validate({**usual, **values})
