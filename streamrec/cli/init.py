"""Look at a sample of interactions, guess what its columns are, and write the settings to begin with."""

from __future__ import annotations

import json
import shlex
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow.compute as pc

from streamrec.cli.first_config import first_config
from streamrec.cli.options import Init
from streamrec.cli.output import write_whole
from streamrec.cli.telling import lines_of
from streamrec.config import DEFAULT_MEANINGS, Config, parse_config
from streamrec.errors import ConfigError
from streamrec.events.datasets import EVENT_FIELDS, Dataset, known_kind, load_dataset, parse_mapping, show_mapping, single_file
from streamrec.events.guessing import Guess, GuessedMeaning, guess_mapping, guess_meaning
from streamrec.events.meaning import TARGET, roles_of
from streamrec.events.readers import read_any_table


def run(options: Init) -> int:
    """Write the settings, and print what was guessed, why, and what to do next."""
    if options.out.exists() and not options.force:
        what = f"Init: {options.out} is there already"
        raise ConfigError(what, do="name another file with --out, or take --force to write it anew")
    file, given = single_file(options.file), parse_mapping(options.mapping) if options.mapping else {}
    kind = known_kind(file) if not given else None
    table = read_any_table(file) if kind is None else None
    guesses = guess_mapping(table, file, given) if table is not None else []
    mapping = {guess.field: guess.column for guess in guesses}
    dataset = load_dataset(file, mapping or None)
    types = sorted(pc.unique(dataset.events["event_type"]).to_pylist())
    meanings = {name: guess_meaning(name) for name in types if name not in DEFAULT_MEANINGS}
    text = first_config(_name_of(file), _about(file, dataset, mapping), dataset.facts, meanings)
    unread = [name for name in table.column_names if name not in mapping.values()] if table is not None else []
    _check(parse_config(tomllib.loads(text)), dataset)
    write_whole(options.out, text, "Init")
    steps = _next(options, mapping, dataset)
    if options.json:
        described = {"config": str(options.out), "file": str(file), "kind": dataset.kind, "mapping": mapping, "facts": dict(dataset.facts)}
        described["not_read"] = unread
        why = {guess.field: guess.why for guess in guesses}
        shown = {**described, "why": why, "event_types": {name: _role(name, meanings) for name in types}, "next": [command for command, _ in steps]}
        sys.stdout.write(json.dumps(shown) + "\n")
    else:
        _say(options.out, file, dataset, guesses, types, meanings, unread)
        sys.stdout.writelines(f"    {command}\n        {what}\n" for command, what in steps)
    return 0


def _check(config: Config, dataset: Dataset) -> None:
    """Look whether the settings give every event of the sample a meaning, and say so where nothing of it is to be predicted."""
    roles, _ = roles_of(dataset.events, config.events.meanings)
    if not (roles == TARGET).any():
        sys.stderr.write("no event of the sample is something to predict: set the role of one event type to target\n")


def _about(file: Path, dataset: Dataset, mapping: Mapping[str, str]) -> str:
    facts = dataset.facts
    counted = f"{facts['events']} events, {facts['users']} users, {facts['items']} items"
    columns = f"\nIts columns, for replay and backtest: --map {shlex.quote(show_mapping(mapping))}" if mapping else ""
    return (
        f"Written by `streamrec init` from {file.name}: {counted}.{columns}\n"
        "What is commented out is the default; `streamrec config show` prints every setting."
    )


def _say(
    out: Path,
    file: Path,
    dataset: Dataset,
    guesses: Sequence[Guess],
    types: Sequence[str],
    meanings: Mapping[str, GuessedMeaning],
    unread: Sequence[str],
) -> None:
    facts, times = dataset.facts, pc.min_max(dataset.events["event_time"].cast("timestamp[ms]")).as_py()
    counted = f"{facts['events']} events of {facts['users']} users with {facts['items']} items, {times['min']:%Y-%m-%d} to {times['max']:%Y-%m-%d}"
    pairs = [("file", str(file)), ("format", "a table, its columns guessed" if guesses else dataset.kind), ("counted", counted)]
    pairs += [(guess.field, f"{guess.column}  ({guess.why})") for guess in guesses]
    if guesses and "time" not in {guess.field for guess in guesses}:
        pairs.append(("time", "none: the file's order, one second a row"))
    if unread:
        pairs.append(("not read", f"{', '.join(unread)}; name one with --map FIELD=COLUMN, of {', '.join(EVENT_FIELDS)}"))
    pairs += [("event type", f"{name}: {_role(name, meanings)}{f', {meanings[name].why}' if name in meanings else ''}") for name in types]
    sys.stdout.write(lines_of([*pairs, ("written", str(out))]) + "next:\n")


def _role(name: str, meanings: Mapping[str, GuessedMeaning]) -> str:
    return meanings[name].role if name in meanings else DEFAULT_MEANINGS[name].role


def _next(options: Init, mapping: Mapping[str, str], dataset: Dataset) -> list[tuple[str, str]]:
    """Return the next commands, each with what it does."""
    config = "" if options.out == Path("streamrec.toml") else f" --config {shlex.quote(str(options.out))}"
    mapped = f" --map {shlex.quote(show_mapping(mapping))}" if mapping else ""
    file, user = shlex.quote(str(options.file)), shlex.quote(dataset.events["user_id"][-1].as_py())
    port = parse_config({}).serving.port
    return [
        (f"streamrec backtest --data {file}{mapped}{config}", "is it worth it on this data?"),
        (f"streamrec replay {file}{mapped}{config}", "send the events to log.broker; --to local keeps them in files"),
        (f"streamrec dev{config}", f"learn them and go on learning, answer at port {port}, all in one command; the next in another terminal"),
        (f"streamrec recommend {user}{config}", "ask, without a server"),
        (f"streamrec status{config}", "how does it stand?"),
    ]


def _name_of(file: Path) -> str:
    stem = file.name.split(".")[0]
    return "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in stem) or "default"
