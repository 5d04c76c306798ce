"""Show what a deletion removed in each lineage, and until when the rest goes."""

from __future__ import annotations

import json
import sys
from typing import Any

from streamrec.cli.options import Receipt
from streamrec.cli.show_config import resolve
from streamrec.config import Config, student_names
from streamrec.errors import BrokerError, DataError, OperatorError
from streamrec.log.kafka_facts import kafka_facts
from streamrec.pipeline.layout import lineage_folder, registry_url
from streamrec.pipeline.lineage import lineage_urls
from streamrec.pipeline.readable import committed
from streamrec.pipeline.rebuild_record import holds_state
from streamrec.pipeline.receipts import read_receipt
from streamrec.pipeline.session import state_address
from streamrec.registry.registry import Registry
from streamrec.storage import open_storage

PATIENCE_S = 3.0
DELETION_IDS = "deletion:"
"""How the ids begin that `streamrec delete-user` makes; half of one is often copied without it."""


def run(options: Receipt) -> int:
    """Print the receipts of all lineages as JSON, with what nobody goes back behind, what is pinned and how long the broker keeps raw records."""
    config = resolve(options.settings, options.broker)
    namespace = config.events.namespace if options.namespace is None else options.namespace
    asked = [options.event_id, *([] if options.event_id.startswith(DELETION_IDS) else [DELETION_IDS + options.event_id])]
    found = {event_id: _receipts(state_address(config), namespace, event_id) for event_id in asked}
    event_id = next((event_id for event_id in asked if found[event_id]), options.event_id)
    receipts = found[event_id]
    if not receipts:
        what = "Receipt: there is none"
        do = f"give the event id that `streamrec delete-user` printed ({DELETION_IDS}…), and its --namespace, and look at the place that it printed: "
        raise DataError(what, got=repr((namespace, options.event_id)), do=do + _what_of_its_place(config))
    broker = options.broker or config.log.broker
    bounds = {student: _bound(config, student) for student in student_names(config)}
    for student, (_, pinned) in bounds.items():
        _say_pinned(student, pinned or [])
    shown = {
        "event_id": event_id,
        "namespace": namespace,
        "receipts": receipts,
        "versions_not_before": bounds["default"][0],
        "pinned": {student: pinned for student, (_, pinned) in bounds.items()},
        "retention_ms": _retention_ms(config, broker),
    }
    sys.stdout.write(json.dumps(shown, indent=1) + "\n")
    return 0


def _what_of_its_place(config: Config) -> str:
    """Say what an event without a receipt means, by where it lies and how far the stream has read."""
    wait = "wait until the stream has reached the event"
    state = committed(state_address(config)).state
    if state is None or not state.offsets:
        return wait
    read = ", ".join(f"{config.log.events_topic}/{partition}/{offset}" for partition, offset in sorted(state.offsets.items()))
    lost = "one before these was read already, and its receipt is gone or the request was rejected (see `streamrec dlq`): restore it or ask again"
    return f"the stream has read up to {read}; {lost}; otherwise {wait}"


def _receipts(state: str, namespace: str, event_id: str) -> list[dict[str, Any]]:
    """Return a deletion's receipt of each lineage that has carried it out, oldest first.

    Versions are named by the batches of the lineage that has written a receipt, so it does not say what the registry, which they share, refuses.
    What was out of reach and has been removed since is told apart, and so is a lineage, unfinished then, that has
    carried the deletion out itself.
    """
    urls = lineage_urls(state)[::-1]
    gone = {url for url in urls if not holds_state(open_storage(url))}
    found = {url: read_receipt(open_storage(url), namespace, event_id) for url in urls}
    receipts = []
    for number, receipt in enumerate(found.values(), 1):
        if receipt is not None:
            receipt.pop("versions_not_before", None)
            missed = receipt.get("out_of_reach", {})
            reached = {later for later in urls[number:] if found[later] is not None} - gone
            receipt["out_of_reach"] = {address: why for address, why in missed.items() if address not in gone | reached}
            receipt["removed_since"] = sorted(gone & missed.keys())
            receipt["reached_since"] = sorted(reached & missed.keys())
            receipts.append({"lineage": lineage_folder(number), **receipt})
    return receipts


def _bound(config: Config, student: str) -> tuple[str | None, list[str] | None]:
    """Return the version before which a student's registry goes back to none, by this deletion or a later one, and which older ones are pinned now.

    Both are None where the registry does not say.
    """
    try:
        registry = Registry(open_storage(registry_url(state_address(config))), student)
        forgotten, pinned = registry.forgotten(), sorted(registry.pinned())
    except OperatorError as error:
        sys.stderr.write(f"{error}\n")
        return None, None
    if forgotten is None:
        return None, None if pinned else []
    return forgotten.version, [version for version in pinned if version < forgotten.version]


def _say_pinned(student: str, pinned: list[str]) -> None:
    for version in pinned:
        what = f"{version} of student {student} was made before a deletion and stays until it is unpinned"
        sys.stderr.write(f"{what}: streamrec unpin {version} --student {student}\n")


def _retention_ms(config: Config, broker: str) -> dict[str, Any]:
    """Return by topic for how long it keeps records; None where the broker does not say."""
    topics = (config.log.events_topic, config.log.dead_letter_topic)
    servers = broker.removeprefix("kafka://")
    try:
        facts = kafka_facts(servers, config.log, topics, PATIENCE_S)[1] if ":" in servers and "://" not in servers else {}
    except BrokerError as error:
        sys.stderr.write(f"{error}\n")
        facts = {}
    kept = {topic: facts[topic].settings.get("retention.ms") if topic in facts else None for topic in topics}
    return {topic: None if value is None else int(value) for topic, value in kept.items()}
