"""Say what all sections of the configuration share: they are frozen, unknown keys are refused, and durations are written with units."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


LONGEST_DURATION_S = 36_500 * 86_400.0
"""A hundred years, for what shall never end: a time of now plus this, in milliseconds, is still one that everything can hold."""


def parse_duration_s(value: object) -> float:
    """Return seconds from ``"10s"``, ``"250ms"``, ``"5m"``, ``"24h"``, ``"7d"`` or a number of seconds, `LONGEST_DURATION_S` at most.

    Raises:
        ValueError: Anything else.

    Example:
        >>> parse_duration_s("5m")
        300.0
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _bounded(value, value)
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)\s*", value) if isinstance(value, str) else None
    if match is None:
        msg = f"got {value!r}, allowed a number with a unit such as '10s', '5m', '24h'"
        raise ValueError(msg)
    return _bounded(float(match.group(1)) * _UNITS_S[match.group(2)], value)


def _bounded(seconds: float, value: object) -> float:
    with suppress(OverflowError):  # A whole number may be larger than any float.
        if float(seconds) <= LONGEST_DURATION_S:
            return float(seconds)
    msg = f"got {value!r}, allowed a finite time, up to '36500d'"
    raise ValueError(msg)


Duration = Annotated[float, BeforeValidator(parse_duration_s), Field(ge=0)]


def names_bucket(address: str) -> str:
    """Return an address, unless it is of a bucket and names none: what is put below it would be a folder here.

    Raises:
        ValueError: It is ``s3://`` or ``gs://``, or has a prefix alone.
    """
    if address.startswith(("s3:", "gs:")) and not urlsplit(address).netloc:
        msg = f"got {address!r}, which names no bucket, allowed {address[:2]}://BUCKET or {address[:2]}://BUCKET/PREFIX"
        raise ValueError(msg)
    return address


Address = Annotated[str, AfterValidator(names_bucket)]
"""A folder, or where in a bucket."""


class Section(BaseModel):
    """Base of all sections: immutable, numbers are finite, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)
