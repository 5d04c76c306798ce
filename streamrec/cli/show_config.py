"""Print the resolved configuration."""

from __future__ import annotations

import sys

import tomli_w

from streamrec.cli.options import Settings, ShowConfig
from streamrec.config import Config, load_config, parse_overrides


def run(options: ShowConfig) -> int:
    """Print the configuration as TOML or JSON; TOML has no null, so settings without a value are left out there."""
    config = resolve(options.settings)
    if options.json:
        sys.stdout.write(config.model_dump_json(indent=2) + "\n")
    else:
        sys.stdout.write(tomli_w.dumps(config.model_dump(mode="json", exclude_none=True)))
    return 0


def resolve(settings: Settings, shortcuts: dict[str, object] | None = None) -> Config:
    """Return the configuration; shortcuts, such as ``--seed``, win over ``--set``, which wins over the file."""
    return load_config(settings.config, {**parse_overrides(settings.overrides), **(shortcuts or {})})
