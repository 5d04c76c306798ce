"""Declare the verbs that show how a deployment stands and ask it for answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from streamrec.cli.arguments import AsJson, At, By, ConfigFile, Mapping, Overrides, Student
from streamrec.cli.options import Ask, Init, Models, Plan, Promote, ShowStatus, WriteReport
from streamrec.cli.running import run_verb, settings_of

app = typer.Typer()
models_app = typer.Typer(help="Look at versions, compare them, make one live.", no_args_is_help=True)
app.add_typer(models_app, name="models")

Version = Annotated[str, typer.Argument(help="A version of the student, such as v00000042.")]
User = Annotated[str | None, typer.Argument(help="Whose history is used.")]
History = Annotated[
    list[str] | None, typer.Option("--item", metavar="ID", help="An item of the history, newest last; several times. In place of the user's own.")
]
OfVersion = Annotated[str | None, typer.Option("--version", metavar="VERSION", help="Ask this one. Default: the live one.")]
Url = Annotated[str | None, typer.Option("--url", metavar="URL", help="Ask the server there; its key is taken from STREAMREC_API_KEY.")]
Namespace = Annotated[str | None, typer.Option(metavar="NS", help="Default: events.namespace of the configuration.")]


@app.command()
def init(
    file: Annotated[Path, typer.Argument(help="A sample of your interactions: CSV, lines of JSON, Parquet, or a known format.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where the settings go.")] = Path("streamrec.toml"),
    mapping: Mapping = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the settings that are there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Look at a file of yours, guess what its columns are, and write streamrec.toml.

    Prints what was guessed, why, and what to do next. With --map you say what you know, and the rest is guessed.
    """
    run_verb("init", Init(file, out, mapping, force, as_json))


@app.command()
def recommend(
    user: User = None,
    history: History = None,
    n: Annotated[int, typer.Option("-n", min=1, metavar="N", help="How many items.")] = 10,
    with_seen: Annotated[bool, typer.Option("--with-seen", help="Also items that the user had.")] = False,
    namespace: Namespace = None,
    version: OfVersion = None,
    url: Url = None,
    student: Student = "default",
    as_json: AsJson = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Recommend items for a user or a history, by the live version on storage: no server and no Ray are needed.

    The history of a user is as of the newest commit. With --url a server answers, which follows the log.
    """
    given = Ask(settings_of(config, overrides), user, tuple(history or ()), n, with_seen=with_seen)
    _ask(replace(given, namespace=namespace, version=version, student=student, url=url, json=as_json))


@app.command()
def explain(
    user: User = None,
    history: History = None,
    n: Annotated[int, typer.Option("-n", min=1, metavar="N", help="How many of the best items.")] = 5,
    candidates: Annotated[list[str] | None, typer.Option("--of", metavar="ID", help="Explain this item; several times.")] = None,
    with_seen: Annotated[bool, typer.Option("--with-seen", help="Also items that the user had.")] = False,
    namespace: Namespace = None,
    version: OfVersion = None,
    url: Url = None,
    student: Student = "default",
    as_json: AsJson = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Say what the scores of items are made of: from each item of the history, the item's own bias, its words; the parts sum to the score.

    Where the version tells, also which teachers expect the item. Asks as `streamrec recommend` does.
    """
    given = Ask(settings_of(config, overrides), user, tuple(history or ()), n, tuple(candidates or ()), explain=True, with_seen=with_seen)
    _ask(replace(given, namespace=namespace, version=version, student=student, url=url, json=as_json))


def _ask(options: Ask) -> None:
    if options.user is None and not options.history:
        msg = "name a user, or items of a history: --item ID, several times"
        raise typer.BadParameter(msg, param_hint="'user'")
    # Two modules, because asking a server loads nothing heavy.
    run_verb("ask_server" if options.url is not None else "ask_storage", options)


@app.command()
def status(as_json: AsJson = False, broker: At = None, config: ConfigFile = None, overrides: Overrides = None) -> None:
    """Show how a deployment stands: stream, commit, books, lag, live versions, teachers, switches, dead letters, disk.

    Read from storage and broker, whether a stream runs or not. The exit status is 1 when something can't be read or the books do not balance.
    """
    run_verb("status", ShowStatus(settings_of(config, overrides), broker, as_json))


@app.command()
def report(
    of: Annotated[Path | None, typer.Argument(help="A run's folder, or what `streamrec backtest --json` printed. Default: the state.")] = None,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where the page goes.")] = Path("report.html"),
    as_json: AsJson = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Write how a run or a backtest went into one HTML file that needs nothing beside it, and print where it is.

    Learning curves, the student against teachers and baselines, what came in, each decision, costs, freshness, coverage, settings. It is read from
    storage, whether a stream runs or not. With --json the same numbers go to the output, and no file is written.
    """
    run_verb("report", WriteReport(settings_of(config, overrides), of, out, as_json))


@app.command()
def plan(
    users: Annotated[int, typer.Option(min=0, metavar="N", help="Users with a history.")],
    items: Annotated[int, typer.Option(min=1, metavar="M", help="Items.")],
    events_per_s: Annotated[float, typer.Option("--events-per-s", min=0, metavar="E", help="Events a second, on average.")],
    requests_per_s: Annotated[float, typer.Option("--requests-per-s", min=0, metavar="R", help="Requests a second, at the peak.")] = 10.0,
    retention: Annotated[str, typer.Option(metavar="DURATION", help="For how long the log keeps events.")] = "7d",
    cores: Annotated[int | None, typer.Option(min=1, metavar="N", help="Of one machine. Default: this one's.")] = None,
    memory_gb: Annotated[float | None, typer.Option("--memory-gb", min=0.1, metavar="GB", help="Of one machine. Default: this one's.")] = None,
    as_json: AsJson = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Estimate memory, storage, replicas and training time of a deployment from measured figures, and say where one machine ends."""
    run_verb("plan", Plan(settings_of(config, overrides), users, items, events_per_s, requests_per_s, retention, cores, memory_gb, as_json))


@models_app.command("list")
def models_list(
    last: Annotated[int, typer.Option(min=1, metavar="N", help="Only the newest N.")] = 20,
    student: Student = "default",
    as_json: AsJson = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """List versions, newest first: which is live, when it was made, of which teachers, how it did, what the gate decided."""
    run_verb("models", Models(settings_of(config, overrides), "list", (), student, last, as_json))


@models_app.command("show")
def models_show(
    version: Version, student: Student = "default", as_json: AsJson = False, config: ConfigFile = None, overrides: Overrides = None
) -> None:
    """Show a version: parent, offsets, teachers, metrics, the gate's decisions with their numbers, and when it went live or was rolled back."""
    run_verb("models", Models(settings_of(config, overrides), "show", (version,), student, json=as_json))


@models_app.command("diff")
def models_diff(
    old: Version,
    new: Annotated[str, typer.Argument(help="Another one.")],
    student: Student = "default",
    as_json: AsJson = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Say what changed between two versions: events learned, teachers, metrics, settings, items, and how far their vectors moved."""
    run_verb("models", Models(settings_of(config, overrides), "diff", (old, new), student, json=as_json))


@models_app.command("promote")
def models_promote(
    version: Version,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Goes into the registry's history.")] = "promoted by hand",
    by: By = None,
    student: Student = "default",
    as_json: AsJson = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Make a version live, also a newer one that still waits for the gate, and print which one was.

    As `POST /v1/models/VERSION:promote` does. Servers take it within a second. A stream that goes on may promote its next version.
    """
    run_verb("promote", Promote(settings_of(config, overrides), version, reason, by, student, as_json))
