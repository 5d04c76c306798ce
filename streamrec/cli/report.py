"""Write a report of a run or a backtest."""

from __future__ import annotations

import sys
from contextlib import suppress

from streamrec.cli.options import WriteReport
from streamrec.cli.output import write_whole
from streamrec.cli.show_config import resolve_only
from streamrec.clock import Clock, SystemClock
from streamrec.pipeline.places import check_places
from streamrec.report.facts import Report
from streamrec.report.of_backtest import report_of_backtest
from streamrec.report.of_run import report_of_run
from streamrec.report.page import to_html, to_json


def run(options: WriteReport, clock: Clock | None = None) -> int:
    """Write the page and print where it is, or print JSON."""
    report = _made(options, (clock or SystemClock()).now_ms())
    if options.json:
        sys.stdout.write(f"{to_json(report)}\n")
        return 0
    with suppress(OSError):  # Whoever writes the file says what is wrong.
        options.out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(options.out, to_html(report), "Report")
    sys.stdout.write(f"{options.out}\n")
    return 0


def _made(options: WriteReport, now_ms: int) -> Report:
    if options.of is not None and options.of.is_file():
        return report_of_backtest(options.of, now_ms)
    config = resolve_only(options.settings, {} if options.of is None else {"state": str(options.of)})
    check_places(config)
    return report_of_run(config, now_ms)
