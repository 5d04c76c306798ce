"""Remember from which version on nothing was learned from a user who has been deleted: nobody moves back to an older one."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from streamrec.errors import Damaged, RegistryError
from streamrec.migrations import number_of, read_json
from streamrec.storage import Storage

logger = logging.getLogger(__name__)

# Each attempt that loses had another writer win; each of them raises the bound.
_ATTEMPTS = 100
_NAMED = 3


class Forgotten(BaseModel):
    """Say since when users are gone.

    Attributes:
        version: Older versions, whose names sort before it, have learned from one who is deleted.
        event_id: Of the deletion; empty where only the stream's state knew of it.
        at_ms: Processing time, UTC.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    event_id: str = ""
    at_ms: int = 0

    def refusal(self, version: str, versions: Sequence[str], live: str | None) -> RegistryError:
        """Return the error for who wants an older version back.

        Args:
            version: The one.
            versions: All that there are.
            live: The live one, if any.
        """
        which = f"the deletion {self.event_id!r}" if self.event_id else "a deletion"
        what = f"Registry: {version} was made before {which} and would bring back what that user did"
        later = [name for name in versions if name >= self.version and name != live]
        allowed = f"{self.version} or later" + (f", such as {', '.join(later[-_NAMED:])}" if later else "")
        do = "promote one of these by its name" if later else "let the stream run until it has published a later one"
        return RegistryError(what, got=version, allowed=allowed, do=do, version=version, event_id=self.event_id, not_before=self.version)


class Deletions:
    """Keep a student's newest `Forgotten`, which only goes up.

    Args:
        storage: Where to keep it.
        student: Folder of the student.
    """

    def __init__(self, storage: Storage, student: str) -> None:
        self._storage = storage
        self._key = f"{student}/forgotten"
        self._known = ""

    @property
    def address(self) -> str:
        """Where it lies."""
        return f"{self._storage.address}/{self._key}"

    def newest(self) -> Forgotten | None:
        """Return what was noted last; None while nobody was deleted.

        Raises:
            Damaged: It can't be read.
        """
        found = self._storage.read_with_token(self._key)
        return None if found is None else self._parsed(found[0])

    def note(self, version: str, event_id: str, at_ms: int) -> None:
        """Remember that older versions have learned from a deleted user; a torn record is replaced, since the stream knows the newest."""
        if version <= self._known:
            return
        for _ in range(_ATTEMPTS):
            found = self._storage.read_with_token(self._key)
            try:
                held = None if found is None else self._parsed(found[0])
            except Damaged as error:
                logger.warning("%s: written anew", error)
                held = None
            if held is None or held.version < version:
                new = {"format": number_of("forgotten"), **Forgotten(version=version, event_id=event_id, at_ms=at_ms).model_dump()}
                if self._storage.swap(self._key, json.dumps(new, sort_keys=True).encode(), None if found is None else found[1]) is None:
                    continue
            self._known = version
            return
        what = "Registry: the record of deletions moves faster than it can be read"
        raise RegistryError(what, got=f"{_ATTEMPTS} attempts", do="stop the other streams of this state")

    def _parsed(self, data: bytes) -> Forgotten:
        try:
            values = read_json("forgotten", data)
            values.pop("format", None)
            return Forgotten.model_validate(values)
        except ValueError as error:
            what = f"Registry: the record of deletions can't be read, {self.address}"
            do = "restore it from a copy, or let the stream commit, which writes it anew"
            raise Damaged(what, got=repr(data[:80]), do=do) from error
