"""Let a person hold a stream (pause it, freeze what is live, keep one version live) or ask it for new teachers; each turn stays in a history.

**Contract.** A turn first takes its number in the history, which decides between concurrent writers and is never rewritten; then the pointer
follows. A writer that died between the two is completed by the next one. A stream reads the pointer alone, at most every `LOOK_EVERY_S`, and
writes what it has read into its plans: a step that is planned is executed as planned, a switch holds only what is planned after it was read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from streamrec.clock import Clock
from streamrec.errors import Damaged, OperatorError, RegistryError
from streamrec.migrations import number_of, read_record
from streamrec.storage import Storage

Action = Literal["pause", "resume", "freeze", "unfreeze", "hold", "release", "refresh"]

ALL = ""
"""Who asks for a refresh of no teacher by name asks for all of them."""

LOOK_EVERY_S = 0.5
"""On a bucket each look is one paid request; whoever turns a switch waits a second or two anyhow."""

# Each attempt that loses had another writer win.
_ATTEMPTS = 100
_FOLDER, _POINTER = "switches/history", "switches/now"


class Flip(BaseModel):
    """Say who turned a switch, when and why; ``version`` is the one that a held student keeps."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: str
    reason: str
    at_ms: int
    version: str = ""

    def __str__(self) -> str:
        """Return it as part of a sentence."""
        return f"since {self.told()}"

    def told(self) -> str:
        """Return when it was, who did it and why, as a line of a history."""
        at = datetime.fromtimestamp(self.at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        return f"{at} by {self.by}{f': {self.reason}' if self.reason else ''}"


class Switches(BaseModel):
    """Hold all switches, and the turn that has made them so.

    Attributes:
        number: Position in the history, from 1; 0 while nothing was ever turned.
        action: What was done.
        student: Of a hold and its release; of a refresh the teacher.
        turn: Who did it, when and why.
        paused: No micro-batches are made.
        frozen: Nothing is published or promoted; learning goes on.
        held: Student to the version that stays live.
        asked: Teacher, or `ALL`, to who asked last for its next version.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int = 0
    action: Action = "resume"
    student: str = ""
    turn: Flip | None = None
    paused: Flip | None = None
    frozen: Flip | None = None
    held: dict[str, Flip] = {}
    asked: dict[str, Flip] = {}

    def why_held(self, student: str) -> str:
        """Return why nothing is promoted for a student, as a sentence; empty where nothing keeps it from that."""
        if self.frozen is not None:
            return f"publishing is frozen {self.frozen}"
        held = self.held.get(student)
        return "" if held is None else f"{held.version} is pinned live {held}"

    def asked_for(self, teacher: str) -> Flip | None:
        """Return who asked last for a teacher's next version."""
        return max((self.asked[name] for name in (ALL, teacher) if name in self.asked), key=lambda flip: flip.at_ms, default=None)

    def in_force(self) -> list[str]:
        """Return what holds the stream, a sentence each."""
        said = [f"the stream is paused {self.paused}"] if self.paused is not None else []
        said += [f"publishing is frozen {self.frozen}"] if self.frozen is not None else []
        return said + [f"student {student}: {flip.version} is pinned live {flip}" for student, flip in sorted(self.held.items())]

    def turned(self, action: Action, turn: Flip, student: str) -> Switches:
        """Return the switches after a turn, with the next number; these themselves where it changes nothing."""
        paused, frozen, held, asked = self.paused, self.frozen, dict(self.held), dict(self.asked)
        if action in {"pause", "resume"}:
            paused = (paused or turn) if action == "pause" else None
        elif action in {"freeze", "unfreeze"}:
            frozen = (frozen or turn) if action == "freeze" else None
        elif action == "hold" and (student not in held or held[student].version != turn.version):
            held[student] = turn
        elif action == "release":
            held.pop(student, None)
        elif action == "refresh":
            asked[student] = turn
        if (paused, frozen, held, asked) == (self.paused, self.frozen, self.held, self.asked):
            return self
        return Switches(number=self.number + 1, action=action, student=student, turn=turn, paused=paused, frozen=frozen, held=held, asked=asked)

    def to_json(self) -> bytes:
        """Return the JSON, keys sorted."""
        return json.dumps({"format": number_of("switches"), **self.model_dump(mode="json")}, sort_keys=True, indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes, where: str = "its bytes") -> Switches:
        """Parse what `to_json` wrote at ``where``.

        Raises:
            Damaged: It is none.
            StorageError: It was written by a newer streamrec.
        """
        return read_record("switches", data, cls, f"Switches: they can't be read, {where}", "restore that file from a copy")


class SwitchBoard:
    """Read and turn the switches of a state; see the module's contract.

    Args:
        storage: The state's own: all its lineages have the same switches.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def now(self) -> Switches:
        """Return the switches: one read. Where the pointer is torn, the history's last entry says the same.

        Raises:
            Damaged: Neither can be read.
        """
        found = self._storage.read_with_token(_POINTER)
        if found is None:
            return Switches()
        try:
            return self._parsed(found[0], _POINTER)
        except Damaged:
            entries = self._storage.list(_FOLDER)
            if not entries:
                raise
            return self._parsed(self._storage.read(entries[-1]), entries[-1])

    def history(self) -> Iterator[Switches]:
        """Give every turn, oldest first."""
        for key in self._storage.list(_FOLDER):
            yield self._parsed(self._storage.read(key), key)

    def turn(self, action: Action, turn: Flip, student: str = "") -> tuple[Switches, bool]:
        """Turn a switch; return the switches as they are then, and whether that changed anything."""
        for _ in range(_ATTEMPTS):
            last = self._newest()
            wanted = last.turned(action, turn, student)
            if wanted is last:
                self._follow(last)
                return last, False
            if self._storage.write_new(_key(wanted.number), wanted.to_json()):
                self._follow(wanted)
                return wanted, True
        raise _contended()

    def _newest(self) -> Switches:
        last = self.now()
        while self._storage.exists(_key(last.number + 1)):
            last = self._parsed(self._storage.read(_key(last.number + 1)), _key(last.number + 1))
        return last

    def _follow(self, wanted: Switches) -> None:
        if not wanted.number:
            return
        for _ in range(_ATTEMPTS):
            found = self._storage.read_with_token(_POINTER)
            if found is not None and _number_in(found[0]) >= wanted.number:
                return
            if self._storage.swap(_POINTER, wanted.to_json(), None if found is None else found[1]) is not None:
                return
        raise _contended()

    def _parsed(self, data: bytes, key: str) -> Switches:
        return Switches.from_json(data, f"{self._storage.address}/{key}")


class Watched:
    """Know the switches as of at most `LOOK_EVERY_S` ago.

    Args:
        read: Reads them; None where a controller has none.
        clock: Monotonic seconds.
    """

    def __init__(self, read: Callable[[], Switches] | None, clock: Clock) -> None:
        self._read, self._clock = read, clock
        self._looked_s = -math.inf
        self._known = Switches()

    def now(self) -> Switches:
        """Return them."""
        now_s = self._clock.monotonic_s()
        if self._read is not None and now_s - self._looked_s >= LOOK_EVERY_S:
            self._known, self._looked_s = self._read(), now_s
        return self._known


def check_may_move(storage: Storage, student: str, to: str | None) -> None:
    """Return if another version may go live by an operator's hand.

    Args:
        storage: Of the state.
        student: Whose versions.
        to: The version; None for the one before.

    Raises:
        RegistryError: Another one is pinned live.
    """
    held = SwitchBoard(storage).now().held.get(student)
    if held is not None and to != held.version:
        what = f"Registry: {held.version} is pinned live, {held}"
        raise RegistryError(what, got=to or "the version before", allowed=held.version, do=f"run `streamrec unpin {held.version}` first")


def why_held(switches: Switches, students: Iterable[str]) -> dict[str, str]:
    """Return of each student for whom nothing is promoted, by its name in the registry, why."""
    found = {student: switches.why_held(student) for student in students}
    return {student: why for student, why in found.items() if why}


def _number_in(data: bytes) -> int:
    """Return the number of what a pointer holds, 0 where it is torn: it is written anew."""
    try:
        return Switches.from_json(data).number
    except Damaged:
        return 0


def _key(number: int) -> str:
    return f"{_FOLDER}/{number:08d}.json"


def _contended() -> OperatorError:
    what = "Switches: they are turned faster than they can be read"
    return OperatorError(what, got=f"{_ATTEMPTS} attempts", do="stop the other writers")
