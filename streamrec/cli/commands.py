"""Declare the command line. A verb's module is loaded when the verb runs, so that ``--help`` answers at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

import streamrec
from streamrec.cli.arguments import AsJson, At, Broker, ConfigFile, Mapping, Overrides, ReasonCode
from streamrec.cli.ask_commands import app as ask_app
from streamrec.cli.hold_commands import app as hold_app
from streamrec.cli.options import (
    Backtest,
    DeleteUser,
    DlqList,
    DlqReplay,
    DlqShow,
    Doctor,
    ImportItems,
    Lake,
    NewKey,
    Receipt,
    Replay,
    Schema,
    ShowConfig,
    ShowQuarantine,
    ShowWorth,
)
from streamrec.cli.order import InOrder
from streamrec.cli.run_commands import app as run_app
from streamrec.cli.running import run_verb as _run
from streamrec.cli.running import settings_of as _settings

app = typer.Typer(
    name="streamrec",
    cls=InOrder,
    help="Recommend from live event streams. Begin with `streamrec init FILE`; each verb has its own --help.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
config_app = typer.Typer(help="Look at the configuration.", no_args_is_help=True)
lake_app = typer.Typer(help="Look at the event lake, check it, tidy it.", no_args_is_help=True)
items_app = typer.Typer(help="Send catalogues.", no_args_is_help=True)
dlq_app = typer.Typer(help="Look at dead letters, the records that were rejected; repair and re-send them.", no_args_is_help=True)
app.add_typer(config_app, name="config")
app.add_typer(items_app, name="items")
app.add_typer(dlq_app, name="dlq")
app.add_typer(lake_app, name="lake")
app.add_typer(ask_app)
app.add_typer(hold_app)
app.add_typer(run_app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(streamrec.__version__)
        raise typer.Exit


@app.callback()
def _of_all(_: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")] = False) -> None: ...


@app.command()
def version(as_json: AsJson = False) -> None:
    """Print the version."""
    typer.echo(json.dumps({"version": streamrec.__version__}) if as_json else streamrec.__version__)


@config_app.command("show")
def config_show(config: ConfigFile = None, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Print the resolved configuration, as TOML that can be loaded again. Durations are in seconds."""
    _run("show_config", ShowConfig(_settings(config, overrides), as_json))


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(help="An interaction log: a known format, or CSV, lines of JSON or Parquet with --map.")],
    to: Broker = None,
    speed: Annotated[str | None, typer.Option(metavar="600x|max", help="Event time per processing time. Default: max.")] = None,
    rate: Annotated[float | None, typer.Option(metavar="N", help="Events per second.")] = None,
    mapping: Mapping = None,
    max_events: Annotated[int | None, typer.Option(min=1, metavar="N", help="Stop after the file's first N events.")] = None,
    with_items: Annotated[bool, typer.Option("--with-items", help="Send the file's items first, unless events of it were sent before.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Forget the progress and send from the beginning.")] = False,
    progress: Annotated[Path | None, typer.Option(metavar="FILE", help="Where the progress is kept. Default: the run's folder.")] = None,
    as_json: AsJson = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Send a log to the broker in event-time order, keyed by user.

    Ctrl-C stops it; the same command goes on where it was and sends nothing twice.
    """
    settings = _settings(config, overrides)
    _run("replay", Replay(settings, file, to, speed, rate, mapping, max_events, with_items, restart, progress, as_json))


@items_app.command("import")
def items_import(
    file: Annotated[Path, typer.Argument(help="A catalogue: MovieLens or RecBole items, or CSV, lines of JSON or Parquet.")],
    to: Broker = None,
    mapping: Mapping = None,
    as_json: AsJson = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Send a catalogue to the broker.

    Columns are item, title, description, categories, price, locale, available and time, or are mapped by --map.
    """
    _run("import_items", ImportItems(_settings(config, overrides), file, to, mapping, as_json))


@app.command()
def backtest(
    data: Annotated[Path, typer.Option(metavar="FILE", help="An interaction log, or a folder that holds one.")],
    protocol: Annotated[str, typer.Option(metavar="NAME", help="progressive, sessions, leave-one-out or static.")] = "progressive",
    as_json: AsJson = False,
    student_dim: Annotated[int | None, typer.Option(min=2, metavar="N", help="Dimension of the student.")] = None,
    no_teachers: Annotated[bool, typer.Option("--no-teachers", help="Learn from the events alone.")] = False,
    seed: Annotated[int | None, typer.Option(min=0, metavar="N", help="Seed of everything random.")] = None,
    max_blocks: Annotated[int | None, typer.Option(min=1, metavar="N", help="Stop after so many test blocks.")] = None,
    mapping: Mapping = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Play a log through the stream's own learner and say what each model would have recommended.

    Each block is predicted as a whole before it is learned. Nothing is sent anywhere.
    """
    shortcuts: dict[str, object] = {"student.dim": student_dim, "seed": seed}
    given = {key: value for key, value in shortcuts.items() if value is not None}
    if no_teachers:
        given["teachers.enabled"] = []
    _run("backtest", Backtest(_settings(config, overrides), data, protocol, as_json, mapping, max_blocks, given))


@app.command()
def key(
    name: Annotated[str, typer.Argument(help="Who has it, for the registry's history and the log.")],
    scopes: Annotated[list[str] | None, typer.Option("--scope", metavar="answers|read|events|admin", help="What it may do; several times.")] = None,
    namespaces: Annotated[list[str] | None, typer.Option("--namespace", metavar="NAME", help="In this one; several times. Default: all.")] = None,
    rate: Annotated[float, typer.Option(min=0, metavar="N", help="Requests a second at each replica. Default: 0, any number.")] = 0.0,
    burst: Annotated[int, typer.Option(min=0, metavar="N", help="So many at once. Default: 0, a second's.")] = 0,
) -> None:
    """Make a key of the HTTP interface, and print it once.

    The output is its table for the file that serving.keys_file names: it has the key's digest, never the key, which goes to the error output.
    """
    _run("key", NewKey(name, tuple(scopes or ()), tuple(namespaces or ()), rate, burst))


@app.command()
def quarantine(
    again: Annotated[int | None, typer.Option("--replay", min=1, metavar="BATCH", help="Send that range's interactions to the log again.")] = None,
    as_json: AsJson = False,
    broker: At = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """List what was learned, rejected too often by the gate and taken back: batches, offsets, events and why; or replay one range."""
    _run("quarantine", ShowQuarantine(_settings(config, overrides), broker, again, as_json))


@app.command()
def worth(as_json: AsJson = False, config: ConfigFile = None, overrides: Overrides = None) -> None:
    """Print what logged answers came to, as of the newest commit: of those that each version gave, how many led to something."""
    _run("worth", ShowWorth(_settings(config, overrides), as_json))


@app.command()
def schema(
    kind: Annotated[
        str | None,
        typer.Option("--kind", metavar="KIND", help="interaction, impression, item_update, deletion or dead_letter. Default: any event."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print the JSON Schema (draft 2020-12) of the wire format: JSON, with or without --json."""
    _run("schema", Schema(kind))


@app.command()
def doctor(
    longest_downtime: Annotated[
        str, typer.Option("--longest-downtime", metavar="DURATION", help="For how long the stream may be down and lose nothing.")
    ] = "24h",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per finding and line.")] = False,
    broker: At = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Check a deployment before it runs: Python, state, broker, topics, storage, clocks, Ray's resources.

    Each finding is OK, WARN or FAIL with its remedy; the exit status is 1 when one is FAIL. Starts nothing; scratch objects in the state are removed.
    """
    _run("doctor", Doctor(_settings(config, overrides), broker, longest_downtime, as_json))


@app.command("delete-user")
def delete_user(
    user: Annotated[str, typer.Argument(help="The user's id.")],
    namespace: Annotated[str | None, typer.Option(metavar="NS", help="Default: events.namespace of the configuration.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    broker: At = None,
    as_json: AsJson = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Append a deletion event for a user, and print its place in the log and its event id once the log has it.

    The stream carries it out when it reaches the event; `streamrec receipt` then says what was removed.
    """
    _run("delete_user", DeleteUser(_settings(config, overrides), user, namespace, broker, yes, as_json))


@app.command()
def receipt(
    event_id: Annotated[str, typer.Argument(help="The deletion's event id, as `streamrec delete-user` prints it.")],
    namespace: Annotated[str | None, typer.Option(metavar="NS", help="Default: events.namespace of the configuration.")] = None,
    as_json: AsJson = False,
    broker: At = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Print what a deletion removed where, what is exact and what is approximate, and until when the rest goes: JSON, with or without --json."""
    _run("receipt", Receipt(_settings(config, overrides), event_id, namespace, broker))


@dlq_app.command("list")
def dlq_list(
    reason: ReasonCode = None,
    last: Annotated[int | None, typer.Option(min=1, metavar="N", help="Only the newest N.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
    broker: At = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """List dead letters: place in the log, reason, bytes, time, whether it was replayed, detail.

    A record that was sent in parts, or twice after a crash, is one line.
    """
    _run("dlq", DlqList(_settings(config, overrides), broker, reason, last, as_json))


@dlq_app.command("show")
def dlq_show(
    place: Annotated[str, typer.Argument(help="TOPIC/PARTITION/OFFSET, as `streamrec dlq list` prints it.")],
    raw: Annotated[bool, typer.Option("--raw", help="Nothing but the original bytes, to edit and give back to `dlq replay --with`.")] = False,
    as_json: AsJson = False,
    broker: At = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Show one dead letter: what its reason means, its key and its bytes, as text where they are UTF-8, else in hex."""
    _run("dlq", DlqShow(_settings(config, overrides), place, broker, raw, as_json))


@dlq_app.command("replay")
def dlq_replay(
    places: Annotated[list[str] | None, typer.Argument(help="TOPIC/PARTITION/OFFSET, as `streamrec dlq list` prints them.")] = None,
    reason: ReasonCode = None,
    everything: Annotated[bool, typer.Option("--all", help="All letters that were not replayed yet.")] = False,
    fields: Annotated[list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Set a field of the event; FIELD= removes it.")] = None,
    value: Annotated[str | None, typer.Option("--with", metavar="FILE|-", help="Send these bytes instead of the letter's.")] = None,
    key: Annotated[str | None, typer.Option("--key", metavar="TEXT", help="Default: the original key, or where there was none the event's.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Also what was replayed before, under a new event id.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per letter and line.")] = False,
    broker: At = None,
    config: ConfigFile = None,
) -> None:
    """Repair dead letters and send them to the events topic.

    What the stream would reject again is not sent; each such letter is named with the reason, and the exit status is 1.

    A rejected record was never applied, so it keeps its event id. A letter is sent once: the dead-letter topic remembers it. With --again it may
    have been applied before, so it gets the id with ~2 (~3, …) behind it, because the same id would count as a duplicate; --set event_id=ID names
    another one, or the old one where you know that it did not arrive.
    """
    _run("dlq", DlqReplay(_settings(config, None), tuple(places or ()), broker, reason, everything, tuple(fields or ()), value, key, again, as_json))


@lake_app.command("info")
def lake_info(config: ConfigFile = None, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Print where the lake is and how large it is."""
    _run("lake", Lake(_settings(config, overrides), "info", as_json))


@lake_app.command("verify")
def lake_verify(config: ConfigFile = None, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Recount the lake against the newest checkpoint; the exit status is 1 when they differ.

    It reads three columns of all rows, and may run beside the stream.
    """
    _run("lake", Lake(_settings(config, overrides), "verify", as_json))


@lake_app.command("optimize")
def lake_optimize(config: ConfigFile = None, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Merge small files. May run beside the stream; the loser of a conflict tries again."""
    _run("lake", Lake(_settings(config, overrides), "optimize", as_json))


@lake_app.command("vacuum")
def lake_vacuum(config: ConfigFile = None, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Delete files that the table has not needed for lake.keep_for_s."""
    _run("lake", Lake(_settings(config, overrides), "vacuum", as_json))
