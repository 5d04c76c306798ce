"""Go on, on purpose, where the log begins now, when what comes next has left it: after a retention gap, or with a topic that was made anew."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa

from streamrec.errors import RetentionGap, RowCountMismatch, TopicReplaced
from streamrec.events.schema import EVENT
from streamrec.events.tables import take
from streamrec.log.lake_log import log_rows
from streamrec.pipeline.controller import Controller
from streamrec.pipeline.forgetting import withdraw_receipts
from streamrec.pipeline.plan import Plan, PlannedRange
from streamrec.pipeline.report import StepReport

logger = logging.getLogger(__name__)


def skip_lost(controller: Controller, say: Callable[[str], None]) -> StepReport | None:
    """Move the state's offsets to the beginning of the log where they lie before it, by a durable plan that books what is lost and commits.

    Plans that an earlier run left behind are executed first as far as the log still has their records; the others are given up: their numbers are
    not used again. What the lake holds of their steps and the log does not is applied from the lake by the new plan; the rest of their rows goes,
    since the log brings it again. A run that died in here has left the plans that were given up, so the next one does all of this anew. Of a topic
    that was made anew everything is read, and nobody knows how much of the old one is lost.

    Args:
        controller: Recovered.
        say: Gets a line for each partition that is moved, and each deletion that is given up, which is also logged.

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
    planned = controller.parts.plans.batches() if controller.parts.plans is not None else []
    batch = max([state.batch, *planned]) + 1
    found = _from_lake(controller, batch, None if topic_id is not None else starts)
    num_found = Counter(found["partition"].to_pylist())
    lost = {partition: start - held[partition] - num_found[partition] if partition in held else 0 for partition, start in starts.items()}
    for partition, start in sorted(starts.items()):
        of = "of a topic that was made anew, and reads it from there" if topic_id is not None else f"and {lost[partition]} records are lost"
        of += f"; {num_found[partition]} come from the lake" if num_found[partition] else ""
        line = f"{config.log.events_topic}[{partition}] goes on at offset {start} instead of {state.offsets.get(partition, 0)} {of}"
        logger.warning("Skipping what is lost: %s", line)
        say(line)
    if controller.parts.receipts is not None:
        for event_id in withdraw_receipts(controller.parts.receipts, state.batch):
            line = f"the receipt of deletion {event_id} is withdrawn, its step is given up: ask for it again, unless the log still has it"
            logger.warning("Skipping what is lost: %s", line)
            say(line)
    resumed = {**held, **starts}
    ranges = (PlannedRange(topic=config.log.events_topic, partition=partition, start=at, end=at) for partition, at in sorted(resumed.items()))
    return controller.run(
        Plan(
            batch=batch,
            ranges=tuple(ranges),
            now_ms=controller.time.now_ms(),
            seed=(config.seed * 1_000_003 + batch) % 2**31,
            evaluate=False,
            new_passes=config.student.new_passes if found.num_rows else 0,
            replay_passes=config.student.replay_passes,
            teachers=state.teachers,
            challengers=state.challengers,
            publish=False,
            checkpoint=True,
            lost=sum(lost.values()),
            topic_id=topic_id,
        ),
        log_rows(config.log.events_topic, found),
    )


def _from_lake(controller: Controller, batch: int, starts: Mapping[int, int] | None) -> pa.Table:
    """Return the events of given up steps that the lake holds and the log, which begins at ``starts``, does not; all, of a log made anew."""
    if controller.parts.lake is None:
        return EVENT.empty_table()
    found = controller.parts.lake.take_over(controller.state.batch, batch, controller.state.counts["applied"])
    if starts is None:
        return found
    partitions, offsets = (found[name].to_numpy() for name in ("partition", "offset"))
    begins = np.fromiter((starts.get(partition, 0) for partition in partitions.tolist()), np.int64, len(partitions))
    return take(found, np.flatnonzero(offsets < begins))
