"""Learn what is already in the log, train the first teachers, publish the first version."""

from __future__ import annotations

from collections.abc import Callable

from streamrec.errors import DataError
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.plan import Plan, take_ranges
from streamrec.pipeline.report import StepReport

NUM_STEPS = 4
"""The backlog is learned in at least so many steps, so that the last ones rehearse the first."""

LARGEST_STEP = 250_000
"""Records of one step at most; bounds its memory."""


def bootstrap(controller: Controller, ends: dict[int, int], on_step: Callable[[StepReport], None] = lambda report: None) -> None:
    """Move the controller over the log up to ``ends``, then bring the first version live, durably. Resumes after a crash where it was.

    Args:
        controller: New or recovered.
        ends: Where to stop in each partition, exclusive.
        on_step: Called after each step.

    Raises:
        DataError: The log holds nothing to learn from.
    """
    controller.intake.ends()
    state, config = controller.state, controller.config
    if state.live is not None:
        return
    left = sum(max(0, end - state.offsets.get(partition, 0)) for partition, end in ends.items())
    chunk = min(max(1, -(-left // NUM_STEPS)), LARGEST_STEP)
    while True:
        stored = controller.planned()
        ranges = take_ranges(config.log.events_topic, state.offsets, ends, chunk)
        if stored is None and not any(part.end > part.start for part in ranges):
            break
        on_step(controller.run(stored or _plan(controller, ranges=ranges, new_passes=config.student.bootstrap_passes)))
        if state.live is not None:
            controller.finish()
            return
    if not len(controller.ingest.vocabulary):
        what = "Bootstrap: the log has nothing to learn from"
        raise DataError(what, got=f"{state.counts['received']} records, {state.counts['applied']} applied", do="send interactions first")
    pending = set(config.teachers.refreshed) - set(state.pending) - set(state.teachers)
    if pending:
        on_step(controller.run(_plan(controller, start_refresh=tuple(name for name in config.teachers.refreshed if name in pending))))
    on_step(controller.run(_plan(controller, teachers={**state.teachers, **state.pending}, publish=True, checkpoint=True)))
    controller.finish()


def refresh(controller: Controller, teachers: tuple[str, ...], on_step: Callable[[StepReport], None] = lambda report: None) -> None:
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
        on_step(controller.run(_plan(controller, start_refresh=chosen)))
    on_step(controller.run(_plan(controller, teachers={**state.teachers, **state.pending}, checkpoint=True)))
    controller.finish()


def _plan(controller: Controller, **values: object) -> Plan:
    """Return the next plan, which neither evaluates nor publishes unless told."""
    state, config = controller.state, controller.config
    batch = state.batch + 1
    empty = take_ranges(config.log.events_topic, state.offsets, state.offsets, 1)
    usual = {
        "batch": batch,
        "ranges": empty,
        "now_ms": controller.parts.clock.now_ms(),
        "seed": (config.seed * 1_000_003 + batch) % 2**31,
        "evaluate": False,
        "new_passes": 0,
        "replay_passes": config.student.replay_passes,
        "teachers": dict(state.teachers),
        "publish": False,
    }
    return Plan.model_validate({**usual, **values})
