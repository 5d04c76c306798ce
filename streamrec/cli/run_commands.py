"""Declare the verbs that run everything on this machine; what they start are jobs, which lie beside the library."""

from __future__ import annotations

from typing import Annotated

import typer

from streamrec.cli.arguments import ConfigFile, Mapping, Overrides, Student
from streamrec.cli.running import run_job

app = typer.Typer()

Forever = Annotated[bool, typer.Option("--forever", help="Stay up until Ctrl-C.")]


@app.command()
def dev(
    state: Annotated[str | None, typer.Option("--state", metavar="ADDRESS", help="Where all is kept. Default: state of the configuration.")] = None,
    take_over: Annotated[bool, typer.Option("--take-over", help="Also where another job seems to move this state.")] = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Run everything here, until Ctrl-C: broker, Ray, stream, teachers, serving and dashboard. The next start goes on where it was.

    It waits for events, posted to its API or sent to its topic, learns the first of them, and learns on while it answers.
    """
    given = {"--config": config, "--state": state, "--take-over": take_over}
    run_job("jobs.dev", given, overrides)


@app.command()
def demo(
    data: Annotated[str | None, typer.Option("--data", metavar="PATH", help="A file or folder. Default: MovieLens 100K.")] = None,
    mapping: Mapping = None,
    broker: Annotated[str | None, typer.Option("--broker", metavar="BROKER", help="auto, embedded, local or HOST:PORT. Default: auto.")] = None,
    max_events: Annotated[int | None, typer.Option("--max-events", metavar="N", help="Use only the file's first N events.")] = None,
    seconds: Annotated[float | None, typer.Option("--seconds", metavar="N", help="Send events for so long at most. Default: 150.")] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="RUN", help="Everything is in runs/RUN, which is emptied first. Default: demo.")
    ] = None,
    forever: Forever = False,
    overrides: Overrides = None,
) -> None:
    """Show everything at work on real events, and say in the end what was measured; in under six minutes."""
    given = {"--data": data, "--map": mapping, "--broker": broker, "--max-events": max_events, "--seconds": seconds, "--name": name}
    run_job("jobs.demo", {**given, "--forever": forever}, overrides)


@app.command()
def serve(
    log: Annotated[str | None, typer.Option("--log", metavar="ADDRESS", help="kafka://HOST:PORT or local:///FOLDER. Default: log.broker.")] = None,
    student: Student = "default",
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Serve a state that a stream moves elsewhere, on this machine or the Ray of RAY_ADDRESS, until Ctrl-C.

    Its only output is its address, once it answers. `serve deploy` puts the same application on a cluster.
    """
    run_job("serve.__main__", {"--config": config, "--log": log, "--student": student}, overrides)
