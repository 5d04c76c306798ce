"""Read and make the keys of the HTTP interface. Their file is their own: the configuration is shown, and stored in manifests."""

from __future__ import annotations

import hashlib
import secrets
import tomllib
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field, ValidationError

from streamrec.config.section import Section
from streamrec.config.sections import Config
from streamrec.errors import ConfigError

ApiScope = Literal["answers", "read", "events", "admin"]
SCOPES: tuple[ApiScope, ...] = get_args(ApiScope)

_PREFIX = "srk_"
_NUM_RANDOM_BYTES = 32


class ApiKey(Section):
    """Say what the bearer of a key may do.

    ``sha256``: the key's digest, in hex. ``scopes``: ``answers`` asks for items, ``read`` for anything, ``events`` sends events and item updates,
    ``admin`` reads, deletes users and moves models. ``namespaces``: in these alone; empty stands for all. ``rate``: requests a second that each
    replica answers, 0 for any number; ``burst``: so many at once, 0 for a second's.
    """

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    scopes: tuple[ApiScope, ...] = Field(min_length=1)
    namespaces: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    rate: float = Field(default=0.0, ge=0)
    burst: int = Field(default=0, ge=0)


def new_key() -> str:
    """Return a key that nobody guesses: 256 random bits."""
    return f"{_PREFIX}{secrets.token_urlsafe(_NUM_RANDOM_BYTES)}"


def digest_of(key: bytes) -> str:
    """Return what is stored of a key.

    A fast hash without salt is enough: nobody guesses 256 random bits, nor has a table of them.
    """
    return hashlib.sha256(key).hexdigest()


def load_keys(path: str) -> dict[str, ApiKey]:
    """Return the keys of ``serving.keys_file`` by name; none where it is not set.

    Raises:
        ConfigError: The file is missing, has no key, or one that is not valid; no value of it is shown.
    """
    if not path:
        return {}
    try:
        tables = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it does not parse as TOML"
        what = f"Keys: {path} can't be read ({why})"
        raise ConfigError(what, do="correct serving.keys_file, or make its first key with `streamrec key`") from error
    if not tables:
        what = f"Keys: {path} has none, so nobody could ask anything"
        raise ConfigError(what, do="make one with `streamrec key`, or leave serving.keys_file out")
    keys = {name: _parse(path, name, table) for name, table in tables.items()}
    by_digest: dict[str, str] = {}
    for name, key in keys.items():
        other = by_digest.setdefault(key.sha256, name)
        if other != name:
            what = f"Keys: {path} has one key twice"
            raise ConfigError(what, got=f"{other} and {name}", allowed="a name for each key", do="make another with `streamrec key`")
    return keys


def absolute_path(path: str) -> str:
    """Return where ``serving.keys_file`` is, for processes with other working folders; "" where it is not set."""
    return str(Path(path).absolute()) if path else ""


def check_own_key(config: Config, key: str | None, whose: str) -> None:
    """Return where a server of this configuration lets the bearer of a key ask and send events in the usual namespace, at any rate.

    Args:
        config: Names the file of keys; without one nobody needs a key.
        key: The bearer's, as STREAMREC_API_KEY has it.
        whose: Requests of whom, for the error.

    Raises:
        ConfigError: There is no such key; what to do is said.
    """
    keys = load_keys(config.serving.keys_file)
    known = next((one for one in keys.values() if key is not None and one.sha256 == digest_of(key.encode())), None)
    here = config.events.namespace
    is_enough = known is not None and not known.rate and {"read", "events"} <= set(known.scopes) and here in (known.namespaces or (here,))
    if not keys or is_enough:
        return
    got = "none in STREAMREC_API_KEY" if key is None else "one that the file does not have" if known is None else "one that may do less"
    what = f"Keys: serving.keys_file is set, so the requests of {whose} need a key"
    make = f"make one by `streamrec key NAME --scope read --scope events >> {config.serving.keys_file}` and set STREAMREC_API_KEY to what it prints"
    raise ConfigError(what, got=got, allowed=f"scopes read and events in namespace {here}, no rate", do=f"{make}, or leave serving.keys_file out")


def _parse(path: str, name: str, table: object) -> ApiKey:
    try:
        return ApiKey.model_validate(table)
    except ValidationError as error:
        fault = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(str(part) for part in (name, *fault["loc"]))
        allowed = ", ".join(ApiKey.model_fields)
    # Not from the error, which would show the value: somebody may have put the key itself there.
    what = f"Keys: {field} of {path} is not valid ({fault['msg'][:1].lower()}{fault['msg'][1:]})"
    raise ConfigError(what, allowed=allowed, do="correct it, or make the table with `streamrec key`")
