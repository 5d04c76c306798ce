"""Write down what happens in the small world: two tenants with equal ids, late and repeated and unreadable records, item updates, deletions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from streamrec.events.synthetic import START_MS, synthetic_dataset
from streamrec.log.base import Record, TableReader
from streamrec.log.offsets import OffsetRange

NUM_USERS = 60
NUM_EVENTS = 1440
DEFAULT, SHOP = "default", "shop"
LATENESS_S = 600.0
PLANTED = "planted"
"""A user of both namespaces, with items that nobody else has; each of the two asks to be forgotten at a time of its own, and comes back."""

USERS = [(namespace, user) for namespace in (DEFAULT, SHOP) for user in (*(f"u{number}" for number in range(NUM_USERS)), PLANTED)]
OWN_ITEMS = tuple(f"own{number}" for number in range(3))
REQUESTS = {420: (DEFAULT, PLANTED), 780: (SHOP, PLANTED), 1140: (DEFAULT, "u7")}
"""Click after which a user asks to be forgotten, each in another step."""

_WIDE_AGAIN = 260  # clicks: two to three steps
_WITHIN_S, _BEYOND_S = 200, 700
_PLANTED_EVERY = 15
_COMES_BACK = range(100, 220)  # clicks after its request

_Event = dict[str, Any]


def make_records() -> list[Record]:
    """Return the log's records, in order."""
    records: list[Record] = []
    for number, event in enumerate(_clicks()):
        records += [_record(event), *_beside(number, event)]
        if number % 41 == 11 and number > _WIDE_AGAIN:  # What was applied some steps ago comes again.
            records.append(records[-_WIDE_AGAIN])
        if number % _PLANTED_EVERY == 0:
            records += _planted(number)
        if number in REQUESTS:
            namespace, user = REQUESTS[number]
            records.append(_record(request_of(namespace, user) | {"event_time": _time_ms(number)}))
            records += [_record(event) for before in range(max(0, number - 120), number) for event in _acts_of(before, namespace, user)]
    return records


def request_of(namespace: str, user: str) -> _Event:
    """Return a deletion, without its time."""
    return {"kind": "deletion", "event_id": f"forget-{user}", "user_id": user, "namespace": namespace}


def place_of(reader: TableReader, topic: str, namespace: str, event_id: str) -> tuple[int, int]:
    """Return partition and offset of the first record with an event id."""
    ranges = [OffsetRange(topic, partition, 0, end) for partition, end in reader.latest(topic).items()]
    table = reader.read_table(ranges)
    wanted = (f'"namespace": "{namespace}"'.encode(), f'"event_id": "{event_id}"'.encode())
    places = zip(table["partition"].to_pylist(), table["offset"].to_pylist(), table["value"].to_pylist(), strict=True)
    return min((partition, offset) for partition, offset, value in places if value is not None and all(part in value for part in wanted))


def _clicks() -> Iterator[_Event]:
    """Give clicks, every third one of the second tenant; the two number their events alike. Every 23rd comes late, but in time."""
    events = synthetic_dataset(num_users=NUM_USERS, num_items=100, num_events=NUM_EVENTS).events
    for number, (user, item) in enumerate(zip(events["user_id"].to_pylist(), events["item_id"].to_pylist(), strict=True)):
        is_shop = number % 3 == 0
        name = f"e{number // 3 if is_shop else number - number // 3}"
        time_ms = _time_ms(number) - (1000 * _WITHIN_S if number % 23 == 5 else 0)
        yield _click(name, SHOP if is_shop else DEFAULT, user, item, time_ms)


def _click(name: str, namespace: str, user: str, item: str, time_ms: int) -> _Event:
    return {"event_id": name, "namespace": namespace, "user_id": user, "item_id": item, "event_type": "click", "event_time": time_ms}


def _beside(number: int, event: _Event) -> Iterator[Record]:
    """Give what comes right after a click."""
    user, item = event["user_id"].encode(), event["item_id"]
    if number % 50 == 9:
        yield _record(event)
    if number % 40 == 7:
        yield Record(user, b"{not json" + str(number).encode())
    if number % 90 == 13:
        yield Record(user, json.dumps({"event_id": f"without-item-{number}", "user_id": event["user_id"]}).encode())
    if number % 170 == 15:
        yield _record(event | {"event_id": f"ahead-{number}", "event_time": START_MS + 10 * 365 * 86_400_000})
    if number % 37 == 6 and number > _BEYOND_S:
        yield _record(event | {"event_id": f"late-{number}", "event_time": _time_ms(number) - 1000 * _BEYOND_S})
    if number % 43 == 8:
        yield _record(event | {"event_id": f"remove-{number}", "event_type": "remove"})
    if number % 19 == 2:
        update: _Event = {"kind": "item_update", "event_id": f"update-{number}", "item_id": item, "namespace": (DEFAULT, SHOP)[number % 2]}
        says = {"available": number % 4 == 0} if number % 3 == 0 else {"title": f"river {number}"}
        yield Record(item.encode(), json.dumps(update | says | {"event_time": _time_ms(number)}).encode())


def _planted(number: int) -> Iterator[Record]:
    """Let the planted user of either namespace act: on items of its own until it asks, on everybody's after it comes back."""
    for namespace in (DEFAULT, SHOP):
        yield from (_record(event) for event in _acts_of(number, namespace, PLANTED))


def _acts_of(number: int, namespace: str, user: str) -> Iterator[_Event]:
    asks = next(when for when, who in REQUESTS.items() if who == (namespace, user))
    if user != PLANTED or number % _PLANTED_EVERY or (number >= asks and number - asks not in _COMES_BACK):
        return
    items = (*OWN_ITEMS, "i3") if number < asks else ("i3", "i9", "i15")
    for place in range(2):
        item = items[(number // _PLANTED_EVERY + place) % len(items)]
        yield _click(f"{user}-{number}-{place}", namespace, user, item, _time_ms(number) + 100 * place)


def _record(event: _Event) -> Record:
    return Record(event["user_id"].encode(), json.dumps(event).encode())


def _time_ms(number: int) -> int:
    return START_MS + 1000 * number
