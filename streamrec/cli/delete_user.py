"""Append a deletion event for a user who asked to be forgotten."""

from __future__ import annotations

import sys
import uuid
from contextlib import closing

import pyarrow as pa
import typer

from streamrec.cli.options import DeleteUser
from streamrec.cli.output import write_json
from streamrec.cli.receipt import DELETION_IDS
from streamrec.cli.sending import err_console, opened_broker
from streamrec.cli.show_config import resolve
from streamrec.clock import SystemClock
from streamrec.errors import DataError
from streamrec.events.codec import EventCodec, encode, key_of
from streamrec.events.schema import LOG_ROW, Deletion, EventId, Namespace, UserId
from streamrec.log.base import Record
from streamrec.log.connect import open_writer

NO_WAY_BACK = (
    "from the step that executes a deletion on, no version older than that step can be rolled back to, "
    "also where nothing is known of the user, who may have been learned from and left since"
)


def run(options: DeleteUser) -> int:
    """Send the event and print its place and event id; return 1 when the answer at the terminal was no."""
    config, now_ms = resolve(options.settings, options.broker), SystemClock().now_ms()
    namespace = config.events.namespace if options.namespace is None else options.namespace
    deletion = Deletion(EventId(f"{DELETION_IDS}{uuid.uuid4()}"), UserId(options.user), now_ms, Namespace(namespace))
    try:
        record = Record(key_of(deletion), encode(deletion))
    except (UnicodeEncodeError, TypeError) as error:
        what = "Deletion: the user or the namespace is not UTF-8"
        raise DataError(what, got=repr((options.user, namespace)), do="give the id as the events have it") from error
    row = {"topic": "", "partition": 0, "offset": 0, "timestamp": now_ms, "key": record.key, "value": record.value}
    rejected = EventCodec(config.events).decode(pa.Table.from_pylist([row], schema=LOG_ROW), now_ms).rejected.to_pylist()
    if rejected:
        what = f"Deletion: the stream would reject it ({rejected[0]['reason']}: {rejected[0]['detail']})"
        raise DataError(what, do="correct the user or the namespace")
    sys.stderr.write(f"{NO_WAY_BACK}\n")
    if not options.yes and not _confirmed(options.user, namespace):
        return 1
    topic = config.log.events_topic
    with opened_broker(options.broker, config, err_console()) as address, closing(open_writer(address, config.log)) as writer:
        ((partition, offset),) = writer.append(topic, [record])
    if options.json:
        write_json(topic=topic, partition=partition, offset=offset, event_id=deletion.event_id, namespace=namespace)
    else:
        sys.stdout.write(f"{topic}/{partition}/{offset} {deletion.event_id}\n")
    return 0


def _confirmed(user: str, namespace: str) -> bool:
    if not _at_a_terminal():
        what = "Deletion: nobody at a terminal can confirm it"
        raise DataError(what, do="say --yes")
    return typer.confirm(f"Delete user {user!r} of namespace {namespace!r}? It can't be undone.", err=True)


def _at_a_terminal() -> bool:
    return sys.stdin.isatty()
