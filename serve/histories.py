"""Reach the histories that all replicas share in Redis, and keep them up to date while this replica has the lease."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from streamrec.config import Config, LogConfig, ServingConfig
from streamrec.environment import tombstone_key
from streamrec.errors import ConfigError, StorageError
from streamrec.features.dedupe import Dedupe
from streamrec.features.tombstones import Tombstones
from streamrec.log.base import LogAddress, LogTail
from streamrec.log.connect import open_table_reader
from streamrec.pipeline.bootstrap_view import load_history_columns
from streamrec.pipeline.lineage import current_url, named_lineage
from streamrec.serving.history_view import HistoryColumns, HistoryView
from streamrec.serving.history_writer import HistoryWriter, LogEnds, StoredView
from streamrec.serving.requests import Known
from streamrec.serving.stored_histories import Entries, StoredHistories, check_redis

logger = logging.getLogger(__name__)

RENEW_EVERY_S = 1.0
"""How often the lease is asked for; well below what it lasts."""

_NOT_YET = "nothing has been committed yet, so nobody knows whose histories Redis would hold"


class SharedHistories:
    """Be the histories of one replica that are not its own.

    Args:
        config: Where Redis is.
        find_lineage: Names the lineage that is served; None while there is none. Raises `StorageError`.
        make_writer: Makes what writes a store.

    **Contract.** `known` and `entries` belong to the event loop, `keep_lease` and `write` to one thread each.

    Raises:
        ConfigError: See `check_redis`.
    """

    def __init__(
        self, config: ServingConfig, find_lineage: Callable[[], str | None], make_writer: Callable[[StoredHistories], HistoryWriter]
    ) -> None:
        check_redis(config)
        self._config, self._find_lineage, self._make_writer = config, find_lineage, make_writer
        self._store: StoredHistories | None = None
        self._writer: HistoryWriter | None = None
        self._last_error = _NOT_YET

    async def known(self, namespace: str, user_id: str) -> Known:
        """Return what a user did, or why that can't be known."""
        try:
            return Known((await self.entries(namespace, user_id)).item_ids)
        except StorageError as error:
            return Known(missing=without_address(error))

    async def entries(self, namespace: str, user_id: str) -> Entries:
        """Return a user's history with its times.

        Raises:
            StorageError: Redis does not answer in time, or has none yet.
        """
        if self._store is None:
            what = "Histories: there are none to read"
            raise StorageError(what, got=self._last_error, do="wait for the first commit")
        return await self._store.read(namespace, user_id)

    def keep_lease(self) -> None:
        """Ask for the lease once."""
        try:
            if self._store is None:
                lineage = self._find_lineage()
                if lineage is None:
                    return
                store = StoredHistories(self._config, lineage)
                self._writer, self._store = self._make_writer(store), store
            self._store.hold_lease()
        except (StorageError, ConfigError) as error:
            if str(error) != self._last_error:
                logger.warning("%s; trying again", error)
            self._last_error = str(error)
        else:
            self._last_error = ""

    def write(self) -> bool:
        """Do the writer's next thing, if there is one."""
        return self._writer is not None and self._writer.step()

    async def stop_reading(self) -> None:
        """Close what `known` and `entries` read by."""
        if self._store is not None:
            await self._store.close()

    def stop_writing(self) -> None:
        """Let the next replica write."""
        if self._writer is not None and self._store is not None:
            self._writer.close()
            try:
                self._store.leave()
            except StorageError as error:
                logger.warning("%s", error)

    def facts(self) -> dict[str, Any]:
        """Return what ``GET /v1/models`` shows."""
        store, writer = self._store, self._writer
        return {
            "redis": self._config.redis_url,
            "writer": None if writer is None else writer.state,
            "last_error": self._last_error or (writer.last_error if writer is not None else "") or None,
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

    return SharedHistories(config.serving, place.lineage, make_writer)
