"""Hold the newest promoted version in one Ray actor that serving replicas long-poll, so that a swap takes milliseconds.

`Board` is the actor; drivers have `streamrec.registry.remote_board`. The registry on storage is the truth: the board watches its alias, so that a
rollback, or a stream on another Ray cluster, reaches the replicas too. A push by a stream on the same cluster only comes sooner. A driver pushes what
changed where that is less than half of the whole, and a replica gets what changed since a version that it holds, the whole if that can't be had.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from dataclasses import dataclass, replace
from typing import Any

import ray

from streamrec.clock import SystemClock
from streamrec.code_version import code_version
from streamrec.errors import RegistryError, StreamrecError
from streamrec.registry.alias import Move
from streamrec.registry.deltas import Delta
from streamrec.registry.holding import Holding, key_of
from streamrec.registry.registry import Registry
from streamrec.registry.swaps import BoardState
from streamrec.registry.telling import Telling
from streamrec.state import Arrays
from streamrec.storage import is_folder, open_storage
from streamrec.telemetry.logs import set_up
from streamrec.telemetry.numbers import Taken

logger = logging.getLogger(__name__)

# A rollback takes effect within a second; on a bucket each look is one paid request, in a folder a small file.
WATCH_EVERY_S = 0.5
WATCH_LOCALLY_EVERY_S = 0.05
# A version that can't be loaded is read whole at each try.
WATCH_AT_MOST_S = 8.0
# A push follows the gate's promotion, by the time that a delta takes to find, spares the load and says what to trace; a person's is followed by none.
PUSH_LEAD_S = 2.0


@dataclass(frozen=True)
class Posted:
    """What a replica gets from the board.

    Attributes:
        epoch: Names the board's incarnation: promotion numbers of different epochs do not compare.
        seq: Promotion number.
        manifest: The version's manifest as JSON values.
        meta: The version's meta.
        arrays: One reference, in a list so that Ray passes it on instead of fetching it; none where the replica holds what it needs.
        deltas: References to what changed since a version that it holds, in order; none where that is the version itself.
    """

    epoch: str
    seq: int
    manifest: dict[str, Any]
    meta: dict[str, Any]
    arrays: list[ray.ObjectRef[Any]]
    deltas: tuple[ray.ObjectRef[Any], ...] = ()


class Board:
    """Serve the newest promoted version to long-polling replicas; runs as an asyncio actor.

    The first replica that asks starts the watch of the registry's alias.

    Args:
        registry_url: Storage address of the registry; None for a board that only holds what is published to it.
        student: Whose versions.
        log_format: Of this process' lines.

    **Contract.** Every method may be called again with the same arguments. The arrays belong to this actor: it puts them itself, because an
    object dies with its owner.
    """

    def __init__(self, registry_url: str | None = None, student: str = "default", log_format: str = "plain") -> None:
        set_up(log_format, "board")
        self._registry_url = registry_url
        self._student = student
        self._code = code_version()
        self._registry: Registry | None = None
        self._epoch = uuid.uuid4().hex
        self._state = BoardState(SystemClock())
        self._telling = Telling(SystemClock(), self._state)
        self._posted: Posted | None = None
        # Replicas hold the version before, so that a rollback to it needs nothing but its name.
        self._previous: Posted | None = None
        self._holding: Holding[ray.ObjectRef[Any]] = Holding(ray.put, fetch)
        self._renewing: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        # Two looks at once would load the same version twice.
        self._looking = asyncio.Lock()
        self._last_error = ""
        # Not where the stream runs on another Ray: it reaches this board by the registry alone.
        self._expects_push = True
        self._server = ("", False)

    async def publish(self, manifest: dict[str, Any], arrays: Arrays, meta: dict[str, Any], promotion: int | None = None) -> int:
        """Make a version the newest promoted one and return the live promotion's number.

        Args:
            manifest: JSON values with at least ``version``.
            arrays: The resolved numpy arrays.
            meta: The version's meta.
            promotion: The registry's number of this promotion; a number that is not above the live one changes nothing. None counts up, for
                boards without a registry; the two ways don't mix.
        """
        self._expects_push = True
        self._begin(manifest, arrays, meta, promotion)
        return self._state.seq

    async def publish_delta(self, manifest: dict[str, Any], delta: Delta, meta: dict[str, Any], promotion: int | None = None) -> int | None:
        """Make the version that a delta gives the newest promoted one; see `publish`. None asks for the whole: this board's newest is another one."""
        self._expects_push = True
        if promotion is None or promotion > self._state.seq:
            if key_of(manifest) != delta.digest or not self._holding.extend(delta):
                return None
            self._post(manifest, meta, promotion)
            if self._holding.is_long() and (self._renewing is None or self._renewing.done()):
                self._renewing = asyncio.create_task(self._renew())
        return self._state.seq

    async def promote_from_registry(self, version_id: str | None = None) -> int:
        """Publish the version that is live in the registry, if that is news, and return the live promotion's number.

        The watch does the same within `WATCH_EVERY_S`, `WATCH_LOCALLY_EVERY_S` in a folder.

        Args:
            version_id: The version that is expected to be live there; None takes any.

        Raises:
            RegistryError: This board has no registry, or another version is live there.
        """
        async with self._looking:
            move = await asyncio.to_thread(self._read_alias)
            if version_id is not None and (move is None or move.version != version_id):
                what = "Board: the version is not the live one of the registry"
                raise RegistryError(what, got=version_id, allowed=move.version if move else "none is live", do="promote it in the registry first")
            if move is not None and move.number > self._state.seq:
                await self._take(move)
        return self._state.seq

    async def watch_once(self) -> bool:
        """Promote what the registry's alias names if its number is newer; False when that failed, which is logged once for each reason."""
        try:
            move = await asyncio.to_thread(self._read_alias)
            if move is not None and move.number > self._state.seq:
                if move.decision is not None and self._expects_push:
                    self._expects_push = await self._is_pushed()
                await self.promote_from_registry()
        except StreamrecError as error:
            if str(error) != self._last_error:
                logger.warning("Board: can't follow the registry (%s), trying again", error)
            self._last_error = str(error)
            return False
        self._last_error = ""
        return True

    async def wait_from(self, replica: str, epoch: str, after_seq: int, held: list[str], timeout_s: float) -> Posted | None:
        """Return the live version as soon as it is another than (``epoch``, ``after_seq``), or None after ``timeout_s``.

        Args:
            replica: Who asks.
            epoch: Whose promotion it took last.
            after_seq: And its number.
            held: Digests of the versions that it can apply a delta to.
            timeout_s: Longest wait for news.
        """
        live = await self._news(replica, epoch, after_seq, timeout_s)
        if live is None:
            return None
        deltas = self._holding.deltas(held, key_of(live.manifest))
        return replace(live, deltas=tuple(deltas)) if deltas is not None else await self._with_arrays(live)

    async def wait(self, replica: str, epoch: str, after_seq: int, timeout_s: float) -> Posted | None:
        """Return the live version whole, for a replica that takes no deltas; see `wait_from`."""
        live = await self._news(replica, epoch, after_seq, timeout_s)
        return None if live is None else await self._with_arrays(live)

    async def ack(self, replica: str, epoch: str, seq: int, refused: str = "") -> None:
        """Note that a replica serves a promotion, or why it does not; the time is taken here."""
        if epoch == self._epoch:
            self._state.ack(replica, seq, refused)

    async def leave(self, replica: str) -> None:
        """Forget a replica that stops."""
        self._state.left(replica)
        self._telling.left(replica)

    async def tell(self, source: str, numbers: Taken) -> None:
        """Take what the stream, or a replica, counts; see `streamrec.telemetry`."""
        self._telling.tell(source, numbers)

    async def told(self, but: str = "") -> list[Taken]:
        """Return what all have told last, and the board's own numbers; ``but`` says for itself."""
        return self._telling.told(but)

    async def course(self, after_ms: int = 0) -> dict[str, Any]:
        """Return how the stream has fared after a time, and the last swaps; see `streamrec.registry.course`."""
        return self._telling.course_after(after_ms)

    async def swap_report(self) -> list[dict[str, Any]]:
        """Return for each promotion how long it took until all live replicas answered with it."""
        return self._state.report()

    async def code(self) -> str:
        """Return which code this process runs: that of whoever made it, for as long as it lives."""
        return self._code

    async def claim(self, server: str, made: bool) -> None:
        """Note that a server answers with this board's versions from now on, instead of the one before; ``made``: it made the board."""
        self._server = (server, made or self._server[1])

    async def claimed(self) -> tuple[str, bool]:
        """Return the newest server, "" where this process knows of none, and whether a server made the board."""
        return self._server

    async def live(self) -> tuple[int, str]:
        """Return the live promotion's number and version id; (0, "") when nothing was promoted."""
        await self._follow()
        return self._state.seq, self._state.version

    async def _news(self, replica: str, epoch: str, after_seq: int, timeout_s: float) -> Posted | None:
        await self._follow()
        self._state.saw(replica)
        changed = self._changed
        if not self._is_new(epoch, after_seq):
            try:
                await asyncio.wait_for(changed.wait(), timeout_s)
            except TimeoutError:
                return None
            finally:
                self._state.saw(replica)
        return self._posted if self._is_new(epoch, after_seq) else None

    def _is_new(self, epoch: str, after_seq: int) -> bool:
        return self._posted is not None and (epoch != self._epoch or self._posted.seq > after_seq)

    async def _with_arrays(self, live: Posted) -> Posted | None:
        """Return a version with its arrays; None where they can't be had just now, which is logged."""
        try:
            return replace(live, arrays=[await self._holding.whole(key_of(live.manifest), lambda: self._stored(live))])
        except StreamrecError as error:
            logger.warning("Board: version %s can't be handed out whole (%s), trying again", live.manifest["version"], error)
            await asyncio.sleep(WATCH_EVERY_S)
            return None

    async def _renew(self) -> None:
        """Make the live version the whole one, before the way to it becomes long."""
        if self._posted is not None:
            await self._with_arrays(self._posted)

    def _stored(self, live: Posted) -> Arrays:
        return self._opened().load_named(str(live.manifest["version"])).arrays

    async def _follow(self) -> None:
        """Keep the watch running, and look at once as long as nothing is known to be live."""
        if self._registry_url is None:
            return
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch())
        if self._state.seq == 0:
            await self.promote_from_registry()

    async def _watch(self) -> None:
        pause_s = every_s = WATCH_LOCALLY_EVERY_S if is_folder(self._registry_url or "") else WATCH_EVERY_S
        while True:
            await asyncio.sleep(pause_s)
            pause_s = every_s if await self.watch_once() else min(2 * max(pause_s, WATCH_EVERY_S), WATCH_AT_MOST_S)

    async def _take(self, move: Move) -> None:
        if move.decision is None and self._state.seq:  # By a person or the guard, not by the gate.
            self._telling.course.mark(move.action, move.version)
        held = next((one for one in (self._posted, self._previous) if one is not None and one.manifest["version"] == move.version), None)
        if held is not None:
            self._post(held.manifest, held.meta, move.number)
            return
        # In a thread, because long polls are answered meanwhile.
        registry = self._opened()
        if await asyncio.to_thread(registry.is_withdrawn, move.version):  # Nothing is live until the student learns again.
            return
        version = await asyncio.to_thread(registry.load_named, move.version)
        self._begin(version.manifest.model_dump(mode="json"), version.arrays, version.meta, move.number)

    async def _is_pushed(self) -> bool:
        """Wait for the next push; False where none came."""
        try:
            await asyncio.wait_for(self._changed.wait(), PUSH_LEAD_S)
        except TimeoutError:
            return False
        return True

    def _begin(self, manifest: dict[str, Any], arrays: Arrays, meta: dict[str, Any], promotion: int | None) -> None:
        if promotion is None or promotion > self._state.seq:
            self._holding.begin(key_of(manifest), arrays)
            self._post(manifest, meta, promotion)

    def _post(self, manifest: dict[str, Any], meta: dict[str, Any], promotion: int | None) -> None:
        if self._state.publish(str(manifest["version"]), promotion):
            self._previous, self._posted = self._posted, Posted(self._epoch, self._state.seq, manifest, meta, [])
            self._changed.set()
            self._changed = asyncio.Event()

    def _read_alias(self) -> Move | None:
        return self._opened().alias()

    def _opened(self) -> Registry:
        if self._registry_url is None:
            what = "Board: it was created without a registry"
            raise RegistryError(what, do="create the board with the registry's storage address")
        if self._registry is None:
            self._registry = Registry(open_storage(self._registry_url), self._student)
        return self._registry


async def fetch(reference: ray.ObjectRef[Any]) -> Any:
    """Return what a reference stands for."""
    return await reference
