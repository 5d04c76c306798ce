"""List what was quarantined, or send it to the log once more."""

from __future__ import annotations

import sys
from contextlib import closing

from streamrec.cli.options import ShowQuarantine
from streamrec.cli.sending import err_console, opened_broker
from streamrec.cli.show_config import resolve
from streamrec.config import Config
from streamrec.errors import DataError
from streamrec.log.connect import open_writer
from streamrec.pipeline.lake_writer import open_lake
from streamrec.pipeline.lineage import current_url, known_lineage
from streamrec.pipeline.quarantined import Quarantined, quarantined
from streamrec.pipeline.requeue import requeue
from streamrec.pipeline.session import state_address
from streamrec.storage import open_storage


def run(options: ShowQuarantine) -> int:
    """Print each record of the current lineage on a line, or send the interactions of one again."""
    config = resolve(options.settings, options.broker)
    records = list(quarantined(open_storage(current_url(state_address(config)))))
    if options.replay is not None:
        return _replay(options, config, records)
    for record in records:
        sys.stdout.write((record.model_dump_json() if options.json else _line(record)) + "\n")
    if not options.json:
        err_console().print(f"{len(records)} quarantined ranges")
    return 0


def _line(record: Quarantined) -> str:
    ranges = " ".join(f"{part.partition}:{part.start}-{part.end}" for part in record.ranges) or "of a topic that is no more"
    batches = " ".join(f"{first}-{last}" for first, last in record.batches)
    return f"{record.batch}  batches {batches}, {record.num_events} events, back to {record.return_to}, offsets {ranges}: {record.reason}"


def _replay(options: ShowQuarantine, config: Config, records: list[Quarantined]) -> int:
    record = next((each for each in records if each.batch == options.replay), None)
    if record is None:
        what, allowed = "Quarantine: there is no such range", ", ".join(str(each.batch) for each in records) or "nothing is quarantined"
        raise DataError(what, got=options.replay, allowed=allowed, do="take the first number of a line of `streamrec quarantine`")
    if not config.lake.enabled:
        what, do = "Quarantine: there is no lake to take the range from", "send the events again from their source, under new ids"
        raise DataError(what, got="lake.enabled = false", allowed="true", do=do)
    lineage = current_url(state_address(config))
    lake = open_lake(config, lineage, lambda: known_lineage(lineage))
    with opened_broker(options.broker, config, err_console()) as address, closing(open_writer(address, config.log)) as writer:
        num = sum(requeue(record, config.log.events_topic, lake, writer, config.events.max_id_bytes))
    sys.stdout.write(f"{num} interactions sent to {config.log.events_topic}\n")
    return 0
