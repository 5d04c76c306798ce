"""Go on, on purpose, where the log begins now, when what comes next has left it: after a retention gap, or with a topic that was made anew."""

from __future__ import annotations

import logging
from collections.abc import Callable

from streamrec.errors import RetentionGap, RowCountMismatch, TopicReplaced
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.plan import Plan, PlannedRange
from streamrec.pipeline.report import StepReport

logger = logging.getLogger(__name__)


def skip_lost(controller: Controller, say: Callable[[str], None]) -> StepReport | None:
    """Move the state's offsets to the beginning of the log where they lie before it, by a durable plan that books what is lost and commits.

    Plans that an earlier run left behind are executed first as far as the log still has their records; the others are given up: their numbers are
    not used again. Of a topic that was made anew everything is read, and nobody knows how much of the old one is lost.

    Args:
        controller: Recovered.
        say: Gets a line for each partition that is moved, which is also logged.

    Returns:
        The step that moved the offsets; None when nothing is lost.

    Raises:
        BrokerUnavailable: Nobody answers.
    """
    state, config = controller.state, controller.config
    stored: Plan | None = None
    try:
        while (stored := controller.planned()) is not None:
            controller.run(stored)
        controller.intake.ends()
    except (RetentionGap, RowCountMismatch, TopicReplaced) as error:
        logger.warning("Skipping what is lost: %s", error)
    if stored is not None:  # It alone knows where partitions began that no commit has read.
        state.offsets = {**{part.partition: part.start for part in stored.ranges}, **state.offsets}
    starts, topic_id = controller.intake.restart_at()
    if not starts:
        return None
    held = {} if topic_id is not None else state.offsets
    lost = {partition: start - held.get(partition, start) for partition, start in starts.items()}
    for partition, start in sorted(starts.items()):
        of = "of a topic that was made anew, and reads it from there" if topic_id is not None else f"and {lost[partition]} records are lost"
        line = f"{config.log.events_topic}[{partition}] goes on at offset {start} instead of {state.offsets.get(partition, 0)} {of}"
        logger.warning("Skipping what is lost: %s", line)
        say(line)
    resumed = {**held, **starts}
    ranges = (PlannedRange(topic=config.log.events_topic, partition=partition, start=at, end=at) for partition, at in sorted(resumed.items()))
    planned = controller.parts.plans.batches() if controller.parts.plans is not None else []
    return controller.run(
        Plan(
            batch=max([state.batch, *planned]) + 1,
            ranges=tuple(ranges),
            now_ms=controller.time.now_ms(),
            seed=0,
            evaluate=False,
            new_passes=0,
            teachers=state.teachers,
            challengers=state.challengers,
            publish=False,
            checkpoint=True,
            lost=sum(lost.values()),
            topic_id=topic_id,
        )
    )
