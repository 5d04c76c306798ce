"""Run a verb: load its module, and make one of our errors one paragraph."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from pathlib import Path

import typer

from streamrec.cli.options import Settings
from streamrec.errors import StreamrecError


def settings_of(config: Path | None, overrides: list[str] | None) -> Settings:
    """Return which configuration a command line means."""
    return Settings(config, tuple(overrides or ()))


def run_verb(verb: str, options: object) -> None:
    """Load a verb's module and run it; one of our errors is one paragraph and exit status 1."""
    # Read when torch loads: threads that spin while they wait made a backtest ten times slower on a machine with other work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Ended like Ctrl-C ends it, so that temporary folders go; a verb that goes on later has handlers of its own.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    module = importlib.import_module(f"streamrec.cli.{verb}")
    try:
        status = module.run(options)
    except StreamrecError as error:
        sys.stderr.write(f"{error}\n")
        raise typer.Exit(1) from error
    if status:
        raise typer.Exit(status)
