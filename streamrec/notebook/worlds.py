"""Get events and settings to begin with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import csv

from streamrec.config import Config, parse_config
from streamrec.events.datasets import Dataset, known_kind, load_dataset, single_file
from streamrec.events.guessing import guess_mapping
from streamrec.events.readers import read_any_table
from streamrec.events.synthetic import synthetic_dataset

_SAVED = {"user_id": "user", "item_id": "item", "event_type": "type", "event_time": "time", "value": "value"}


def load_events(path: str | Path, columns: Mapping[str, str] | None = None) -> Dataset:
    """Load the interactions of a file: a known format by its content, another CSV or Parquet file by its columns.

    Args:
        path: The file, or a folder that holds one.
        columns: From ``user``, ``item``, ``time``, ``type``, ``value``, ``session`` and ``basket`` to the file's columns; what is not given is
            guessed as `streamrec init` guesses it.

    Returns:
        A set whose ``events`` and ``items`` are Arrow tables, and whose ``facts`` count them.

    Raises:
        DatasetError: The file can't be read, or no column looks like the user or the item.

    Example:
        >>> import streamrec as sr
        >>> events = sr.load_events("events.csv", {"user": "customer"})  # doctest: +SKIP
    """
    file, given = single_file(path), dict(columns or {})
    if not given and known_kind(file) is not None:
        return load_dataset(file)
    return load_dataset(file, {guess.field: guess.column for guess in guess_mapping(read_any_table(file), file, given)})


def sample_events(*, num_users: int = 60, num_items: int = 120, num_events: int = 2000, seed: int = 0) -> Dataset:
    """Make up a small world in which users have tastes, so that a right answer is known.

    Item ``i7`` is of taste 7 mod 6, user ``u7`` as well, and of a user's clicks 85 in a hundred are of the own taste.

    Example:
        >>> import streamrec as sr
        >>> sr.sample_events(num_events=500).facts["events"]
        500
    """
    return synthetic_dataset(num_users=num_users, num_items=num_items, num_events=num_events, seed=seed)


def save_events(events: Dataset, path: str | Path) -> None:
    """Write interactions as a CSV file with the columns user, item, type and time, and value where there are any.

    Example:
        >>> import streamrec as sr
        >>> sr.save_events(sr.sample_events(num_events=500), "events.csv")
        >>> sr.load_events("events.csv").facts["events"]
        500
    """
    table = events.events
    kept = [name for name in _SAVED if name != "value" or table[name].null_count < table.num_rows]
    shown = table.select(kept).rename_columns([_SAVED[name] for name in kept])
    at = shown.schema.get_field_index("time")
    csv.write_csv(shown.set_column(at, "time", shown["time"].cast(pa.timestamp("ms"))), str(path))


def settings(**sections: Any) -> Config:
    """Return the configuration with some settings of your own; every one is in the reference of the configuration.

    Args:
        sections: ``seed``, ``state``, or a section's settings by name.

    Raises:
        ConfigError: There is no such setting, or the value is out of bounds.

    Example:
        >>> import streamrec as sr
        >>> sr.settings(student={"dim": 16}, teachers={"enabled": ["linear"]}).student.dim
        16
    """
    return parse_config(sections)
