"""Keep a history view up to date from the log, through broker failures and retention gaps."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import pyarrow as pa

from streamrec.errors import BrokerError, RetentionGap, StorageError, TopicReplaced
from streamrec.log.base import LogTail
from streamrec.serving.history_view import HistoryColumns, HistoryView

logger = logging.getLogger(__name__)


class FollowerState(StrEnum):
    """Name what the follower does next."""

    BOOTSTRAP = "bootstrap"
    OPEN = "open"
    FOLLOW = "follow"


def _nobody(rows: pa.Table) -> None:
    """Stand for nobody who wants to know."""


@dataclass
class LogFollower:
    """Feed a history view: the checkpoint's histories first, then the log from the checkpoint's offsets.

    Args:
        view: What is kept up to date.
        bootstrap: Loads the checkpoint's histories; None means there is no checkpoint and the log is followed from its earliest offsets.
        open_tail: Opens the log at {partition: next offset}; partitions that are not named start at their earliest.
        poll_s: Longest time that one step waits for rows.
        heard: Is told the rows that the view has just got.

    **Contract.** `step` is called in a loop by one thread. It blocks up to ``poll_s`` (longer when the broker does), never sleeps and never
    raises on a failing broker or storage: it keeps the reason in ``last_error`` and returns False, and the caller decides when to call again.
    """

    view: HistoryView
    bootstrap: Callable[[], HistoryColumns | None]
    open_tail: Callable[[Mapping[int, int]], LogTail]
    poll_s: float = 0.2
    heard: Callable[[pa.Table], None] = _nobody
    state: FollowerState = FollowerState.BOOTSTRAP
    last_error: str = ""
    num_gaps: int = 0
    _tail: LogTail | None = None
    _gaps: dict[int, int] = field(default_factory=dict)

    def step(self) -> bool:
        """Do the next thing; False when it failed and should be tried again later."""
        try:
            if self.state is FollowerState.BOOTSTRAP:
                self._load()
            elif self.state is FollowerState.OPEN:
                self._tail = self.open_tail(self.view.offsets)
                self.state = FollowerState.FOLLOW
            else:
                assert self._tail is not None
                rows = self._tail.poll(self.poll_s)
                self.view.apply(rows)
                self.heard(rows)
                self.last_error = ""
        except RetentionGap as error:
            # The log no longer has what comes next, but a newer checkpoint may.
            self._fail(error)
            self.num_gaps += 1
            self._gaps[error.facts["partition"]] = error.facts["earliest"]
            self.state = FollowerState.BOOTSTRAP
            return False
        except TopicReplaced as error:
            # Another topic, or one that lost its end: what it gets from now on is new in either case.
            self._fail(error)
            self.num_gaps += 1
            self.view.offsets = {**self.view.offsets, error.facts["partition"]: error.facts["latest"]}
            return False
        except (BrokerError, StorageError) as error:
            self._fail(error)
            return False
        return True

    def close(self) -> None:
        """Close the log's tail."""
        if self._tail is not None:
            self._tail.close()
            self._tail = None

    def _load(self) -> None:
        columns = self.bootstrap()
        if columns is not None and self._is_ahead(columns):
            self.view.load(columns)
        lost = {partition: earliest for partition, earliest in self._gaps.items() if self.view.offsets.get(partition, 0) < earliest}
        if lost:
            logger.warning("History view: no checkpoint reaches over the retention gap, going on at %s without what was there", lost)
            self.view.offsets = {**self.view.offsets, **lost}
        self._gaps = {}
        self.state = FollowerState.OPEN

    def _is_ahead(self, columns: HistoryColumns) -> bool:
        """Return whether the checkpoint holds something that the view does not."""
        mine = self.view.offsets
        return not mine or any(offset > mine.get(partition, 0) for partition, offset in columns.offsets.items())

    def _fail(self, error: Exception) -> None:
        if str(error) != self.last_error:
            logger.warning("History view: %s; trying again", error)
        self.last_error = str(error)
        self.close()
        if self.state is FollowerState.FOLLOW:
            self.state = FollowerState.OPEN
