"""Say where the parts of a pipeline's state lie below its address."""

from __future__ import annotations

from pathlib import Path

from streamrec.config import Config


def run_folder(config: Config) -> Path:
    """Return the local folder of the run: the state's own, or one in the working folder when the state is in a bucket."""
    return Path(config.state if "://" not in config.state else "runs/local").absolute()


def checkpoint_url(state_url: str) -> str:
    """Return where the checkpoint of a state folder lies."""
    return f"{state_url.rstrip('/')}/checkpoint"


def registry_url(state_url: str) -> str:
    """Return where the registry of a state folder lies."""
    return f"{state_url.rstrip('/')}/registry"


def lake_url(state_url: str) -> str:
    """Return where the event lake of a state folder lies, unless it is given an address of its own."""
    return f"{state_url.rstrip('/')}/lake"
