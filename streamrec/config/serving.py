"""Define how requests are answered: bounds, replicas, and where histories are kept."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from streamrec.config.section import Duration, Section

_REDIS_URL = re.compile(r"rediss?://([^/:@\s]+@)?([A-Za-z0-9.\-]+|\[[0-9a-fA-F:.]+\])(:\d{1,5})?(/\d{0,5})?")
_LAST_PORT = 65_535


class ServingConfig(Section):
    """Bound requests and place replicas.

    ``max_replicas``: up to so many run while replicas work for more than ``busy_share`` of the time, for ``upscale_delay_s``, and fewer after
    ``downscale_delay_s`` of less; 0 keeps ``num_replicas``. ``accepts``: kinds of events that ``POST /v1/events``, and the routes of items and
    users, take from whoever reaches the port. ``path``: what all paths of this server begin with, so that several answer at one port of one Ray
    cluster. ``log_impressions``: so large a share of the recommendations is logged as impressions. ``remote_promotion``: let models be promoted,
    rolled back and pinned, and the stream's switches turned, by HTTP also where the server listens on more than loopback and has no keys.
    ``keys_file``: the TOML file of `streamrec.config.keys`; empty asks nobody for a key. ``max_waiting``: so many requests of a replica may wait
    for broker or registry. ``shed_after_s``: a request for items that has waited so long for a busy replica is refused; 0 refuses none.
    ``cors_origins``: pages of these origins may ask from a browser, ``*`` for all; without keys they may change things, and a server on loopback
    goes by their hosts as well as by loopback's. ``explore_share``: so large a share of each recommended list's places, rounded down, is given to
    items drawn by chance among those that would have them and the ``explore_among`` next, at ``explore_temperature``; 0 explores nothing.
    ``histories``: where users' are kept; ``memory`` is that of each replica, ``redis`` the Redis or Valkey at ``redis_url``, for more users than
    a replica can hold: ``redis://`` or, over TLS that trusts ``redis_ca_file`` (empty: the system's authorities), ``rediss://``, with a user's
    name where it has one. Its password is the text of ``redis_password_file``, of none that of `STREAMREC_REDIS_PASSWORD`. A request waits
    ``redis_timeout_s`` for it at most, and is answered without the history then. There a history goes when its user has done nothing for
    ``histories_keep_s``.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65_535)
    path: str = Field(default="/", max_length=100, pattern=r"^(/|(/[A-Za-z0-9._~-]+)+)$")
    num_replicas: int = Field(default=2, ge=1)
    max_replicas: int = Field(default=0, ge=0)
    busy_share: float = Field(default=0.6, gt=0, le=1)
    upscale_delay_s: Duration = 10.0
    downscale_delay_s: Duration = 300.0
    max_n: int = Field(default=500, ge=1, le=10_000)
    max_body_bytes: int = Field(default=262_144, ge=256)
    max_history: int = Field(default=1000, ge=1)
    history_users: int = Field(default=200_000, ge=1)
    accepts: tuple[Literal["interaction", "impression", "item_update", "deletion"], ...] = ("interaction", "impression", "item_update")
    log_impressions: float = Field(default=0.0, ge=0.0, le=1.0)
    remote_promotion: bool = False
    keys_file: str = ""
    max_waiting: int = Field(default=1000, ge=1)
    shed_after_s: Duration = 1.0
    cors_origins: tuple[str, ...] = ()
    explore_share: float = Field(default=0.0, ge=0, le=0.2)
    explore_among: int = Field(default=100, ge=1, le=10_000)
    explore_temperature: float = Field(default=1.0, gt=0, le=100)
    histories: Literal["memory", "redis"] = "memory"
    redis_url: str = Field(default="redis://127.0.0.1:6379/0", max_length=500)
    redis_password_file: str = ""
    redis_ca_file: str = ""
    redis_timeout_s: Duration = Field(default=0.5, gt=0)
    histories_keep_s: Duration = Field(default=7_776_000.0, ge=1)

    @field_validator("max_replicas")
    @classmethod
    def _not_below_the_least(cls, value: int, info: ValidationInfo) -> int:
        least = info.data.get("num_replicas", 1)
        if 0 < value < least:
            msg = f"0, or at least num_replicas = {least}"
            raise ValueError(msg)
        return value

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            if value != "*" and not re.fullmatch(r"https?://[A-Za-z0-9.\-\[\]:]+", value):
                msg = f"{value!r}, allowed origins as browsers send them, such as https://shop.example, or *"
                raise ValueError(msg)
        return values

    @field_validator("redis_url")
    @classmethod
    def _is_a_redis_without_a_password(cls, value: str) -> str:
        allowed = "redis://HOST:PORT/NUMBER, rediss:// for TLS, with a user as redis://NAME@HOST; passwords are kept elsewhere: redis_password_file"
        port = re.search(r":(\d+)(/|$)", value)
        if (port is not None and int(port[1]) > _LAST_PORT) or _REDIS_URL.fullmatch(value) is None:
            msg = f"allowed {allowed}"
            raise ValueError(msg)
        return value
