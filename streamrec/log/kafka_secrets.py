"""Read the secrets of a connection where they are kept, and keep them out of everything else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamrec.config import LogConfig
from streamrec.environment import SECRET_VARIABLES, kafka_secret
from streamrec.errors import BrokerRefused


@dataclass(frozen=True, slots=True)
class SecretPlace:
    """Say where a secret is kept.

    Attributes:
        setting: Of `streamrec.config.connection`, without ``log.``.
        path: The file that the setting names; empty stands for the setting's environment variable.
    """

    setting: str
    path: str

    def __str__(self) -> str:
        return f"log.{self.setting} = {self.path}" if self.path else SECRET_VARIABLES[self.setting]


class Secret(str):
    """Hold a secret that a client library takes for a text.

    Shown, as in a dictionary of settings, it is ``***``. Pickled it is its place, and is read anew where it arrives: what goes through Ray, and what
    Ray keeps of it on disks, has no secrets.
    """

    place: SecretPlace

    def __reduce__(self) -> tuple[Any, ...]:
        return read_secret, (self.place,)

    def __repr__(self) -> str:
        return "'***'"

    def __format__(self, spec: str) -> str:
        return "***"


def read_secret(place: SecretPlace) -> Secret:
    """Return the secret of a place; a line's end after it is not part of it.

    Raises:
        BrokerRefused: There is none.
    """
    text, setting = "", f"log.{place.setting}"
    what = "Broker: nobody is let in without a secret"
    if place.path:
        try:
            text = Path(place.path).read_text(encoding="utf-8").rstrip("\r\n")
        except OSError as error:
            do = f"correct {setting}: each node that talks to the broker needs the file"
            raise BrokerRefused(what, got=f"{place.path}, which can't be read ({error.strerror})", do=do, key=setting) from error
        except UnicodeDecodeError:
            text = ""  # The error would hold the bytes.
    else:
        text = kafka_secret(place.setting) or ""
    if not text:
        got = f"{place.path}, which holds no text" if place.path else f"neither {setting} nor {SECRET_VARIABLES[place.setting]} in this process"
        do = f"write it into a file that each node has, and name the file as {setting}, or set {SECRET_VARIABLES[place.setting]} on each node"
        raise BrokerRefused(what, got=got, do=do, key=setting)
    secret = Secret(text)
    secret.place = place
    return secret


def password_place(cfg: LogConfig) -> SecretPlace:
    """Return where the user's secret is kept."""
    return SecretPlace("sasl_password_file", cfg.sasl_password_file)


def key_password_place(cfg: LogConfig) -> SecretPlace:
    """Return where the password of the client's key is kept."""
    return SecretPlace("tls_key_password_file", cfg.tls_key_password_file)


def key_password(cfg: LogConfig) -> Secret | None:
    """Return the password of the client's key; None where neither a file is named nor the variable is set.

    Raises:
        BrokerRefused: The file that is named holds none.
    """
    place = key_password_place(cfg)
    return read_secret(place) if place.path or kafka_secret(place.setting) else None
