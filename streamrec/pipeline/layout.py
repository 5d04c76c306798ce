"""Say where the parts of a pipeline's state lie below its address."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from streamrec.config import Config

LINEAGES = "lineages"
"""Where lineages lie that were rebuilt; the first one lies in the state's own folder."""

_LINEAGE = re.compile(rf"/{LINEAGES}/\d{{4}}$")


def run_folder(config: Config) -> Path:
    """Return the local folder of the run: the state's own, or one in the working folder when the state is in a bucket."""
    return Path(config.state if "://" not in config.state else "runs/local").absolute()


def state_of(lineage_url: str) -> str:
    """Return the address of the state that a lineage belongs to; the first lineage has the state's own."""
    return _LINEAGE.sub("", lineage_url.rstrip("/"))


def lineage_number(folder: str) -> int:
    """Return the number of a lineage's folder, "" being the first one's."""
    return int(folder.rpartition("/")[2]) if folder else 1


def lineage_folder(number: int) -> str:
    """Return the folder of a lineage within the state."""
    return f"{LINEAGES}/{number:04d}" if number > 1 else ""


def checkpoint_url(state_url: str) -> str:
    """Return where the checkpoint of a lineage lies."""
    return f"{state_url.rstrip('/')}/checkpoint"


def registry_url(state_url: str) -> str:
    """Return where the registry of a state lies, which all its lineages share; a lineage's address does as well as the state's."""
    return f"{state_of(state_url)}/registry"


def students_in(keys: Iterable[str]) -> list[str]:
    """Return the students of whom a registry holds something to learn from, configured or not.

    Args:
        keys: All of the registry's storage.
    """
    folders = {tuple(key.split("/", 2)[:2]) for key in keys}
    return sorted({folder[0] for folder in folders if folder[-1] in {"versions", "blobs"}})


def lake_url(state_url: str, address: str = "") -> str:
    """Return where the event lake of a lineage lies.

    Args:
        state_url: The lineage's address.
        address: The configured one, if any: the first lineage's lake. That of a later one lies beside it, its number behind the name.
    """
    if not address:
        return f"{state_url.rstrip('/')}/lake"
    number = _LINEAGE.search(state_url.rstrip("/"))
    return f"{address.rstrip('/')}-{number[0].rpartition('/')[2]}" if number else address
