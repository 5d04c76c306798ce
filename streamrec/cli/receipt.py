"""Show what a deletion removed, and until when the rest goes."""

from __future__ import annotations

import json
import sys
from typing import Any

from streamrec.cli.options import Receipt
from streamrec.cli.show_config import resolve
from streamrec.config import Config
from streamrec.errors import BrokerError, DataError
from streamrec.log.kafka_facts import kafka_facts
from streamrec.pipeline.forgetting import read_receipt
from streamrec.pipeline.lineage import lineage_urls
from streamrec.storage import open_storage

PATIENCE_S = 3.0


def run(options: Receipt) -> int:
    """Print the receipt as JSON, with how long the broker keeps the raw records."""
    config = resolve(options.settings)
    namespace = config.events.namespace if options.namespace is None else options.namespace
    read = (read_receipt(open_storage(url), namespace, options.event_id) for url in lineage_urls(config.state))
    receipt = next((found for found in read if found is not None), None)
    if receipt is None:
        what = "Receipt: there is none"
        do = "wait until the stream has reached the event, or give the event id that `streamrec delete-user` printed"
        raise DataError(what, got=repr((namespace, options.event_id)), do=do)
    broker = options.broker or config.log.broker
    sys.stdout.write(json.dumps({**receipt, "retention_ms": _retention_ms(config, broker)}, indent=1) + "\n")
    return 0


def _retention_ms(config: Config, broker: str) -> dict[str, Any]:
    """Return by topic for how long it keeps records; None where the broker does not say."""
    topics = (config.log.events_topic, config.log.dead_letter_topic)
    servers = broker.removeprefix("kafka://")
    try:
        facts = kafka_facts(servers, topics, PATIENCE_S)[1] if ":" in servers and "://" not in servers else {}
    except BrokerError as error:
        sys.stderr.write(f"{error}\n")
        facts = {}
    kept = {topic: facts[topic].settings.get("retention.ms") if topic in facts else None for topic in topics}
    return {topic: None if value is None else int(value) for topic, value in kept.items()}
