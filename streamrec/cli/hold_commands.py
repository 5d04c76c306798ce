"""Declare the verbs by which a person holds a stream and moves what is live."""

from __future__ import annotations

from typing import Annotated

import typer

from streamrec.cli.arguments import AsJson, By, ConfigFile, Overrides, Reason, Refreshed, Student
from streamrec.cli.options import Pin, Rollback, ShowSwitches, Turn
from streamrec.cli.running import run_verb as _run
from streamrec.cli.running import settings_of as _settings

app = typer.Typer()


@app.command()
def rollback(
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Goes into the registry's history.")] = "rolled back by hand",
    to: Annotated[str | None, typer.Option("--to", metavar="VERSION", help="This version, also a newer one. Default: the one before.")] = None,
    student: Student = "default",
    as_json: AsJson = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Make the version live again that was live before, and print both.

    Servers take it within a second. A stream that goes on may promote its next version; while a version of before a rebuild is live, it does not.
    """
    _run("rollback", Rollback(_settings(config, overrides), reason, to, student, as_json))


@app.command()
def pin(
    version: Annotated[str, typer.Argument(help="A version of the student, such as v00000042.")],
    live: Annotated[bool, typer.Option("--live", help="Make it live, and let nothing else be promoted until it is unpinned.")] = False,
    reason: Reason = "",
    by: By = None,
    student: Student = "default",
    as_json: AsJson = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Keep a version whatever the registry's policy says, and print all that are pinned.

    It stays also when a user is deleted that it has learned from. With --live a running stream goes on learning, and obeys within two seconds.
    """
    _run("pin", Pin(_settings(config, overrides), version, pins=True, student=student, live=live, reason=reason, by=by, json=as_json))


@app.command()
def unpin(
    version: Annotated[str, typer.Argument(help="A version that is pinned.")],
    reason: Reason = "",
    by: By = None,
    student: Student = "default",
    as_json: AsJson = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Let the registry's policy decide on a version again, and print all that are still pinned.

    The stream removes what the policy gives up at its next commit. What was pinned with --live stays live until a better one is promoted.
    """
    _run("pin", Pin(_settings(config, overrides), version, pins=False, student=student, reason=reason, by=by, json=as_json))


@app.command()
def pause(reason: Reason = "", by: By = None, as_json: AsJson = False, config: ConfigFile = None, overrides: Overrides = None) -> None:
    """Let the stream make no micro-batches until `streamrec resume`, also after a restart. What is live goes on serving, the lag grows.

    A running stream obeys within two seconds: it executes what is planned, commits, and waits.
    """
    _run("switches", Turn(_settings(config, overrides), "pause", reason, by, json=as_json))


@app.command()
def resume(reason: Reason = "", by: By = None, as_json: AsJson = False, config: ConfigFile = None, overrides: Overrides = None) -> None:
    """Let a paused stream go on."""
    _run("switches", Turn(_settings(config, overrides), "resume", reason, by, json=as_json))


@app.command("freeze-publishing")
def freeze_publishing(reason: Reason = "", by: By = None, as_json: AsJson = False, config: ConfigFile = None, overrides: Overrides = None) -> None:
    """Let the stream publish and promote nothing, for any student, until `streamrec unfreeze-publishing`. It goes on learning.

    `streamrec rollback` still moves what is live.
    """
    _run("switches", Turn(_settings(config, overrides), "freeze", reason, by, json=as_json))


@app.command("unfreeze-publishing")
def unfreeze_publishing(reason: Reason = "", by: By = None, as_json: AsJson = False, config: ConfigFile = None, overrides: Overrides = None) -> None:
    """Let the stream publish and promote again."""
    _run("switches", Turn(_settings(config, overrides), "unfreeze", reason, by, json=as_json))


@app.command()
def refresh(
    teachers: Refreshed = None, reason: Reason = "", by: By = None, as_json: AsJson = False, config: ConfigFile = None, overrides: Overrides = None
) -> None:
    """Ask the running stream for new versions of all teachers that come in versions, or of those named. It goes on meanwhile.

    It begins within two seconds, of teachers that something is new for since their last one, unless one is under way, the budget of worker-minutes
    is spent, or failed ones make it wait: then it begins afterwards. A stream that does not run begins when it runs again.
    """
    _run("switches", Turn(_settings(config, overrides), "refresh", reason, by, tuple(teachers or ()), as_json))


@app.command()
def switches(as_json: AsJson = False, config: ConfigFile = None, overrides: Overrides = None) -> None:
    """Print every turn of the switches (pause, freeze-publishing, pin --live), oldest first, then what is in force."""
    _run("switches", ShowSwitches(_settings(config, overrides), as_json))
