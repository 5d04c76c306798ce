"""Tell addresses that lie where Ray unpacks a job's working folder, and refuse them before anything is started.

A driver of ``ray job submit --working-dir .`` runs in a folder of Ray's cache, and a relative path lies there: the next submission after any edit
of the working folder runs in another one, and one that no job uses is removed.
"""

from __future__ import annotations

from pathlib import Path

from streamrec.config import Config
from streamrec.errors import ConfigError
from streamrec.pipeline.layout import run_folder

CACHE = "working_dir_files"
"""The folder below which Ray unpacks working folders, each below a name of its own (``ray._private.runtime_env.working_dir``)."""

_EVERYWHERE = "an absolute path that all nodes reach, s3://bucket/prefix or gs://bucket/prefix"
_WHY = "any edit of the working folder makes another such folder, and unused ones are removed"


def misplacement(name: str, address: str) -> ConfigError | None:
    """Return the error for a folder that lies in Ray's cache of working folders; None for any other one and for a bucket.

    Args:
        name: What the address is called where it is set, such as ``state``.
        address: A path, or the address of a bucket.
    """
    if "://" in address or not _is_in_cache(Path(address)):
        return None
    what = f"Config: {name} lies where Ray unpacks this job's working folder"
    return ConfigError(what, got=f"{address!r}, here {Path(address).absolute()}", allowed=_EVERYWHERE, do=f"set {name} to one of these: {_WHY}")


def misplaced(config: Config, broker: str | None = None) -> dict[str, ConfigError]:
    """Return by ``state``, ``lake`` and ``broker`` the error for each that lies in Ray's cache of working folders.

    Args:
        config: The resolved configuration.
        broker: What is taken instead of ``log.broker``.
    """
    found = {
        "state": misplacement("state", config.state),
        "lake": misplacement("lake.address", config.lake.address) if config.lake.enabled and config.lake.address else None,
        "broker": misplaced_log(config, broker),
    }
    return {name: error for name, error in found.items() if error is not None}


def misplaced_log(config: Config, broker: str | None = None) -> ConfigError | None:
    """Return the error for a log whose files, or whose embedded broker's, lie in Ray's cache of working folders; None for any other one."""
    broker = broker or config.log.broker
    if broker.startswith("local://"):
        folder = Path(broker.removeprefix("local://"))
    elif broker in {"auto", "embedded", "local"}:
        folder = run_folder(config)
    else:
        return None
    if not _is_in_cache(folder):
        return None
    what = "Config: log.broker keeps its events where Ray unpacks this job's working folder"
    do = f"set log.broker to one of these: {_WHY}"
    return ConfigError(what, got=f"{broker!r}, here {folder.absolute()}", allowed="HOST:PORT of a Kafka, or local:///FOLDER elsewhere", do=do)


def check_places(config: Config, broker: str | None = None) -> None:
    """Raise unless state, lake and log are kept outside Ray's cache of working folders.

    Raises:
        ConfigError: One of them lies there; the first is named.
    """
    for error in misplaced(config, broker).values():
        raise error


def _is_in_cache(path: Path) -> bool:
    """Return whether a path, links followed, lies below a folder of the cache."""
    return CACHE in path.resolve().parts[:-1]
