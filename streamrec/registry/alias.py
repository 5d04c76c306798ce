"""Move the one pointer that says what is live, and append each move to a history that is never rewritten; its oldest entries go by policy."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable, Iterator
from typing import Literal

from pydantic import BaseModel, ConfigDict

from streamrec.errors import Damaged, RegistryError, StorageError
from streamrec.migrations import number_of, read_record
from streamrec.registry.gate import Decision
from streamrec.storage import Storage

logger = logging.getLogger(__name__)

# Each attempt that loses had another mover win, so this many in a row means that something moves the alias without end.
_ATTEMPTS = 100
# Rollbacks in a row that find their way.
_TRAIL = 8


class Move(BaseModel):
    """Record one move of the alias; the newest one is what is live.

    Attributes:
        number: Position in the history, from 1.
        action: Promotion or rollback.
        version: Live from here on.
        trail: Where a rollback goes, nearest first.
        reason: Why, a sentence.
        decision: The gate's decision, if one was made.
        at_ms: Processing time, UTC.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    action: Literal["promote", "rollback"]
    version: str
    trail: tuple[str, ...]
    reason: str
    decision: Decision | None = None
    at_ms: int

    @property
    def previous(self) -> str | None:
        """Return the version that a rollback goes to, if any."""
        return self.trail[0] if self.trail else None

    def to_json(self) -> bytes:
        """Return the move's JSON, keys sorted."""
        return json.dumps({"format": number_of("move"), **self.model_dump(mode="json")}, sort_keys=True, indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes, where: str = "") -> Move:
        """Parse what `to_json` wrote.

        Args:
            data: The bytes.
            where: The file that holds them, for the error.

        Raises:
            Damaged: It is not a move.
            StorageError: It was written by a newer streamrec.
        """
        what = f"Registry: a record of the alias can't be read{f', {where}' if where else ''}"
        return read_record("move", data, cls, what, "restore it from a copy")


class Alias:
    """Keep a student's alias and its history.

    **Contract.** A move first takes its number in the history, which decides between concurrent movers; then the alias follows. A mover that
    died between the two is completed by the next one. The alias only ever goes to higher numbers, and says by itself what is live and where a
    rollback goes: the history behind it may be pruned. A torn or lost alias is read from the history's last move, which holds the same facts, and
    written anew by the next move or `mend`.

    Args:
        storage: Where to keep them.
        student: Folder of the student.
    """

    def __init__(self, storage: Storage, student: str) -> None:
        self._storage = storage
        self._student = student

    def current(self) -> Move | None:
        """Return the move that made the live version live: one read, and a listing where there is no alias."""
        found = self._storage.read_with_token(self._key)
        if found is None:
            return None if (lost := self._lost()) is None else self._from_history(lost)
        error = self._damage(found[0])
        return Move.from_json(found[0]) if error is None else self._from_history(error)

    def damage(self) -> Damaged | None:
        """Return an error that names the alias if it is torn or lost; `current` may nevertheless know what it said."""
        found = self._storage.read_with_token(self._key)
        return self._lost() if found is None else self._damage(found[0])

    def mend(self) -> None:
        """Write a torn or lost alias anew."""
        if (error := self.damage()) is not None:
            logger.warning("%s: written anew from the history", error)
            self._follow(self._from_history(error))

    def newest(self) -> Move | None:
        """Return the history's last move, also when the alias did not follow yet."""
        move = self.current()
        while self._storage.exists(self._history_key(move.number + 1 if move is not None else 1)):
            move = self._stored(move.number + 1 if move is not None else 1)
        return move

    def history(self, last: int | None) -> list[Move]:
        """Return the moves, oldest first; only the newest ``last`` when given."""
        return [*itertools.islice(self._backwards(), last)][::-1]

    def complete(self) -> None:
        """Let the alias follow the history's last move."""
        newest = self.newest()
        if newest is not None:
            self._follow(newest)

    def was_promoted(self, version: str) -> bool:
        """Return whether a gate's decision has made ``version`` live before; reads back to the gate's first older version."""
        for move in self._backwards():
            if move.decision is not None and move.version <= version:
                return move.version == version
        return False

    def prune(self, keep_last: int, before_ms: int, is_needed: Callable[[Move], bool]) -> None:
        """Remove the oldest moves, up to the first one that is not older than a time.

        Args:
            keep_last: The newest so many stay.
            before_ms: Processing time, UTC.
            is_needed: Says of an old move that it stays.
        """
        for number in self._numbers()[:-keep_last]:
            move = self._recorded(number)
            if move is not None and move.at_ms >= before_ms:
                break
            if move is not None and not is_needed(move):
                self._storage.delete(self._history_key(number))

    def promote(self, version: str, reason: str, decision: Decision | None, at_ms: int) -> Move:
        """Make ``version`` the live one, unless it is."""

        def next_move(last: Move | None) -> Move | None:
            if last is None:
                return Move(number=1, action="promote", version=version, trail=(), reason=reason, decision=decision, at_ms=at_ms)
            if last.version == version:
                return None
            trail = tuple(name for name in (last.version, *last.trail) if name != version)[:_TRAIL]
            return Move(number=last.number + 1, action="promote", version=version, trail=trail, reason=reason, decision=decision, at_ms=at_ms)

        return self._move(next_move)

    def rollback(self, reason: str, live: str | None, exists: Callable[[str], bool], at_ms: int) -> Move:
        """Make the nearest version of the trail live that ``exists``, unless another than ``live`` is live already."""

        def next_move(last: Move | None) -> Move | None:
            if last is not None and live is not None and last.version != live:
                return None
            trail = last.trail if last is not None else ()
            kept = next((index for index, name in enumerate(trail) if exists(name)), None)
            if last is None or kept is None:
                what = "Registry: there is no version to roll back to"
                raise RegistryError(what, got=f"{last.version} live" if last is not None else "no live version", do="promote a version")
            return Move(number=last.number + 1, action="rollback", version=trail[kept], trail=trail[kept + 1 :], reason=reason, at_ms=at_ms)

        return self._move(next_move)

    def _move(self, next_move: Callable[[Move | None], Move | None]) -> Move:
        for _ in range(_ATTEMPTS):
            last = self.newest()
            move = next_move(last)
            if move is None:
                assert last is not None
                return self._follow(last)
            key, data = self._history_key(move.number), move.to_json()
            if self._storage.write_new(key, data) or self._storage.read(key) == data:
                return self._follow(move)
        raise self._contended()

    def _follow(self, move: Move) -> Move:
        for _ in range(_ATTEMPTS):
            found = self._storage.read_with_token(self._key)
            if found is not None and self._damage(found[0]) is None and Move.from_json(found[0]).number >= move.number:
                return move
            if self._storage.swap(self._key, move.to_json(), found[1] if found is not None else None) is not None:
                return move
        raise self._contended()

    def _contended(self) -> RegistryError:
        what = f"Registry: the alias of {self._student!r} moves faster than it can be read"
        return RegistryError(what, got=f"{_ATTEMPTS} attempts", do="stop the other movers")

    def _backwards(self) -> Iterator[Move]:
        """Give the moves that are there, newest first; the newest, which is asked for at every plan, without a listing."""
        newest = self.newest()
        if newest is None:
            return
        yield newest
        for number in reversed(self._numbers()):
            move = self._recorded(number) if number < newest.number else None
            if move is not None:
                yield move

    def _damage(self, data: bytes) -> Damaged | None:
        try:
            Move.from_json(data, f"{self._storage.address}/{self._key}")
        except Damaged as error:
            return error
        return None

    def _lost(self) -> Damaged | None:
        """Return an error that names the alias, which is not there, if the history has a move."""
        if not self._numbers():
            return None
        what = f"Registry: the alias is lost, {self._storage.address}/{self._key}, and its history is there"
        return Damaged(what, do="restore it from a copy")

    def _from_history(self, error: Damaged) -> Move:
        """Return the last move that the history holds; raise what is torn where that is none, or torn, too."""
        numbers = self._numbers()
        if not numbers:
            raise error
        return self._stored(numbers[-1])

    def _numbers(self) -> list[int]:
        keys = self._storage.list(f"{self._student}/history")
        return sorted(int(key.rpartition("/")[2].removesuffix(".json")) for key in keys)

    def _recorded(self, number: int) -> Move | None:
        """Return a move; None when somebody has pruned it since it was listed."""
        try:
            return self._stored(number)
        except StorageError as error:
            if not error.facts.get("missing"):
                raise
            return None

    def _stored(self, number: int) -> Move:
        key = self._history_key(number)
        return Move.from_json(self._storage.read(key), f"{self._storage.address}/{key}")

    @property
    def _key(self) -> str:
        return f"{self._student}/alias/live"

    def _history_key(self, number: int) -> str:
        return f"{self._student}/history/{number:08d}.json"
