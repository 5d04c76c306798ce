"""Reach the histories that all replicas share in Redis, and keep them up to date while this replica has the lease."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from streamrec.config import Config, LogConfig, ServingConfig
from streamrec.environment import tombstone_key
from streamrec.errors import ConfigError, StorageError
from streamrec.features.dedupe import Dedupe
from streamrec.features.tombstones import NEVER, Tombstones
from streamrec.log.base import LogAddress, LogTail
from streamrec.log.connect import open_table_reader
from streamrec.pipeline.bootstrap_view import load_history_columns
from streamrec.pipeline.layout import state_of
from streamrec.pipeline.lineage import current_url, named_lineage, url_of
from streamrec.serving.history_view import HistoryColumns, HistoryView
from streamrec.serving.history_writer import HistoryWriter, LogEnds, StoredView
from streamrec.serving.redis_connection import check_redis
from streamrec.serving.requests import Known
from streamrec.serving.stored_histories import Entries, Offsets, StoredHistories

logger = logging.getLogger(__name__)

RENEW_EVERY_S = 1.0
"""How often the lease is asked for; well below what it lasts."""

BEHIND = "Histories: Redis is behind the log by more than a second"
_PAUSE_S = 0.1
_NOT_YET = "nothing has been committed yet, so nobody knows whose histories Redis would hold"


class SharedHistories:
    """Be the histories of one replica that are not its own.

    Args:
        config: Where Redis is.
        place: Where log and checkpoint are.
        mine: The replica's own view, which keeps no histories: it knows how far the log is, and who was deleted.
        make_writer: Makes what writes a store.

    **Contract.** `known` and `entries` belong to the event loop, `answer_reads`, `keep_lease` and `write` to one thread each.

    Raises:
        ConfigError: See `check_redis`.
    """

    def __init__(self, config: ServingConfig, place: LogPlace, mine: HistoryView, make_writer: Callable[[StoredHistories], HistoryWriter]) -> None:
        check_redis(config)
        self._config, self._place, self._mine, self._make_writer = config, place, mine, make_writer
        self._store: StoredHistories | None = None
        self._writer: HistoryWriter | None = None
        self._last_error = ""
        self._due: Offsets | None = None
        self._next_due: Offsets | None = None
        self._is_late: bool | None = None

    async def known(self, namespace: str, user_id: str, within_s: float | None = None) -> Known:
        """Return what a user did, and why that may not be all.

        Args:
            namespace: Of the user.
            user_id: Its id.
            within_s: How long it may take; None for as long as Redis may.
        """
        try:
            async with asyncio.timeout(within_s):
                entries, missing = await self.entries(namespace, user_id)
        except TimeoutError:
            return Known(missing="Histories: there was no time to ask Redis")
        except StorageError as error:
            return Known(missing=without_address(error))
        return Known(entries.item_ids, missing)

    async def entries(self, namespace: str, user_id: str) -> tuple[Entries, str]:
        """Return a user's history with its times, and what it may lack, "" where it is up to date.

        A deletion that this replica has read counts at once, whether Redis has it or not.

        Raises:
            StorageError: Redis does not answer in time, or has none yet.
        """
        if self._store is None:
            what = "Histories: there are none to read"
            raise StorageError(what, got=self._last_error or "a server that has just begun", do="wait for the first commit")
        entries, reached = await self._store.read(namespace, user_id)
        due = self._due
        self._is_late = due is None or any(reached.get(partition, 0) < offset for partition, offset in due.items())
        if self._is_late:
            self._store.num_unread += 1
        marks = self._mine.tombstones
        if marks is not None and len(marks) and (until_ms := marks.until_ms(namespace, user_id)) > NEVER:
            left = [pair for pair in zip(entries.item_ids, entries.times, strict=True) if pair[1] > until_ms]
            entries = Entries(tuple(item for item, _ in left), tuple(time_ms for _, time_ms in left))
        return entries, BEHIND if self._is_late else ""

    def answer_reads(self) -> None:
        """Answer those who wait in `entries`; see `StoredHistories.answer_reads`."""
        if self._store is not None:
            self._store.answer_reads()
        else:
            time.sleep(_PAUSE_S)

    def keep_lease(self) -> None:
        """Ask for the lease once, and note how far the log is: so far Redis has to be when this is called again."""
        seen = dict(self._mine.offsets)
        try:
            if self._store is None:
                lineage = self._place.lineage()
                if lineage is None:
                    self._last_error = _NOT_YET
                    return
                store = StoredHistories(self._config, lineage, self._place.family)
                self._writer, self._store = self._make_writer(store), store
            self._store.hold_lease()
        except (StorageError, ConfigError) as error:
            if str(error) != self._last_error:
                logger.warning("%s; trying again", error)
            self._last_error = str(error)
        else:
            self._last_error = ""
        finally:
            self._due, self._next_due = self._next_due, seen

    def note(self) -> None:
        """Note how far the log is: so far Redis has to be from now on."""
        self._due = self._next_due = dict(self._mine.offsets)

    def write(self) -> bool:
        """Do the writer's next thing, if there is one."""
        return self._writer is not None and self._writer.step()

    def stop_writing(self) -> None:
        """Let the next replica write, and close the connections."""
        if self._writer is not None and self._store is not None:
            self._writer.close()
            try:
                self._store.leave()
            except StorageError as error:
                logger.warning("%s", error)

    def facts(self) -> dict[str, Any]:
        """Return what ``GET /v1/models`` shows."""
        store, writer = self._store, self._writer
        errors = [store.read_error if store is not None else "", self._last_error, writer.last_error if writer is not None else ""]
        return {
            "redis": self._config.redis_url,
            "writer": None if writer is None else writer.state,
            "is_behind": self._is_late,
            "last_error": next(filter(None, errors), None),
            "unread": 0 if store is None else store.num_unread,
        }


def without_address(error: StorageError) -> str:
    """Return what clients are told of an error: not where Redis is."""
    return str(error).partition(", got ")[0]


@dataclass(frozen=True)
class LogPlace:
    """Say where the log and the checkpoint are.

    Attributes:
        address: Of the log.
        config: How it is spoken to.
        state_url: Of the state; None where there is none, and histories begin with the log.
    """

    address: LogAddress
    config: LogConfig
    state_url: str | None

    def lineage(self) -> str | None:
        """Return whose histories are kept; None while nothing has been committed."""
        return f"{self.address} {self.config.events_topic}" if self.state_url is None else named_lineage(current_url(self.state_url))

    @property
    def family(self) -> str:
        """Return what all lineages of this state have in common: its first one's name, as a folder may be called the same on another machine."""
        if self.state_url is None:
            return str(self.address)
        return named_lineage(url_of(state_of(self.state_url), "")) or self.lineage() or ""

    def load(self) -> HistoryColumns | None:
        """Return the checkpoint's histories."""
        return None if self.state_url is None else load_history_columns(self.state_url)


def share_histories(
    config: Config, place: LogPlace, mine: HistoryView, open_tail: Callable[[Mapping[int, int]], LogTail], heard: Callable[[pa.Table], None]
) -> SharedHistories:
    """Return the histories that a replica shares with others.

    Args:
        config: Of serving.
        place: Where log and checkpoint are.
        mine: The replica's own view, which keeps none; that of the writer is like it.
        open_tail: Opens the log at {partition: next offset}.
        heard: Is told the log rows that Redis has just got.
    """
    log = LogEnds(lambda: open_table_reader(place.address, place.config), place.config.events_topic)

    def make_writer(store: StoredHistories) -> HistoryWriter:
        def make_view() -> StoredView:
            marks = Tombstones(tombstone_key())
            view = StoredView(mine.history_length, sys.maxsize, mine.meanings, mine.codec, mine.clock, marks, store=store, log=log)
            view.max_items, view.dedupe = config.features.max_items, Dedupe(config.features.dedupe_horizon)
            return view

        return HistoryWriter(store, make_view, place.load, open_tail, heard)

    return SharedHistories(config.serving, place, mine, make_writer)
