"""Move models and turn the stream's switches by order of a person, for the routes that do so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from serve.history import NewestVersions
from streamrec.clock import Clock, SystemClock
from streamrec.errors import OperatorError
from streamrec.pipeline.moving import promote
from streamrec.pipeline.pinning import pin, unpin
from streamrec.pipeline.switches import Action, Flip, SwitchBoard, Switches, check_may_move
from streamrec.registry.alias import Move
from streamrec.registry.registry import Registry
from streamrec.storage import Storage, open_storage


class Moves:
    """Do in the registry and the state what the command line does there.

    All methods block while the storage answers.

    Args:
        registry_url: Where the registry is; None where this server has none.
        state_url: Where the pipeline's state is; None where this server has none.
        student: Whose versions.
        moved: Called when the registry's alias may have moved.
        clock: Processing time.
    """

    def __init__(self, registry_url: str | None, state_url: str | None, student: str, moved: Callable[[], None], clock: Clock | None = None) -> None:
        self._registry_url, self._state_url, self._student, self._moved = registry_url, state_url, student, moved
        self._clock = clock or SystemClock()
        self._history = NewestVersions()

    def promote(self, version: str, reason: str) -> dict[str, Any]:
        """Make a version live and return the move.

        Raises:
            OperatorError: There is no such version, it may not go live, or there is no registry.
        """
        state = None if self._state_url is None else open_storage(self._state_url)
        return self._shown(promote(state, self._registry(), version, reason))

    def roll_back(self, reason: str) -> dict[str, Any]:
        """Make the version live again that was live before; see `promote`."""
        if self._state_url is not None:
            check_may_move(open_storage(self._state_url), self._student, None)
        return self._shown(self._registry().rollback(reason))

    def pin(self, version: str, reason: str, by: str) -> dict[str, Any]:
        """Make a version live, hold it so, and return the switches; see `promote`."""
        pin(self._state(), self._registry(), self._student, self._turn(reason, by, version), live=True)
        self._moved()
        return self.switches()

    def unpin(self, version: str, reason: str, by: str) -> dict[str, Any]:
        """Hold a version no longer, and return the switches.

        Raises:
            OperatorError: It is not pinned, or there is no state.
        """
        unpin(self._state(), self._registry(), self._student, self._turn(reason, by, version))
        return self.switches()

    def turn(self, action: Action, reason: str, by: str) -> dict[str, Any]:
        """Turn a switch, and return all.

        Raises:
            OperatorError: There is no state.
        """
        return _facts(SwitchBoard(self._state()).turn(action, self._turn(reason, by))[0])

    def switches(self) -> dict[str, Any]:
        """Return the switches as they are; see `turn`."""
        return _facts(SwitchBoard(self._state()).now())

    def history(self, last: int) -> dict[str, Any]:
        """Return the newest versions, with what the gate said of each, and the newest moves; see `serve.history`.

        Raises:
            OperatorError: There is no registry, or it can't be read.
        """
        return self._history.newest(self._registry(), last)

    def _turn(self, reason: str, by: str, version: str = "") -> Flip:
        return Flip(by=by, reason=reason, at_ms=self._clock.now_ms(), version=version)

    def _shown(self, move: Move) -> dict[str, Any]:
        self._moved()
        return move.model_dump(mode="json", exclude={"decision"})

    def _registry(self) -> Registry:
        if self._registry_url is None:
            what = "Models: this server was started without a registry"
            raise OperatorError(what, do="start it with the state's or the registry's address")
        return Registry(open_storage(self._registry_url), self._student)

    def _state(self) -> Storage:
        if self._state_url is None:
            what = "Switches: this server was started without a state"
            raise OperatorError(what, do="start it with the state's address, or use the command line")
        return open_storage(self._state_url)


def _facts(switches: Switches) -> dict[str, Any]:
    shown = switches.model_dump(mode="json", include={"number", "paused", "frozen", "held"}, exclude_none=True)
    return {**shown, "in_force": switches.in_force()}
