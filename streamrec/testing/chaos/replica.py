"""Follow the board as a serving replica does, while the board and everything around it dies."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayError

from streamrec.errors import ModelRejected
from streamrec.registry.board import Posted
from streamrec.registry.board_names import BOARD_NAMESPACE, board_name
from streamrec.registry.deltas import NotFollowing
from streamrec.registry.registry import Registry
from streamrec.registry.remote_board import RemoteBoard
from streamrec.registry.version import digest_arrays
from streamrec.serving.slot import ModelSlot

_POLL_S = 1.0
_RETRY_S = 0.1
# The board looks again after at most eight seconds, and restarts within a few.
_CATCHES_UP_WITHIN_S = 30.0


class Replica:
    """Hold the version that a replica would answer with; a thread asks the board.

    **Contract.** The loop is that of ``serve.subscription``: long polls, a new look by name after each failure, and the slot that serves. A version,
    once loaded, stays until the next one, whatever the board does.
    """

    def __init__(self, registry_url: str) -> None:
        self._registry_url = registry_url
        self._slot = ModelSlot(digest_of=digest_arrays)
        self._moved = threading.Condition()
        self._served: list[str] = []
        self._refused: list[str] = []
        self._is_over = threading.Event()
        self._epoch, self._seq = "", 0
        self._wants_whole = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def differences(self, registry: Registry) -> list[str]:
        """Wait until the live version is served, and say in sentences what is wrong with what was."""
        live = registry.live()
        promoted = [move.version for move in registry.history()]
        with self._moved:
            self._moved.wait_for(lambda: self._served[-1:] == [live], _CATCHES_UP_WITHIN_S)
            return self.judge(self._served, self._refused, promoted, live)

    @staticmethod
    def judge(served: Sequence[str], refused: Sequence[str], promoted: Sequence[str], live: str | None) -> list[str]:
        """Say what is wrong with what a replica served.

        Args:
            served: Versions, oldest first.
            refused: Why it did not take others.
            promoted: What was promoted, oldest first; a replica may miss some, never go back.
            live: What must be served last.
        """
        wrong = [f"replica: refused a version: {reason}" for reason in refused]
        if served[-1:] != [live]:
            wrong.append(f"replica: wanted {live} to be served at the end, got {served[-1:]}")
        if not _is_in_order(served, promoted):
            wrong.append(f"replica: wanted versions in the order of {promoted}, got {served}")
        return wrong

    def close(self) -> None:
        """End the thread, and the board with it: it belongs to one registry, and the next run has another."""
        self._is_over.set()
        self._thread.join()
        if RemoteBoard.exists(self._registry_url):
            RemoteBoard.get_or_create(self._registry_url).kill()
        deadline = time.monotonic() + _CATCHES_UP_WITHIN_S
        while RemoteBoard.exists(self._registry_url):
            assert time.monotonic() < deadline, "the board does not end"

    def _run(self) -> None:
        while not self._is_over.is_set():
            try:
                self._step()
            except (RayError, ValueError):  # It is restarting, not there yet, or its arrays went with it.
                self._is_over.wait(_RETRY_S)

    def _step(self) -> None:
        board: Any = ray.get_actor(board_name(self._registry_url), namespace=BOARD_NAMESPACE)
        held = [] if self._wants_whole else self._slot.held
        posted: Posted | None = ray.get(board.wait_from.remote("chaos", self._epoch, self._seq, held, _POLL_S), timeout=10 * _POLL_S)
        if posted is None:
            return
        arrays, deltas = (ray.get(list(some), timeout=10 * _POLL_S) for some in (posted.arrays, posted.deltas))
        with self._moved:
            try:
                live = self._slot.load(posted.manifest, arrays[0], posted.meta) if arrays else self._slot.load_deltas(posted.manifest, deltas)
                version, self._wants_whole = live.version, False
                if self._served[-1:] != [version]:
                    self._served.append(version)
            except NotFollowing:
                self._wants_whole = True
                return
            except ModelRejected as error:
                self._refused.append(str(error))
            self._epoch, self._seq = posted.epoch, posted.seq
            self._moved.notify_all()


def _is_in_order(served: Sequence[str], promoted: Sequence[str]) -> bool:
    """Return whether ``served`` is ``promoted`` with some left out."""
    rest = iter(promoted)
    return all(version in rest for version in served)
