"""Take the place of steps that are given up: what the lake holds of them and the log does not is applied from the lake."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from streamrec.events.schema import EVENT
from streamrec.events.tables import take
from streamrec.log.lake_log import log_rows
from streamrec.pipeline.parts import Parts
from streamrec.pipeline.plan import Plan
from streamrec.pipeline.stream_state import StreamState

logger = logging.getLogger(__name__)


def take_over(parts: Parts, state: StreamState, plan: Plan) -> pa.Table:
    """Return the records that a plan takes from the lake in place of the plans that it gives up, and let the lake's next commit take back theirs.

    **Contract.** Executed again, after whatever death, the plan ends in the same: before its own append the lake has the rows of the others, then
    both, then its own. Of these only records are missing that it did not apply, and for which it books them as lost.

    Args:
        parts: The lake, if there is one.
        state: As of the last step.
        plan: Follows that step, by `Plan.after`.
    """
    topic = parts.config.log.events_topic
    starts = None if plan.topic_id is not None else {part.partition: part.start for part in plan.ranges}
    found = held_of(parts, state.batch, plan.batch, starts)
    gone = plan.batch - state.batch - 1
    logger.warning("batch %d follows batch %d: %d numbers are given up, %d events come from the lake", plan.batch, state.batch, gone, found.num_rows)
    if parts.lake is not None:
        parts.lake.give_back(state.batch, plan.batch, state.entered)
    return log_rows(topic, found)


def held_of(parts: Parts, after: int, last: int, starts: Mapping[int, int] | None) -> pa.Table:
    """Return the events of batches above ``after`` up to ``last`` that the lake holds and the log, which begins at ``starts``, does not.

    All of them, of a log made anew; see `streamrec.events.schema.EVENT`.
    """
    if parts.lake is None:
        return EVENT.empty_table()
    found = parts.lake.lake.between(after, last)
    if starts is None:
        return found
    partitions, offsets = (found[name].to_numpy() for name in ("partition", "offset"))
    begins = np.fromiter((starts.get(partition, 0) for partition in partitions.tolist()), np.int64, len(partitions))
    return take(found, np.flatnonzero(offsets < begins))
