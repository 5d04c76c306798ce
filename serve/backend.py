"""Say what the routes need from a replica."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, Protocol

from serve.histories import SharedHistories
from serve.letters import Letters
from serve.moves import Moves
from serve.system import System
from streamrec.serving.event_sink import Permit
from streamrec.serving.full_answers import FullAnswerer
from streamrec.serving.requests import RecommendRequest
from streamrec.serving.slot import LiveModel
from streamrec.telemetry.numbers import Numbers, Taken


class Backend(Protocol):
    """What the routes need from a replica."""

    replica_id: str
    answerer: FullAnswerer
    shown: Callable[[RecommendRequest, Mapping[str, Any]], None] | None
    """Called with a recommendation after it has been sent; None where nobody asks."""
    histories: SharedHistories | None
    """Users' histories, where they are not this replica's own."""
    moves: Moves
    letters: Letters
    system: System
    numbers: Numbers
    """What this replica counts; requests are counted in it, too."""

    async def start(self) -> None:
        """Begin to follow the board and the log; returns when the first answers can be as good as they will be."""
        ...

    async def stop(self) -> None:
        """Stop the background work."""
        ...

    @property
    def model(self) -> LiveModel | None:
        """Return the live version."""
        ...

    def recommend(self, request: RecommendRequest, model: LiveModel, request_id: str) -> dict[str, Any]:
        """Return the answer's JSON object."""
        ...

    def submit_events(self, events: list[Any], permit: Permit | None = None) -> Future[list[dict[str, Any]]]:
        """Hand over events to append, parsed or as the bytes of one each, each if ``permit`` lets it."""
        ...

    async def all_numbers(self) -> list[Taken]:
        """Return what ``GET /metrics`` shows: the numbers of the stream, of all replicas and of the board."""
        ...

    async def course(self, after_ms: int) -> dict[str, Any]:
        """Return how the stream has fared after a time; see `streamrec.registry.course`."""
        ...

    def facts(self) -> dict[str, Any]:
        """Return what ``GET /v1/models`` shows."""
        ...
