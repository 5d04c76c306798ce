"""Read environment variables: the only module that does."""

from __future__ import annotations

import os
from pathlib import Path


def config_path() -> Path | None:
    """Return the configuration file that `STREAMREC_CONFIG` names, or None."""
    named = os.environ.get("STREAMREC_CONFIG")
    return Path(named) if named else None


def ray_address() -> str | None:
    """Return the cluster that `RAY_ADDRESS` names, as inside ``ray job submit``; None for a local one."""
    return os.environ.get("RAY_ADDRESS") or None


def java_home() -> str | None:
    """Return the Java that `JAVA_HOME` names, or None."""
    return os.environ.get("JAVA_HOME") or None


def tombstone_key() -> bytes:
    """Return the key of the hashes under which deleted users are remembered: `STREAMREC_TOMBSTONE_KEY`, else one that everybody knows.

    With the default key whoever has the state can try ids; a secret of your own keeps them from it.
    """
    return os.environ.get("STREAMREC_TOMBSTONE_KEY", "streamrec tombstones").encode()[:64]


def has_tombstone_key() -> bool:
    """Return whether `STREAMREC_TOMBSTONE_KEY` is set in this process."""
    return "STREAMREC_TOMBSTONE_KEY" in os.environ


def api_key() -> str | None:
    """Return the key that `STREAMREC_API_KEY` holds for requests to a server, or None."""
    return os.environ.get("STREAMREC_API_KEY") or None


SECRET_VARIABLES = {"sasl_password_file": "STREAMREC_KAFKA_PASSWORD", "tls_key_password_file": "STREAMREC_KAFKA_KEY_PASSWORD"}
"""Where a Kafka's secrets are looked for, by the setting of `log` that may name a file instead."""


def kafka_secret(setting: str) -> str | None:
    """Return the secret that a setting's variable of `SECRET_VARIABLES` holds, or None."""
    return os.environ.get(SECRET_VARIABLES[setting]) or None


def redis_password() -> str | None:
    """Return the password that `STREAMREC_REDIS_PASSWORD` holds for the store of histories, or None."""
    return os.environ.get("STREAMREC_REDIS_PASSWORD") or None


def cache_folder() -> Path:
    """Return the per-user cache folder (`STREAMREC_CACHE`, else `XDG_CACHE_HOME`/streamrec, else ~/.cache/streamrec)."""
    own = os.environ.get("STREAMREC_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "streamrec"
