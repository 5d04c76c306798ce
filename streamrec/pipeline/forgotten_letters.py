"""Tell which dead letters are of users who asked to be forgotten: a topic can't be edited, but nobody is shown them, and none is sent again."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import orjson

from streamrec.config import MAX_NAMESPACE_CHARS, Config
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

        That is everyone whom its bytes name, and whom its key names, which is the user's id, unless they speak of an item update. A namespace that
        no event can have may stand for any: then the one of records that name none counts, too.
        """
        if not len(self._tombstones):
            return False
        value = letter.value or b""
        found = _fields(value)
        users = {str(user) for user in found["user_id"] if isinstance(user, str | int) and not isinstance(user, bool)}
        if letter.key is not None and b"item_update" not in value:
            users.add(letter.key.decode(errors="replace"))
        namespaces = {name for name in found["namespace"] if isinstance(name, str)}
        if not any(0 < len(name) <= MAX_NAMESPACE_CHARS for name in namespaces) or len(found["namespace"]) > len(namespaces):
            namespaces.add(self._namespace)
        times = [time_ms for time_ms in found["event_time"] if isinstance(time_ms, int) and not isinstance(time_ms, bool)]
        time_ms, place = min(times, default=letter.time_ms), (letter.place.partition, letter.place.offset)
        return any(self._tombstones.covers_record(namespace, user, time_ms, *place) for namespace in namespaces for user in users)

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


def _fields(value: bytes) -> dict[str, list[Any]]:
    """Return what the bytes say of whose they are: of an object its fields, of what is none whatever looks like them."""
    with suppress(orjson.JSONDecodeError):
        record = orjson.loads(value)
        if isinstance(record, dict):
            return {name: [record[name]] if record.get(name) is not None else [] for name in _FIELD}
    held: dict[str, list[Any]] = {name: [] for name in _FIELD}
    for name, pattern in _FIELD.items():
        for found in pattern.finditer(value):
            with suppress(orjson.JSONDecodeError):  # What looks like a text may be none.
                held[name].append(orjson.loads(found[1]))
    return held
