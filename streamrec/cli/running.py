"""Run a verb: load its module, and make one of our errors one paragraph."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import typer

from streamrec.cli.options import Settings
from streamrec.errors import OperatorError, StreamrecError


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


def run_job(job: str, given: Mapping[str, object], overrides: Sequence[str] | None) -> None:
    """Run a job in this process, as ``python -m`` does.

    Args:
        job: Its module, in ``jobs`` or ``serve``, which the library does not hold.
        given: Options to values; None and False leave one out, True gives its name alone.
        overrides: ``KEY=VALUE`` texts.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        module = importlib.import_module(job)
    except ModuleNotFoundError as error:
        if error.name not in {"jobs", "serve"}:
            raise
        what = f"{job.removeprefix('jobs.').partition('.')[0].capitalize()}: {error.name} is not installed here"
        missing = OperatorError(what, do="install streamrec's wheel, which has jobs and serve, or run it in a checkout")
        sys.stderr.write(f"{missing}\n")
        raise typer.Exit(1) from error
    words = [text for name, value in given.items() if value for text in ([name] if value is True else [name, str(value)])]
    status = module.main([*words, *(text for one in overrides or () for text in ("--set", one))])
    if status:
        raise typer.Exit(status)
