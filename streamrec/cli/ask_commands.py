"""Declare the verbs that show how a deployment stands and ask it for answers."""

from __future__ import annotations

import typer

from streamrec.cli.arguments import AsJson, At, ConfigFile, Overrides
from streamrec.cli.options import ShowStatus
from streamrec.cli.running import run_verb, settings_of

app = typer.Typer()


@app.command()
def status(as_json: AsJson = False, broker: At = None, config: ConfigFile = None, overrides: Overrides = None) -> None:
    """Show how a deployment stands: stream, commit, books, lag, live versions, teachers, switches, dead letters, disk.

    Read from storage and broker, whether a stream runs or not. The exit status is 1 when something can't be read or the books do not balance.
    """
    run_verb("status", ShowStatus(settings_of(config, overrides), broker, as_json))
