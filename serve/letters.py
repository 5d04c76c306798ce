"""Show the newest dead letters, and send some of them once more, for the routes that do so.

What a letter holds is a stranger's, or a user's: it is cut, escaped, and of users who asked to be forgotten it is left out.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any

import orjson

from streamrec.clock import Clock, SystemClock
from streamrec.config import Config
from streamrec.errors import BrokerUnavailable, DataError, OperatorError, TopicMissing
from streamrec.events.schema import REASONS, Kind
from streamrec.log.base import LogAddress
from streamrec.log.connect import open_table_reader, open_writer
from streamrec.pipeline.dead_letter_box import DeadLetterBox, Letter, Place, Replayed
from streamrec.pipeline.forgotten_letters import ForgottenLetters, load_forgotten
from streamrec.pipeline.letter_text import excerpt, printable
from streamrec.pipeline.resend import Refused, Repair, Resender, in_batches

LOOKED_AT = 1000
"""So many of the topic's newest records are looked at; the command line looks at all."""
MOST_BYTES, MOST_CHARS = 4096, 300
"""Of a letter's value so many bytes are shown, and of what else it says so many characters."""

_REST = "`streamrec dlq` looks at all of the topic"
_MEANS: Mapping[str, str] = {reason.value: sentence for reason, sentence in REASONS.items()}


class Letters:
    """Do with the newest dead letters what `streamrec dlq` does.

    All methods block while the broker answers; one at a time does, because letters are large.

    Args:
        config: Names the topics and says what a valid event is.
        address: Where the log is; None where this server has none.
        state_url: Where the state is, which knows who asked to be forgotten; None where this server has none.
        clock: Processing time.
    """

    def __init__(self, config: Config, address: LogAddress | None, state_url: str | None, clock: Clock | None = None) -> None:
        self._config = config if state_url is None else config.model_copy(update={"state": state_url})
        self._address, self._has_state = address, state_url is not None
        self._clock = clock or SystemClock()
        self._busy = threading.Lock()

    def newest(self, last: int) -> dict[str, Any]:
        """Return the newest letters, newest first.

        Raises:
            OperatorError: This server has no state.
            BrokerError: The log can't be read.
        """
        topic = self._config.log.dead_letter_topic
        with self._busy, self._opened() as (box, forgotten):
            if box is None:
                return {"topic": topic, "records": 0, "not_looked_at": 0, "letters": [], "left_out": 0, "foreign": 0}
            num_replays = box.num_replays()
            facts = (_shown(letter, num_replays.get(letter.place, 0)) for letter in forgotten.without(_whole(box)))
            letters = heapq.nlargest(last, facts, key=lambda letter: letter["time_ms"])
            counts = {"records": box.num_records, "not_looked_at": box.num_before}
            return {"topic": topic, **counts, "letters": letters, "left_out": forgotten.num_left_out, "foreign": box.num_foreign}

    def replay(self, places: Sequence[str], *, deletes: bool) -> dict[str, Any]:
        """Send letters to the events topic as they are, each that was never sent again, and return what became of each.

        Args:
            places: As the letters name them.
            deletes: Whether deletions of users may be among them.

        Raises:
            OperatorError: This server has no state.
            BrokerError: The log does not take them.
        """
        refused: dict[str, str] = {}
        wanted: dict[Place, str] = {}
        for text in dict.fromkeys(places):
            try:
                wanted[Place.parse(text)] = text
            except DataError as error:
                refused[text] = str(error)
        sent = []
        with self._busy, self._opened() as (box, forgotten):
            for outcome in () if box is None else self._send(box, forgotten, wanted, deletes=deletes):
                text = wanted.pop(outcome.place)
                if isinstance(outcome, Refused):
                    refused[text] = outcome.why
                else:
                    sent.append({"place": text, "to": str(outcome.to), "event_id": outcome.event_id})
        refused |= dict.fromkeys(wanted.values(), f"none of the newest {LOOKED_AT} records of the dead letters has it; {_REST}")
        return {"sent": sent, "refused": [{"place": place[:MOST_CHARS], "why": printable(why)[:MOST_CHARS]} for place, why in refused.items()]}

    def _send(self, box: DeadLetterBox, forgotten: ForgottenLetters, wanted: Collection[Place], *, deletes: bool) -> Iterator[Replayed | Refused]:
        num_replays, chosen = box.num_replays(), frozenset(wanted)
        with closing(open_writer(self._opened_address(), self._config.log)) as writer:
            resender = Resender(self._config, writer, self._clock, Repair(), forgotten.covers)
            for batch in in_batches(letter for letter in box.letters() if letter.place in chosen):
                fresh = []
                for letter in batch:
                    if letter.place in num_replays:
                        yield Refused(letter.place, "it was sent before; `streamrec dlq replay --again` sends it once more")
                    elif not deletes and _is_deletion(letter):
                        yield Refused(letter.place, "it deletes a user, which this server does for nobody without a key: use the command line")
                    else:
                        fresh.append((letter, 0))
                yield from resender.send(fresh)

    @contextmanager
    def _opened(self) -> Iterator[tuple[DeadLetterBox | None, ForgottenLetters]]:
        """Open what the topic holds now; None where there is no topic yet, so that nothing was ever rejected."""
        address = self._opened_address()
        if not self._has_state:
            what = "Dead letters: this server was started without a state, which knows whose must not be shown"
            raise OperatorError(what, do="start it with the state's address, or use the command line (`streamrec dlq`)")
        forgotten = load_forgotten(self._config)
        with closing(open_table_reader(address, self._config.log)) as reader:
            try:
                box = DeadLetterBox(reader, self._config.log.dead_letter_topic, LOOKED_AT)
            except TopicMissing:
                box = None
            yield box, forgotten

    def _opened_address(self) -> LogAddress:
        if self._address is None:
            what = "Dead letters: this server was started without a log"
            raise BrokerUnavailable(what, do="start it with the log's address")
        return self._address


def _whole(box: DeadLetterBox) -> Iterator[Letter]:
    """Give the letters whose beginning is among what is looked at."""
    return (letter for letter in box.letters() if 0 not in letter.missing_parts)


def _is_deletion(letter: Letter) -> bool:
    try:
        record = orjson.loads(letter.value or b"")
    except orjson.JSONDecodeError:
        return False  # Nor is it sent.
    return isinstance(record, dict) and record.get("kind") == Kind.DELETION


def _shown(letter: Letter, num_replays: int) -> dict[str, Any]:
    form, text = excerpt(letter.value or b"", MOST_BYTES)
    return {
        "place": _short(str(letter.place)),
        "partition": letter.place.partition,
        "offset": letter.place.offset,
        "reason": _short(letter.reason),
        "means": _MEANS.get(letter.reason, "A reason that this version does not know."),
        "detail": _short(letter.detail),
        "time_ms": letter.time_ms,
        "key": None if letter.key is None else excerpt(letter.key, MOST_CHARS)[1],
        "bytes": letter.num_bytes,
        "form": form,
        "text": text,
        "is_cut": letter.num_bytes > MOST_BYTES,
        "replays": num_replays,
        "missing_parts": len(letter.missing_parts),
    }


def _short(text: str) -> str:
    return printable(text[:MOST_CHARS])
