"""Print what logged answers came to, by student, version and source."""

from __future__ import annotations

import json
import sys
from typing import Any

from streamrec.cli.options import ShowWorth
from streamrec.cli.sending import err_console
from streamrec.cli.show_config import resolve
from streamrec.pipeline.session import state_address
from streamrec.pipeline.worth_view import load_worth


def run(options: ShowWorth) -> int:
    """Print a row for each version and source as of the newest commit, newest version first."""
    config = resolve(options.settings)
    rows = load_worth(state_address(config)).facts()
    for row in rows:
        sys.stdout.write((json.dumps(row) if options.json else _line(row)) + "\n")
    if not options.json:
        within = f"within {config.registry.worth_window_s:g} s"
        err_console().print(f"{len(rows)} versions and sources; taken: the user did something with an item that was shown, {within}")
    return 0


def _line(row: dict[str, Any]) -> str:
    names = f"{row['student']}  {row['model_version']}  {row['source']:<8}"
    return f"{names}  {row['taken']} of {row['shown']} taken, {row['rate']:.2%} ({100 * row['low']:.2f} to {100 * row['high']:.2f}%)"
