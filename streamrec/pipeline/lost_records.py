"""Look whether the log still holds what comes next for a state. Reads no records, and changes nothing."""

from __future__ import annotations

import copy
from collections.abc import Iterator

from streamrec.config import Config
from streamrec.errors import BrokerUnavailable, RetentionGap, StreamrecError
from streamrec.log.base import TableReader
from streamrec.log.offsets import SKIP_LOST, topic_replaced
from streamrec.pipeline.intake import Intake
from streamrec.pipeline.stream_state import StreamState


def lost_records(reader: TableReader, state: StreamState, config: Config) -> Iterator[StreamrecError]:
    """Give what the stream would stop at when it reads on: a gap of a partition, a topic that was made anew, a partition that is gone.

    Nothing is said of a broker that does not answer.
    """
    topic, state = config.log.events_topic, copy.deepcopy(state)
    try:
        Intake(reader, state, config).ends()
        earliest = reader.earliest(topic)
    except BrokerUnavailable:
        return
    except StreamrecError as error:
        yield error
        return
    for partition, offset in sorted(state.offsets.items()):
        start = earliest.get(partition, 0)
        if offset < start:
            what = f"Log: {topic}[{partition}] no longer holds what comes next"
            do = f"bring the records back; to go on without them: {SKIP_LOST}, which goes on at offset {start}"
            do += f" and books {start - offset} records as lost, less those that the lake holds"
            yield RetentionGap(what, got=f"offset {offset}", allowed=f"{start} or later", do=do)


def lost_topic(state: StreamState, config: Config) -> StreamrecError | None:
    """Return what the stream would stop at where there is no topic of events: it makes one, which is another than the state has read."""
    read = {partition: (offset, 0) for partition, offset in state.offsets.items() if offset > 0}
    return topic_replaced(config.log.events_topic, state.topic_id, "", read) if read else None
