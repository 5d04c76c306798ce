"""Look at the event lake, check it against the checkpoint, tidy it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from streamrec.cli.options import Lake
from streamrec.cli.show_config import resolve
from streamrec.pipeline.checkpoint import CheckpointStore
from streamrec.pipeline.lake_check import LakeReport, check_lake
from streamrec.pipeline.lake_writer import open_lake
from streamrec.pipeline.layout import checkpoint_url
from streamrec.pipeline.lineage import current_url, known_lineage
from streamrec.storage import open_storage


def run(options: Lake) -> int:
    """Do what was asked and print the outcome; return 1 when the lake differs from the checkpoint."""
    config = resolve(options.settings)
    lineage = current_url(config.state)
    checkpoint = open_storage(checkpoint_url(lineage))
    lake = open_lake(config, lineage, lambda: known_lineage(lineage))
    if options.action == "verify":
        report = check_lake(lake, CheckpointStore(checkpoint), lineage)
        _say(report.to_json() if options.json else _sentences(report), options)
        return 1 if report.differences else 0
    if options.action == "info":
        _say(lake.info(), options)
    elif options.action == "optimize":
        _say({"address": lake.address, **lake.optimize()}, options)
    else:
        _say({"address": lake.address, "files_deleted": lake.vacuum(config.lake.keep_for_s)}, options)
    return 0


def _say(outcome: Mapping[str, Any] | str, options: Lake) -> None:
    if options.json:
        sys.stdout.write(json.dumps(outcome) + "\n")
    elif isinstance(outcome, str):
        sys.stdout.write(outcome + "\n")
    else:
        sys.stdout.write("".join(f"{name}: {'nothing was written yet' if value is None else value}\n" for name, value in outcome.items()))


def _sentences(report: LakeReport) -> str:
    removed = f", {report.removed} removed by deletions" if report.removed else ""
    ahead = f"; {report.rows_ahead} rows up to batch {report.last_batch} wait for their checkpoint" if report.rows_ahead else ""
    said = f"; {report.rows_before} rows are of a topic before the one of batch {report.topic_batch}: they are counted, their offsets not checked"
    before = said if report.rows_before else ""
    if not report.differences:
        return f"{report.address} agrees with the checkpoint of batch {report.batch}: {report.rows} rows{removed}{before}{ahead}"
    first = f"{report.address} differs from the checkpoint of batch {report.batch}{before}:"
    return "\n".join([first, *(f"  {text}" for text in report.differences)])
