"""Connect to a Redis or Valkey, and say in our words what it answers."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamrec.config import ServingConfig
from streamrec.environment import redis_password
from streamrec.errors import ConfigError

if TYPE_CHECKING:
    from redis import Redis

HAS_REDIS = importlib.util.find_spec("redis") is not None
"""Whether the extra ``redis`` is installed."""


@dataclass(frozen=True, slots=True)
class RedisFacts:
    """Hold what matters of a Redis.

    Attributes:
        version: Its own, of what it is compatible with.
        is_cluster: Whether its keys lie on several machines.
        max_bytes: How much it may hold; 0 for as much as there is.
        policy: What goes when that is reached, as Redis calls it.
    """

    version: str
    is_cluster: bool
    max_bytes: int
    policy: str


def check_redis(config: ServingConfig) -> None:
    """Return where histories can be kept in Redis on this machine, as far as that can be said without it.

    Raises:
        ConfigError: The extra ``redis`` is not installed, or the password's file can't be read.
    """
    if not HAS_REDIS:
        what = "Histories: Redis needs the extra 'redis'"
        raise ConfigError(what, got="serving.histories = 'redis'", do="run `pip install 'streamrec[redis]'` on each node", key="serving.histories")
    _options(config)


def connect(config: ServingConfig, waits_s: float, *, repeats: bool) -> Redis:
    """Return a connection that is made when it is used.

    Args:
        config: Where Redis is.
        waits_s: How long it may take to connect, and to answer.
        repeats: Whether a command whose connection was lost is sent once more: one that was idle may have been closed by the other side. What is late
            is not asked for again.
    """
    from redis import Redis  # noqa: PLC0415 - an extra
    from redis.backoff import NoBackoff  # noqa: PLC0415 - an extra
    from redis.exceptions import ConnectionError as LostConnectionError  # noqa: PLC0415 - an extra
    from redis.retry import Retry  # noqa: PLC0415 - an extra

    waits: dict[str, Any] = {"socket_timeout": waits_s, "socket_connect_timeout": waits_s}
    retry = Retry(NoBackoff(), 1 if repeats else 0, supported_errors=(LostConnectionError,))
    return Redis.from_url(config.redis_url, retry=retry, **waits, **_options(config))


def told_of(error: Exception) -> str:
    """Say in a sentence what a client's error means."""
    from redis import exceptions  # noqa: PLC0415 - an extra

    if isinstance(error, exceptions.TimeoutError | TimeoutError):
        return "Redis does not answer in time"
    # A password that is refused is a lost connection, to the client.
    is_away = isinstance(error, exceptions.ConnectionError | OSError) and not isinstance(error, exceptions.AuthenticationError)
    return "Redis does not answer" if is_away else "Redis refuses"


def _options(config: ServingConfig) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if config.redis_url.startswith("rediss://") and config.redis_ca_file:
        options["ssl_ca_certs"] = config.redis_ca_file
        if not Path(config.redis_ca_file).is_file():
            what = "Histories: the file of authorities is not there"
            raise ConfigError(what, got=config.redis_ca_file, do="correct serving.redis_ca_file: each node that serves needs the file")
    password = redis_password()
    if config.redis_password_file:
        try:
            password = Path(config.redis_password_file).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            what, got = "Histories: the password's file can't be read", f"{config.redis_password_file} ({type(error).__name__})"
            raise ConfigError(what, got=got, do="correct serving.redis_password_file: each node that serves needs the file") from None
    return options if password is None else {**options, "password": password}
