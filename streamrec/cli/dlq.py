"""List, show, repair and re-send dead letters."""

from __future__ import annotations

import json
import sys
from base64 import b64encode
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from streamrec.cli.options import DlqList, DlqReplay, DlqShow
from streamrec.cli.output import write_json
from streamrec.cli.replay import INTERRUPTED
from streamrec.cli.sending import err_console, opened_broker, stop_on_interrupt
from streamrec.cli.show_config import resolve
from streamrec.clock import SystemClock
from streamrec.config import Config
from streamrec.errors import DataError, TopicMissing
from streamrec.events.schema import REASONS, Reason
from streamrec.log.base import LogAddress
from streamrec.log.connect import open_table_reader, open_writer
from streamrec.pipeline.dead_letter_box import DeadLetterBox, Letter, Place
from streamrec.pipeline.forgotten_letters import WHY, ForgottenLetters, load_forgotten
from streamrec.pipeline.layout import run_folder
from streamrec.pipeline.letter_text import printable, shown
from streamrec.pipeline.log_place import log_there
from streamrec.pipeline.resend import Refused, Repair, Resender, in_batches


def run(options: DlqList | DlqShow | DlqReplay) -> int:
    """Do what was asked for."""
    config, console = resolve(options.settings, options.broker), err_console()
    _check_log(config, options.broker or config.log.broker)
    with opened_broker(options.broker, config, console) as address:
        forgotten = load_forgotten(config)
        if isinstance(options, DlqReplay):
            return _replay(options, config, address, console, forgotten)
        try:
            with _opened_box(address, config) as box:
                return _list(options, box, console, forgotten) if isinstance(options, DlqList) else _show(options, box, forgotten)
        except TopicMissing:
            if not isinstance(options, DlqList) or not _has_events(address, config):
                raise
            # The stream makes the other topic at its start: until then it has rejected nothing.
            console.print("0 dead letters: no stream has run on this log yet")
            return 0


def _check_log(config: Config, broker: str) -> None:
    """Return unless an embedded Kafka would be started for the first time: nobody has rejected anything then."""
    folder = run_folder(config)
    if log_there(config, broker) is None and not (folder / "kafka").exists():
        what = "Dead letters: there are none, no log has ever run on this state"
        raise DataError(what, got=str(folder), do="name the state with --config or --set state=ADDRESS, or its log with --broker")


def _has_events(address: LogAddress, config: Config) -> bool:
    with closing(open_table_reader(address, config.log)) as reader:
        try:
            reader.latest(config.log.events_topic)
        except TopicMissing:
            return False
    return True


@contextmanager
def _opened_box(address: LogAddress, config: Config) -> Iterator[DeadLetterBox]:
    with closing(open_table_reader(address, config.log)) as reader:
        yield DeadLetterBox(reader, config.log.dead_letter_topic)


def _list(options: DlqList, box: DeadLetterBox, console: Console, forgotten: ForgottenLetters) -> int:
    reason = _checked_reason(options.reason)
    num_replays = box.num_replays()
    letters = forgotten.without(_chosen(box.letters(), set(), reason))
    lines = (_line(letter, num_replays.get(letter.place, 0), as_json=options.json) for letter in letters)
    num = 0
    for line in deque(lines, maxlen=options.last) if options.last else lines:
        sys.stdout.write(line + "\n")
        num += 1
    if not options.json:
        console.print(f"{num} dead letters")
    if forgotten.num_left_out:
        console.print(f"{forgotten.num_left_out} were left out: they are of users who have asked to be forgotten")
    _tell_foreign(box, console)
    return 0


def _tell_foreign(box: DeadLetterBox, console: Console) -> None:
    if box.num_foreign:
        console.print(f"{box.num_foreign} records of the topic can't be read as dead letters and were left out, the first at {box.first_foreign}")


def _line(letter: Letter, num_replays: int, *, as_json: bool) -> str:
    if as_json:
        facts = {"place": str(letter.place), "topic": letter.place.topic, "partition": letter.place.partition, "offset": letter.place.offset}
        facts |= {"reason": letter.reason, "detail": letter.detail, "bytes": letter.num_bytes, "time_ms": letter.time_ms}
        return json.dumps(facts | {"replays": num_replays, "missing_parts": list(letter.missing_parts)})
    remarks = [f"replayed {num_replays}x" if num_replays > 1 else "replayed"] if num_replays else []
    remarks += [f"{len(letter.missing_parts)} parts missing"] if letter.missing_parts else []
    state = ", ".join(remarks) or "-"
    place, reason = printable(str(letter.place)), printable(letter.reason)
    return f"{place:<32} {reason:<18} {letter.num_bytes:>9} {_time(letter.time_ms)} {state:<9} {printable(letter.detail)}"


def _show(options: DlqShow, box: DeadLetterBox, forgotten: ForgottenLetters) -> int:
    place = Place.parse(options.place)
    letter = next(box.letters(place), None)
    if letter is None:
        raise _missing([place])
    if forgotten.covers(letter):
        what = f"Dead letters: {place} is not shown, {WHY}"
        raise DataError(what, do="leave it: it goes when the retention of the topic ends")
    if options.raw:
        sys.stdout.buffer.write(letter.value or b"")
        return 0
    if options.json:
        _show_json(letter, box)
        return 0
    facts = {
        "place": str(place),
        "reason": f"{letter.reason}: {REASONS[Reason(letter.reason)] if letter.reason in set(Reason) else 'not a reason of this version'}",
        "detail": letter.detail,
        "time": _time(letter.time_ms),
        "key": "none" if letter.key is None else shown(letter.key)[1],
        "bytes": "none (null)" if letter.value is None else str(letter.num_bytes),
    }
    if letter.missing_parts:
        facts["missing"] = f"parts {', '.join(map(str, letter.missing_parts))}; what follows lacks them"
    sys.stdout.writelines(f"{name:<9} {printable(text)}\n" for name, text in facts.items())
    for replayed in box.replays(place):
        sys.stdout.write(f"{'replayed':<9} {_time(replayed.time_ms)} to {replayed.to} as {printable(replayed.event_id)}\n")
    form, text = shown(letter.value or b"")
    sys.stdout.write(f"{form}:\n{text}\n")
    return 0


def _show_json(letter: Letter, box: DeadLetterBox) -> None:
    """Print a letter with its bytes in base64, the only form that holds any."""
    replays = [{"time_ms": one.time_ms, "to": str(one.to), "event_id": one.event_id} for one in box.replays(letter.place)]
    raw = {name: None if part is None else b64encode(part).decode() for name, part in (("key", letter.key), ("value", letter.value))}
    facts = {"place": str(letter.place), "reason": letter.reason, "detail": letter.detail, "time_ms": letter.time_ms, "bytes": letter.num_bytes}
    write_json(**facts, key_base64=raw["key"], value_base64=raw["value"], missing_parts=list(letter.missing_parts), replays=replays)


def _replay(options: DlqReplay, config: Config, address: LogAddress, console: Console, forgotten: ForgottenLetters) -> int:
    places = {Place.parse(text) for text in options.places}
    reason = _checked_reason(options.reason)
    if (bool(places), reason is not None, options.all).count(True) != 1:
        what = "Dead letters: exactly one of PLACE…, --reason and --all says which ones to send"
        raise DataError(what, do="name places from `streamrec dlq list`")
    repair = _repair(options)
    if len(places) != 1 and (repair.value is not None or "event_id" in repair.fields or repair.key is not None):
        what = "Dead letters: --with, --key and --set event_id are of one letter"
        raise DataError(what, got=f"{len(places)} places" if places else "many letters", allowed="one PLACE", do="send the letters one by one")
    num_sent = num_refused = num_before = 0
    with _opened_box(address, config) as box, closing(open_writer(address, config.log)) as writer, stop_on_interrupt() as stop:
        num_replays = box.num_replays()
        resender = Resender(config, writer, SystemClock(), repair, forgotten.covers)
        for batch in in_batches(_chosen(box.letters(), places, reason)):
            if stop.is_set():  # between batches, so that no event goes without its marker
                break
            fresh = [(letter, num_replays.get(letter.place, 0)) for letter in batch if options.again or letter.place not in num_replays]
            num_before += len(batch) - len(fresh)
            places -= {letter.place for letter in batch}
            for outcome in resender.send(fresh):
                if isinstance(outcome, Refused):
                    num_refused += 1
                    if options.json:
                        write_json(place=str(outcome.place), sent=False, why=outcome.why)
                    console.print(f"{outcome.place}: not sent, {printable(outcome.why)}")
                else:
                    num_sent += 1
                    if options.json:
                        write_json(place=str(outcome.place), sent=True, to=str(outcome.to), event_id=outcome.event_id)
                    else:
                        sys.stdout.write(f"{outcome.place} → {outcome.to} {printable(outcome.event_id)}\n")
    before = f", {num_before} were sent before (--again sends them once more)" if num_before else ""
    console.print(f"{num_sent} sent to {config.log.events_topic}, {num_refused} not sent{before}")
    _tell_foreign(box, console)
    if stop.is_set():
        return INTERRUPTED
    if places:
        raise _missing(sorted(places))
    return 1 if num_refused else 0


def _chosen(letters: Iterable[Letter], places: set[Place], reason: str | None) -> Iterator[Letter]:
    wanted = frozenset(places)
    return (letter for letter in letters if (not wanted or letter.place in wanted) and (reason is None or letter.reason == reason))


def _repair(options: DlqReplay) -> Repair:
    fields: dict[str, str] = {}
    for text in options.fields:
        name, equals, value = text.partition("=")
        if not equals:
            what = "Dead letters: a field to set does not parse"
            raise DataError(what, got=repr(text), allowed="FIELD=VALUE", do="write for example event_type=click")
        fields[name.strip()] = value
    return Repair(fields, _read(options.value), None if options.key is None else options.key.encode())


def _read(source: str | None) -> bytes | None:
    if source is None:
        return None
    try:
        return (sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()).strip()
    except OSError as error:
        what = f"Dead letters: the file of --with can't be read ({error.strerror})"
        raise DataError(what, got=source, do="give an existing file, or - for the standard input") from error


def _checked_reason(reason: str | None) -> str | None:
    if reason is not None and reason not in set(Reason):
        what = "Dead letters: no reason has this code"
        raise DataError(what, got=repr(reason), allowed=", ".join(Reason), do="correct --reason")
    return reason


def _missing(places: list[Place]) -> DataError:
    what = f"Dead letters: the topic holds none of {', '.join(map(str, places[:5]))}{' and others' if len(places) > 5 else ''}"
    return DataError(what, do="take places from `streamrec dlq list`; retention removes old letters")


def _time(time_ms: int) -> str:
    try:
        return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):  # Whoever writes to the topic chooses the number.
        return f"{time_ms} ms"
