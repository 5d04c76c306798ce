"""Print the resolved configuration."""

from __future__ import annotations

import sys

import tomli_w

from streamrec.cli.options import Settings, ShowConfig
from streamrec.config import Config, load_config, parse_overrides
from streamrec.pipeline.places import check_places


def run(options: ShowConfig) -> int:
    """Print the configuration as TOML or JSON; TOML has no null, so settings without a value are left out there."""
    config = resolve_only(options.settings)
    if options.json:
        sys.stdout.write(config.model_dump_json(indent=2) + "\n")
    else:
        sys.stdout.write(tomli_w.dumps(config.model_dump(mode="json", exclude_none=True)))
    return 0


def resolve(settings: Settings, broker: str | None = None) -> Config:
    """Return the configuration for a verb that reads or changes what it names.

    Args:
        settings: Which configuration.
        broker: What the verb takes instead of ``log.broker``.

    Raises:
        ConfigError: A setting is wrong, or state, lake or log would lie in Ray's cache of working folders.
    """
    config = resolve_only(settings)
    check_places(config, broker)
    return config


def resolve_only(settings: Settings, shortcuts: dict[str, object] | None = None) -> Config:
    """Return the configuration for a verb that uses no state, or judges where it lies.

    Args:
        settings: Which configuration.
        shortcuts: What wins over ``--set``, such as ``--seed``; that wins over the file.
    """
    return load_config(settings.config, {**parse_overrides(settings.overrides), **(shortcuts or {})})
