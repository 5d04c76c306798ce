"""Write the settings that somebody begins with: few, each with what it is for; what is commented out is the default."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import tomli_w

from streamrec.config import Config
from streamrec.events.guessing import GuessedMeaning

ROOM = 2
"""A stream sees more items and users than a sample has: so many times as many get room, where that is more than the default."""

_SHOWN: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        "log",
        "Where events are. auto: an embedded Kafka of this run, else files; local: files; or HOST:PORT of your Kafka.\n"
        "num_partitions is that of a topic which is there already, or of the one that is made.",
        ("broker", "events_topic", "num_partitions"),
    ),
    (
        "features",
        "How much of a user is looked at, how late events may come, and how many items and users have room.",
        ("history_length", "lateness_s", "max_items", "max_users"),
    ),
    (
        "teachers",
        "Who teaches the student; [] learns from events alone. `streamrec backtest` says what they add on your data.",
        ("enabled",),
    ),
    ("student", "The model that serves; a larger one is slower to search and to learn.", ("dim",)),
    ("registry", "A version goes live when it is not worse than the live one by more than this share.", ("gate_tolerance", "gate_min_queries")),
    ("serving", "The HTTP interface. On another host than this one set keys_file first: see `streamrec key`.", ("host", "port", "num_replicas")),
    ("pipeline", "How often the stream takes a micro-batch, and commits.", ("batch_interval_s", "checkpoint_interval_s")),
)


def first_config(name: str, about: str, facts: Mapping[str, int], meanings: Mapping[str, GuessedMeaning]) -> str:
    """Return the text of a configuration.

    Args:
        name: Names the state's folder.
        about: What was found, a line each, for the head.
        facts: Counts of the sample: ``users`` and ``items``.
        meanings: Of event types that have none by default.
    """
    lines = [
        *_comment(about),
        "",
        *_comment(_STATE),
        _line("state", f"runs/{name}"),
        "",
        "[events]",
        *_comment(_EVENTS),
        _default("events", "namespace"),
        "",
    ]
    for kind, meaning in meanings.items():
        lines += [f"[events.meanings.{_key(kind)}]  # {meaning.why}", _line("role", meaning.role), _line("weight", meaning.weight), ""]
    room = {"max_items": facts["items"] * ROOM, "max_users": facts["users"] * ROOM}
    for section, why, names in _SHOWN:
        lines += [f"[{section}]", *_comment(why), *_settings(section, names, room), ""]
    return "\n".join(lines)


_STATE = "Where checkpoints, versions and the event lake go: a folder, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX."
_EVENTS = (
    "Users and items of one namespace are apart from those of others.\n"
    "What event types mean: a target is predicted and is in the history, context is in the history only, negative takes an item out of it."
)


def _settings(section: str, names: tuple[str, ...], room: Mapping[str, int]) -> Iterator[str]:
    for name in names:
        if name in room and room[name] > getattr(getattr(Config(), section), name):
            yield _line(name, room[name])
        else:
            yield _default(section, name)


def _default(section: str, name: str) -> str:
    return f"# {_line(name, Config().model_dump(mode='json')[section][name])}"


def _line(name: str, value: Any) -> str:
    text = tomli_w.dumps({name: value}).strip()
    return " ".join(text.split()).replace("[ ", "[").replace(", ]", "]") if isinstance(value, list) else text


def _key(name: str) -> str:
    """Return a key as TOML writes it, quoted where it must be."""
    return tomli_w.dumps({name: 0}).rpartition(" = ")[0]


def _comment(text: str) -> list[str]:
    return [f"# {line}".rstrip() for line in text.splitlines()]
