"""Follow the board from a replica: take each newly promoted version, say when it serves, survive the board's restarts."""

from __future__ import annotations

import asyncio
import functools
import logging
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any

from ray.exceptions import RayError

from serve.tracing import SwapTraces
from streamrec.clock import SystemClock
from streamrec.errors import ModelRejected
from streamrec.registry.board import Posted, fetch
from streamrec.registry.deltas import NotFollowing
from streamrec.registry.remote_board import RemoteBoard
from streamrec.serving.slot import ModelSlot
from streamrec.telemetry.numbers import Taken

logger = logging.getLogger(__name__)

# A poll ends by itself this often, so that a board that forgot us (a restart) is noticed.
POLL_S = 5.0
_RETRY_S = 0.2
_TOLD_WITHIN_S = 1.0


class BoardSubscription:
    """Long-poll the board.

    Args:
        replica_id: Who acknowledges.
        registry_url: Whose board; what it reads its versions from when it is not there and is created.
        student: Whose versions.
        slot: Verifies and swaps.
        loader: Where it does so, so that requests are answered meanwhile.
        traces: Tell of the swaps.
        log_format: Of the board's lines, should it be created.
    """

    def __init__(
        self,
        replica_id: str,
        registry_url: str | None,
        student: str,
        slot: ModelSlot,
        loader: Executor,
        traces: SwapTraces | None = None,
        log_format: str = "plain",
    ) -> None:
        self._replica_id = replica_id
        self._created = (registry_url, student, log_format)
        self._traces = traces or SwapTraces(None, replica_id, SystemClock())
        self._slot = slot
        self._loader = loader
        self._actor: Any = None
        self._epoch = ""
        self._seq = 0
        self._wants_whole = False
        self._num_whole = self._num_deltas = 0
        self._settling: asyncio.Task[None] | None = None
        self.last_error = ""

    async def run(self) -> None:
        """Take promoted versions until cancelled."""
        try:
            while True:
                if not await self.step(POLL_S):
                    await asyncio.sleep(_RETRY_S)
        except asyncio.CancelledError:
            if self._actor is not None:
                self._actor.leave.remote(self._replica_id)
            raise

    async def end(self) -> None:
        """Stop what goes on behind the last swap; to be called before the loader ends, whether `run` has begun or not."""
        if self._settling is not None:
            self._settling.cancel()
            with suppress(asyncio.CancelledError):
                await self._settling

    async def step(self, timeout_s: float) -> bool:
        """Wait up to ``timeout_s`` for a promotion and take it; False when the board can't be asked."""
        try:
            if self._actor is None:
                self._actor = (await asyncio.to_thread(RemoteBoard.get_or_create, *self._created)).actor
            posted = await self._ask(timeout_s)
            if posted is not None:
                await self._take(posted)
            self.last_error = ""
        except (RayError, ValueError) as error:
            # The actor is restarting, or its owner's objects are gone with it: ask again, by name.
            self._actor = None
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            if reason != self.last_error:
                logger.warning("Board: can't be asked (%s), trying again", reason)
            self.last_error = reason
            return False
        return True

    def look(self) -> None:
        """Have the board look at the registry now, because something was moved there; returns at once."""
        if self._actor is not None:
            self._actor.promote_from_registry.remote()

    def tell(self, numbers: Taken) -> None:
        """Tell the board what this replica counts; returns at once."""
        if hasattr(self._actor, "tell"):  # An older streamrec's board takes none.
            self._actor.tell.remote(self._replica_id, numbers)

    async def told(self) -> list[Taken]:
        """Return what the stream and the other replicas have told the board; nothing where it can't be asked."""
        if not hasattr(self._actor, "told"):
            return []
        try:
            told: list[Taken] = await asyncio.wait_for(self._actor.told.remote(self._replica_id), _TOLD_WITHIN_S)
        except (RayError, TimeoutError):
            return []
        return told

    async def course(self, after_ms: int) -> dict[str, Any]:
        """Return how the stream has fared of late, by `Board.course`; nothing where it can't be asked."""
        if not hasattr(self._actor, "course"):
            return {}
        try:
            course: dict[str, Any] = await asyncio.wait_for(self._actor.course.remote(after_ms), _TOLD_WITHIN_S)
        except (RayError, TimeoutError):
            return {}
        return course

    @property
    def counts(self) -> dict[str, int]:
        """How often versions came, whole and by what changed."""
        return {"whole": self._num_whole, "deltas": self._num_deltas}

    def facts(self) -> dict[str, Any]:
        """Return what this replica knows of the board."""
        return {"seq": self._seq, **self.counts, "last_error": self.last_error or None}

    async def _ask(self, timeout_s: float) -> Posted | None:
        if hasattr(self._actor, "wait_from"):
            held = [] if self._wants_whole else self._slot.held
            posted: Posted | None = await self._actor.wait_from.remote(self._replica_id, self._epoch, self._seq, held, timeout_s)
        else:  # An older streamrec's.
            posted = await self._actor.wait.remote(self._replica_id, self._epoch, self._seq, timeout_s)
        return posted

    async def _take(self, posted: Posted) -> None:
        refused, version = "", str(posted.manifest.get("version", ""))
        span = self._traces.begin(posted.manifest)
        try:
            await self._load(posted)
        except (ModelRejected, NotFollowing) as error:
            if not posted.arrays:
                # Whatever is wrong may be so with what is held here: the whole decides.
                logger.warning("Model: %s; asking for the whole version", error, extra={"model_version": version})
                self._wants_whole = True
                return
            refused = str(error)
            logger.error("Model: %s", refused, extra={"model_version": version})
        if span is not None:
            self._traces.swapped(span, version, whole=bool(posted.arrays), refused=refused)
        # A refused version is not asked for again: the live one goes on serving until the next promotion.
        self._epoch, self._seq, self._wants_whole = posted.epoch, posted.seq, False
        self._actor.ack.remote(self._replica_id, posted.epoch, posted.seq, refused)

    async def _load(self, posted: Posted) -> None:
        """Take a version in the loader, whole or by what changed."""
        if posted.arrays:
            self._num_whole += 1
            load = functools.partial(self._slot.load, posted.manifest, await fetch(posted.arrays[0]), posted.meta)
        else:
            self._num_deltas += len(posted.deltas)
            load = functools.partial(self._slot.load_deltas, posted.manifest, [await fetch(delta) for delta in posted.deltas])
        await asyncio.get_running_loop().run_in_executor(self._loader, load)
        if self._settling is None or self._settling.done():
            self._settling = asyncio.create_task(self._settle())

    async def _settle(self) -> None:
        """Do behind the swap what could wait, a piece at a time: requests go on, and the next version waits for one piece at most."""
        while await asyncio.get_running_loop().run_in_executor(self._loader, self._slot.settle):
            pass
