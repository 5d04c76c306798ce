"""Repair dead letters and send them to the events topic, each at most once unless it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import pyarrow as pa

from streamrec.clock import Clock
from streamrec.config import Config
from streamrec.errors import DataError
from streamrec.events.codec import EventCodec
from streamrec.events.schema import LOG_ROW, WIRE, Kind
from streamrec.log.base import LogWriter, Record
from streamrec.pipeline.dead_letter_box import Letter, Place, Replayed
from streamrec.pipeline.forgotten_letters import WHY

# Letters that are repaired, checked and acknowledged together.
_BATCH_LETTERS, _BATCH_BYTES = 500, 8 * 2**20


@dataclass(frozen=True)
class Repair:
    """Say what to change before sending.

    Attributes:
        fields: Field to the text of its new value (`field_value`); an empty text removes the field.
        value: The whole record instead of the original bytes.
        key: The key instead of the original one.
    """

    fields: Mapping[str, str] = field(default_factory=dict)
    value: bytes | None = None
    key: bytes | None = None

    def __post_init__(self) -> None:
        if self.value is not None and self.fields:
            what = "Dead letter: fields and a whole value can't both be given"
            raise DataError(what, do="put the fields into the value")
        unknown = [name for name in self.fields if name not in WIRE.names]
        if unknown:
            what = "Dead letter: no field of an event"
            raise DataError(what, got=repr(unknown[0]), allowed=", ".join(WIRE.names), do="correct --set", field=unknown[0])


@dataclass(frozen=True)
class Refused:
    """Say why a letter was not sent."""

    place: Place
    why: str


def field_value(name: str, text: str) -> Any:
    """Return a field's value from a text: as it stands for a field of strings, else as JSON.

    Raises:
        DataError: The text is no JSON.

    Example:
        >>> field_value("user_id", "42"), field_value("event_time", "42"), field_value("items", '["a"]')
        ('42', 42, ['a'])
    """
    if WIRE.field(name).type == pa.string():
        return text
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        what = f"Dead letter: the value of {name} is no JSON ({error})"
        raise DataError(what, got=repr(text), allowed="a number, true, false, or a list or object in JSON", do="correct --set", field=name) from error


def repaired(letter: Letter, repair: Repair, num_replays: int = 0) -> bytes:
    """Return the bytes to send instead of a letter's.

    A rejected record was never applied, so its event id stays. One that was sent again before may have been applied: it gets a new id,
    always the same one for the same number of replays, unless the repair names an id.

    Args:
        letter: The letter.
        repair: What to change.
        num_replays: How often it was sent again before.

    Raises:
        DataError: Parts of the letter are missing, or fields are to be set in what is no JSON object.
    """
    if repair.value is not None:
        return repair.value
    if letter.missing_parts:
        what = f"Dead letter: parts {', '.join(map(str, letter.missing_parts))} of it are not in the topic"
        raise DataError(what, do="give the whole record by --with")
    if not repair.fields and not num_replays:
        return letter.value or b""
    try:
        record = orjson.loads(letter.value or b"")
    except orjson.JSONDecodeError as error:
        what = f"Dead letter: its bytes are no JSON ({error}), so no field can be set"
        raise DataError(what, do="give the whole record by --with") from error
    if not isinstance(record, dict):
        what = "Dead letter: its bytes are no JSON object, so no field can be set"
        raise DataError(what, do="give the whole record by --with")
    if num_replays and isinstance(record.get("event_id"), str):
        record["event_id"] += f"~{num_replays + 1}"
    for name, text in repair.fields.items():
        if text:
            record[name] = field_value(name, text)
        else:
            record.pop(name, None)
    return orjson.dumps(record)


def in_batches(letters: Iterable[Letter]) -> Iterator[list[Letter]]:
    """Give letters in lists that `Resender.send` takes at once: bounded by number and bytes."""
    batch: list[Letter] = []
    num_bytes = 0
    for letter in letters:
        batch.append(letter)
        num_bytes += letter.num_bytes
        if len(batch) >= _BATCH_LETTERS or num_bytes >= _BATCH_BYTES:
            yield batch
            batch, num_bytes = [], 0
    if batch:
        yield batch


class Resender:
    """Send repaired letters to the events topic and mark them as sent in the dead-letter topic.

    Args:
        config: Names the topics and says what a valid event is.
        writer: Appends to both topics.
        clock: Processing time.
        repair: What to change in every letter.
        is_forgotten: Tells letters that must not be sent, because their user has asked to be forgotten.
    """

    def __init__(
        self, config: Config, writer: LogWriter, clock: Clock, repair: Repair, is_forgotten: Callable[[Letter], bool] = lambda letter: False
    ) -> None:
        self._config = config
        self._writer = writer
        self._clock = clock
        self._repair = repair
        self._is_forgotten = is_forgotten
        self._codec = EventCodec(config.events)

    def send(self, letters: Sequence[tuple[Letter, int]]) -> list[Replayed | Refused]:
        """Send those letters that the codec takes once they are repaired, and say of each where it went or why it did not.

        **Contract.** Nothing that would be rejected again is sent. The markers are written after the events are acknowledged: a call that is
        cut off between the two sends some events again when it is repeated, with the same event ids, so that they have no second effect.

        Args:
            letters: Letters, each with the number of times it was sent again before.
        """
        outcomes: list[Replayed | Refused | None] = [None] * len(letters)
        values: dict[int, bytes] = {}
        for index, (letter, num_replays) in enumerate(letters):
            if self._is_forgotten(letter):
                outcomes[index] = Refused(letter.place, WHY)
                continue
            try:
                value = repaired(letter, self._repair, num_replays)
            except DataError as error:
                outcomes[index] = Refused(letter.place, str(error))
                continue
            if self._is_forgotten(replace(letter, value=value)):  # Only the repair said whose it is.
                outcomes[index] = Refused(letter.place, WHY)
            else:
                values[index] = value
        rows = [{"topic": "", "partition": 0, "offset": index, "timestamp": 0, "key": None, "value": value} for index, value in values.items()]
        decoded = self._codec.decode(pa.Table.from_pylist(rows, schema=LOG_ROW), self._clock.now_ms())
        for row in decoded.rejected.to_pylist():
            outcomes[row["offset"]] = Refused(letters[row["offset"]][0].place, f"it would be rejected again, {row['reason']}: {row['detail']}")
        events = {event["offset"]: event for event in decoded.valid.select(["offset", "kind", "event_id", "user_id", "item_id"]).to_pylist()}
        for index, replayed in self._append(letters, values, events).items():
            outcomes[index] = replayed
        return [outcome for outcome in outcomes if outcome is not None]

    def _append(
        self, letters: Sequence[tuple[Letter, int]], values: Mapping[int, bytes], events: Mapping[int, dict[str, Any]]
    ) -> dict[int, Replayed]:
        if not events:
            return {}
        topic, now_ms = self._config.log.events_topic, self._clock.now_ms()
        records = [Record(self._key(letters[index][0], event), values[index]) for index, event in events.items()]
        places = self._writer.append(topic, records)
        sent = {
            index: Replayed(letters[index][0].place, Place(topic, *place), event["event_id"], now_ms)
            for (index, event), place in zip(events.items(), places, strict=True)
        }
        self._writer.append(self._config.log.dead_letter_topic, [replayed.record() for replayed in sent.values()])
        return sent

    def _key(self, letter: Letter, event: Mapping[str, Any]) -> bytes:
        if self._repair.key is not None:
            return self._repair.key
        if letter.key is not None and not letter.missing_parts:
            return letter.key
        return str(event["item_id"] if event["kind"] == Kind.ITEM_UPDATE else event["user_id"]).encode()
