"""Send a catalogue to the broker."""

from __future__ import annotations

from contextlib import closing

from streamrec.cli.options import ImportItems
from streamrec.cli.output import write_json
from streamrec.cli.sending import Meter, err_console, opened_broker
from streamrec.cli.show_config import resolve
from streamrec.clock import SystemClock
from streamrec.events.catalogues import items_from_file
from streamrec.events.datasets import parse_mapping
from streamrec.log.connect import open_admin, open_writer
from streamrec.pipeline.replay import import_items


def run(options: ImportItems) -> int:
    """Send every row of the file as an item update."""
    config, console = resolve(options.settings, options.broker), err_console()
    mapping = parse_mapping(options.mapping) if options.mapping else None
    items = items_from_file(options.file, mapping, event_time_ms=SystemClock().now_ms())
    topic = config.log.events_topic
    with opened_broker(options.broker, config, console) as address, Meter(console, options.file.name, "items") as meter:
        with closing(open_admin(address, config.log)) as admin:
            admin.ensure_topic(topic, config.log.num_partitions)
        with closing(open_writer(address, config.log)) as writer:
            sent = import_items(items, writer, topic, lambda done: meter.show(done, items.num_rows))
    if options.json:
        write_json(file=options.file.name, items=sent, topic=topic, log=str(address))
        return 0
    console.print(f"{options.file.name}: {sent} items to {topic} at {address}")
    return 0
