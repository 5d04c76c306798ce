"""Resolve a configuration from a file, overrides and defaults; unknown keys are rejected with the nearest valid one named."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from streamrec.config.sections import DEFAULT_MEANINGS, Config
from streamrec.environment import config_path
from streamrec.errors import ConfigError

_BOUNDS = {
    "greater_than_equal": "at least {ge}",
    "greater_than": "more than {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "less than {lt}",
    "literal_error": "{expected}",
    "string_pattern_mismatch": "a text that matches {pattern}",
    "string_too_short": "a text of at least {min_length} characters",
    "string_too_long": "a text of at most {max_length} characters",
    "too_short": "at least {min_length} of them",
    "too_long": "at most {max_length} of them",
}
_TYPES = {  # By the start of pydantic's name of the error.
    "int_": "a whole number",
    "float_": "a number",
    "finite_": "a finite number",
    "bool_": "true or false",
    "string_": "a text",
    "tuple_": "a list",
    "list_": "a list",
    "dict_": "a table of settings",
    "mapping_": "a table of settings",
    "model_": "a table of settings",
    "missing": "a value, which is required",
}


def load_config(path: str | Path | None = None, overrides: dict[str, Any] | None = None) -> Config:
    """Resolve the configuration: defaults, then the file, then overrides.

    Args:
        path: A ``.toml``, ``.yaml`` or ``.yml`` file; None reads `STREAMREC_CONFIG`, else ``streamrec.toml`` in the current folder if present.
        overrides: Dotted keys to values, such as ``{"student.dim": 32}``.

    Raises:
        ConfigError: The file is missing, does not parse, has an unknown key (the nearest valid key is named) or a value out of bounds.
    """
    chosen = Path(path) if path is not None else _default_path()
    values: dict[str, Any] = _read(chosen) if chosen is not None else {}
    for dotted, value in (overrides or {}).items():
        node = values
        *parents, leaf = dotted.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                what = f"Config: {parent} is not a section"
                raise ConfigError(what, got=repr(dotted), do="name a setting, such as student.dim", key=dotted)
        node[leaf] = value
    return parse_config(values)


def parse_overrides(texts: Iterable[str]) -> dict[str, Any]:
    """Return dotted keys and values of ``KEY=VALUE`` texts; a value is TOML, or a string when it is none.

    Raises:
        ConfigError: A text has no ``=``.

    Example:
        >>> parse_overrides(["student.dim=32", "log.broker=127.0.0.1:9092"])
        {'student.dim': 32, 'log.broker': '127.0.0.1:9092'}
    """
    result: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            what = "Config: an override does not parse"
            raise ConfigError(what, got=repr(text), allowed="KEY=VALUE", do="write for example student.dim=32")
        try:
            result[key.strip()] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            result[key.strip()] = value
    return result


def parse_config(values: dict[str, Any]) -> Config:
    """Validate a dictionary as a configuration.

    Event meanings given by the user are added to the stated defaults.

    Raises:
        ConfigError: See `load_config`.
    """
    values = dict(values)
    events = values.get("events")
    if isinstance(events, dict) and isinstance(events.get("meanings"), dict):
        defaults = {name: meaning.model_dump() for name, meaning in DEFAULT_MEANINGS.items()}
        values["events"] = {**events, "meanings": {**defaults, **events["meanings"]}}
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise _explain(error) from error


def student_names(config: Config) -> list[str]:
    """Return the names of all students that are configured, ``default`` being the configuration's own."""
    return ["default", *config.students]


def check_student(config: Config, name: str) -> str:
    """Return the name of a student, ``default`` being the configuration's own.

    Raises:
        ConfigError: It names none.
    """
    if name not in student_names(config):
        what = "Config: there is no such student"
        allowed = ", ".join(student_names(config))
        raise ConfigError(what, got=repr(name), allowed=allowed, do="name one of them, or add a table students.NAME", key="students")
    return name


def _default_path() -> Path | None:
    named = config_path()
    if named is not None:
        return named
    here = Path("streamrec.toml")
    return here if here.exists() else None


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")  # Some editors begin UTF-8 with a mark.
    except OSError as error:
        what = f"Config: the file can't be read ({error.strerror})"
        raise ConfigError(what, got=str(path), do="give an existing .toml or .yaml file") from error
    except UnicodeDecodeError as error:
        what = f"Config: {path} is not UTF-8"
        raise ConfigError(what, got=f"byte 0x{error.object[error.start]:02x} at {error.start}", allowed="UTF-8", do="save it as UTF-8") from error
    try:
        values = yaml.safe_load(text) if path.suffix in {".yaml", ".yml"} else tomllib.loads(text)
    except (tomllib.TOMLDecodeError, yaml.YAMLError) as error:
        what = f"Config: {path} does not parse ({error})"
        raise ConfigError(what, do="correct the line that is named") from error
    if not isinstance(values or {}, dict):
        what = f"Config: {path} is not a table of settings"
        raise ConfigError(what, got=type(values).__name__, allowed="keys and values")
    return values or {}


def _fields_at(location: tuple[int | str, ...]) -> list[str]:
    model: Any = Config
    for part in location:
        if get_origin(model) is dict:  # Its keys are names that the user gives.
            model = get_args(model)[1]
            continue
        field = getattr(model, "model_fields", {}).get(part)
        if field is None:
            return []
        model = field.annotation
    return list(getattr(model, "model_fields", {}))


def _explain(error: ValidationError) -> ConfigError:
    # A misspelt key is said first: that another one is missing is often its consequence.
    first = next((each for each in error.errors() if each["type"] == "extra_forbidden"), error.errors()[0])
    location = first["loc"]
    dotted = ".".join(str(part) for part in location)
    if first["type"] == "extra_forbidden":
        allowed = _fields_at(location[:-1])
        near = difflib.get_close_matches(str(location[-1]), allowed, n=1, cutoff=0.0)
        parent = ".".join(str(part) for part in location[:-1])
        hint = f"{parent}.{near[0]}" if parent and near else (near[0] if near else "")
        what = "Config: unknown key"
        return ConfigError(what, got=repr(dotted), do=f"did you mean {hint!r}? ({', '.join(allowed)} are allowed)", key=dotted)
    return ConfigError(f"Config: {dotted} is not valid", got=_got(first), allowed=_allowed(first), do="correct the value", key=dotted)


def _got(detail: ErrorDetails) -> str:
    """Say what a value is, and its length where that is what is wrong."""
    value = detail.get("input")
    unit = {"string_too_long": "characters", "too_long": "of them"}.get(detail["type"])
    # A password that an address must not have is not shown, either.
    shown = re.sub(r"(?<=://)[^/@]*:[^/]*@", "***@", repr(value))
    shown = re.sub(r"(?i)((?:password|secret|token|key)=)[^&'\"\s]+", r"\1***", shown)
    return shown if unit is None or value is None else f"{shown} ({len(value)} {unit})"


def _allowed(detail: ErrorDetails) -> str:
    """Say in our words what a value may be."""
    kind, bounds = detail["type"], detail.get("ctx", {})
    for name, words in _BOUNDS.items():
        if kind == name:
            return words.format(**bounds)
    for start, words in _TYPES.items():
        if kind.startswith(start):
            return words
    # A validator of ours may say what was got, which the message says already.
    return detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ").rpartition("allowed ")[2]
