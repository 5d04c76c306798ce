"""Tell which dead letters are of users who asked to be forgotten: a topic can't be edited, but nobody is shown them, and none is sent again."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import orjson

from streamrec.config import Config
from streamrec.environment import tombstone_key
from streamrec.features.tombstones import Tombstones
from streamrec.pipeline.checkpoint import CheckpointStore
from streamrec.pipeline.dead_letter_box import Letter
from streamrec.pipeline.layout import checkpoint_url
from streamrec.pipeline.lineage import current_url
from streamrec.storage import open_storage

WHY = "it is of a user who has asked to be forgotten"

_FIELD = {name: re.compile(rb'"%s"\s*:\s*("(?:[^"\\]|\\.)*"|-?\d+)' % name.encode()) for name in ("namespace", "user_id", "event_time")}


class ForgottenLetters:
    """Hold who has asked, as of a state's newest commit.

    Args:
        tombstones: Of the state.
        namespace: Of records that name none.
    """

    def __init__(self, tombstones: Tombstones, namespace: str) -> None:
        self._tombstones = tombstones
        self._namespace = namespace
        self.num_left_out = 0

    def covers(self, letter: Letter) -> bool:
        """Return whether a letter is of what a user did before asking to be forgotten, as far as its bytes still say whose they are.

        A letter whose bytes name no user is judged by its key, which is the user's id, unless they speak of an item update.
        """
        if not len(self._tombstones):
            return False
        found = _fields(letter.value or b"")
        user, key = found.get("user_id"), letter.key
        if user is None and key is not None and b"item_update" not in (letter.value or b""):
            user = key.decode(errors="replace")
        if isinstance(user, bool) or not isinstance(user, str | int):
            return False
        time_ms, namespace = found.get("event_time"), found.get("namespace")
        if isinstance(time_ms, bool) or not isinstance(time_ms, int):
            time_ms = letter.time_ms
        names = (namespace if isinstance(namespace, str) else self._namespace, str(user))
        return self._tombstones.covers_record(*names, time_ms, letter.place.partition, letter.place.offset)

    def without(self, letters: Iterable[Letter]) -> Iterator[Letter]:
        """Give the letters that may be shown; ``num_left_out`` counts the others."""
        for letter in letters:
            if self.covers(letter):
                self.num_left_out += 1
            else:
                yield letter


def load_forgotten(config: Config) -> ForgottenLetters:
    """Load who has asked from the newest commit; where there is none, nobody has.

    Raises:
        ConfigError: The state was made with another key.
    """
    tombstones = Tombstones(tombstone_key())
    loaded = CheckpointStore(open_storage(checkpoint_url(current_url(config.state)))).load_newest(only=("tombstones",))
    if loaded is not None and "tombstones" in loaded.components:
        base, *deltas = loaded.components["tombstones"]
        tombstones.restore(base, deltas)
    return ForgottenLetters(tombstones, config.events.namespace)


def _fields(value: bytes) -> dict[str, Any]:
    """Return what the bytes say of whose they are: of an object its fields, of what is none whatever looks like them."""
    try:
        record = orjson.loads(value)
    except orjson.JSONDecodeError:
        record = {}
        for name, pattern in _FIELD.items():
            if (found := pattern.search(value)) is not None:
                with suppress(orjson.JSONDecodeError):  # What looks like a text may be none.
                    record[name] = orjson.loads(found[1])
    return record if isinstance(record, dict) else {}
