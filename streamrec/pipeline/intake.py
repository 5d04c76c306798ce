"""Know what the log holds beyond the stream's state, whether it is still the same log, and read it."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from streamrec.config import Config
from streamrec.errors import BrokerError
from streamrec.log.base import ReadsAhead, TableReader
from streamrec.log.offsets import topic_replaced
from streamrec.log.rows import NO_ROWS
from streamrec.pipeline.plan import Plan, PlannedRange, lag_of, next_limit, take_ranges
from streamrec.pipeline.spending import NOTHING_ARRIVED, waits_of
from streamrec.pipeline.stream_state import StreamState

_NEWEST_COUNTS = 0.5
"""Weight of the newest micro-batch in the measured seconds per event."""


class Intake:
    """Ask the log for a controller.

    **Contract.** Nothing is read for a state whose topic was made anew. The topic's id is looked at before the first read and again after each
    failure of the broker, because a topic is not replaced while somebody is connected to it without one.

    Args:
        reader: The log.
        state: The stream's; its offsets and topic are what the log is compared with.
        config: Topic and limits.
    """

    def __init__(self, reader: TableReader, state: StreamState, config: Config) -> None:
        self._reader = reader
        self._state = state
        self._config = config
        self._is_identified = False
        self._ends: dict[int, int] = {}
        self.ahead: tuple[PlannedRange, ...] = ()
        self.seconds_per_event: float | None = None
        self._arrived: pa.ChunkedArray | None = None

    def ends(self) -> dict[int, int]:
        """Return each partition's end offset (exclusive); a partition that was never read starts at the oldest record that it still holds.

        Raises:
            TopicReplaced: The topic is not the one of the state's offsets.
            BrokerUnavailable: Nobody answers.
            TopicMissing: There is no topic.
        """
        topic, state = self._config.log.events_topic, self._state
        try:
            self._identify()
            ends = self._reader.latest(topic)
            if not ends.keys() <= state.offsets.keys():
                state.offsets = {**self._reader.earliest(topic), **state.offsets}
        except BrokerError:
            self._is_identified = False
            raise
        beyond = {partition: (offset, ends.get(partition, 0)) for partition, offset in state.offsets.items() if offset > ends.get(partition, 0)}
        if beyond:
            raise topic_replaced(topic, state.topic_id, self._reader.topic_id(topic), beyond)
        self._ends = ends
        return ends

    def lag(self) -> int:
        """Return how many records of the log have not been read."""
        ends = self.ends()
        return lag_of(self._state.offsets, ends)

    def known(self) -> dict[int, tuple[int, int]]:
        """Return of each partition the next offset to read and the end (both exclusive ends), as of the last look; nothing before one."""
        return {partition: (self._state.offsets.get(partition, end), end) for partition, end in sorted(self._ends.items())}

    def read(self, plan: Plan) -> pa.Table:
        """Return the rows of a plan; a plan that only commits does not need the broker."""
        self._arrived = None
        if not plan.num_records:
            return NO_ROWS
        self.ahead = ()
        try:
            self._identify()
            rows = self._reader.read_table([part.to_range() for part in plan.ranges])
        except BrokerError:
            self._is_identified = False
            raise
        self._arrived = rows["timestamp"]
        return rows

    def look_ahead(self, plan: Plan) -> None:
        """Begin to read what follows a plan when a full micro-batch waits there; the next plan names it then, before anything is done with it."""
        if not plan.num_records or not isinstance(self._reader, ReadsAhead):
            return
        offsets = {**self._state.offsets, **{part.partition: part.end for part in plan.ranges}}
        lag = lag_of(offsets, self._ends)
        limit = next_limit(lag, self.seconds_per_event, self._config.pipeline)
        if lag >= limit:
            self.ahead = take_ranges(self._config.log.events_topic, offsets, self._ends, limit)
            self._reader.read_ahead([part.to_range() for part in self.ahead])

    def note(self, plan: Plan, seconds: float, stages: Mapping[str, float], now_ms: int) -> None:
        """Measure a micro-batch; one that is too small to say what an event costs is left out of that.

        Args:
            plan: What was executed.
            seconds: What it took.
            stages: Where that went.
            now_ms: Processing time of its end.
        """
        # What is learned at the first start, or made anew, came long ago.
        arrived = self._arrived.to_numpy() if self._arrived is not None and plan.evaluate else NOTHING_ARRIVED
        self._state.spend(stages, waits_of(arrived, now_ms))
        self._arrived = None
        pipeline = self._config.pipeline
        if plan.num_records < min(pipeline.min_batch_events, pipeline.max_batch_events):
            return
        newest = seconds / plan.num_records
        before = self.seconds_per_event if self.seconds_per_event is not None else newest
        self.seconds_per_event = _NEWEST_COUNTS * newest + (1 - _NEWEST_COUNTS) * before

    def restart_at(self) -> tuple[Mapping[int, int], str | None]:
        """Return where each partition begins now if the state's offsets are not there any more, and the topic's id if it is another topic.

        No partition: nothing is lost.
        """
        topic, state = self._config.log.events_topic, self._state
        topic_id, earliest, latest = self._reader.topic_id(topic), self._reader.earliest(topic), self._reader.latest(topic)
        is_other = bool(state.topic_id) and topic_id != state.topic_id
        if is_other or any(offset > latest.get(partition, 0) for partition, offset in state.offsets.items()):
            return earliest, topic_id
        return {partition: start for partition, start in earliest.items() if state.offsets.get(partition, start) < start}, None

    def _identify(self) -> None:
        if self._is_identified:
            return
        topic, state = self._config.log.events_topic, self._state
        topic_id = self._reader.topic_id(topic)
        if state.topic_id and topic_id != state.topic_id:
            raise topic_replaced(topic, state.topic_id, topic_id, {})
        state.topic_id, self._is_identified = topic_id, True
