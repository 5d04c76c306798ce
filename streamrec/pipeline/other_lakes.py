"""Let a deletion reach the lakes of a state that are not in use: of other lineages, of addresses that the configuration had."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace

from streamrec.config import Config
from streamrec.errors import Damaged, OperatorError
from streamrec.log.lake import EventLake
from streamrec.log.lake_deletion import Asked, Deleted
from streamrec.pipeline.checkpoint import has_commit
from streamrec.pipeline.ingest import Request
from streamrec.pipeline.lake_writer import Rounds, keep_ms, open_lake
from streamrec.pipeline.layout import checkpoint_url, lineage_folder, lineage_number, state_of
from streamrec.pipeline.lineage import current_lineage, known_lineage, noted_lakes, url_of
from streamrec.state import ComponentState, Impersonal
from streamrec.storage import open_storage

logger = logging.getLogger(__name__)

_AGAIN_MS = 3_600_000

_UNFINISHED = (
    "checkpoints and teachers of a rebuild that is not finished: it deletes the user when it reads the request; "
    "finish it with python -m jobs.rebuild, or drop it with --drop"
)
_BEFORE = (
    "checkpoints and teachers of another lineage: its own stream deletes the user while that one is current, "
    "afterwards remove it with python -m jobs.rebuild --remove-old"
)


@dataclass(frozen=True)
class Reached:
    """Say what a deletion found in lakes that are not in use.

    Attributes:
        rows: Address of each to the rows that went.
        refused: Address of each that could not be reached to the reason.
    """

    rows: dict[str, int] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


class OtherLakes(Impersonal):
    """Remove users from every lake that the state knows of but its lineage's own, and tidy those; a component of the state.

    **Contract.** Only what the tombstone covers goes, so that a lineage that has read further keeps what the user did
    afterwards; executed again, `delete_before` removes nothing and says the same. A lake that refuses holds nobody up: whoever asked is told.

    Args:
        config: When to vacuum, and how lakes are written.
        lineage_url: The folder of the lineage that deletes.
    """

    name = "other_lakes"

    def __init__(self, config: Config, lineage_url: str) -> None:
        self._config = config
        self._url = lineage_url.rstrip("/")
        self._state_url = state_of(lineage_url)
        self._has_garbage = False
        self._rounds = Rounds()

    def delete_before(self, requests: Sequence[Request], batch: int) -> list[Reached]:
        """Remove the rows of those who ask in a step, from each lake in one go, and return what became of each."""
        reached = [Reached() for _ in requests]
        self.expect_garbage()  # Whatever is found: the lake in use may be another one before its own writer has tidied it.
        users = [Deleted(request.namespace, request.user_id, request.before) for request in requests]
        asked = Asked(self._url.removeprefix(self._state_url).strip("/") or "first", batch)
        for address, lake in self._lakes():
            try:
                if lake.is_there():
                    for one, num in zip(reached, lake.delete_users(users, None, asked), strict=True):
                        one.rows[address] = num
            except OperatorError as error:
                for one in reached:
                    one.refused[address] = str(error)
        return reached

    def expect_garbage(self) -> None:
        """Have files go that lakes do not need any more, within the time to keep after the next commit, twice."""
        self._has_garbage = True

    def out_of_reach(self) -> dict[str, str]:
        """Return the folders of other lineages that hold more than a lake, and what."""
        current = lineage_number(current_lineage(self._state_url).folder)
        held = {number: url for number, url in self._lineages() if url != self._url and _has_state(url)}
        return {url: _UNFINISHED if number > current else _BEFORE for number, url in held.items()}

    def commit(self, now_ms: int) -> None:
        """Delete files that the lakes have not needed for the time to keep, if that is due: twice after a deletion, as `LakeWriter` does.

        Where a lake refuses, all are tidied again later.
        """
        is_due = self._rounds.at_ms is not None and now_ms >= self._rounds.at_ms
        done = is_due
        if is_due:
            for address, lake in self._lakes():
                try:
                    if lake.is_there():
                        logger.info("lake %s, not in use: vacuum: %d files", address, lake.vacuum(self._config.lake.keep_for_s))
                except OperatorError as error:
                    logger.warning("a lake that is not in use could not be tidied: %s", error)
                    done = False
        self._rounds = self._rounds.after(now_ms, keep_ms(self._config.lake), done=done, garbage=self._has_garbage)
        self._has_garbage = False
        if is_due and not done:  # One may be lost for ever: it is not asked at every commit.
            self._rounds = replace(self._rounds, at_ms=now_ms + _AGAIN_MS)

    @property
    def vacuum_at_ms(self) -> int | None:
        """Return when the next commit that tidies is due."""
        return self._rounds.at_ms

    def _lineages(self) -> list[tuple[int, str]]:
        """Return number and address of every lineage that there may be: up to the current one, and one that is being made."""
        current = lineage_number(current_lineage(self._state_url).folder)
        return [(number, url_of(self._state_url, lineage_folder(number))) for number in range(1, current + 2)]

    def _lakes(self) -> Iterator[tuple[str, EventLake]]:
        for _, url in self._lineages():
            for configured, name in {"": "", **noted_lakes(open_storage(url))}.items():
                lake = self._open(url, configured, name)
                if lake is not None:
                    yield lake.address, lake

    def _open(self, url: str, configured: str, name: str) -> EventLake | None:
        wanted = self._config.lake
        if url == self._url and wanted.enabled and configured == wanted.address:
            return None
        as_it_was = self._config.model_copy(update={"lake": wanted.model_copy(update={"address": configured})})
        return open_lake(as_it_was, url, lambda: name or known_lineage(url))

    def snapshot(self) -> ComponentState:
        """Return when files are to go."""
        return ComponentState({}, asdict(self._rounds))

    def restore(self, base: ComponentState, deltas: Iterable[ComponentState] = ()) -> None:
        """Replace the state; see `streamrec.state.Component`."""
        self._rounds = Rounds(**base.meta)
        self._has_garbage = False


def _has_state(url: str) -> bool:
    """Return whether a lineage's folder holds commits, also such as have lost their pointer: while they are being removed it goes first."""
    try:
        return has_commit(open_storage(checkpoint_url(url)))
    except Damaged:
        return True
