"""Check a deployment before it runs."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import asdict

from streamrec.cli.options import Doctor
from streamrec.cli.sending import err_console
from streamrec.cli.show_config import resolve_only
from streamrec.config import parse_duration_s
from streamrec.errors import ConfigError
from streamrec.pipeline.examine import Finding, Verdict
from streamrec.pipeline.survey import survey


def run(options: Doctor) -> int:
    """Print the findings as they come; return 1 when one is FAIL."""
    config = resolve_only(options.settings)
    try:
        downtime_s = parse_duration_s(options.longest_downtime)
    except ValueError as error:
        what = f"Doctor: --longest-downtime is no duration ({error})"
        raise ConfigError(what, do="write for example 24h") from error
    counts: Counter[Verdict] = Counter()
    for finding in survey(config, options.broker or config.log.broker, downtime_s):
        counts[finding.verdict] += 1
        sys.stdout.write((json.dumps(asdict(finding)) if options.json else _line(finding)) + "\n")
        sys.stdout.flush()
    err_console().print(", ".join(f"{counts[verdict]} {verdict}" for verdict in Verdict))
    return 1 if counts[Verdict.FAIL] else 0


def _line(finding: Finding) -> str:
    line = f"{finding.verdict:<4}  {finding.check}: {finding.found}"
    return line if finding.verdict is Verdict.OK else f"{line}\n      → {finding.remedy}"
